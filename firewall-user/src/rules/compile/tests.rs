//! Compiled tables against a walk over the rules, with random rule sets and packets.

use std::cell::RefCell;

use firewall_common::abi::image::{Outcome, Selector, header};
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::decide::{Cause, classify};
use firewall_common::parse::{Addresses, Fragment, Packet, Transport, Upper, protocol};
use firewall_common::tables::{HostWorld, Tables as _, Tally, World};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::counters::Subject;
use crate::rules::model::{Action, AddressSet, Defaults, Protocol, Rule, SetId, TcpFlags, Terms};
use crate::rules::oracle;

// Few distinct values, so that rules overlap and packets hit edges.
pub(super) const V4: [u32; 8] = [
    0,
    0x0a00_0000,
    0x0a00_0001,
    0x0a00_ffff,
    0xc000_0200,
    0xc000_02ff,
    0xc633_6407,
    u32::MAX,
];
pub(super) const V6: [u128; 6] = [
    0,
    0x2001_0db8 << 96,
    (0x2001_0db8 << 96) + 1,
    (0x2001_0db8 << 96) + (1 << 64),
    (0x2001_0db8 << 96) + (1 << 64) - 1,
    u128::MAX,
];
const PORTS: [u16; 8] = [1, 22, 53, 80, 255, 256, 8080, 65535];
const TYPES: [u8; 4] = [0, 3, 8, 128];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];
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

pub(in crate::rules) fn rule(sets: usize) -> impl Strategy<Value = Rule> {
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
    (
        side.clone(),
        side,
        service,
        direction(),
        action(),
        any::<bool>(),
    )
        .prop_map(
            |(from, to, (protocol, ports, icmp_types, tcp_flags), direction, action, log)| Rule {
                name: String::new(),
                action,
                direction,
                protocol,
                ports,
                icmp_types,
                tcp_flags,
                from,
                to,
                log,
                terms: Terms::default(),
                comment: None,
                line: 0,
            },
        )
}

fn direction() -> impl Strategy<Value = Direction> {
    select(&DIRECTIONS[..])
}

pub(in crate::rules) fn action() -> impl Strategy<Value = Action> {
    select(&[Action::Accept, Action::Drop][..])
}

pub(in crate::rules) fn rule_set() -> impl Strategy<Value = RuleSet> {
    (prop::collection::vec(set(), 1..6), action(), action()).prop_flat_map(
        |(sets, ingress, egress)| {
            prop::collection::vec(rule(sets.len()), 0..20).prop_map(move |mut rules| {
                for (index, rule) in rules.iter_mut().enumerate() {
                    rule.name = format!("rule {index}");
                }
                RuleSet {
                    defaults: Defaults { ingress, egress },
                    sets: sets.clone(),
                    rules,
                    ..RuleSet::default()
                }
            })
        },
    )
}

pub(in crate::rules) fn packet() -> impl Strategy<Value = Packet> {
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
        // Without the header that the selector is in, no rule that names ports or types matches.
        1 => select(vec![47u8, 112, 2, protocol::TCP, protocol::UDP, protocol::ICMP]).prop_map(|protocol| Transport {
            protocol, selector: None, value: 0, source_port: 0, tcp_flags: 0 }),
    ];
    (addresses, transport).prop_map(|(addresses, transport)| Packet {
        addresses,
        hop_limit: 64,
        fragment: Fragment::Whole,
        transport,
        upper: Upper::default(),
        frame_bytes: 100,
    })
}

/// What the tables of one direction make of a packet.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rule: Option<usize>,
    outcome: Outcome,
    /// Names of the rules, and ports, that the counted slots stand for.
    rules: Vec<String>,
    ports: Vec<(u8, u16)>,
}

pub(super) fn by_tables(compiled: &Compiled, direction: Direction, packet: &Packet) -> Found {
    let counted = RefCell::new(Vec::new());
    let world = HostWorld::new(&compiled.image, |slot, tally: Tally| {
        assert_eq!(tally.bytes, packet.frame_bytes);
        counted.borrow_mut().push(slot);
    });
    let decision = classify::decide(packet, at(direction), &world.tables().unwrap(), &world)
        .expect("tables are consistent");
    let rule = match decision.cause() {
        Cause::Rule(number) => Some(compiled.ranking(direction).order[number as usize]),
        Cause::Default => None,
        other => panic!("{other:?} is not the rules' to say"),
    };
    let mut counted = counted.take();
    counted.push(decision.outcome().counter());
    let subjects: Vec<_> = counted
        .iter()
        .filter_map(|slot| compiled.slots.iter().find(|(_, at)| at == slot))
        .map(|(subject, _)| subject)
        .collect();
    let rules = subjects.iter().filter_map(|subject| subject.rule());
    let ports = subjects.iter().filter_map(|subject| subject.port());
    Found {
        rule,
        outcome: decision.outcome(),
        rules: rules.map(str::to_owned).collect(),
        ports: ports.collect(),
    }
}

