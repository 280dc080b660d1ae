//! Random rule sets, and random frames that come near their edges: few addresses and ports, each also one off.

use etherparse::IpFragOffset;
use firewall_user::rules::model::{
    Action, AddressSet, Defaults, Direction, Essentials, Protocol, Rule, RuleSet, SetId, TcpFlags,
    Terms, Vlans,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::corpus;
use crate::packets::*;

const V4: [u32; 8] = [
    0,
    0x0a00_0000,
    0x0a00_ffff,
    0x7f00_0001,
    0xc000_0207,
    0xc000_02ff,
    0xc633_6401,
    u32::MAX,
];
const V6: [u128; 8] = [
    0,
    1,
    0xfe80 << 112 | 7,
    0x2001_0db8 << 96,
    (0x2001_0db8 << 96) + (1 << 64),
    (0x2001_0db8 << 96) + (1 << 64) - 1,
    0x2001_0db8_0002 << 80 | 7,
    u128::MAX,
];
const PORTS: [u16; 10] = [1, 22, 53, 68, 80, 255, 256, 546, 8080, 65535];
const TYPES: [u8; 8] = [0, 3, 8, 2, 128, 130, 135, 137];
const FLAGS: [u8; 6] = [0x02, 0x12, 0x10, 0x04, 0x11, 0x18];
const OFFSETS: [u16; 8] = [0, 0, 0, 0, 1, 3, 185, 8191];
const PLAIN_PROTOCOLS: [u8; 6] = [2, 47, 50, 59, 112, 255];

/// A rule set.
pub fn rule_set() -> impl Strategy<Value = RuleSet> {
    let essentials = prop_oneof![
        2 => Just([true; 6]),
        2 => Just([false; 6]),
        1 => any::<[bool; 6]>(),
    ];
    let vlans = prop_oneof![3 => Just(None), 1 => vlans().prop_map(Some)];
    (vec(address_set(), 1..6), any::<bool>(), essentials, vlans).prop_flat_map(
        |(sets, accept, essentials, vlans)| {
            vec(rule(sets.len()), 0..14).prop_map(move |mut rules| {
                for (index, rule) in rules.iter_mut().enumerate() {
                    rule.name = format!("rule {index}");
                }
                let ingress = if accept { Action::Accept } else { Action::Drop };
                RuleSet {
                    defaults: Defaults {
                        ingress,
                        ..Defaults::default()
                    },
                    essentials: switched(essentials),
                    vlans: vlans.clone(),
                    sets: sets.clone(),
                    rules,
                    ..RuleSet::default()
                }
            })
        },
    )
}

/// VLANs, with what is untagged or without.
pub fn vlans() -> impl Strategy<Value = Vlans> {
    (any::<bool>(), 1u16..2000, 0u16..2000).prop_map(|(untagged, first, more)| Vlans {
        untagged,
        ids: vec![(first, first + more)],
    })
}

/// A frame: sound or broken, mostly near the edges of [`rule_set`]'s rules.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => layers(),
        2 => (layers(), edits()).prop_map(|(frame, edits)| apply(frame, &edits)),
        2 => (from_corpus(), edits()).prop_map(|(frame, edits)| apply(frame, &edits)),
        1 => vec(any::<u8>(), 0..120),
    ]
}

/// A frame from a fuzzer's bytes: they are the frame, or say which one of the corpus is changed, and how.
pub fn frame_from(input: &[u8]) -> Vec<u8> {
    match input {
        [choice @ 1..=255, which, edits @ ..] => {
            let which = usize::from(u16::from_be_bytes([*choice, *which]));
            let frame = corpus::ALL[which % corpus::ALL.len()].frame.clone();
            let edits = edits
                .as_chunks()
                .0
                .iter()
                .take(8)
                .map(|&edit| Edit::from(edit));
            apply(frame, &edits.collect::<Vec<_>>())
        }
        [_, frame @ ..] => frame.to_vec(),
        [] => Vec::new(),
    }
}

/// A change to a frame, at a place counted around the headers.
#[derive(Clone, Copy, Debug)]
pub enum Edit {
    /// Replaces a byte.
    Byte(u8, u8),
    /// Flips a bit.
    Flip(u8, u8),
    /// Adds to a byte, for lengths that are one off.
    Add(u8, i8),
    /// Cuts the frame.
    Cut(u8),
    /// Appends so many bytes of this value.
    Pad(u8, u8),
    /// Removes a byte.
    Remove(u8),
    /// Repeats so many bytes where they are.
    Repeat(u8, u8),
}

