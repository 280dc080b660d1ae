//! What a new policy would do to what is going on: conversations that could not go on, and what rules have accepted so far that
//! would be refused.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use firewall_common::abi::counter::Counter;
use firewall_common::abi::flow::Key;
use firewall_common::abi::image::{Line, Selector, essential, header};
use firewall_common::decide::classify;
use firewall_common::parse::transport::icmp_type;
use firewall_common::parse::{Addresses, Transport, protocol};
use firewall_common::tables::{HostWorld, Tables as _, World as _};
use serde::Serialize;

use crate::command::flows::Flow;
use crate::counters::Subject;
use crate::kernel::flows::LiveFlow;
use crate::kernel::guard::Guard;
use crate::rules::diff::Change;
use crate::rules::model::{Action, Direction, RuleSet};

/// What is going on at an interface.
#[derive(Debug, Serialize)]
pub(super) struct Live {
    /// Flows whose packets could leave until now and could not any more.
    pub(super) cut: Vec<Flow>,
    /// What rules have accepted so far.
    pub(super) accepted: Vec<Accepted>,
}

/// Packets that a rule has accepted so far at ports that it would refuse to somebody, or in all.
#[derive(Debug, Serialize)]
pub(super) struct Accepted {
    pub(super) rule: String,
    /// Protocol and ports that are counted; none where the rule counts all as one.
    pub(super) ports: Vec<(u8, u16)>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Live {
    /// With the images of both policies.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn read(
        guard: &Guard,
        old: &RuleSet,
        changes: &[Change],
        [before, after]: [&[Line]; 2],
    ) -> Result<Self> {
        let flows = guard.flows()?;
        let cut = flows
            .iter()
            .filter(|flow| may_leave(before, flow) && !may_leave(after, flow));
        Ok(Self {
            cut: cut.map(Flow::new).collect(),
            accepted: accepted(guard, old, changes)?,
        })
    }
}

/// Whether packets of a flow leave. TCP connections do whatever the rules say: those that are open are never cut.
fn may_leave(image: &[Line], flow: &LiveFlow) -> bool {
    let key = &flow.record.key;
    if key.protocol == protocol::TCP {
        return true;
    }
    let (addresses, transport) = packet(key);
    let world = HostWorld::new(image, |_, _| {});
    let leaves = || {
        let tables = world.tables()?;
        if tables.u32(header::EGRESS + header::ESSENTIALS)? & essential::FILTERED == 0 {
            return Some(true);
        }
        // An answer to what rules accept leaves without being asked about.
        if classify::serves(&addresses, &transport, &tables)? {
            return Some(true);
        }
        let found = classify::find(&addresses, &transport, header::EGRESS, &tables)?;
        Some(found.outcome.accepts())
    };
    leaves().unwrap_or(false)
}

/// A packet of the flow that leaves.
fn packet(key: &Key) -> (Addresses, Transport) {
    let [source, destination] = [key.local, key.remote];
    let addresses = if Key::is_mapped(source) {
        Addresses::V4 {
            source: source[1] as u32,
            destination: destination[1] as u32,
        }
    } else {
        Addresses::V6 {
            source,
            destination,
        }
    };
    let echo = |request: u8| u16::from(request) << 8;
    let (selector, value, source_port) = match key.protocol {
        protocol::UDP => (Some(Selector::Udp), key.remote_port, key.local_port),
        protocol::SCTP => (Some(Selector::Sctp), key.remote_port, key.local_port),
        protocol::ICMP => (Some(Selector::Icmp), echo(icmp_type::ECHO_REQUEST), 0),
        protocol::ICMPV6 => (Some(Selector::Icmpv6), echo(icmp_type::V6_ECHO_REQUEST), 0),
        _ => (None, 0, 0),
    };
    let transport = Transport {
        protocol: key.protocol,
        selector,
        value,
        source_port,
        tcp_flags: 0,
    };
    (addresses, transport)
}

/// What each old rule has accepted of services that are now refused to somebody. Counters know ports and no addresses.
fn accepted(guard: &Guard, old: &RuleSet, changes: &[Change]) -> Result<Vec<Accepted>> {
    let policy = &guard.description.policy;
    let mut ports: BTreeMap<usize, BTreeSet<(u8, u16)>> = BTreeMap::new();
    for change in changes.iter().filter(|change| change.now == Action::Drop) {
        for &rule in &change.old.rules {
            let of_rule = ports.entry(rule).or_default();
            let is_counted =
                change.direction == Direction::Ingress && old.rules[rule].ports.is_some();
            if is_counted {
                let named = policy.ports.iter();
                of_rule
                    .extend(named.filter(|&&(protocol, port)| change.services.has(protocol, port)));
            }
        }
    }
    let counters = guard.counters()?;
    let mut accepted = Vec::new();
    for (rule, ports) in ports {
        let name = &old.rules[rule].name;
        let subjects = policy.slots.iter().filter(|(subject, _)| match subject {
            Subject::RuleAtPort(rule, protocol, port) => {
                rule == name && (ports.is_empty() || ports.contains(&(*protocol, *port)))
            }
            Subject::Rule(rule) => rule == name && ports.is_empty(),
            _ => false,
        });
        let read = counters.read(subjects.map(|(_, slot)| slot))?;
        let sum = read.into_iter().fold(Counter::default(), Counter::plus);
        accepted.push(Accepted {
            rule: name.clone(),
            ports: ports.into_iter().collect(),
            packets: sum.packets,
            bytes: sum.bytes,
        });
    }
    Ok(accepted)
}
