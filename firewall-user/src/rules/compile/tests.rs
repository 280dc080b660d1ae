//! Compiled tables against a walk over the rules, with random rule sets and packets.

use std::cell::RefCell;

use firewall_common::abi::image::Selector;
use firewall_common::decide::{Decision, classify};
use firewall_common::parse::{Addresses, Fragment, Packet, Transport, protocol};
use firewall_common::tables::{HostWorld, World};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::rules::model::{AddressSet, Protocol, Rule, SetId, TcpFlags};
use crate::rules::oracle;

// Few distinct values, so that rules overlap and packets hit edges.
const V4: [u32; 8] = [
    0,
    0x0a00_0000,
    0x0a00_0001,
    0x0a00_ffff,
    0xc000_0200,
    0xc000_02ff,
    0xc633_6407,
    u32::MAX,
];
const V6: [u128; 6] = [
    0,
    0x2001_0db8 << 96,
    (0x2001_0db8 << 96) + 1,
    (0x2001_0db8 << 96) + (1 << 64),
    (0x2001_0db8 << 96) + (1 << 64) - 1,
    u128::MAX,
];
const PORTS: [u16; 8] = [1, 22, 53, 80, 255, 256, 8080, 65535];
const TYPES: [u8; 4] = [0, 3, 8, 128];
const FLAGS: [u8; 5] = [0x02, 0x12, 0x10, 0x04, 0x11];

fn range<T: Copy + Ord + std::fmt::Debug + 'static>(
    values: &'static [T],
) -> impl Strategy<Value = (T, T)> {
    (select(values), select(values)).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

/// Mostly narrow ranges: every port of a range is counted by itself, which takes its time in a wide one.
fn ports() -> impl Strategy<Value = (u16, u16)> {
    (range(&PORTS), 0..500).prop_map(|((low, high), wide)| {
        if high - low < 300 || wide == 0 {
            (low, high)
        } else {
            (low, low)
        }
    })
}

/// Joins overlapping ranges: sets are sorted and disjoint.
fn normal<T: Copy + Ord>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort();
    let mut joined: Vec<(T, T)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(previous) if next(previous.1).is_none_or(|behind| first <= behind) => {
                previous.1 = previous.1.max(last)
            }
            _ => joined.push((first, last)),
        }
    }
    joined
}

fn set() -> impl Strategy<Value = AddressSet> {
    (
        prop::collection::vec(range(&V4), 0..3),
        prop::collection::vec(range(&V6), 0..3),
    )
        .prop_map(|(v4, v6)| AddressSet {
            v4: normal(v4, |a| a.checked_add(1)),
            v6: normal(v6, |a| a.checked_add(1)),
        })
}

fn rule(sets: usize) -> impl Strategy<Value = Rule> {
    let side = prop_oneof![Just(None), (0..sets).prop_map(|index| Some(SetId(index)))];
    let service = prop_oneof![
        2 => Just((Protocol::Any, None, None, None)),
        6 => (
            select(vec![protocol::TCP, protocol::UDP]),
            prop::option::of(prop::collection::vec(ports(), 1..3)),
            prop::option::of((select(&FLAGS[..]), select(&FLAGS[..]))),
        ).prop_map(|(number, ports, flags)| (
            Protocol::Number(number),
            ports.map(|ports| normal(ports, |a| a.checked_add(1))),
            None,
            flags.filter(|_| number == protocol::TCP).map(|(set, clear)| TcpFlags { set, clear: clear & !set }),
        )),
        2 => prop::option::of(prop::collection::btree_set(select(&TYPES[..]), 1..3))
            .prop_map(|types| (Protocol::Number(protocol::ICMP), None, types.map(|t| t.into_iter().collect()), None)),
        1 => select(vec![47u8, 112, protocol::SCTP, protocol::ICMPV6])
            .prop_map(|number| (Protocol::Number(number), None, None, None)),
    ];
    (side.clone(), side, service, any::<(bool, bool)>()).prop_map(
        |(from, to, (protocol, ports, icmp_types, tcp_flags), (accept, log))| Rule {
            name: String::new(),
            action: if accept { Action::Accept } else { Action::Drop },
            direction: Direction::Ingress,
            protocol,
            ports,
            icmp_types,
            tcp_flags,
            from,
            to,
            log,
            comment: None,
            line: 0,
        },
    )
}

