//! What monitoring is given in `firewall-user/dist`: alert and recording rules, a dashboard, an example of a scrape.

mod dashboard;
mod prometheus;
mod rules;
mod scrape;
mod service;

use std::collections::BTreeSet;
use std::path::PathBuf;

use firewall_tests::net::workspace;

/// What `/metrics` has where there is everything to tell: each metric, and its samples with the names of their labels.
const METRICS: &str = include_str!("../../fixtures/metrics.txt");

/// A file of `firewall-user/dist`.
fn dist(file: &str) -> PathBuf {
    workspace().join("firewall-user/dist").join(file)
}

/// The names of all samples in [`METRICS`].
fn samples() -> BTreeSet<&'static str> {
    METRICS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

/// The metrics of the firewall that a text names, those that recording rules make left out.
fn named(text: &str) -> BTreeSet<&str> {
    let is_in_name =
        |character: char| character.is_ascii_alphanumeric() || "_:".contains(character);
    text.split(|character| !is_in_name(character))
        .filter(|word| word.starts_with("firewall_"))
        .collect()
}

#[test]
fn names_are_found_in_expressions() {
    let text =
        r#"sum(firewall_bans{interface="a"}) / x:firewall_b:rate5m + rate(firewall_c_total[5m])"#;
    assert_eq!(
        named(text),
        BTreeSet::from(["firewall_bans", "firewall_c_total"])
    );
}
