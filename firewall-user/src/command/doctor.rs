//! `firewall doctor`: what keeps the firewall from guarding interfaces, or from doing it well, and what mends it.

use anyhow::Result;

use crate::doctor::{self, Finding, Severity};
use crate::lock;
use crate::output::{Output, Unwell};

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    // Who may not wait for its turn is told by the findings that he is not root.
    let _look = lock::shared();
    let findings = doctor::examine(names)?;
    output.text(render(&findings))?;
    output.json(&findings)?;
    let is_well = findings
        .iter()
        .all(|finding| finding.severity < Severity::Error);
    if is_well { Ok(()) } else { Err(Unwell.into()) }
}

/// A line a finding, with what mends it beneath; a paragraph for the machine and for each interface, whose verdict is its last
/// line.
fn render(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    let mut before = None;
    for finding in findings {
        let whose = finding.interface.as_deref();
        if before.is_some_and(|before| before != whose) {
            lines.push(String::new());
        }
        before = Some(whose);
        match whose {
            Some(name) if finding.check == "verdict" => {
                lines.push(format!("{name}: {}", finding.finding));
            }
            _ => lines.push(line(whose, finding)),
        }
        if let Some(remedy) = &finding.remedy {
            lines.push(format!("           {remedy}"));
        }
    }
    lines.join("\n")
}

fn line(whose: Option<&str>, finding: &Finding) -> String {
    let severity = finding.severity.as_str();
    let name = whose.map(|name| format!("{name} ")).unwrap_or_default();
    format!(
        "{severity:<7}  {name}{}: {}",
        finding.check, finding.finding
    )
}