impl From<[u8; 3]> for Edit {
    fn from([kind, at, value]: [u8; 3]) -> Self {
        match kind % 7 {
            0 => Self::Byte(at, value),
            1 => Self::Flip(at, value),
            2 => Self::Add(at, (value % 5) as i8 - 2),
            3 => Self::Cut(at),
            4 => Self::Pad(at, value),
            5 => Self::Remove(at),
            _ => Self::Repeat(at, value % 16),
        }
    }
}

/// Bytes in which most headers lie, and in which frames are changed.
const HEADERS: usize = 80;

/// Changes `frame`.
pub fn apply(mut frame: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for &edit in edits {
        if frame.is_empty() {
            break;
        }
        let place = |at: u8| usize::from(at) % frame.len().min(HEADERS);
        match edit {
            Edit::Byte(at, value) => {
                let at = place(at);
                frame[at] = value;
            }
            Edit::Flip(at, bit) => {
                let at = place(at);
                frame[at] ^= 1 << (bit & 7);
            }
            Edit::Add(at, difference) => {
                let at = place(at);
                frame[at] = frame[at].wrapping_add_signed(difference);
            }
            Edit::Cut(at) => frame.truncate(usize::from(at)),
            Edit::Pad(count, value) => frame.resize(frame.len() + usize::from(count), value),
            Edit::Remove(at) => {
                let at = place(at);
                frame.remove(at);
            }
            Edit::Repeat(at, count) => {
                let at = place(at);
                let end = (at + usize::from(count)).min(frame.len());
                let repeated = frame[at..end].to_vec();
                frame.splice(at..at, repeated);
            }
        }
    }
    frame
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    vec(any::<[u8; 3]>().prop_map(Edit::from), 1..4)
}

fn from_corpus() -> impl Strategy<Value = Vec<u8>> {
    any::<Index>().prop_map(|index| index.get(&corpus::ALL).frame.clone())
}

/// A sound stack of layers, but for addresses and flags that may be refused.
fn layers() -> impl Strategy<Value = Vec<u8>> {
    let tags = vec(
        (
            select(vec![ethertype::VLAN, ethertype::SERVICE_VLAN]),
            0u16..4095,
        ),
        0..=3,
    );
    let packet = prop_oneof![v4_packet(), v6_packet()];
    (
        prop_oneof![4 => Just(Vec::new()), 1 => tags],
        packet,
        prop_oneof![Just(0), 60usize..100],
    )
        .prop_map(|(tags, (kind, packet), length)| padded(&tagged(&tags, kind, &packet), length))
}

fn v4_packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let address = || (select(&V4[..]), -1i32..=1).prop_map(|(a, d)| a.wrapping_add_signed(d));
    let options =
        prop_oneof![4 => Just(Vec::new()), 1 => vec(select(vec![0u8, 1, 7, 4, 3, 131]), 4..=4)];
    let hops = select(vec![64u8, 1, 255]);
    (
        address(),
        address(),
        options,
        hops,
        any::<(bool, bool)>(),
        segment(false),
        select(&OFFSETS[..]),
    )
        .prop_map(
            |(from, to, options, hops, (rare, more), (protocol, segment), offset)| {
                let packet = ipv4_with(protocol, &segment, |header| {
                    header.source = from.to_be_bytes();
                    header.destination = to.to_be_bytes();
                    header.time_to_live = hops;
                    header.more_fragments = rare && more;
                    if rare {
                        header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
                    }
                    header.options =
                        etherparse::Ipv4Options::try_from(&options[..]).expect("whole words");
                });
                (ethertype::IPV4, packet)
            },
        )
}

fn v6_packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let address = || (select(&V6[..]), -1i128..=1).prop_map(|(a, d)| a.wrapping_add_signed(d));
    let hops = select(vec![64u8, 1, 255, 255]);
    let chain = prop_oneof![2 => Just(Vec::new()), 1 => vec(0u8..8, 0..10)];
    (address(), address(), hops, chain, segment(true)).prop_map(
        |(from, to, hops, chain, (protocol, segment))| {
            let (mut next, mut payload) = (protocol, segment);
            for kind in chain.into_iter().rev() {
                (next, payload) = match kind {
                    0 => (0, extension(next, PADDING, &payload)),
                    1 => (43, extension(next, routing(4, 0), &payload)),
                    2 => (44, fragment(next, 0, false, &payload)),
                    3 => (44, fragment(next, 0, true, &payload)),
                    4 => (44, fragment(next, 3, false, &payload)),
                    5 => (51, authentication(next, &payload)),
                    _ => (60, extension(next, PADDING, &payload)),
                };
            }
            let packet = ipv6_with(next, &payload, |header| {
                header.source = from.to_be_bytes();
                header.destination = to.to_be_bytes();
                header.hop_limit = hops;
            });
            (ethertype::IPV6, packet)
        },
    )
}

