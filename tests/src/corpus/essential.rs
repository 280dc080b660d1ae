//! What passes without a rule, switched on and off, and what comes close.

use std::net::{Ipv4Addr, Ipv6Addr};

use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::protocol::{FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, IGMP, TCP, UDP};

use super::{Cases, Expected, Under};
use crate::packets::*;

/// A frame that is essential, its near misses, and what they get.
struct Essential {
    name: &'static str,
    reason: PassReason,
    frame: Vec<u8>,
    near: Vec<(&'static str, Vec<u8>, Expected)>,
    /// What it gets where it is switched off.
    off: DropReason,
}

pub(super) fn add(cases: &mut Cases) {
    let all = [
        link_layer(),
        neighbour_discovery(),
        path_mtu(),
        dhcp(),
        membership(),
    ]
    .concat();
    for essential in &all {
        let passes = Expected::pass(essential.reason);
        let off = Expected::drop(essential.off);
        cases.under(Under::Server);
        for (near, frame, expected) in &essential.near {
            let name = format!("{}, not: {near}", essential.name);
            cases.pair(
                &name,
                (essential.frame.clone(), passes.clone()),
                (frame.clone(), expected.clone()),
            );
        }
        cases.switched_off(essential.name, &essential.frame, passes, off);
    }
    cases.under(Under::Server);
    neighbour_discovery_refused(cases);
}

impl Clone for Essential {
    fn clone(&self) -> Self {
        Self {
            frame: self.frame.clone(),
            near: self.near.clone(),
            ..*self
        }
    }
}

fn link_layer() -> Vec<Essential> {
    let stp = [0x42, 0x42, 3, 0, 0, 0, 0, 0];
    let lldp = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let slow = [0x01, 0x80, 0xc2, 0, 0, 2];
    let unlisted = Expected::drop(DropReason::EthertypeUnlisted);
    let off = DropReason::EssentialOff;
    let reason = PassReason::LinkLayer;
    let frames = |name, frame, near| Essential {
        name,
        reason,
        frame,
        near,
        off,
    };
    vec![
        Essential {
            name: "ARP",
            reason: PassReason::Arp,
            frame: ethernet(ethertype::ARP, &arp()),
            near: vec![("RARP", ethernet(0x8035, &arp()), unlisted.clone())],
            off,
        },
        frames(
            "LLDP",
            ethernet_to(lldp, 0x88cc, &[2, 7, 4]),
            vec![(
                "its neighbour in number",
                ethernet_to(lldp, 0x88cd, &[2, 7, 4]),
                unlisted.clone(),
            )],
        ),
        frames(
            "LACP",
            ethernet_to(slow, 0x8809, &[1, 1]),
            vec![(
                "its neighbour in number",
                ethernet_to(slow, 0x8808, &[1, 1]),
                unlisted.clone(),
            )],
        ),
        frames(
            "spanning tree",
            ethernet_to(BRIDGE_GROUP, 38, &stp),
            vec![
                (
                    "to another address",
                    ethernet_to(lldp, 38, &stp),
                    unlisted.clone(),
                ),
                (
                    "to the host",
                    ethernet_to(HOST_MAC, 38, &stp),
                    unlisted.clone(),
                ),
                (
                    "another service",
                    ethernet_to(BRIDGE_GROUP, 38, &[0xaa, 0xaa, 3, 0]),
                    unlisted.clone(),
                ),
                (
                    "another source service",
                    ethernet_to(BRIDGE_GROUP, 38, &[0x42, 0x43, 3]),
                    unlisted.clone(),
                ),
                (
                    "numbered",
                    ethernet_to(BRIDGE_GROUP, 38, &[0x42, 0x42, 0x13]),
                    unlisted,
                ),
            ],
        ),
    ]
}

fn neighbour_discovery() -> Vec<Essential> {
    let names = [
        "router solicitation",
        "router advertisement",
        "neighbour solicitation",
        "neighbour advertisement",
    ];
    let hop_limit = Expected::drop(DropReason::NeighbourDiscoveryHopLimit);
    let with = |hops, kind, code| {
        ethernet(
            ethertype::IPV6,
            &ipv6_on_link(hops, ICMPV6, &icmp(kind, code)),
        )
    };
    (133..)
        .zip(names)
        .map(|(kind, name)| {
            let whole = icmp(kind, 0);
            let fragmented = fragment(ICMPV6, 0, false, &whole);
            let first = fragment(ICMPV6, 0, true, &whole);
            let on_link =
                |next, payload: &[u8]| ethernet(ethertype::IPV6, &ipv6_on_link(255, next, payload));
            let in_fragment = Expected::drop(DropReason::FragmentNeighbourDiscovery);
            Essential {
                name,
                reason: PassReason::NeighbourDiscovery,
                frame: with(255, kind, 0),
                near: vec![
                    ("hop limit 254", with(254, kind, 0), hop_limit.clone()),
                    ("hop limit 1", with(1, kind, 0), hop_limit.clone()),
                    (
                        "code 1",
                        with(255, kind, 1),
                        Expected::drop(DropReason::NeighbourDiscoveryCode),
                    ),
                    (
                        "an atomic fragment",
                        on_link(FRAGMENT, &fragmented),
                        in_fragment.clone(),
                    ),
                    ("a first fragment", on_link(FRAGMENT, &first), in_fragment),
                    ("a redirect", with(255, 137, 0), Expected::no_rule()),
                    (
                        "an inverse solicitation",
                        with(255, 141, 0),
                        Expected::no_rule(),
                    ),
                ],
                off: DropReason::NoRule,
            }
        })
        .collect()
}

/// Redirects pass by no essential, but are checked like the others; the checks do not depend on the switch.
fn neighbour_discovery_refused(cases: &mut Cases) {
    let redirect = |hops, code| {
        ethernet(
            ethertype::IPV6,
            &ipv6_on_link(hops, ICMPV6, &icmp(137, code)),
        )
    };
    let (good, no_rule) = (redirect(255, 0), Expected::no_rule());
    let hops = Expected::drop(DropReason::NeighbourDiscoveryHopLimit);
    cases.pair(
        "redirect with hop limit 64",
        (redirect(64, 0), hops.clone()),
        (good.clone(), no_rule.clone()),
    );
    let code = Expected::drop(DropReason::NeighbourDiscoveryCode);
    cases.pair(
        "redirect with code 1",
        (redirect(255, 1), code),
        (good, no_rule),
    );
    cases.under(Under::Bare);
    let far = ethernet(ethertype::IPV6, &ipv6_on_link(64, ICMPV6, &icmp(135, 0)));
    cases.one("solicitation from afar, switched off", far, hops);
    cases.under(Under::Server);
}

/// What an ICMP error quotes: a packet of the host from its web server, or one that is none.
struct Quoted;

impl Quoted {
    fn v4(from: Ipv4Addr, port: u16) -> Vec<u8> {
        let segment = tcp_from(port, 40_000, tcp_flag::ACK);
        ipv4_between(from, CLIENT_V4, TCP, &segment)
    }