fn rule_set() -> impl Strategy<Value = RuleSet> {
    prop::collection::vec(set(), 1..6).prop_flat_map(|sets| {
        prop::collection::vec(rule(sets.len()), 0..14).prop_map(move |mut rules| {
            for (index, rule) in rules.iter_mut().enumerate() {
                rule.name = format!("rule {index}");
            }
            RuleSet {
                sets: sets.clone(),
                rules,
                ..RuleSet::default()
            }
        })
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let near4 = (select(&V4[..]), -1i32..=1).prop_map(|(a, d)| a.wrapping_add_signed(d));
    let near6 = (select(&V6[..]), -1i128..=1).prop_map(|(a, d)| a.wrapping_add_signed(d));
    let v6 = near6.prop_map(|a| [(a >> 64) as u64, a as u64]);
    let addresses = prop_oneof![
        (near4.clone(), near4).prop_map(|(source, destination)| Addresses::V4 {
            source,
            destination
        }),
        (v6.clone(), v6).prop_map(|(source, destination)| Addresses::V6 {
            source,
            destination
        }),
    ];
    let port = (select(&PORTS[..]), -1i16..=1).prop_map(|(p, d)| p.saturating_add_signed(d).max(1));
    let transport = prop_oneof![
        4 => (port.clone(), select(&FLAGS[..])).prop_map(|(value, tcp_flags)| Transport {
            protocol: protocol::TCP, selector: Some(Selector::Tcp), value, source_port: 40000, tcp_flags }),
        3 => port.prop_map(|value| Transport {
            protocol: protocol::UDP, selector: Some(Selector::Udp), value, source_port: 40000, tcp_flags: 0 }),
        2 => (select(&TYPES[..]), 0u16..3).prop_map(|(kind, code)| Transport {
            protocol: protocol::ICMP, selector: Some(Selector::Icmp), value: u16::from(kind) << 8 | code, source_port: 0, tcp_flags: 0 }),
        1 => select(vec![47u8, 112, 2]).prop_map(|protocol| Transport {
            protocol, selector: None, value: 0, source_port: 0, tcp_flags: 0 }),
    ];
    (addresses, transport).prop_map(|(addresses, transport)| Packet {
        addresses,
        hop_limit: 64,
        fragment: Fragment::Whole,
        transport,
        frame_bytes: 100,
    })
}

/// The rule that the tables name, and the slots that were counted on the way.
fn by_tables(compiled: &Compiled, packet: &Packet) -> (Option<usize>, Vec<u32>) {
    let counted = RefCell::new(Vec::new());
    let world = HostWorld::new(&compiled.image, |slot, bytes| {
        assert_eq!(bytes, packet.frame_bytes);
        counted.borrow_mut().push(slot);
    });
    let decision =
        classify::decide(packet, &world.tables().unwrap(), &world).expect("tables are consistent");
    let rule = match decision {
        Decision::Rule { number, .. } => Some(compiled.order[number as usize]),
        Decision::Drop(_) | Decision::Pass(_) => None,
    };
    (rule, counted.take())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn tables_name_the_first_rule_that_matches(
        rule_set in rule_set(),
        packets in prop::collection::vec(packet(), 30),
    ) {
        let compiled = compile(&rule_set, Direction::Ingress, &Slots::default()).unwrap();
        for packet in &packets {
            let expected = oracle::first_match(&rule_set, Direction::Ingress, packet);
            let (found, counted) = by_tables(&compiled, packet);
            prop_assert_eq!(found, expected, "{:?}", packet);
            if let Some(index) = expected {
                prop_assert!(!compiled.shadowed.contains_key(&index), "rule {} matched, but is called shadowed", index);
            }
            let named = match packet.transport.selector {
                Some(Selector::Tcp | Selector::Udp | Selector::Sctp) => {
                    compiled.slots.ports.get(&(packet.transport.protocol, packet.transport.value))
                }
                _ => None,
            };
            prop_assert_eq!(counted, named.into_iter().copied().collect::<Vec<_>>());
        }
    }
}

fn accept(name: &str, protocol: u8, ports: Option<Vec<(u16, u16)>>) -> Rule {
    Rule {
        name: name.to_owned(),
        action: Action::Accept,
        direction: Direction::Ingress,
        protocol: Protocol::Number(protocol),
        ports,
        icmp_types: None,
        tcp_flags: None,
        from: None,
        to: None,
        log: false,
        comment: None,
        line: 0,
    }
}

#[test]
fn a_covered_rule_is_shadowed_by_the_one_that_covers_it() {
    let rules = vec![
        accept("all tcp", protocol::TCP, None),
        accept("web", protocol::TCP, Some(vec![(80, 80)])),
        accept("dns", protocol::UDP, Some(vec![(53, 53)])),
    ];
    let rule_set = RuleSet {
        rules,
        ..RuleSet::default()
    };
    let compiled = compile(&rule_set, Direction::Ingress, &Slots::default()).unwrap();
    assert_eq!(
        compiled.shadowed,
        BTreeMap::from([(1, BTreeSet::from([0]))])
    );
}

#[test]
fn counters_keep_their_slots_and_free_ones_are_filled() {
    let one = RuleSet {
        rules: vec![
            accept("a", protocol::TCP, Some(vec![(80, 80)])),
            accept("b", protocol::TCP, None),
        ],
        ..RuleSet::default()
    };
    let first = compile(&one, Direction::Ingress, &Slots::default()).unwrap();
    let two = RuleSet {
        rules: vec![
            accept("c", protocol::TCP, Some(vec![(80, 81)])),
            accept("b", protocol::TCP, None),
        ],
        ..RuleSet::default()
    };
    let second = compile(&two, Direction::Ingress, &first.slots).unwrap();
    assert_eq!(second.slots.rules["b"], first.slots.rules["b"]);
    assert!(
        !first
            .slots
            .used()
            .any(|slot| slot == second.slots.rules["c"]),
        "another rule's counter is not taken over"
    );
    assert_eq!(
        second.slots.ports[&(protocol::TCP, 80)],
        first.slots.ports[&(protocol::TCP, 80)]
    );
}
