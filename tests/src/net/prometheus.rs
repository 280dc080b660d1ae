//! What a Prometheus is asked, and what it answers.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Outcome;

/// What an expression gives now: labels and value of each series. `curl` is run by `run`, where the Prometheus listens at `address`.
///
/// # Errors
///
/// It does not answer, or does not understand it.
pub fn ask(
    mut curl: Command,
    address: &str,
    expression: &str,
    run: impl FnOnce(&mut Command) -> Result<Outcome>,
) -> Result<Vec<(Value, f64)>> {
    curl.args(["--disable", "--silent", "--show-error", "--noproxy", "*"])
        .args(["--max-time", "10", "--data-urlencode"])
        .arg(format!("query={expression}"))
        .arg(format!("http://{address}/api/v1/query"));
    let text = run(&mut curl)?.success()?;
    let answer: Value = serde_json::from_str(&text).context(text)?;
    ensure!(answer["status"] == "success", "{expression}: {answer}");
    let series = answer["data"]["result"].as_array();
    series
        .with_context(|| format!("{expression}: {answer}"))?
        .iter()
        .map(|one| {
            let value = one["value"][1].as_str().context("a value")?;
            Ok((one["metric"].clone(), value.parse()?))
        })
        .collect()
}