    fn v6(from: Ipv6Addr, port: u16) -> Vec<u8> {
        let segment = tcp_from(port, 40_000, tcp_flag::ACK);
        ipv6_between(from, CLIENT_V6, TCP, &segment)
    }
}

fn path_mtu() -> Vec<Essential> {
    let error = |kind, code, quoted: &[u8]| [&icmp(kind, code)[..8], quoted].concat();
    let v4_error = |kind, code, quoted: &[u8]| v4(ICMP, &error(kind, code, quoted));
    let v6_error = |kind, code, quoted: &[u8]| v6(ICMPV6, &error(kind, code, quoted));
    let (served_v4, served_v6) = (Quoted::v4(HOST_V4, 80), Quoted::v6(HOST_V6, 80));
    let unrelated = Expected::drop(DropReason::IcmpUnrelated);
    let malformed = Expected::drop(DropReason::IcmpMalformed);
    let none = Expected::no_rule();
    let errors = |name, frame, near: Vec<(&'static str, Vec<u8>, Expected)>| Essential {
        name,
        reason: PassReason::PathMtu,
        frame,
        near,
        off: DropReason::NoRule,
    };
    let mut later_v4 = served_v4.clone();
    later_v4[7] = 1;
    let mut other_family = served_v4.clone();
    other_family[0] = 0x65;
    let echo_reply = ipv4_between(HOST_V4, CLIENT_V4, ICMP, &icmp(0, 0));
    let echo_request = ipv4_between(HOST_V4, CLIENT_V4, ICMP, &icmp(8, 0));
    vec![
        errors(
            "fragmentation needed",
            v4_error(3, 4, &served_v4),
            vec![
                ("source quench", v4_error(4, 0, &served_v4), none.clone()),
                ("type 2", v4_error(2, 4, &served_v4), none.clone()),
                (
                    "about a packet of somebody else",
                    v4_error(3, 4, &Quoted::v4(CLIENT_V4, 80)),
                    unrelated.clone(),
                ),
                (
                    "about a port that is not served",
                    v4_error(3, 4, &Quoted::v4(HOST_V4, 81)),
                    unrelated.clone(),
                ),
                (
                    "cut short",
                    v4_error(3, 4, &served_v4[..27]),
                    malformed.clone(),
                ),
                (
                    "cut inside the header",
                    v4_error(3, 4, &served_v4[..19]),
                    malformed.clone(),
                ),
                (
                    "about a later fragment",
                    v4_error(3, 4, &later_v4),
                    malformed.clone(),
                ),
                (
                    "quoting another family",
                    v4_error(3, 4, &other_family),
                    malformed.clone(),
                ),
            ],
        ),
        errors(
            "port unreachable",
            v4_error(3, 3, &served_v4[..28]),
            vec![("redirect", v4_error(5, 1, &served_v4), none.clone())],
        ),
        errors("time exceeded", v4_error(11, 0, &served_v4), vec![]),
        errors(
            "unreachable, about an echo reply",
            v4_error(3, 1, &echo_reply),
            vec![(
                "about an echo request that nobody sent",
                v4_error(3, 1, &echo_request),
                unrelated.clone(),
            )],
        ),
        errors(
            "ICMPv6 unreachable",
            v6_error(1, 4, &served_v6),
            vec![("type 0", v6_error(0, 0, &served_v6), none.clone())],
        ),
        errors(
            "packet too big",
            v6_error(2, 0, &served_v6),
            vec![
                (
                    "about a packet of somebody else",
                    v6_error(2, 0, &Quoted::v6(CLIENT_V6, 80)),
                    unrelated.clone(),
                ),
                (
                    "about a port that is not served",
                    v6_error(2, 0, &Quoted::v6(HOST_V6, 81)),
                    unrelated,
                ),
                (
                    "cut short",
                    v6_error(2, 0, &served_v6[..47]),
                    malformed.clone(),
                ),
                (
                    "cut inside the header",
                    v6_error(2, 0, &served_v6[..39]),
                    malformed.clone(),
                ),
                (
                    "quoting another family",
                    v6_error(2, 0, &served_v4),
                    malformed,
                ),
            ],
        ),
        errors(
            "ICMPv6 time exceeded",
            v6_error(3, 0, &served_v6),
            vec![("private error", v6_error(100, 0, &served_v6), none.clone())],
        ),
        errors(
            "ICMPv6 parameter problem",
            v6_error(4, 1, &served_v6),
            vec![
                ("type 5", v6_error(5, 0, &served_v6), none.clone()),
                ("echo reply", v6_error(129, 0, &served_v6), none),
            ],
        ),
    ]
}

fn dhcp() -> Vec<Essential> {
    let offer = |from, to| {
        let server = Ipv4Addr::new(192, 0, 2, 1);
        ethernet(
            ethertype::IPV4,
            &ipv4_between(server, Ipv4Addr::BROADCAST, UDP, &udp(from, to, &[2; 8])),
        )
    };
    let answer = |source: Ipv6Addr, from, to| {
        ethernet(
            ethertype::IPV6,
            &ipv6_between(source, HOST_V6, UDP, &udp(from, to, &[7; 8])),
        )
    };
    let (reason, off, none) = (
        PassReason::DhcpClient,
        DropReason::NoRule,
        Expected::no_rule(),
    );
    vec![
        Essential {
            name: "DHCP offer",
            reason,
            frame: offer(67, 68),
            near: vec![
                ("from another port", offer(68, 68), none.clone()),
                ("from a chosen port", offer(40_000, 68), none.clone()),
                ("to the server's port", offer(67, 67), none.clone()),
                ("to another port", offer(67, 69), none.clone()),
                ("the other family's ports", offer(547, 546), none.clone()),
                (
                    "over TCP",
                    v4(TCP, &tcp_from(67, 68, tcp_flag::SYN)),
                    none.clone(),
                ),
            ],
            off,
        },
        Essential {
            name: "DHCPv6 reply",
            reason,
            frame: answer(NEIGHBOUR, 547, 546),
            near: vec![
                (
                    "from another port",
                    answer(NEIGHBOUR, 546, 546),
                    none.clone(),
                ),
                (
                    "to the server's port",
                    answer(NEIGHBOUR, 547, 547),
                    none.clone(),
                ),
                (
                    "from a global address",
                    answer(CLIENT_V6, 547, 546),
                    none.clone(),
                ),
                (
                    "from fec0::",
                    answer("fec0::7".parse().expect("an address"), 547, 546),
                    none.clone(),
                ),
                ("the other family's ports", answer(NEIGHBOUR, 67, 68), none),
            ],
            off,
        },
    ]
}

fn membership() -> Vec<Essential> {
    let igmp_to = |destination: [u8; 4], hops, protocol| {
        let query = [0x11, 100, 0, 0, 0, 0, 0, 0];
        let alert = [148, 4, 0, 0];
        let packet = ipv4_with(protocol, &query, |header| {
            header.time_to_live = hops;
            header.destination = destination;
            header.options = etherparse::Ipv4Options::try_from(&alert[..]).expect("one word");
        });
        ethernet(ethertype::IPV4, &packet)
    };
    let igmp = |hops, protocol| igmp_to([224, 0, 0, 1], hops, protocol);
    let mld = |source: Ipv6Addr, hops, kind| {
        let alert = [5, 2, 0, 0, 1, 0];
        let packet = ipv6_with(
            HOP_BY_HOP,
            &extension(ICMPV6, alert, &icmp(kind, 0)),
            |header| {
                header.source = source.octets();
                header.hop_limit = hops;
            },
        );
        ethernet(ethertype::IPV6, &packet)
    };
    let (reason, off, none) = (
        PassReason::MulticastMembership,
        DropReason::NoRule,
        Expected::no_rule(),
    );
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let reports = [
        ("MLD query", 130),
        ("MLD report", 131),
        ("MLD done", 132),
        ("MLDv2 report", 143),
    ];
    let mut list = vec![Essential {
        name: "IGMP query",
        reason,
        frame: igmp(1, IGMP),
        near: vec![
            ("time to live 2", igmp(2, IGMP), none.clone()),
            ("time to live 0", igmp(0, IGMP), none.clone()),
            ("protocol 3", igmp(1, 3), none.clone()),
            (
                "to the host itself",
                igmp_to(HOST_V4.octets(), 1, IGMP),
                none.clone(),
            ),
            (
                "to the last address below multicast",
                igmp_to([223, 255, 255, 255], 1, IGMP),
                none.clone(),
            ),
        ],
        off,
    }];
    list.extend(reports.map(|(name, kind)| Essential {
        name,
        reason,
        frame: mld(NEIGHBOUR, 1, kind),
        near: vec![
            ("hop limit 2", mld(NEIGHBOUR, 2, kind), none.clone()),
            ("hop limit 255", mld(NEIGHBOUR, 255, kind), none.clone()),
            (
                "from a global address",
                mld(CLIENT_V6, 1, kind),
                none.clone(),
            ),
            ("type 142", mld(NEIGHBOUR, 1, 142), none.clone()),
            ("type 144", mld(NEIGHBOUR, 1, 144), none.clone()),
        ],
        off,
    }));
    list.push(Essential {
        name: "MLD report before an address is set",
        reason,
        frame: mld(unspecified, 1, 131),
        near: vec![("from ::2", mld(Ipv6Addr::from(2), 1, 131), none)],
        off,
    });
    list
}
