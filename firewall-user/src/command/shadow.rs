//! `firewall shadow`: a candidate that is asked beside the rules in force.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use firewall_common::abi::shadow::{Difference, Sample};
use firewall_common::parse::protocol;
use serde::Serialize;
use serde_json::json;

use super::apply::{set_up_flows, wanted};
use super::confirm::OnTrial;
use super::{address, guard, guards, warn_who_is_shut_out};
use crate::cli::Interfaces;
use crate::explain::Cause;
use crate::kernel::description::Policy;
use crate::kernel::guard::Guard;
use crate::kernel::shadow::{Candidate, Differs};
use crate::live::{self, Live};
use crate::output::{self, Output};
use crate::rules::names;
use crate::{lock, policy, privilege};

/// Packets of each rule that are shown.
const SHOWN: usize = 3;

/// What is done about the candidate; without that it is looked at.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Shadow {
    #[command(subcommand)]
    verb: Option<ShadowVerb>,
    /// Only on these interfaces; on all that have a candidate unless told.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum ShadowVerb {
    /// Put the candidate in force.
    Promote {
        #[command(flatten)]
        interfaces: Interfaces,
        #[command(flatten)]
        trial: OnTrial,
    },
    /// Forget the candidate.
    Drop {
        #[command(flatten)]
        interfaces: Interfaces,
    },
}

pub(crate) fn run(shadow: &Shadow, output: &Output) -> Result<()> {
    privilege::require()?;
    match &shadow.verb {
        None => show(&shadow.interface, output),
        Some(ShadowVerb::Promote { interfaces, trial }) => {
            promote(&interfaces.names(), trial.lasts(), output)
        }
        Some(ShadowVerb::Drop { interfaces }) => drop(&interfaces.names(), output),
    }
}

fn promote(names: &[String], trial: Option<Duration>, output: &Output) -> Result<()> {
    let _turn = lock::exclusive()?;
    let mut results = Vec::new();
    for name in names {
        let (interface, mut guard) = guard(name)?;
        guard.refuse_in_trial(name)?;
        let mut live = Live::candidate(&guard)?.with_context(|| none(name))?;
        "shadow promote".clone_into(&mut live.kept.change);
        let loaded = live.loaded()?;
        let prepared = policy::prepare(&loaded, Some(&guard.description.policy), 0)?;
        warn_who_is_shut_out(&prepared.image, output)?;
        set_up_flows(&guard, &interface, &wanted(&loaded.rule_set.flows), output)?;
        let (image, description) =
            prepared.describe(live::file(&live.kept), guard.newest()? + 1)?;
        let next = live::next_kept(live, image, description);
        guard.promote(next, trial)?;
        let generation = guard.description.generation;
        let confirm = trial.map(|trial| {
            let seconds = trial.as_secs();
            format!("; `firewall confirm` within {seconds} s keeps it")
        });
        output.text(format_args!(
            "{name}: the candidate is in force, generation {generation}{}",
            confirm.unwrap_or_default()
        ))?;
        results.push(json!({ "interface": name, "generation": generation }));
    }
    output.json(&results)
}

fn drop(names: &[String], output: &Output) -> Result<()> {
    let _turn = lock::exclusive()?;
    let mut results = Vec::new();
    for name in names {
        let (_, mut guard) = guard(name)?;
        let dropped = guard.drop_shadow()?;
        output.text(format_args!(
            "{name}: {}",
            if dropped {
                "no candidate is asked any more"
            } else {
                "nothing to do, there was no candidate"
            }
        ))?;
        results.push(json!({ "interface": name, "changed": dropped }));
    }
    output.json(&results)
}

fn none(name: &str) -> String {
    format!("{name} has no candidate; `firewall apply --shadow FILE -i {name}` makes one")
}

/// What a candidate would do otherwise.
#[derive(Debug, Serialize)]
struct Shown {
    interface: String,
    file: String,
    since: String,
    differs: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    direction: &'static str,
    /// The candidate's rule; none for its default.
    rule: Option<String>,
    /// `accept` or `refuse`.
    would: &'static str,
    packets: u64,
    bytes: u64,
    connections: u64,
    samples: Vec<Packet>,
}