const fn at(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => header::INGRESS,
        Direction::Egress => header::EGRESS,
    }
}

/// Where what no rule decides is counted, unless by its port.
fn default_counter(rule_set: &RuleSet, direction: Direction) -> u32 {
    match (direction, rule_set.defaults.of(direction)) {
        (Direction::Ingress, Action::Accept) => PassReason::Default.counter(),
        (Direction::Ingress, Action::Drop) => DropReason::NoRule.counter(),
        (Direction::Egress, Action::Accept) => PassReason::EgressDefault.counter(),
        (Direction::Egress, Action::Drop) => DropReason::EgressNoRule.counter(),
    }
}

fn essentials(compiled: &Compiled, direction: Direction) -> u32 {
    let world = HostWorld::new(&compiled.image, |_, _| {});
    let tables = world.tables().unwrap();
    tables.u32(at(direction) + header::ESSENTIALS).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn tables_name_the_first_rule_that_matches(
        rule_set in rule_set(),
        packets in prop::collection::vec(packet(), 30),
    ) {
        let compiled = compile(&rule_set, &Slots::default()).unwrap();
        for direction in DIRECTIONS {
            if essentials(&compiled, direction) & essential::FILTERED == 0 {
                prop_assert_eq!(direction, Direction::Egress);
                prop_assert_eq!(rule_set.defaults.egress, Action::Accept);
                prop_assert!(rule_set.rules.iter().all(|rule| rule.direction == Direction::Ingress));
                continue;
            }
            for packet in &packets {
                let expected = oracle::first_match(&rule_set, direction, packet);
                let found = by_tables(&compiled, direction, packet);
                prop_assert_eq!(found.rule, expected, "{:?} {:?}", direction, packet);
                let decided = expected.map(|index| &rule_set.rules[index]);
                let name = decided.map(|rule| rule.name.clone());
                prop_assert_eq!(found.rules, name.into_iter().collect::<Vec<_>>());
                let default = rule_set.defaults.of(direction);
                let action = decided.map_or(default, |rule| rule.action);
                prop_assert_eq!(found.outcome.accepts(), action == Action::Accept);
                prop_assert_eq!(found.outcome.logs(), decided.is_some_and(|rule| rule.log));
                if let Some(index) = expected {
                    let shadowed = &compiled.ranking(direction).shadowed;
                    prop_assert!(!shadowed.contains_key(&index), "rule {} matched, but is called shadowed", index);
                }
                let port = (packet.transport.protocol, packet.transport.value);
                let has_port = matches!(
                    packet.transport.selector,
                    Some(Selector::Tcp | Selector::Udp | Selector::Sctp)
                );
                let counts = direction == Direction::Ingress && has_port && compiled.ports.contains(&port);
                if decided.is_none() && !counts {
                    prop_assert_eq!(found.outcome.counter(), default_counter(&rule_set, direction));
                }
                prop_assert_eq!(found.ports, counts.then_some(port).into_iter().collect::<Vec<_>>());
            }
        }
    }
}

pub(in crate::rules) fn accept(name: &str, protocol: u8, ports: Option<Vec<(u16, u16)>>) -> Rule {
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
        terms: Terms::default(),
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
    let compiled = compile(&rule_set, &Slots::default()).unwrap();
    assert_eq!(
        compiled.ingress.shadowed,
        BTreeMap::from([(1, BTreeSet::from([0]))])
    );
}

fn leaving(rule: Rule) -> Rule {
    Rule {
        direction: Direction::Egress,
        ..rule
    }
}

#[test]
fn rules_are_shadowed_by_those_of_their_own_direction() {
    let rule_set = RuleSet {
        rules: vec![
            accept("all tcp in", protocol::TCP, None),
            leaving(accept("web out", protocol::TCP, Some(vec![(80, 80)]))),
            leaving(accept("all tcp out", protocol::TCP, None)),
            leaving(accept("ssh out", protocol::TCP, Some(vec![(22, 22)]))),
        ],
        ..RuleSet::default()
    };
    let compiled = compile(&rule_set, &Slots::default()).unwrap();
    assert_eq!(compiled.ingress.order, [0]);
    assert_eq!(compiled.egress.order, [1, 2, 3]);
    assert!(compiled.ingress.shadowed.is_empty());
    assert_eq!(
        compiled.egress.shadowed,
        BTreeMap::from([(3, BTreeSet::from([2]))])
    );
}

#[test]
fn what_leaves_is_filtered_where_a_rule_or_the_default_says_so() {
    let rules = vec![leaving(accept("dns", protocol::UDP, Some(vec![(53, 53)])))];
    let defaults = |egress| Defaults {
        egress,
        ..Defaults::default()
    };
    for (rules, egress, filtered) in [
        (Vec::new(), Action::Accept, false),
        (Vec::new(), Action::Drop, true),
        (rules.clone(), Action::Accept, true),
        (rules, Action::Drop, true),
    ] {
        let rule_set = RuleSet {
            defaults: defaults(egress),
            rules,
            ..RuleSet::default()
        };
        let compiled = compile(&rule_set, &Slots::default()).unwrap();
        let on = essential::ALL | essential::FILTERED;
        assert_eq!(essentials(&compiled, Direction::Ingress), on);
        let expected = if filtered { on } else { 0 };
        assert_eq!(essentials(&compiled, Direction::Egress), expected);
    }
}

