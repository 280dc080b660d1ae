//! IPv6: lengths, addresses, extension headers and their chains, fragments.

use std::net::Ipv6Addr;

use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::protocol::{
    AH, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMPV6, ROUTING, SCTP, TCP, UDP,
};

use super::{Cases, Expected};
use crate::packets::*;

const NO_NEXT_HEADER: u8 = 59;

pub(super) fn add(cases: &mut Cases) {
    header(cases);
    lengths(cases);
    addresses(cases);
    each_extension(cases);
    chains(cases);
    upper_layers(cases);
    routing_headers(cases);
    fragments(cases);
}

fn header(cases: &mut Cases) {
    for length in [0, 1, 20, 39] {
        let name = format!("IPv6, {length} bytes of the header");
        let frame = cut(&web_v6(), at::NETWORK + length);
        cases.refused(&name, DropReason::Ipv6Truncated, frame, web_v6());
    }
    for version in [0, 4, 5, 7, 15u8] {
        let name = format!("IPv6, version {version}");
        let frame = patched(&web_v6(), at::NETWORK, &[version << 4]);
        cases.refused(&name, DropReason::Ipv6Version, frame, web_v6());
    }
    let coloured = patched(&web_v6(), at::NETWORK, &[0x6f, 0xff, 0xff, 0xff]);
    cases.one(
        "IPv6, traffic class and flow label all ones",
        coloured,
        Expected::web(),
    );
}

fn lengths(cases: &mut Cases) {
    let payload =
        |frame: &[u8], length: u16| patched(frame, at::V6_PAYLOAD_LENGTH, &length.to_be_bytes());
    for length in [21, 1500, u16::MAX] {
        let name = format!("IPv6, payload length {length} of 20");
        cases.refused(
            &name,
            DropReason::Ipv6LengthLong,
            payload(&web_v6(), length),
            web_v6(),
        );
    }
    // RFC 2675: the length stands in a hop-by-hop option, 0 in the header.
    let jumbo = [0xc2, 4, 0, 0, 0, 28];
    let whole = v6(HOP_BY_HOP, &extension(TCP, jumbo, &syn()));
    cases.refused(
        "IPv6, jumbogram",
        DropReason::Ipv6LengthLong,
        payload(&whole, 0),
        whole,
    );
    for (name, protocol, reason) in [
        ("TCP", TCP, DropReason::TcpTruncated),
        ("UDP", UDP, DropReason::UdpTruncated),
        ("SCTP", SCTP, DropReason::SctpTruncated),
        ("ICMPv6", ICMPV6, DropReason::IcmpTruncated),
        (
            "destination options",
            DESTINATION_OPTIONS,
            DropReason::Ipv6Truncated,
        ),
    ] {
        let name = format!("IPv6, nothing but padding that looks like {name}");
        cases.refused(&name, reason, payload(&v6(protocol, &syn()), 0), web_v6());
    }
    for length in [4, 13, 19] {
        let name = format!("IPv6, payload length {length} ends inside TCP");
        cases.refused(
            &name,
            DropReason::TcpTruncated,
            payload(&web_v6(), length),
            web_v6(),
        );
    }
}

