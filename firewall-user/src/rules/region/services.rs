//! Services as numbers: the protocol, and below it the 16 bits of its destination port or ICMP type and code.

use firewall_common::abi::image::Selector;
use firewall_common::parse::transport::are_valid_flags;
use firewall_common::parse::{Transport, protocol};

use super::ranges;
use crate::rules::model::{Protocol, Rule, TcpFlags};

/// A set of services, and for TCP which flag bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Services {
    /// Ranges of `protocol << 16 | value`. Protocols without a selector have all of their values or none.
    pub(in crate::rules) numbers: Vec<(u32, u32)>,
    /// Ranges of flag bytes, which count for TCP alone.
    pub(in crate::rules) flags: Vec<(u32, u32)>,
}

/// Services that packets can have: no port is 0, for such are dropped before rules see them.
pub(super) const ALL: [(u32, u32); 4] = [
    (0, number(protocol::TCP, 0) - 1),
    (number(protocol::TCP, 1), number(protocol::UDP, 0) - 1),
    (number(protocol::UDP, 1), number(protocol::SCTP, 0) - 1),
    (number(protocol::SCTP, 1), number(u8::MAX, u16::MAX)),
];

/// The number of a service.
pub(in crate::rules) const fn number(protocol: u8, value: u16) -> u32 {
    (protocol as u32) << 16 | value as u32
}

/// Whether IPv6 packets have services of this protocol: extension headers are none, and ICMP is IPv4's.
pub(in crate::rules) const fn is_of_v6(protocol: u8) -> bool {
    !matches!(
        protocol,
        protocol::ICMP
            | protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AH
            | protocol::DESTINATION_OPTIONS
    )
}

/// Whether packets with one of these services can be IPv4, and IPv6.
pub(in crate::rules) fn families(numbers: &[(u32, u32)]) -> [bool; 2] {
    let mut protocols = numbers
        .iter()
        .flat_map(|&(first, last)| (first >> 16) as u8..=(last >> 16) as u8);
    [
        protocols.clone().any(|one| one != protocol::ICMPV6),
        protocols.any(is_of_v6),
    ]
}

pub(in crate::rules) const fn of_protocol(protocol: u8) -> (u32, u32) {
    (number(protocol, 0), number(protocol, u16::MAX))
}

impl Services {
    /// Every service.
    pub fn any() -> Self {
        Self {
            numbers: ALL.to_vec(),
            flags: flag_bytes(None),
        }
    }

    /// All of one protocol.
    pub fn protocol(protocol: u8) -> Self {
        Self::of(&[of_protocol(protocol)])
    }

    /// Ports of TCP, UDP or SCTP as inclusive ranges, sorted, disjoint and not adjacent.
    pub fn ports(protocol: u8, ports: &[(u16, u16)]) -> Self {
        Self::of(&of_ports(protocol, ports))
    }

    fn of(numbers: &[(u32, u32)]) -> Self {
        Self {
            numbers: possible(numbers),
            flags: flag_bytes(None),
        }
    }

    /// The services that `rule` matches.
    pub fn of_rule(rule: &Rule) -> Self {
        Self {
            numbers: numbers(rule),
            flags: flag_bytes(rule.tcp_flags),
        }
    }

    /// Whether a packet that carries this has one of them. Later fragments, which do not say what they carry, have none.
    pub fn contain(&self, transport: &Transport) -> bool {
        let protocol = transport.protocol;
        if transport.selector.is_none() && has_selector(protocol) {
            return false;
        }
        ranges::contain(&self.numbers, number(protocol, transport.value))
            && (protocol != protocol::TCP
                || ranges::contain(&self.flags, transport.tcp_flags.into()))
    }
}

/// Numbers of the services that a rule matches.
pub(in crate::rules) fn numbers(rule: &Rule) -> Vec<(u32, u32)> {
    match (rule.protocol, &rule.ports, &rule.icmp_types) {
        (Protocol::Any, ..) => ALL.to_vec(),
        (Protocol::Number(protocol), None, None) => possible(&[of_protocol(protocol)]),
        (Protocol::Number(protocol), None, Some(types)) => types_of(protocol, types),
        (Protocol::Number(protocol), Some(ports), _) => possible(&of_ports(protocol, ports)),
    }
}

/// Those of the numbers that packets can have.
fn possible(numbers: &[(u32, u32)]) -> Vec<(u32, u32)> {
    ranges::intersection(&ALL, numbers)
}

fn of_ports(protocol: u8, ports: &[(u16, u16)]) -> Vec<(u32, u32)> {
    let number = |port| number(protocol, port);
    let ports = ports.iter();
    ports
        .map(|&(low, high)| (number(low), number(high)))
        .collect()
}

/// Numbers of all codes of these types (ascending).
fn types_of(protocol: u8, types: &[u8]) -> Vec<(u32, u32)> {
    let mut numbers: Vec<(u32, u32)> = Vec::new();
    for &kind in types {
        let first = number(protocol, u16::from(kind) << 8);
        match numbers.last_mut() {
            Some(last) if last.1 + 1 == first => last.1 = first | 0xff,
            _ => numbers.push((first, first | 0xff)),
        }
    }
    numbers
}

/// Valid flag bytes that fulfil a condition.
pub(super) fn flag_bytes(condition: Option<TcpFlags>) -> Vec<(u32, u32)> {
    let fulfils = |byte: u8| {
        condition.is_none_or(|flags| byte & flags.set == flags.set && byte & flags.clear == 0)
    };
    let mut bytes: Vec<(u32, u32)> = Vec::new();
    for byte in (0..=u8::MAX).filter(|&byte| are_valid_flags(byte) && fulfils(byte)) {
        let byte = u32::from(byte);
        match bytes.last_mut() {
            Some(last) if last.1 + 1 == byte => last.1 = byte,
            _ => bytes.push((byte, byte)),
        }
    }
    bytes
}

fn has_selector(protocol: u8) -> bool {
    selector(protocol).is_some()
}

/// What tells packets of a protocol apart beyond its number.
pub(in crate::rules) const fn selector(protocol: u8) -> Option<Selector> {
    match protocol {
        protocol::TCP => Some(Selector::Tcp),
        protocol::UDP => Some(Selector::Udp),
        protocol::SCTP => Some(Selector::Sctp),
        protocol::ICMP => Some(Selector::Icmp),
        protocol::ICMPV6 => Some(Selector::Icmpv6),
        _ => None,
    }
}