/// An upper-layer header and its protocol.
fn segment(ipv6: bool) -> impl Strategy<Value = (u8, Vec<u8>)> {
    let port = || (select(&PORTS[..]), -1i16..=1).prop_map(|(port, d)| port.wrapping_add_signed(d));
    let source = || prop_oneof![Just(40_000), select(vec![67, 547, 53, 80])];
    let flags = prop_oneof![4 => select(&FLAGS[..]), 1 => any::<u8>()];
    let kind = (select(&TYPES[..]), prop_oneof![3 => Just(0u8), 1 => 1u8..3]);
    prop_oneof![
        4 => (source(), port(), flags).prop_map(|(from, to, flags)| (6, tcp_from(from, to, flags))),
        3 => (source(), port(), 0usize..20).prop_map(|(from, to, more)| (17, udp(from, to, &vec![0; more]))),
        1 => (source(), port()).prop_map(|(from, to)| (132, sctp(from, to))),
        2 => kind.prop_map(move |(kind, code)| (if ipv6 { 58 } else { 1 }, icmp(kind, code))),
        1 => (select(&PLAIN_PROTOCOLS[..])).prop_map(|protocol| (protocol, syn())),
    ]
}

fn rule(sets: usize) -> impl Strategy<Value = Rule> {
    let side = prop_oneof![Just(None), (0..sets).prop_map(|index| Some(SetId(index)))];
    let ports = option::of(vec(ports(), 1..3))
        .prop_map(|ports| ports.map(|ports| joined(ports, |port| port.checked_add(1))));
    let flags = option::of((select(&FLAGS[..]), select(&FLAGS[..]))).prop_map(|flags| {
        flags.map(|(set, clear)| TcpFlags {
            set,
            clear: clear & !set,
        })
    });
    let types = option::of(btree_set(select(&TYPES[..]), 1..3))
        .prop_map(|types| types.map(|types| types.into_iter().collect()));
    let service = prop_oneof![
        2 => Just((Protocol::Any, None, None, None)),
        6 => (select(vec![6, 17, 132]), ports, flags).prop_map(|(number, ports, flags)| {
            (Protocol::Number(number), ports, None, flags.filter(|_| number == 6))
        }),
        3 => (select(vec![1, 58]), types).prop_map(|(number, types)| (Protocol::Number(number), None, types, None)),
        1 => select(&PLAIN_PROTOCOLS[..]).prop_map(|number| (Protocol::Number(number), None, None, None)),
    ];
    let egress = prop_oneof![9 => Just(Direction::Ingress), 1 => Just(Direction::Egress)];
    (side.clone(), side, service, egress, any::<(bool, bool)>()).prop_map(
        |(from, to, (protocol, ports, icmp_types, tcp_flags), direction, (accept, log))| Rule {
            name: String::new(),
            action: if accept { Action::Accept } else { Action::Drop },
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

/// A narrow range: every port of it has a counter, and there are 3,904 of those unless more are asked for.
fn ports() -> impl Strategy<Value = (u16, u16)> {
    (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(a, b)| {
        let (low, high) = (a.min(b), a.max(b));
        if high - low < 100 {
            (low, high)
        } else {
            (low, low)
        }
    })
}

fn address_set() -> impl Strategy<Value = AddressSet> {
    let v4 = (select(&V4[..]), select(&V4[..])).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let v6 = (select(&V6[..]), select(&V6[..])).prop_map(|(a, b)| (a.min(b), a.max(b)));
    (vec(v4, 0..3), vec(v6, 0..3)).prop_map(|(v4, v6)| AddressSet {
        v4: joined(v4, |address| address.checked_add(1)),
        v6: joined(v6, |address| address.checked_add(1)),
    })
}

/// Sorted, disjoint and not adjacent, as the model wants ranges.
pub fn joined<T: Copy + Ord>(
    mut ranges: Vec<(T, T)>,
    next: impl Fn(T) -> Option<T>,
) -> Vec<(T, T)> {
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

fn switched(
    [
        arp,
        neighbour_discovery,
        path_mtu,
        dhcp_client,
        multicast_membership,
        link_layer,
    ]: [bool; 6],
) -> Essentials {
    Essentials {
        arp,
        neighbour_discovery,
        path_mtu,
        dhcp_client,
        multicast_membership,
        link_layer,
    }
}
