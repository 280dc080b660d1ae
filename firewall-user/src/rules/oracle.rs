//! First match, the slow way: what every table must agree with.
//!
//! It walks the rules as a person reads them. It serves tests, and explanations of what was compiled.

use firewall_common::abi::image::Selector;
use firewall_common::parse::{Addresses, Packet, Transport};

use super::model::{AddressSet, Direction, Protocol, Rule, RuleSet};

/// The first rule of `direction` that matches `packet`, as an index into the rule set.
pub fn first_match(rule_set: &RuleSet, direction: Direction, packet: &Packet) -> Option<usize> {
    rule_set
        .rules
        .iter()
        .position(|rule| rule.direction == direction && matches(rule_set, rule, packet))
}

/// Whether `rule` matches `packet`.
pub fn matches(rule_set: &RuleSet, rule: &Rule, packet: &Packet) -> bool {
    let set = |id: Option<super::model::SetId>| id.map(|id| &rule_set.sets[id.0]);
    let (source, destination) = match packet.addresses {
        Addresses::V4 {
            source,
            destination,
        } => (Address::V4(source), Address::V4(destination)),
        Addresses::V6 {
            source,
            destination,
        } => (Address::v6(source), Address::v6(destination)),
    };
    set(rule.from).is_none_or(|set| source.is_in(set))
        && set(rule.to).is_none_or(|set| destination.is_in(set))
        && matches_service(rule, &packet.transport)
}

fn matches_service(rule: &Rule, transport: &Transport) -> bool {
    let protocol = match rule.protocol {
        Protocol::Any => true,
        Protocol::Number(number) => number == transport.protocol,
    };
    let ports = rule.ports.as_ref().is_none_or(|ranges| {
        matches!(
            transport.selector,
            Some(Selector::Tcp | Selector::Udp | Selector::Sctp)
        ) && ranges
            .iter()
            .any(|&(low, high)| (low..=high).contains(&transport.value))
    });
    let types = rule.icmp_types.as_ref().is_none_or(|types| {
        matches!(transport.selector, Some(Selector::Icmp | Selector::Icmpv6))
            && types.contains(&((transport.value >> 8) as u8))
    });
    let flags = rule.tcp_flags.is_none_or(|flags| {
        transport.tcp_flags & flags.set == flags.set && transport.tcp_flags & flags.clear == 0
    });
    protocol && ports && types && flags
}

#[derive(Clone, Copy)]
enum Address {
    V4(u32),
    V6(u128),
}

impl Address {
    fn v6([upper, lower]: [u64; 2]) -> Self {
        Self::V6(u128::from(upper) << 64 | u128::from(lower))
    }

    fn is_in(self, set: &AddressSet) -> bool {
        match self {
            Self::V4(address) => set
                .v4
                .iter()
                .any(|&(first, last)| (first..=last).contains(&address)),
            Self::V6(address) => set
                .v6
                .iter()
                .any(|&(first, last)| (first..=last).contains(&address)),
        }
    }
}
