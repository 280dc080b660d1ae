//! Regions against a walk over the rules, with random rule sets and packets.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::rules::compile::tests::{accept, action, packet, rule_set};
use crate::rules::model::Defaults;
use crate::rules::oracle;

/// What `rule_set` does with `packet`.
pub(in crate::rules) fn decided(
    rule_set: &RuleSet,
    direction: Direction,
    packet: &Packet,
) -> Action {
    let rule = oracle::first_match(rule_set, direction, packet);
    rule.map_or(rule_set.defaults.of(direction), |rule| {
        rule_set.rules[rule].action
    })
}

/// The region of one packet alone; `None` where no packet like it comes as far as the rules.
fn only(direction: Direction, packet: &Packet) -> Option<Region> {
    let single = |v4: &[u32], v6: &[u128]| {
        Some(AddressSet {
            v4: v4.iter().map(|&address| (address, address)).collect(),
            v6: v6.iter().map(|&address| (address, address)).collect(),
        })
    };
    let (from, to) = match packet.addresses {
        Addresses::V4 {
            source,
            destination,
        } => (single(&[source], &[]), single(&[destination], &[])),
        Addresses::V6 {
            source,
            destination,
        } => {
            let [source, destination] = [source, destination]
                .map(|[upper, lower]| u128::from(upper) << 64 | u128::from(lower));
            (single(&[], &[source]), single(&[], &[destination]))
        }
    };
    let transport = &packet.transport;
    let mut services = if transport.selector.is_some() {
        Services::ports(transport.protocol, &[(transport.value, transport.value)])
    } else {
        Services::protocol(transport.protocol)
    };
    if transport.protocol == protocol::TCP {
        let flags = u32::from(transport.tcp_flags);
        services.flags = vec![(flags, flags)];
    }
    let region = Region {
        direction,
        from,
        to,
        services,
    };
    (region.contains(packet) && can_come(packet)).then_some(region)
}

/// Whether there are such packets.
pub(in crate::rules) fn can_come(packet: &Packet) -> bool {
    let is_v4 = matches!(packet.addresses, Addresses::V4 { .. });
    let by_family = match packet.transport.protocol {
        protocol::ICMPV6 => !is_v4,
        other => is_v4 || services::is_of_v6(other),
    };
    let [sources, destinations] = [example::sources(), example::destinations()];
    by_family
        && match packet.addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                source != destination
                    && ranges::contain(&sources.narrow, source)
                    && ranges::contain(&destinations.narrow, destination)
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let [from, to] = [source, destination]
                    .map(|[upper, lower]| u128::from(upper) << 64 | u128::from(lower));
                from != to
                    && ranges::contain(&sources.wide, from)
                    && ranges::contain(&destinations.wide, to)
            }
        }
}

fn direction() -> impl Strategy<Value = Direction> {
    select(&[Direction::Ingress, Direction::Egress][..])
}

