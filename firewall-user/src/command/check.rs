//! `firewall check`: read rule files, compile them, say what is wrong; touch nothing.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use crate::output::{self, Output, Refused};
use crate::policy;
use crate::rules::{self, Diagnostic};

pub(crate) fn run(files: &[PathBuf], output: &Output) -> Result<()> {
    let mut refused = false;
    let mut results = Vec::new();
    for file in files {
        let (summary, result) = check(file, output)?;
        refused |= summary.is_none();
        if let Some(summary) = summary {
            output.text(format_args!("{}: {summary}", file.display()))?;
        }
        results.push(result);
    }
    output.json(&results)?;
    if refused {
        return Err(Refused.into());
    }
    Ok(())
}

/// One line if the file can be applied, and the result as JSON.
fn check(file: &Path, output: &Output) -> Result<(Option<String>, Value)> {
    let loaded = match rules::load(file) {
        Ok(loaded) => loaded,
        Err(report) => {
            if output.format == output::Format::Text {
                output.aside(report.render(output::colour(), output::width()))?;
            }
            return Ok((
                None,
                json!({ "file": file, "ok": false, "diagnostics": report }),
            ));
        }
    };
    let prepared = match policy::prepare(&loaded, None, usize::MAX) {
        Ok(prepared) => prepared,
        Err(error) => {
            if output.format == output::Format::Text {
                output.aside(format_args!("error: {}: {error:#}", file.display()))?;
            }
            return Ok((
                None,
                json!({ "file": file, "ok": false, "diagnostics": [], "error": format!("{error:#}") }),
            ));
        }
    };
    let warnings: Vec<&Diagnostic> = loaded.warnings.iter().chain(&prepared.warnings).collect();
    if output.format == output::Format::Text {
        for warning in &warnings {
            output.aside(warning.render(output::colour(), output::width()))?;
        }
    }
    let rule_set = &loaded.rule_set;
    let summary = format!(
        "ok, {} rules, {} groups, {} of tables{}{}",
        output::count(rule_set.rules.len() as u64),
        rule_set.groups.len(),
        output::bytes(prepared.policy.image_bytes),
        match loaded.asserts {
            0 => String::new(),
            1 => ", 1 assertion holds".to_owned(),
            n => format!(", {n} assertions hold"),
        },
        match warnings.len() {
            0 => String::new(),
            1 => ", 1 warning".to_owned(),
            n => format!(", {n} warnings"),
        },
    );
    let result = json!({
        "file": file,
        "ok": true,
        "rules": rule_set.rules.len(),
        "asserts": loaded.asserts,
        "table_bytes": prepared.policy.image_bytes,
        "diagnostics": warnings,
    });
    Ok((Some(summary), result))
}
