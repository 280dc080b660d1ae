//! What `firewall stats --format json` says: exactly these fields.

use serde::Deserialize;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// The interface.
    pub interface: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Grows with every policy that comes in force.
    pub generation: u64,
    /// A rule of the policy in force each.
    pub rules: Vec<Rule>,
    /// A reason to drop each.
    pub reasons: Vec<Reason>,
    /// A reason each to let pass without a rule.
    pub passes: Vec<Reason>,
    /// A port each that a rule names.
    pub ports: Vec<Port>,
    /// The flow table.
    pub flows: Fill,
    /// Everything that came in.
    pub totals: Totals,
    /// Everything that left.
    pub egress: Totals,
}

/// How full the flow table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// Flows in it.
    pub used: u64,
    /// Slots.
    pub size: u64,
    /// Flows that packets opened.
    pub created: u64,
    /// Of those, in the slot of a live one.
    pub evicted: u64,
    /// Flows that were not opened, for want of a slot.
    pub contended: u64,
}

/// A rule's counter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The rule's name.
    pub name: String,
    /// Packets that it decided.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// TCP connections that they open.
    pub connections: u64,
    /// Packets over its limit.
    pub limited: u64,
}

/// The counter of a reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The reason's label.
    pub reason: String,
    /// Packets that it decided.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The counter of a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// Packets for it, whoever decided them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// TCP connections that they open.
    pub connections: u64,
}

/// Everything in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// What was let through.
    pub accepted: Count,
    /// What was not.
    pub dropped: Count,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Stats {
    /// Packets that the rule called `name` decided; `None` if there is no such rule.
    pub fn rule(&self, name: &str) -> Option<u64> {
        self.rules
            .iter()
            .find(|rule| rule.name == name)
            .map(|rule| rule.packets)
    }

    /// Packets that were dropped for `reason`, which has to be listed.
    ///
    /// # Panics
    ///
    /// If there is no such reason: its label is wrong.
    pub fn dropped(&self, reason: &str) -> u64 {
        packets(&self.reasons, reason)
    }

    /// Packets that passed without a rule for `reason`, which has to be listed.
    ///
    /// # Panics
    ///
    /// If there is no such reason: its label is wrong.
    pub fn passed(&self, reason: &str) -> u64 {
        packets(&self.passes, reason)
    }

    /// What came for a port; `None` if it is not listed.
    pub fn port(&self, protocol: &str, port: u16) -> Option<Count> {
        let found = self
            .ports
            .iter()
            .find(|one| one.protocol == protocol && one.port == port)?;
        Some(Count {
            packets: found.packets,
            bytes: found.bytes,
        })
    }
}

fn packets(reasons: &[Reason], label: &str) -> u64 {
    let found = reasons.iter().find(|one| one.reason == label);
    found
        .unwrap_or_else(|| panic!("{label} is not among the reasons"))
        .packets
}