/// Everything, or what a rule of some rule set matches.
fn region() -> impl Strategy<Value = Region> {
    (rule_set(), any::<Index>(), direction()).prop_map(|(rule_set, index, direction)| {
        if rule_set.rules.is_empty() {
            return Region::everything(direction);
        }
        let rule = &rule_set.rules[index.index(rule_set.rules.len())];
        Region::of_rule(&rule_set, rule)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn of_one_packet_the_answer_is_that_of_a_walk(
        rule_set in rule_set(),
        direction in direction(),
        expected in action(),
        packets in prop::collection::vec(packet(), 30),
    ) {
        for packet in &packets {
            let Some(region) = only(direction, packet) else {
                continue;
            };
            let found = counterexample(&rule_set, &region, expected);
            let is_otherwise = decided(&rule_set, direction, packet) != expected;
            prop_assert_eq!(found.is_some(), is_otherwise, "{:?}", packet);
            if let Some(found) = found {
                let rule = oracle::first_match(&rule_set, direction, packet);
                prop_assert_eq!(found.rule, rule);
                prop_assert_eq!(found.example.addresses, packet.addresses);
            }
        }
    }

    #[test]
    fn a_counterexample_is_one_and_without_one_there_is_none(
        rule_set in rule_set(),
        region in region(),
        expected in action(),
        packets in prop::collection::vec(packet(), 60),
    ) {
        let found = counterexample(&rule_set, &region, expected);
        if let Some(Counterexample { example, rule }) = found {
            let packet = example.packet();
            prop_assert!(region.contains(&packet) && can_come(&packet), "{}", example);
            prop_assert_ne!(decided(&rule_set, region.direction, &packet), expected);
            prop_assert_eq!(rule, oracle::first_match(&rule_set, region.direction, &packet));
        } else {
            let like = |packet: &&Packet| region.contains(packet) && can_come(packet);
            for packet in packets.iter().filter(like) {
                prop_assert_eq!(decided(&rule_set, region.direction, packet), expected, "{:?}", packet);
            }
        }
    }

    #[test]
    fn a_rule_matches_what_its_region_contains(
        rule_set in rule_set(),
        packets in prop::collection::vec(packet(), 30),
    ) {
        for rule in &rule_set.rules {
            let region = Region::of_rule(&rule_set, rule);
            for packet in packets.iter().filter(|packet| can_come(packet)) {
                let is_later_fragment =
                    packet.transport.selector.is_none() && services::selector(packet.transport.protocol).is_some();
                let expected = oracle::matches(&rule_set, rule, packet) && !is_later_fragment;
                prop_assert_eq!(region.contains(packet), expected, "{:?} {:?}", rule, packet);
            }
        }
    }
}

/// A rule set that drops by default.
fn rules(rules: Vec<Rule>, sets: Vec<AddressSet>) -> RuleSet {
    RuleSet {
        defaults: Defaults::default(),
        rules,
        sets,
        ..RuleSet::default()
    }
}

fn block(first: u32, last: u32) -> AddressSet {
    AddressSet {
        v4: vec![(first, last)],
        v6: Vec::new(),
    }
}

#[test]
fn an_example_is_told_in_the_words_of_a_rule_file() {
    let ssh = accept("ssh", protocol::TCP, Some(vec![(22, 22)]));
    let rule_set = rules(vec![ssh], Vec::new());
    let everything = Region::everything(Direction::Ingress);
    let accepted = counterexample(&rule_set, &everything, Action::Drop).unwrap();
    assert_eq!(
        accepted.example.to_string(),
        "tcp 22 from 198.51.100.7 to 192.0.2.1"
    );
    assert_eq!(accepted.rule, Some(0));
    // All but port 22 is refused; the ranges of what is left begin at 1.
    let refused = counterexample(&rule_set, &everything, Action::Accept).unwrap();
    assert_eq!(
        refused.example.to_string(),
        "tcp 1 from 198.51.100.7 to 192.0.2.1"
    );
    assert_eq!(refused.rule, None);
}

#[test]
fn what_no_packet_has_is_no_counterexample() {
    // Accepts all TCP flags that a TCP sends, one condition beside the other.
    let tcp = |set, clear| Rule {
        tcp_flags: Some(crate::rules::model::TcpFlags { set, clear }),
        ..accept("tcp", protocol::TCP, None)
    };
    let rule_set = rules(vec![tcp(0x02, 0), tcp(0x10, 0), tcp(0x04, 0)], Vec::new());
    let mut region = Region::everything(Direction::Ingress);
    region.services = Services::protocol(protocol::TCP);
    assert_eq!(counterexample(&rule_set, &region, Action::Accept), None);
    let without_resets = rules(rule_set.rules[..2].to_vec(), Vec::new());
    let found = counterexample(&without_resets, &region, Action::Accept).unwrap();
    assert_eq!(
        found.example.to_string(),
        "tcp 1 (rst) from 198.51.100.7 to 192.0.2.1"
    );

    // Nor is ICMP over IPv6, a packet between families, or one from an address to itself.
    region.services = Services::protocol(protocol::ICMP);
    region.from = Some(AddressSet {
        v4: Vec::new(),
        v6: vec![(0, u128::MAX)],
    });
    assert_eq!(counterexample(&rule_set, &region, Action::Accept), None);
    region.services = Services::any();
    region.to = Some(block(7, 7));
    assert_eq!(counterexample(&rule_set, &region, Action::Accept), None);
    region.from = Some(block(7 << 24, 7 << 24));
    region.to = region.from.clone();
    assert_eq!(counterexample(&rule_set, &region, Action::Accept), None);
}
