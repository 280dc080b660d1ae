//! What is read of a guarded interface at once, in the lines that are shown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;

use crate::command::stats::{self, Stats};
use crate::command::{bans, ports};
use crate::kernel::guard::{Guard, Trial};

/// An interface at a time.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) interface: String,
    pub(super) mode: &'static str,
    pub(super) generation: u64,
    /// Seconds in which it has to be confirmed.
    pub(super) waits_s: Option<u64>,
    /// Packets let in, dropped, let out, and kept from leaving.
    pub(super) totals: [u64; 4],
    /// Flows, and slots for them.
    pub(super) flows: (u32, u32),
    /// The lines of each table.
    pub(super) tables: BTreeMap<Kind, Vec<Line>>,
}

/// What a table is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Rules,
    Reasons,
    Ports,
    Talkers,
    Refused,
    Bans,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Rules,
        Self::Reasons,
        Self::Ports,
        Self::Talkers,
        Self::Refused,
        Self::Bans,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Reasons => "reasons",
            Self::Ports => "ports",
            Self::Talkers => "talkers",
            Self::Refused => "refused",
            Self::Bans => "bans",
        }
    }
}

/// A line of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    /// What else is to be said of it.
    pub(super) about: String,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Reading {
    /// `refused` are those whose packets were dropped.
    pub(super) fn of(name: &str, guard: &Guard, refused: Vec<Line>) -> Result<Self> {
        let stats = stats::read(name, guard)?;
        let Stats { totals, egress, .. } = &stats;
        let totals = [
            totals.accepted,
            totals.dropped,
            egress.accepted,
            egress.dropped,
        ];
        let tables = [
            (Kind::Rules, rules(&stats)),
            (Kind::Reasons, reasons(&stats)),
            (Kind::Ports, self::ports(name, guard)?),
            (Kind::Talkers, talkers(guard)?),
            (Kind::Refused, refused),
            (Kind::Bans, self::bans(guard)?),
        ];
        Ok(Self {
            at: Instant::now(),
            interface: name.to_owned(),
            mode: stats.mode,
            generation: stats.generation,
            waits_s: match guard.trial {
                Trial::Waits(left) => Some(left),
                Trial::Over | Trial::Lapsed => None,
            },
            totals: totals.map(|sum| sum.packets),
            flows: (stats.flows.fill.used, stats.flows.fill.size),
            tables: tables.into(),
        })
    }

    pub(super) fn lines(&self, kind: Kind) -> &[Line] {
        self.tables.get(&kind).map_or(&[], Vec::as_slice)
    }
}

fn rules(stats: &Stats) -> Vec<Line> {
    let rules = stats.rules.iter().map(|rule| {
        let action = if rule.accepts { "accept" } else { "drop" };
        let direction = if rule.is_egress { " egress" } else { "" };
        let limited = match rule.limited {
            0 => String::new(),
            limited => format!(", {} over its limit", crate::output::count(limited)),
        };
        Line {
            name: rule.name.clone(),
            about: format!("{action}{direction}{limited}"),
            packets: rule.packets,
            bytes: rule.bytes,
        }
    });
    rules.collect()
}

/// Those that there have been any of.
fn reasons(stats: &Stats) -> Vec<Line> {
    let dropped = stats.reasons.iter().map(|reason| ("dropped", reason));
    let passed = stats.passes.iter().map(|reason| ("passed", reason));
    let all = dropped.chain(passed);
    let seen = all.filter(|(_, reason)| reason.packets > 0);
    seen.map(|(what, reason)| Line {
        name: reason.reason.to_owned(),
        about: format!("{what}{}", if reason.is_egress { ", egress" } else { "" }),
        packets: reason.packets,
        bytes: reason.bytes,
    })
    .collect()
}

fn ports(name: &str, guard: &Guard) -> Result<Vec<Line>> {
    /// Ports that no rule names.
    const UNNAMED: usize = 200;
    let shown = ports::read(name, guard, UNNAMED)?;
    let named = shown.named.iter().map(|port| ("", port));
    let unnamed = shown.unnamed.iter().map(|port| ("no rule names it", port));
    let lines = named.chain(unnamed).map(|(what, port)| {
        let connections = match port.connections {
            Some(connections) if connections > 0 => {
                format!("{} connections", crate::output::count(connections))
            }
            _ => String::new(),
        };
        let both = [what, &connections]
            .into_iter()
            .filter(|one| !one.is_empty());
        Line {
            name: format!("{} {}", port.protocol, port.port),
            about: both.collect::<Vec<_>>().join(", "),
            packets: port.packets,
            bytes: port.bytes,
        }
    });
    Ok(lines.collect())
}

/// Who is talked with in the flows of this host.
fn talkers(guard: &Guard) -> Result<Vec<Line>> {
    let mut talkers: BTreeMap<IpAddr, (u64, u64)> = BTreeMap::new();
    for flow in guard.flows()? {
        let remote = crate::command::address(flow.record.key.remote);
        let (flows, packets) = talkers.entry(remote).or_default();
        *flows += 1;
        *packets += u64::from(flow.record.sent.packets) + u64::from(flow.record.received.packets);
    }
    let lines = talkers.into_iter().map(|(remote, (flows, packets))| Line {
        name: remote.to_string(),
        about: format!("{flows} flow{}", if flows == 1 { "" } else { "s" }),
        packets,
        bytes: 0,
    });
    Ok(lines.collect())
}

fn bans(guard: &Guard) -> Result<Vec<Line>> {
    let table = guard.bans()?;
    let lines = table.live().into_iter().map(|ban| {
        let left = match ban.left_ns {
            Some(ns) => format!("for {}", crate::output::duration(ns / 1_000_000_000)),
            None => "for ever".to_owned(),
        };
        let reason = ban.reason.map(|reason| format!(": {reason}"));
        Line {
            name: bans::Target::from(&ban.prefix).to_string(),
            about: format!(
                "{left}, by {}{}",
                bans::by(guard, ban.about.by),
                reason.unwrap_or_default()
            ),
            packets: 0,
            bytes: 0,
        }
    });
    Ok(lines.collect())
}
