//! Recorded packets, one after the other. Each finds the state that those before it have left, so a conversation has its flow where
//! both of its directions are recorded, and `--host` says which of them leaves.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use firewall_common::parse::Parsed;
use serde_json::json;

use super::shown::verdict_word;
use super::{Explain, agreed};
use crate::capture::Capture;
use crate::explain::judge::{Judge, Judged};
use crate::explain::met::Ground;
use crate::output::{self, Output, table};
use crate::rules::model::Direction;
use crate::rules::packet::Concrete;

/// Packets and bytes by direction, verdict and what has decided.
type Totals = BTreeMap<(&'static str, &'static str, String), (u64, u64)>;

pub(super) fn run(
    file: &Path,
    explain: &Explain,
    judge: &mut Judge<'_>,
    ground: Ground<'_>,
    output: &Output,
) -> Result<()> {
    let shown = file.display();
    let mut capture = Capture::open(file).with_context(|| shown.to_string())?;
    let mut totals = Totals::new();
    let (mut number, mut first) = (0u64, None);
    while let Some(recorded) =
        (capture.next()).with_context(|| format!("{shown}, behind packet {number}"))?
    {
        number += 1;
        let first = *first.get_or_insert(recorded.at);
        let direction = direction(&recorded.frame, explain);
        let judged = judge
            .decide(&recorded.frame, direction, recorded.at, ground)
            .with_context(|| format!("{shown}, packet {number}"))?;
        let after_s = recorded.at.saturating_sub(first).as_secs_f64();
        line(number, after_s, direction, &judged, output)?;
        let key = (way(direction), verdict_word(judged.action), why(&judged));
        let sum = totals.entry(key).or_default();
        *sum = (sum.0 + 1, sum.1 + recorded.frame.len() as u64);
        agreed(judged.agrees).with_context(|| format!("{shown}, packet {number}"))?;
    }
    tell(&totals, number, output)
}

fn direction(frame: &[u8], explain: &Explain) -> Direction {
    let from_host = || match firewall_common::parse::parse(frame) {
        Ok(Parsed::Ip(packet)) => {
            let source = Concrete::of(&packet, Direction::Ingress).source;
            explain.host.contains(&source)
        }
        Ok(Parsed::Arp | Parsed::LinkLayer) | Err(_) => false,
    };
    if explain.out || from_host() {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

fn line(
    number: u64,
    after_s: f64,
    direction: Direction,
    judged: &Judged<'_>,
    output: &Output,
) -> Result<()> {
    let (summary, verdict, why) = (
        summary(judged, direction),
        verdict_word(judged.action),
        why(judged),
    );
    output.text(format_args!(
        "{number:>6} {after_s:>12.6}  {verdict:<6}  {why:<20}  {summary}"
    ))?;
    let rule = judged.cause.rule();
    output.json_line(&json!({
        "number": number, "after_s": after_s, "direction": way(direction), "packet": summary, "verdict": verdict,
        "reason": judged.cause.label(), "rule": rule.map(|rule| json!({ "name": rule.name, "line": rule.line })),
    }))
}

fn summary(judged: &Judged<'_>, direction: Direction) -> String {
    match &judged.met.parsed {
        Ok(Parsed::Ip(packet)) => Concrete::of(packet, direction).to_string(),
        Ok(Parsed::Arp) => "arp".to_owned(),
        Ok(Parsed::LinkLayer) => "link layer".to_owned(),
        Err(_) => "malformed".to_owned(),
    }
}

/// The rule, or the reason.
fn why(judged: &Judged<'_>) -> String {
    let cause = &judged.cause;
    match cause.rule() {
        Some(rule) if cause.label() == "rule" => format!("rule {}", rule.name),
        Some(rule) => format!("{}, rule {}", cause.label(), rule.name),
        None => cause.label().to_owned(),
    }
}

const fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    }
}

fn tell(totals: &Totals, number: u64, output: &Output) -> Result<()> {
    let rows = totals
        .iter()
        .map(|((way, verdict, why), (packets, bytes))| {
            let (packets, bytes) = (output::count(*packets), output::bytes(*bytes));
            vec![
                (*way).to_owned(),
                (*verdict).to_owned(),
                why.clone(),
                packets,
                bytes,
            ]
        });
    output.text("")?;
    output.text(table(
        &["WAY", "VERDICT", "BY", "PACKETS", "BYTES"],
        &[3, 4],
        rows,
    ))?;
    output.text(format_args!("{} packets", output::count(number)))?;
    let sums: Vec<_> = totals
        .iter()
        .map(|((way, verdict, by), (packets, bytes))| {
            json!({ "direction": way, "verdict": verdict, "by": by, "packets": packets, "bytes": bytes })
        })
        .collect();
    output.json_line(&json!({ "packets": number, "totals": sums }))
}