fn addresses(cases: &mut Cases) {
    let from = |source: &str| between(source.parse().expect("an address"), HOST_V6);
    let refused = [
        (
            DropReason::SourceMulticast,
            "ff00::",
            "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ),
        (DropReason::SourceMulticast, "ff02::1", "fe02::1"),
        (
            DropReason::SourceMulticast,
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe80::1",
        ),
        (DropReason::SourceLoopback, "::1", "::2"),
        (
            DropReason::SourceMapped,
            "::ffff:192.0.2.7",
            "::fffe:c000:207",
        ),
        (DropReason::SourceMapped, "::ffff:0.0.0.0", "::1:0:0:0"),
        (
            DropReason::SourceMapped,
            "::ffff:127.0.0.1",
            "0:0:0:1:0:ffff:7f00:1",
        ),
        (
            DropReason::SourceIsDestination,
            "2001:db8:51::1",
            "2001:db8:51::2",
        ),
    ];
    for (reason, bad, good) in refused {
        cases.refused(&format!("IPv6 from {bad}"), reason, from(bad), from(good));
    }
    let to = |destination: &str| between(CLIENT_V6, destination.parse().expect("an address"));
    cases.refused(
        "IPv6 to ::1",
        DropReason::DestinationLoopback,
        to("::1"),
        to("::2"),
    );
    cases.refused(
        "IPv6 to an IPv4-mapped address",
        DropReason::DestinationMapped,
        to("::ffff:192.0.2.20"),
        to("::fffe:c000:214"),
    );
    cases.one(
        "IPv6 from the unspecified address",
        from("::"),
        Expected::web(),
    );
}

/// Each kind of header: alone, cut at every byte, longer than the packet.
fn each_extension(cases: &mut Cases) {
    let kinds = [
        ("hop-by-hop", HOP_BY_HOP, extension(TCP, PADDING, &syn())),
        (
            "destination options",
            DESTINATION_OPTIONS,
            extension(TCP, PADDING, &syn()),
        ),
        ("routing", ROUTING, extension(TCP, routing(4, 0), &syn())),
        ("atomic fragment", FRAGMENT, fragment(TCP, 0, false, &syn())),
        ("authentication", AH, authentication(TCP, &syn())),
    ];
    for (name, kind, chain) in kinds {
        let whole = v6(kind, &chain);
        cases.one(format!("IPv6, {name}"), whole.clone(), Expected::web());
        let denied = patched(&whole, whole.len() - 18, &8080u16.to_be_bytes());
        cases.one(
            format!("IPv6, {name}, no rule"),
            denied,
            Expected::no_rule(),
        );
        let header = chain.len() - syn().len();
        for length in (0..header).step_by(3).chain([header - 1]) {
            let frame = v6(kind, &chain[..length]);
            // Nothing behind a hop-by-hop header is how a jumbogram begins.
            let reason = match (kind, length) {
                (HOP_BY_HOP, 0) => DropReason::Ipv6LengthLong,
                _ => DropReason::Ipv6Truncated,
            };
            cases.refused(
                &format!("IPv6, {length} bytes of {name}"),
                reason,
                frame,
                whole.clone(),
            );
        }
        if kind != FRAGMENT {
            let frame = patched(&whole, at::V6_PAYLOAD + 1, &[255]);
            let name = format!("IPv6, {name} longer than the packet");
            cases.refused(&name, DropReason::Ipv6Truncated, frame, whole);
        }
    }
    let whole = v6(AH, &authentication(TCP, &syn()));
    let empty = patched(&whole, at::V6_PAYLOAD + 1, &[0]);
    cases.one(
        "IPv6, authentication of 8 bytes",
        empty,
        Expected::drop(DropReason::TcpDataOffset),
    );
    let reserved = v6(
        FRAGMENT,
        &patched(&fragment(TCP, 0, false, &syn()), 1, &[255]),
    );
    cases.one(
        "IPv6, the reserved byte of a fragment header is no length",
        reserved,
        Expected::web(),
    );
    let longest = [&[TCP, 255][..], &[0; 2046], &syn()].concat();
    cases.one(
        "IPv6, 2 KiB of destination options",
        v6(DESTINATION_OPTIONS, &longest),
        Expected::web(),
    );
}

fn chains(cases: &mut Cases) {
    for length in 1..=9 {
        let frame = |port| chain(length, TCP, &tcp(port, tcp_flag::SYN));
        let name = format!("IPv6, {length} extension headers");
        if length <= 8 {
            cases.one(name.clone(), frame(80), Expected::web());
            cases.one(format!("{name}, no rule"), frame(8080), Expected::no_rule());
        } else {
            let reason = DropReason::Ipv6TooManyHeaders;
            cases.refused(&name, reason, frame(80), chain(8, TCP, &syn()));
        }
    }
    let order = DropReason::Ipv6HeaderOrder;
    let behind = extension(HOP_BY_HOP, PADDING, &extension(TCP, PADDING, &syn()));
    let good = extension(
        DESTINATION_OPTIONS,
        PADDING,
        &extension(TCP, PADDING, &syn()),
    );
    let second = v6(DESTINATION_OPTIONS, &behind);
    cases.refused(
        "IPv6, hop-by-hop behind destination options",
        order,
        second,
        v6(DESTINATION_OPTIONS, &good),
    );
    cases.refused(
        "IPv6, hop-by-hop twice",
        order,
        v6(HOP_BY_HOP, &behind),
        v6(HOP_BY_HOP, &good),
    );
    let ninth = chain(8, HOP_BY_HOP, &extension(TCP, PADDING, &syn()));
    cases.one(
        "IPv6, hop-by-hop as the ninth",
        ninth,
        Expected::drop(DropReason::Ipv6TooManyHeaders),
    );
    let misordered = extension(ROUTING, PADDING, &extension(TCP, routing(4, 0), &syn()));
    cases.one(
        "IPv6, options before routing",
        v6(DESTINATION_OPTIONS, &misordered),
        Expected::web(),
    );
    let misordered = authentication(DESTINATION_OPTIONS, &extension(TCP, PADDING, &syn()));
    cases.one(
        "IPv6, options behind authentication",
        v6(AH, &misordered),
        Expected::web(),
    );
}

fn upper_layers(cases: &mut Cases) {
    let decoy = syn();
    for (name, next) in [
        ("no next header", NO_NEXT_HEADER),
        ("mobility", 135),
        ("host identity", 139),
        ("shim6", 140),
        ("experimental 253", 253),
        ("experimental 254", 254),
        ("reserved", 255),
        ("IPv6 in IPv6", 41),
        ("IPv4 in IPv6", 4),
        ("ESP", 50),
    ] {
        let name = format!("IPv6, {name} before a decoy SYN");
        cases.pair(
            &name,
            (v6(next, &decoy), Expected::no_rule()),
            (web_v6(), Expected::web()),
        );
        let behind = v6(DESTINATION_OPTIONS, &extension(next, PADDING, &decoy));
        cases.one(
            format!("{name}, behind options"),
            behind,
            Expected::no_rule(),
        );
    }
    cases.one(
        "IPv6, no next header and nothing behind",
        v6(NO_NEXT_HEADER, &[]),
        Expected::no_rule(),
    );
}

fn routing_headers(cases: &mut Cases) {
    let frame = |kind, left| v6(ROUTING, &extension(TCP, routing(kind, left), &syn()));
    let reason = DropReason::Ipv6RoutingHeader;
    for (name, kind, left) in [
        ("type 0", 0, 0),
        ("type 0 with segments left", 0, 1),
        ("type 2 with segments left", 2, 1),
        ("type 3 with segments left", 3, 1),
        ("type 4 with segments left", 4, 255),
        ("unknown type with segments left", 200, 1),
    ] {
        let name = format!("IPv6 routing header: {name}");
        cases.refused(
            &name,
            reason,
            frame(kind, left),
            frame(if kind == 0 { 4 } else { kind }, 0),
        );
    }
}

fn fragments(cases: &mut Cases) {
    let first = |next, payload: &[u8]| v6(FRAGMENT, &fragment(next, 0, true, payload));
    let good = v6(FRAGMENT, &fragment(TCP, 0, false, &syn()));
    let later = |next, offset, more| v6(FRAGMENT, &fragment_of_another(next, offset, more, &syn()));
    let early = Expected::pass(PassReason::FragmentEarly);
    for (name, offset, more) in [
        ("later", 3, true),
        ("last", 185, false),
        ("largest offset that can be", 8189, false),
    ] {
        cases.pair(
            &format!("IPv6 fragment: {name}"),
            (later(TCP, offset, more), early.clone()),
            (good.clone(), Expected::web()),
        );
    }
    for (name, offset, mended, reason) in [
        (
            "overlaps the flags",
            1,
            later(TCP, 3, true),
            DropReason::FragmentOverlap,
        ),
        (
            "overlaps the urgent pointer",
            2,
            later(TCP, 3, true),
            DropReason::FragmentOverlap,
        ),
        (
            "largest offset",
            0x1fff,
            later(TCP, 8189, false),
            DropReason::FragmentBeyond,
        ),
        (
            "ends one byte beyond",
            8190,
            later(TCP, 8189, false),
            DropReason::FragmentBeyond,
        ),
    ] {
        if offset < 3 {
            // A later fragment may say that it carries something else than the first.
            cases.pair(
                &format!("IPv6 fragment of UDP, it says: {name}"),
                (later(UDP, offset, true), Expected::drop(reason)),
                (later(UDP, 3, true), early.clone()),
            );
        }
        cases.pair(
            &format!("IPv6 fragment: {name}"),
            (later(TCP, offset, offset < 3), Expected::drop(reason)),
            (mended, early.clone()),
        );
    }
    // What a later fragment carries nobody can see: not even that it is neighbour discovery.
    let solicitation = fragment_of_another(ICMPV6, 3, false, &icmp(135, 0));
    cases.one(
        "IPv6 fragment: later, of what looks like a solicitation",
        v6(FRAGMENT, &solicitation),
        early,
    );
    cases.one("IPv6 fragment: first", first(TCP, &syn()), Expected::web());
    let behind = extension(FRAGMENT, PADDING, &fragment(TCP, 0, true, &syn()));
    cases.one(
        "IPv6 fragment: first, behind options",
        v6(DESTINATION_OPTIONS, &behind),
        Expected::web(),
    );
    let before = first(DESTINATION_OPTIONS, &extension(TCP, PADDING, &syn()));
    cases.one(
        "IPv6 fragment: first, options behind",
        before,
        Expected::web(),
    );

    let twice = DropReason::FragmentRepeated;
    let again =
        |offset, more, inner| fragment(FRAGMENT, 0, more, &fragment(TCP, offset, inner, &syn()));
    cases.refused(
        "IPv6 fragment: atomic twice",
        twice,
        v6(FRAGMENT, &again(0, false, false)),
        good.clone(),
    );
    cases.refused(
        "IPv6 fragment: first twice",
        twice,
        v6(FRAGMENT, &again(0, true, true)),
        good.clone(),
    );
    cases.refused(
        "IPv6 fragment: atomic, then later",
        twice,
        v6(FRAGMENT, &again(9, false, false)),
        good,
    );

    let options = extension(TCP, PADDING, &syn());
    for (name, next, segment, good) in [
        ("TCP", TCP, syn(), Expected::web()),
        ("UDP", UDP, udp(40_000, 53, &[]), Expected::dns()),
        (
            "SCTP",
            SCTP,
            cut(&sctp(40_000, 3868), 12),
            Expected::rule("diameter").hits(SCTP, 3868),
        ),
        (
            "ICMPv6",
            ICMPV6,
            cut(&icmp(128, 0), 8),
            Expected::rule("ping over IPv6"),
        ),
        ("options", DESTINATION_OPTIONS, options, Expected::web()),
    ] {
        for length in [0, 4, segment.len() - 1] {
            cases.pair(
                &format!("IPv6 fragment: first with {length} bytes of {name}"),
                (
                    first(next, &segment[..length]),
                    Expected::drop(DropReason::FragmentTiny),
                ),
                (first(next, &segment), good.clone()),
            );
        }
    }
    let datagram = cut(&udp(40_000, 53, &[0; 64]), 24);
    cases.one(
        "IPv6 fragment: first of a datagram",
        first(UDP, &datagram),
        Expected::dns(),
    );
}

/// A chain of `length` headers of several kinds, hop-by-hop first.
fn chain(length: usize, next: u8, payload: &[u8]) -> Vec<u8> {
    let kind = |index: usize| match index {
        0 => HOP_BY_HOP,
        _ if index % 3 == 1 => DESTINATION_OPTIONS,
        _ if index % 3 == 2 => ROUTING,
        _ => AH,
    };
    let mut inner = payload.to_vec();
    let mut inner_kind = next;
    for index in (0..length).rev() {
        inner = match kind(index) {
            AH => authentication(inner_kind, &inner),
            ROUTING => extension(inner_kind, routing(4, 0), &inner),
            _ => extension(inner_kind, PADDING, &inner),
        };
        inner_kind = kind(index);
    }
    v6(inner_kind, &inner)
}

fn between(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    ethernet(ethertype::IPV6, &ipv6_between(from, to, TCP, &syn()))
}
