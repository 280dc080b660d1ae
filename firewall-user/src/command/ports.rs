//! `firewall ports`: what comes for which port, named by a rule or not.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use firewall_common::abi::counter::Counter;
use firewall_common::parse::protocol;
use serde::Serialize;

use super::{Interfaces, repeated};
use crate::counters::Sums;
use crate::kernel::guard::Guard;
use crate::output::{self, Output, table};
use crate::rules::names;

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct Ports {
    #[command(flatten)]
    interfaces: Interfaces,
    /// Show again every second, with rates, until interrupted.
    #[arg(long)]
    watch: bool,
    /// No more than so many ports that no rule names.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// The ports of an interface. The shape is documented in the README and stable.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    interface: String,
    /// Every port that a rule names.
    pub(super) named: Vec<Port>,
    /// Those most knocked at that no rule names: what came since the port has its place in the table, so never too much.
    pub(super) unnamed: Vec<Port>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Port {
    pub(super) protocol: String,
    pub(super) port: u16,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// TCP connections that they open; `null` for other protocols.
    pub(super) connections: Option<u64>,
}

pub(crate) fn run(ports: &Ports, output: &Output) -> Result<()> {
    let names = &ports.interfaces.names();
    let read = |name: &str, guard: &Guard| read(name, guard, ports.limit);
    repeated::run(names, ports.watch, output, read, |now, before| {
        for (index, (at, shown)) in now.iter().enumerate() {
            output.text(text(shown, repeated::since(*at, before.get(index))))?;
            output.json_line(shown)?;
        }
        Ok(())
    })
}

pub(super) fn read(name: &str, guard: &Guard, limit: usize) -> Result<Shown> {
    let policy = &guard.description.policy;
    let sums = Sums::read(&policy.slots, |slots| {
        guard.counters()?.read(slots.iter().copied())
    })?;
    let named = policy
        .ports
        .iter()
        .map(|&port| Port::new(port, sums.port(port)))
        .collect();
    let mut unnamed: Vec<Port> = guard
        .knocks()?
        .into_iter()
        .filter(|(port, _)| policy.ports.binary_search(port).is_err())
        .map(|(port, counter)| Port::new(port, counter))
        .collect();
    unnamed.sort_by_key(|port| std::cmp::Reverse(port.packets));
    unnamed.truncate(limit);
    Ok(Shown {
        interface: name.to_owned(),
        named,
        unnamed,
    })
}

impl Port {
    fn new((number, port): (u8, u16), counter: Counter) -> Self {
        Self {
            protocol: names::protocol_name(number)
                .map_or_else(|| number.to_string(), str::to_owned),
            port,
            packets: counter.packets,
            bytes: counter.bytes,
            connections: (number == protocol::TCP).then_some(counter.connections),
        }
    }
}

fn text(shown: &Shown, since: Option<(Duration, &Shown)>) -> String {
    let heading: &[&str] = match since {
        None => &["", "PACKETS", "BYTES", "CONNECTIONS"],
        Some(_) => &[
            "",
            "PACKETS",
            "BYTES",
            "CONNECTIONS",
            "PACKETS/S",
            "BYTES/S",
            "CONNECTIONS/S",
        ],
    };
    let mut rows = Vec::new();
    for (title, ports, old) in [
        (
            "named by rules",
            &shown.named,
            since.map(|(_, old)| &old.named),
        ),
        (
            "no rule names",
            &shown.unnamed,
            since.map(|(_, old)| &old.unnamed),
        ),
    ] {
        if ports.is_empty() {
            continue;
        }
        rows.push(vec![title.to_owned()]);
        let old: HashMap<_, _> = old
            .into_iter()
            .flatten()
            .map(|port| ((&port.protocol, port.port), port))
            .collect();
        for port in ports {
            let mut row = vec![
                format!("  {} {}", port.protocol, port.port),
                output::count(port.packets),
                output::bytes(port.bytes),
                port.connections.map(output::count).unwrap_or_default(),
            ];
            if let Some((elapsed, _)) = since {
                // What has come new has no rate yet.
                let then = old.get(&(&port.protocol, port.port));
                let rate = |now: u64, then: u64| {
                    (now.saturating_sub(then) as f64 / elapsed.as_secs_f64()).round() as u64
                };
                row.push(
                    then.map(|then| output::count(rate(port.packets, then.packets)))
                        .unwrap_or_default(),
                );
                row.push(
                    then.map(|then| output::bytes(rate(port.bytes, then.bytes)))
                        .unwrap_or_default(),
                );
                row.push(
                    then.and_then(|then| Some((port.connections?, then.connections?)))
                        .map(|(now, then)| output::count(rate(now, then)))
                        .unwrap_or_default(),
                );
            }
            rows.push(row);
        }
    }
    format!(
        "{}\n{}",
        shown.interface,
        table(heading, &[1, 2, 3, 4, 5, 6], rows)
    )
}
