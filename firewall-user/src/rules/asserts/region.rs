//! What an assertion is about: all packets that its pattern leaves open.

use firewall_common::parse::protocol;
use firewall_common::parse::transport::tcp_flag;

use crate::rules::addresses::SetBuilder;
use crate::rules::model::{Action, AddressSet, Defaults, Protocol, Rule, RuleSet, TcpFlags, Terms};
use crate::rules::names::closest;
use crate::rules::packet::{End, PacketError, Pattern, Whose};
use crate::rules::region::{Example, Region, Services, counterexample};
use crate::rules::shown::quoted;

/// A condition on flags that only SYNs fulfil which open a connection.
const OPENS: TcpFlags = TcpFlags {
    set: tcp_flag::SYN,
    clear: tcp_flag::ACK,
};

/// What accepts every packet, so that any is a counterexample to dropping it.
const ACCEPTING: Defaults = Defaults {
    ingress: Action::Accept,
    egress: Action::Accept,
};

/// The packets that a pattern covers.
///
/// # Errors
///
/// It names what rules do not look at, a group that there is not, or no packet at all.
pub(super) fn of(pattern: &Pattern, rule_set: &RuleSet) -> Result<Region, PacketError> {
    if pattern.vlan.is_some() {
        return Err(PacketError::new(
            "rules apply inside any VLAN, so nothing can be asserted of one",
            "leave `vlan` out; [vlans] says which may arrive",
        ));
    }
    if pattern.source.ports.is_some() {
        return Err(PacketError::new(
            "no rule looks at source ports, so nothing can be asserted of one",
            "leave the port out behind the address that the packets come from",
        ));
    }
    let region = Region {
        direction: pattern.direction,
        from: addresses(&pattern.source, rule_set)?,
        to: addresses(&pattern.destination, rule_set)?,
        services: services(pattern),
    };
    if any(&region).is_none() {
        return Err(PacketError::new(
            "there is no packet like this",
            "write addresses of one family with a protocol that has it, and TCP flags that a TCP sends",
        ));
    }
    Ok(region)
}

fn addresses(end: &End, rule_set: &RuleSet) -> Result<Option<AddressSet>, PacketError> {
    match &end.address {
        None => Ok(None),
        Some(Whose::Block(block)) => {
            let mut builder = SetBuilder::default();
            builder.push(*block);
            Ok(Some(builder.finish()))
        }
        Some(Whose::Group(name)) => match rule_set.groups.get(name) {
            Some(set) => Ok(Some(set.clone())),
            None => {
                let names = rule_set.groups.keys().map(String::as_str);
                let help = closest(name, names).map_or_else(
                    || "define it under [groups], or write addresses".to_owned(),
                    |near| format!("did you mean {}?", quoted(near)),
                );
                Err(PacketError::new(
                    format!("there is no group called {}", quoted(name)),
                    help,
                ))
            }
        },
    }
}

/// Services as those of a rule that matches the pattern.
fn services(pattern: &Pattern) -> Services {
    let is_tcp = pattern.protocol == Protocol::Number(protocol::TCP);
    let flags = match pattern.tcp_flags {
        Some(set) => TcpFlags { set, clear: !set },
        None => OPENS,
    };
    let of_rule = |tcp_flags| {
        Services::of_rule(&Rule {
            protocol: pattern.protocol,
            ports: pattern.destination.ports.map(|ports| vec![ports]),
            icmp_types: pattern.icmp_type.map(|kind| vec![kind]),
            tcp_flags,
            ..matching(pattern)
        })
    };
    if is_tcp || pattern.protocol == Protocol::Any {
        of_rule(Some(flags))
    } else {
        of_rule(None)
    }
}

/// A rule of which only the services matter.
fn matching(pattern: &Pattern) -> Rule {
    Rule {
        name: String::new(),
        action: Action::Accept,
        direction: pattern.direction,
        protocol: Protocol::Any,
        ports: None,
        icmp_types: None,
        tcp_flags: None,
        from: None,
        to: None,
        terms: Terms::default(),
        log: false,
        comment: None,
        line: 0,
    }
}

/// Some packet of it, whatever rules say.
pub(super) fn any(region: &Region) -> Option<Example> {
    let everything = RuleSet {
        defaults: ACCEPTING,
        ..RuleSet::default()
    };
    let found = counterexample(&everything, region, Action::Drop)?;
    Some(found.example)
}
