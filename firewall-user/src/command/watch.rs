//! `firewall watch`: packets as they are dropped, and those that rules with `log` accept.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::guards;
use crate::events::stream::{self, Outcome, Sink, Wanted};
use crate::events::{Rule, Seen};
use crate::output::{self, Format, Output};
use crate::rules::model::Direction;
use crate::rules::names;
use crate::{lock, privilege};

/// Which packets.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// Only on these interfaces; on all guarded ones unless told.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    #[command(flatten)]
    wanted: Wanted,
}

pub(crate) fn run(watch: &Watch, output: &Output) -> Result<()> {
    privilege::require()?;
    let look = lock::shared()?;
    let guards = guards(&watch.interface)?;
    drop(look);
    let policies = guards.iter().map(|(_, guard)| &guard.description.policy);
    watch.wanted.filter.check(policies)?;
    let mut lines = Lines { output };
    let note = |text| output.aside(format_args!("note: {text}"));
    let outcomes = stream::run(guards, &watch.wanted, &mut lines, note)?;
    tell(&outcomes, "shown", output)
}

/// Says what became of all packets, to people and not among the packets.
pub(super) fn tell(outcomes: &[Outcome], taken: &str, output: &Output) -> Result<()> {
    for outcome in outcomes {
        let (interface, missed) = (&outcome.interface, outcome.missed);
        match output.format {
            Format::Text => output.aside(format_args!(
                "{interface}: {} {taken}, {} more were withheld and {} lost",
                packets(outcome.taken),
                output::count(missed.withheld),
                output::count(missed.lost),
            ))?,
            Format::Json => output.aside(json!({
                "interface": interface.as_ref(), "taken": outcome.taken, "withheld": missed.withheld, "lost": missed.lost,
            }))?,
        }
    }
    Ok(())
}

fn packets(count: u64) -> String {
    match count {
        1 => "1 packet".to_owned(),
        count => format!("{} packets", output::count(count)),
    }
}

/// A line for each packet.
struct Lines<'o> {
    output: &'o Output,
}

impl Sink for Lines<'_> {
    fn take(&mut self, seen: &Seen) -> Result<()> {
        self.output.text(format_args!(
            "{} {} {:<8}  {:<20}  {}",
            time(seen),
            seen.interface,
            seen.verdict(),
            seen.why(),
            seen.shown(),
        ))?;
        self.output.json_line(&value(seen))
    }

    fn pause(&mut self) -> Result<()> {
        Ok(())
    }
}

/// ISO 8601, to the microsecond.
fn time(seen: &Seen) -> String {
    let second = output::utc(seen.at.as_secs());
    let second = second.trim_end_matches('Z');
    format!("{second}.{:06}Z", seen.at.subsec_micros())
}

/// The shape is documented in the README and stable.
fn value(seen: &Seen) -> Value {
    let rule = match &seen.rule {
        Some(Rule::Named { name, line }) => json!({ "name": name, "line": line }),
        Some(Rule::Gone) | None => Value::Null,
    };
    let ports = seen.ports();
    json!({
        "time": time(seen),
        "interface": seen.interface.as_ref(),
        "direction": match seen.direction {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        },
        "verdict": if seen.accepts { "accept" } else { "drop" },
        "reason": seen.reason,
        "rule": rule,
        "generation": seen.generation,
        "packet": seen.packet.map(|packet| packet.to_string()),
        "protocol": seen.packet.map(|packet| {
            let number = packet.protocol;
            names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
        }),
        "source": seen.source(),
        "source_port": ports.map(|(source, _)| source),
        "destination": seen.packet.map(|packet| packet.destination),
        "port": ports.map(|(_, destination)| destination),
        "bytes": seen.frame_bytes,
    })
}
