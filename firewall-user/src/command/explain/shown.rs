//! One packet's way, stage by stage.

use anyhow::Result;
use serde_json::json;

use super::Place;
use crate::explain::judge::Judged;
use crate::explain::{Cause, called};
use crate::kernel::replica::Action;
use crate::output::Output;
use crate::rules::packet::Concrete;

/// Columns of a stage's name.
const STAGE_WIDTH: usize = 12;

pub(super) fn one(
    packet: &Concrete,
    bytes: usize,
    judged: &Judged<'_>,
    ban: Option<&str>,
    place: &Place,
    output: &Output,
) -> Result<()> {
    let Judged {
        met,
        cause,
        action,
        agrees,
    } = judged;
    output.text(packet)?;
    for stage in &met.stages {
        output.text(format_args!("  {:STAGE_WIDTH$}{}", stage.stage, stage.says))?;
    }
    if let Some(ban) = ban {
        output.text(format_args!("  {:STAGE_WIDTH$}{ban}", ""))?;
    }
    if let Some(untold) = &place.untold {
        output.text(format_args!(
            "  {:STAGE_WIDTH$}not told: {untold}",
            "nearly"
        ))?;
    }
    output.text(verdict(cause, *action))?;
    output.json(&json!({
        "packet": packet.to_string(),
        "interface": place.interface,
        "file": place.file,
        "generation": place.generation,
        "frame_bytes": bytes,
        "stages": met.stages,
        "ban": ban,
        "nearly_untold": place.untold,
        "verdict": verdict_word(*action),
        "reason": cause.label(),
        "sentence": cause.sentence(),
        "rule": cause.rule().map(|rule| json!({ "name": rule.name, "line": rule.line })),
        "same_programs": place.same_programs,
        "agrees": agrees,
    }))
}

/// The end of it: `dropped: no-rule. No rule matched and the default is to drop.`
fn verdict(cause: &Cause<'_>, action: Action) -> String {
    let done = match action {
        Action::Passes => "accepted",
        Action::Drops => "dropped",
        Action::Answers => "answered",
    };
    match cause {
        Cause::Rule(rule) => format!("{done} by {}", called(rule)),
        cause => format!("{done}: {}. {}", cause.label(), cause.sentence()),
    }
}

/// The verdict in JSON.
pub(super) const fn verdict_word(action: Action) -> &'static str {
    match action {
        Action::Passes => "accept",
        Action::Drops => "drop",
        Action::Answers => "answer",
    }
}