/// Ports are counted by what arrives for them; what leaves for one of them is another matter.
#[test]
fn what_leaves_is_counted_by_rule_and_not_by_port() {
    let rule_set = RuleSet {
        rules: vec![
            accept("web", protocol::TCP, Some(vec![(80, 80)])),
            leaving(accept("dns", protocol::UDP, Some(vec![(53, 53)]))),
            leaving(accept("web out", protocol::TCP, Some(vec![(80, 81)]))),
        ],
        ..RuleSet::default()
    };
    let compiled = compile(&rule_set, &Slots::default()).unwrap();
    assert_eq!(compiled.ports, [(protocol::TCP, 80)]);
    let subjects: Vec<_> = compiled
        .slots
        .iter()
        .map(|(subject, _)| subject.clone())
        .collect();
    assert!(subjects.contains(&Subject::Rule("dns".to_owned())));
    assert!(subjects.contains(&Subject::Rule("web out".to_owned())));
    assert!(
        subjects
            .iter()
            .filter_map(Subject::port)
            .all(|port| port == (protocol::TCP, 80)),
        "{subjects:?}"
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
    let first = compile(&one, &Slots::default()).unwrap();
    let two = RuleSet {
        rules: vec![
            accept("c", protocol::TCP, Some(vec![(80, 81)])),
            accept("b", protocol::TCP, None),
        ],
        ..RuleSet::default()
    };
    let second = compile(&two, &first.slots.without(|_| false, &[])).unwrap();
    let all = Subject::Rule("b".to_owned());
    assert_eq!(second.slots.get(&all), first.slots.get(&all));
    assert!(
        !first.slots.used().any(|slot| Some(slot)
            == second
                .slots
                .get(&Subject::RuleAtPort("c".to_owned(), 6, 80))),
        "another rule's counter is not taken over"
    );
    let counted = Subject::RuleAtPort("a".to_owned(), 6, 80);
    let slot = first.slots.get(&counted).expect("it was counted");
    assert_eq!(
        second.slots.get(&Subject::GoneAtPort(6, 80, slot)),
        Some(slot),
        "what the rule before counted at port 80 still counts for port 80"
    );
}

/// Rules for TCP, each for one port and from one address of its own.
fn one_port_and_host_each(count: u16) -> RuleSet {
    let host = |index: u32| AddressSet {
        v4: vec![(0x0a00_0000 + index, 0x0a00_0000 + index)],
        v6: Vec::new(),
    };
    let rule = |index: u16| Rule {
        from: Some(SetId(index.into())),
        ..accept(
            &format!("rule {index}"),
            protocol::TCP,
            Some(vec![(index + 1, index + 1)]),
        )
    };
    RuleSet {
        sets: (0..count).map(|index| host(index.into())).collect(),
        rules: (0..count).map(rule).collect(),
        ..RuleSet::default()
    }
}

/// A net around all hosts whose rule names no port makes a cell of every host and port.
#[test]
fn more_cells_than_fit_are_refused() {
    let with_net = |count: u16| {
        let mut rule_set = one_port_and_host_each(count);
        rule_set.sets.push(AddressSet {
            v4: vec![(0x0a00_0000, 0x0aff_ffff)],
            v6: Vec::new(),
        });
        rule_set.rules.push(Rule {
            from: Some(SetId(count.into())),
            ..accept("net", protocol::TCP, None)
        });
        rule_set
    };
    assert!(compile(&with_net(500), &Slots::default()).is_ok());
    let refused = compile(&with_net(3_000), &Slots::default());
    assert!(
        matches!(refused, Err(CompileError::TooManyCells { .. })),
        "{refused:?}"
    );
}

/// Eight conditions that tell all TCP flags bytes apart make 256 services of each port.
#[test]
fn more_classes_than_there_are_columns_are_refused() {
    let with_flags = |count: u16| {
        let mut rule_set = one_port_and_host_each(count);
        let flags = (0..8).map(|bit| Rule {
            from: Some(SetId(0)),
            tcp_flags: Some(TcpFlags {
                set: 1 << bit,
                clear: 0,
            }),
            ..accept(&format!("flag {bit}"), protocol::TCP, None)
        });
        rule_set.rules.splice(0..0, flags);
        rule_set
    };
    assert!(compile(&with_flags(10), &Slots::default()).is_ok());
    let refused = compile(&with_flags(4_100), &Slots::default());
    assert!(
        matches!(refused, Err(CompileError::TooManyCells { .. })),
        "{refused:?}"
    );
}
