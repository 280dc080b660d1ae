//! `firewall stats`: packets and bytes by rule, reason and port.

use std::time::Duration;

use anyhow::Result;
use firewall_common::abi::counter::{Counter, FLOWS_CONTENDED, FLOWS_CREATED, FLOWS_EVICTED};
use firewall_common::abi::reason::{DropReason, PassReason};
use serde::Serialize;

use super::repeated;
use crate::counters::{Decides, Sums};
use crate::kernel::flows::Fill;
use crate::kernel::guard::Guard;
use crate::output::{self, Format, Output, table};
use crate::rules::names;

/// Everything counted on an interface. The shape is documented in the README and stable.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Stats {
    interface: String,
    pub(super) mode: &'static str,
    pub(super) generation: u64,
    pub(super) rules: Vec<Named>,
    /// Why packets were dropped, `rule` standing for all rules that drop.
    pub(super) reasons: Vec<Reason>,
    /// What passed without a rule.
    pub(super) passes: Vec<Reason>,
    ports: Vec<Port>,
    /// The flow table of the network namespace.
    pub(super) flows: Flows,
    /// What arrived.
    pub(super) totals: Totals,
    /// What left.
    pub(super) egress: Totals,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// TCP connections that they open.
    connections: u64,
    /// Packets that it would have accepted, had they not been over its limit.
    pub(super) limited: u64,
    #[serde(skip)]
    limited_bytes: u64,
    #[serde(skip)]
    pub(super) accepts: bool,
    #[serde(skip)]
    pub(super) is_egress: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Reason {
    pub(super) reason: &'static str,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    #[serde(skip)]
    pub(super) is_egress: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Port {
    protocol: String,
    port: u16,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// TCP connections that they open, let in or not.
    connections: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sum {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

/// How full the flow table is, and what became of flows that this interface's packets opened.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Flows {
    #[serde(flatten)]
    pub(super) fill: Fill,
    created: u64,
    /// Of those, opened in the slot of a live one, which is forgotten.
    evicted: u64,
    /// Not opened, because other CPUs took each slot that was tried.
    contended: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) accepted: Sum,
    pub(super) dropped: Sum,
}

pub(crate) fn run(names: &[String], watch: bool, output: &Output) -> Result<()> {
    repeated::run(names, watch, output, read, |now, before| {
        for (index, (at, stats)) in now.iter().enumerate() {
            show(stats, repeated::since(*at, before.get(index)), output)?;
            if watch || names.len() == 1 {
                output.json(stats)?;
            }
        }
        if !watch && names.len() > 1 {
            output.json(&now.iter().map(|(_, stats)| stats).collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

pub(super) fn read(name: &str, guard: &Guard) -> Result<Stats> {
    let policy = &guard.description.policy;
    let sums = Sums::read(&policy.slots, |slots| {
        guard.counters()?.read(slots.iter().copied())
    })?;
    let rules: Vec<Named> = policy
        .rules
        .iter()
        .map(|rule| {
            let Counter {
                packets,
                bytes,
                connections,
            } = sums.rule(&rule.name);
            Named {
                name: rule.name.clone(),
                packets,
                bytes,
                connections,
                limited: sums.over(&rule.name).packets,
                limited_bytes: sums.over(&rule.name).bytes,
                accepts: rule.action == "accept",
                is_egress: rule.is_egress(),
            }
        })
        .collect();
    let ports = policy
        .ports
        .iter()
        .map(|&(protocol, port)| {
            let Counter {
                packets,
                bytes,
                connections,
            } = sums.port((protocol, port));
            Port {
                protocol: names::protocol_name(protocol)
                    .map_or_else(|| protocol.to_string(), str::to_owned),
                port,
                packets,
                bytes,
                connections,
            }
        })
        .collect();

    let gone = guard.gone()?;
    let by_rules = |accepts: bool, is_egress: bool| {
        let gone = gone.get(&Decides { is_egress, accepts });
        let gone = gone.map_or_else(Sum::default, |gone| sum(gone.packets, gone.bytes));
        rules
            .iter()
            .filter(|rule| rule.accepts == accepts && rule.is_egress == is_egress)
            .fold(gone, |sum, rule| Sum {
                packets: sum.packets + rule.packets,
                bytes: sum.bytes + rule.bytes,
            })
    };
    let dropped_by_rules = by_rules(false, false);
    let reasons: Vec<Reason> = DropReason::ALL
        .iter()
        .map(|&reason| {
            let Counter { packets, bytes, .. } = match reason {
                DropReason::Rule => Counter {
                    packets: dropped_by_rules.packets,
                    bytes: dropped_by_rules.bytes,
                    connections: 0,
                },
                _ => sums.reason(reason.counter()),
            };
            Reason {
                reason: reason.label(),
                packets,
                bytes,
                is_egress: reason.is_egress(),
            }
        })
        .collect();
    let passes: Vec<Reason> = PassReason::ALL
        .iter()
        .map(|reason| {
            let Counter { packets, bytes, .. } = sums.reason(reason.counter());
            Reason {
                reason: reason.label(),
                packets,
                bytes,
                is_egress: reason.is_egress(),
            }
        })
        .collect();
    let all = |start: Sum, reasons: &[Reason], is_egress: bool| {
        reasons
            .iter()
            .filter(|reason| reason.is_egress == is_egress)
            .fold(start, |sum, reason| Sum {
                packets: sum.packets + reason.packets,
                bytes: sum.bytes + reason.bytes,
            })
    };
    let totals = Totals {
        accepted: all(by_rules(true, false), &passes, false),
        dropped: all(Sum::default(), &reasons, false),
    };
    let egress = Totals {
        accepted: all(by_rules(true, true), &passes, true),
        dropped: all(by_rules(false, true), &reasons, true),
    };
    Ok(Stats {
        interface: name.to_owned(),
        mode: guard.mode.as_str(),
        generation: guard.description.generation,
        rules,
        reasons,
        passes,
        ports,
        flows: Flows {
            fill: guard.flow_fill()?,
            created: sums.reason(FLOWS_CREATED).packets + sums.reason(FLOWS_EVICTED).packets,
            evicted: sums.reason(FLOWS_EVICTED).packets,
            contended: sums.reason(FLOWS_CONTENDED).packets,
        },
        totals,
        egress,
    })
}

fn show(stats: &Stats, since: Option<(Duration, &Stats)>, output: &Output) -> Result<()> {
    if output.format == Format::Json {
        return Ok(());
    }
    output.text(format_args!(
        "{}: {} mode, generation {}\n",
        stats.interface, stats.mode, stats.generation
    ))?;
    let heading = [
        "",
        "PACKETS",
        "BYTES",
        if since.is_some() { "PACKETS/S" } else { "" },
    ];
    let row = |name: String, now: Sum, then: Option<Sum>| {
        let rate = since.zip(then).map(|((elapsed, _), then)| {
            let packets = now.packets.saturating_sub(then.packets) as f64;
            output::count((packets / elapsed.as_secs_f64()).round() as u64)
        });
        vec![
            name,
            output::count(now.packets),
            output::bytes(now.bytes),
            rate.unwrap_or_default(),
        ]
    };
    let old = since.map(|(_, stats)| stats);
    let mut rows = vec![
        row(
            "accepted".into(),
            stats.totals.accepted,
            old.map(|old| old.totals.accepted),
        ),
        row(
            "dropped".into(),
            stats.totals.dropped,
            old.map(|old| old.totals.dropped),
        ),
        row(
            "let out".into(),
            stats.egress.accepted,
            old.map(|old| old.egress.accepted),
        ),
        row(
            "kept from leaving".into(),
            stats.egress.dropped,
            old.map(|old| old.egress.dropped),
        ),
    ];
    let mut section = |title: &str, entries: Vec<(String, Sum, Option<Sum>)>| {
        if !entries.is_empty() {
            rows.push(vec![String::new()]);
            rows.push(vec![title.to_owned()]);
            rows.extend(
                entries
                    .into_iter()
                    .map(|(name, now, then)| row(format!("  {name}"), now, then)),
            );
        }
    };
    section(
        "by rule",
        stats
            .rules
            .iter()
            .map(|rule| {
                let then = old.and_then(|old| old.rules.iter().find(|then| then.name == rule.name));
                (
                    rule.name.clone(),
                    sum(rule.packets, rule.bytes),
                    then.map(|then| sum(then.packets, then.bytes)),
                )
            })
            .collect(),
    );
    section(
        "over the limit, by rule",
        stats
            .rules
            .iter()
            .filter(|rule| rule.limited > 0)
            .map(|rule| {
                let then = old.and_then(|old| old.rules.iter().find(|then| then.name == rule.name));
                (
                    rule.name.clone(),
                    sum(rule.limited, rule.limited_bytes),
                    then.map(|then| sum(then.limited, then.limited_bytes)),
                )
            })
            .collect(),
    );
    let reasons = |is_egress: bool, now: &[Reason], old: Option<&[Reason]>| {
        now.iter()
            .enumerate()
            .filter(|(_, reason)| reason.packets > 0 && reason.is_egress == is_egress)
            .map(|(index, reason)| {
                let then = old.map(|old| sum(old[index].packets, old[index].bytes));
                (
                    reason.reason.to_owned(),
                    sum(reason.packets, reason.bytes),
                    then,
                )
            })
            .collect()
    };
    for (title, is_egress, now, old) in [
        (
            "dropped, by reason",
            false,
            &stats.reasons,
            old.map(|old| &old.reasons),
        ),
        (
            "accepted without a rule",
            false,
            &stats.passes,
            old.map(|old| &old.passes),
        ),
        (
            "kept from leaving, by reason",
            true,
            &stats.reasons,
            old.map(|old| &old.reasons),
        ),
        (
            "let out without a rule",
            true,
            &stats.passes,
            old.map(|old| &old.passes),
        ),
    ] {
        section(title, reasons(is_egress, now, old.map(|old| &old[..])));
    }
    section(
        "by port",
        stats
            .ports
            .iter()
            .map(|port| {
                let then = old.and_then(|old| {
                    old.ports
                        .iter()
                        .find(|then| (then.port, &then.protocol) == (port.port, &port.protocol))
                });
                (
                    format!("{} {}", port.protocol, port.port),
                    sum(port.packets, port.bytes),
                    then.map(|then| sum(then.packets, then.bytes)),
                )
            })
            .collect(),
    );
    output.text(table(&heading, &[1, 2, 3], rows))?;
    output.text(format_args!(
        "\nflows: {} of {}, {} opened, {} evicted",
        output::count(stats.flows.fill.used.into()),
        output::count(stats.flows.fill.size.into()),
        output::count(stats.flows.created),
        output::count(stats.flows.evicted),
    ))?;
    output.text("")
}

fn sum(packets: u64, bytes: u64) -> Sum {
    Sum { packets, bytes }
}
