//! Alert and recording rules, by promtool: they are read, fire when they should, and name metrics that there are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::{Outcome, tool};

use crate::{dist, named, samples};

/// Runs promtool, which has to be content.
pub(crate) fn promtool(arguments: &[&str], file: &Path) -> Result<()> {
    let mut command: Command = tool("promtool");
    let output = command.args(arguments).arg(file).output();
    let output = output.context("cannot start promtool: `cargo xtask setup` sees to it")?;
    Outcome::from(output).success()?;
    Ok(())
}

/// The alerts, each with its text.
fn alerts(text: &str) -> Vec<(&str, &str)> {
    text.split("      - alert: ")
        .skip(1)
        .filter_map(|alert| alert.split_once('\n'))
        .collect()
}

#[test]
fn rules_and_the_example_of_a_scrape_are_valid() -> Result<()> {
    for rules in ["alerts.yml", "recording.yml"] {
        promtool(&["check", "rules"], &dist("prometheus").join(rules))?;
    }
    // The rules are elsewhere before the package is installed.
    let directory = tempfile::tempdir()?;
    let example = fs::read_to_string(dist("prometheus/scrape.yml"))?;
    let here = example.replace(
        "/usr/share/firewall/prometheus",
        &dist("prometheus").display().to_string(),
    );
    ensure!(here != example, "{example}");
    let file = directory.path().join("prometheus.yml");
    fs::write(&file, here)?;
    promtool(&["check", "config"], &file)
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() -> Result<()> {
    promtool(&["test", "rules"], &dist("prometheus/alerts_test.yml"))
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() -> Result<()> {
    let text = fs::read_to_string(dist("prometheus/alerts.yml"))?;
    let tests = fs::read_to_string(dist("prometheus/alerts_test.yml"))?;
    let alerts = alerts(&text);
    ensure!(alerts.len() >= 10, "{alerts:?}");
    for (name, alert) in alerts {
        for key in [
            "expr: ",
            "severity: ",
            "summary: ",
            "description: ",
            "action: ",
        ] {
            ensure!(alert.contains(key), "{name} lacks {key}");
        }
        let is_tested = tests.split("  - name: ").any(|test| {
            test.contains(&format!("alertname=\"{name}\"")) && test.contains("exp_samples: []")
        });
        ensure!(is_tested, "{name} is not tested to fire and not to fire");
    }
    Ok(())
}

#[test]
fn rules_name_metrics_that_there_are() -> Result<()> {
    let samples = samples();
    for file in ["alerts.yml", "recording.yml", "alerts_test.yml"] {
        let text = fs::read_to_string(dist("prometheus").join(file))?;
        let named = named(&text);
        ensure!(!named.is_empty(), "{file} names none");
        for name in named {
            ensure!(samples.contains(name), "{file}: there is no {name}");
        }
    }
    Ok(())
}