/// A packet that the two policies differ about.
#[derive(Debug, Serialize)]
struct Packet {
    protocol: String,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    /// Destination port, or ICMP type and code.
    port: u16,
    /// What the policy in force has done with it: the rule or the reason.
    decided_by: Option<String>,
}

fn show(names: &[String], output: &Output) -> Result<()> {
    let _look = lock::shared()?;
    let mut all = Vec::new();
    for (name, guard) in guards(names)? {
        match guard.shadow()? {
            Some(candidate) => all.push(shown(name, &guard, &candidate)?),
            None if names.is_empty() => {}
            None => bail!(none(&name)),
        }
    }
    if all.is_empty() {
        output.text("no candidate is asked on any interface")?;
    }
    for shown in &all {
        tell(shown, output)?;
    }
    output.json(&all)
}

fn shown(interface: String, guard: &Guard, candidate: &Candidate) -> Result<Shown> {
    let policy = &guard.description.policy;
    let differs = guard.differences(candidate)?;
    Ok(Shown {
        interface,
        file: candidate.file.clone(),
        since: output::utc(candidate.since_s),
        differs: differs.into_iter().map(|one| row(one, policy)).collect(),
    })
}

fn row(differs: Differs, policy: &Policy) -> Row {
    let samples = differs.samples.iter().take(SHOWN);
    Row {
        direction: if differs.is_egress {
            "egress"
        } else {
            "ingress"
        },
        rule: differs.rule,
        would: match differs.difference {
            Difference::Accepts => "accept",
            Difference::Refuses => "refuse",
        },
        packets: differs.counter.packets,
        bytes: differs.counter.bytes,
        connections: differs.counter.connections,
        samples: samples.map(|sample| packet(sample, policy)).collect(),
    }
}

fn packet(sample: &Sample, policy: &Policy) -> Packet {
    let number = sample.flags_protocol as u8;
    Packet {
        protocol: names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned),
        source: address(sample.source),
        source_port: sample.ports[0],
        destination: address(sample.destination),
        port: match number {
            protocol::ICMP | protocol::ICMPV6 => sample.ports[1] >> 8,
            _ => sample.ports[1],
        },
        decided_by: decider(sample.decided, policy),
    }
}

/// What has decided: a rule, or a reason.
fn decider(slot: u32, policy: &Policy) -> Option<String> {
    let cause = Cause::of(slot, policy)?;
    Some(match cause.rule() {
        Some(rule) => format!("rule `{}`", rule.name),
        None => cause.label().to_owned(),
    })
}

fn tell(shown: &Shown, output: &Output) -> Result<()> {
    output.text(format_args!(
        "{}: candidate {}, asked since {}",
        shown.interface, shown.file, shown.since
    ))?;
    if shown.differs.is_empty() {
        return output.text("  no packet would have been decided otherwise");
    }
    for row in &shown.differs {
        let by = row
            .rule
            .as_ref()
            .map_or_else(|| "its default".to_owned(), |rule| format!("rule `{rule}`"));
        output.text(format_args!(
            "  {by} would {} {} packets, {} of {}",
            row.would,
            output::count(row.packets),
            output::bytes(row.bytes),
            if row.direction == "egress" {
                "what leaves"
            } else {
                "what arrives"
            },
        ))?;
        for packet in &row.samples {
            output.text(format_args!("    {}", line(packet)))?;
        }
    }
    Ok(())
}

fn line(packet: &Packet) -> String {
    let by = packet
        .decided_by
        .as_ref()
        .map(|by| format!(", now decided by {by}"));
    let by = by.unwrap_or_default();
    match packet.protocol.as_str() {
        "tcp" | "udp" | "sctp" => format!(
            "{} {} -> {}{by}",
            packet.protocol,
            SocketAddr::new(packet.source, packet.source_port),
            SocketAddr::new(packet.destination, packet.port),
        ),
        protocol => format!("{protocol} {} -> {}{by}", packet.source, packet.destination),
    }
}
