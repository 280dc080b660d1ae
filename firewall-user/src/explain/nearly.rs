//! The rule that would have decided otherwise, had one thing been another.

use std::net::IpAddr;

use firewall_common::abi::image::Selector;
use firewall_common::parse::{Packet, protocol};

use crate::policy::{range, ranges};
use crate::rules::model::{Action, Direction, Protocol, Rule, RuleSet, SetId, TcpFlags};
use crate::rules::names::{self, IcmpFamily};
use crate::rules::packet::{Concrete, flag_names};

/// Members of a list that are named; more would not be read.
const MAX_NAMED: usize = 3;

/// The first rule with the other action that `packet` fails to match by one field, in a sentence; or that it matches, but after
/// another rule has decided. A rule for what the packet is, but for
/// other addresses, is nearer than one for something else.
pub(super) fn nearly(
    rule_set: &RuleSet,
    direction: Direction,
    packet: &Packet,
    accepts: bool,
) -> Option<String> {
    let ends = Concrete::of(packet, direction);
    let others = rule_set
        .rules
        .iter()
        .filter(|rule| rule.direction == direction && (rule.action == Action::Accept) != accepts);
    let mut nearest: Option<(&Rule, Option<Field>)> = None;
    for rule in others {
        match failing(rule_set, rule, packet, &ends)[..] {
            [] => {
                nearest = Some((rule, None));
                break;
            }
            [field] => {
                let is_nearer = |(_, other): &(_, Option<Field>)| {
                    other.is_some_and(|other| field.distance() < other.distance())
                };
                if nearest.as_ref().is_none_or(is_nearer) {
                    nearest = Some((rule, Some(field)));
                }
            }
            _ => {}
        }
    }
    let (rule, field) = nearest?;
    let does = if accepts { "drop" } else { "accept" };
    let why = match field {
        None => "comes later".to_owned(),
        Some(field) => field.says(rule_set, packet, &ends, rule),
    };
    let Rule { name, line, .. } = rule;
    Some(format!(
        "rule `{name}` (line {line}) would {does} it, but {why}"
    ))
}

/// What of a rule a packet does not match.
#[derive(Clone, Copy)]
enum Field {
    Protocol(u8),
    Ports,
    Types,
    Flags(TcpFlags),
    From(SetId),
    To(SetId),
}

/// What of `rule` the packet does not match; nothing if it matches.
fn failing(rule_set: &RuleSet, rule: &Rule, packet: &Packet, ends: &Concrete) -> Vec<Field> {
    let transport = &packet.transport;
    let has_ports = matches!(
        transport.selector,
        Some(Selector::Tcp | Selector::Udp | Selector::Sctp)
    );
    let is_icmp = matches!(transport.selector, Some(Selector::Icmp | Selector::Icmpv6));
    let mut failing = Vec::new();
    if let Protocol::Number(number) = rule.protocol
        && number != transport.protocol
    {
        failing.push(Field::Protocol(number));
    }
    if let Some(ports) = &rule.ports {
        let port = transport.value;
        let mut ports = ports.iter();
        if !has_ports || !ports.any(|&(low, high)| (low..=high).contains(&port)) {
            failing.push(Field::Ports);
        }
    }
    if let Some(types) = &rule.icmp_types
        && !(is_icmp && types.contains(&kind(packet)))
    {
        failing.push(Field::Types);
    }
    if let Some(flags) = rule.tcp_flags
        && (flags.set & !transport.tcp_flags | flags.clear & transport.tcp_flags) != 0
    {
        failing.push(Field::Flags(flags));
    }
    let lacks = |id: SetId, address: IpAddr| !rule_set.sets[id.0].holds(address);
    failing.extend(
        rule.from
            .filter(|&id| lacks(id, ends.source))
            .map(Field::From),
    );
    failing.extend(
        rule.to
            .filter(|&id| lacks(id, ends.destination))
            .map(Field::To),
    );
    failing
}

impl Field {
    /// How far from the rule a packet is that fails just this.
    const fn distance(self) -> u8 {
        match self {
            Self::From(_) | Self::To(_) => 0,
            Self::Flags(_) => 1,
            Self::Ports | Self::Types => 2,
            Self::Protocol(_) => 3,
        }
    }

    /// How the packet fails it, in a sentence.
    fn says(self, rule_set: &RuleSet, packet: &Packet, ends: &Concrete, rule: &Rule) -> String {
        let transport = &packet.transport;
        match self {
            Self::Protocol(wanted) => format!(
                "protocol {} is not {}",
                protocol_name(transport.protocol),
                protocol_name(wanted)
            ),
            Self::Ports => {
                let ports = rule.ports.iter().flatten();
                let shown = few(ports.map(|&(low, high)| {
                    if low == high {
                        low.to_string()
                    } else {
                        format!("{low}-{high}")
                    }
                }));
                format!("port {} is not in {shown}", transport.value)
            }
            Self::Types => {
                let name = |kind: u8| type_name(transport.protocol, kind);
                let types = rule.icmp_types.iter().flatten();
                let shown = few(types.map(|&kind| name(kind)));
                format!("type {} is not in {shown}", name(kind(packet)))
            }
            Self::Flags(flags) => match flags.set & !transport.tcp_flags {
                0 => format!("{} is set", flag_names(flags.clear & transport.tcp_flags)),
                missing => format!("{} is not set", flag_names(missing)),
            },
            Self::From(id) => format!("source {} is not in {}", ends.source, named(rule_set, id)),
            Self::To(id) => format!(
                "destination {} is not in {}",
                ends.destination,
                named(rule_set, id)
            ),
        }
    }
}

fn kind(packet: &Packet) -> u8 {
    (packet.transport.value >> 8) as u8
}

fn protocol_name(number: u8) -> String {
    names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

fn type_name(number: u8, kind: u8) -> String {
    let family = if number == protocol::ICMPV6 {
        IcmpFamily::V6
    } else {
        IcmpFamily::V4
    };
    let name = family.type_name(kind);
    name.map_or_else(|| kind.to_string(), str::to_owned)
}

/// A set by the group that equals it, and some of its ranges.
fn named(rule_set: &RuleSet, id: SetId) -> String {
    let set = &rule_set.sets[id.0];
    let shown = few(ranges(set)
        .into_iter()
        .map(|(first, last)| range(first, last)));
    let mut groups = rule_set.groups.iter();
    match groups.find(|(_, group)| *group == set) {
        Some((name, _)) => format!("{name} ({shown})"),
        None => shown,
    }
}

/// The first few of a list, and how many more there are.
fn few(mut all: impl Iterator<Item = String>) -> String {
    let shown: Vec<String> = all.by_ref().take(MAX_NAMED).collect();
    let shown = shown.join(", ");
    match all.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
