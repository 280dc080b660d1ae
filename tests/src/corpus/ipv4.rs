//! IPv4: lengths, options, addresses, fragments.

use std::net::Ipv4Addr;

use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::protocol::{ICMP, SCTP, TCP, UDP};

use super::{Cases, Expected};
use crate::packets::*;

pub(super) fn add(cases: &mut Cases) {
    header(cases);
    lengths(cases);
    options(cases);
    addresses(cases);
    fragments(cases);
    tiny_fragments(cases);
}

fn header(cases: &mut Cases) {
    for length in [0, 1, 10, 19] {
        let name = format!("IPv4, {length} bytes of the header");
        let frame = cut(&web_v4(), at::NETWORK + length);
        cases.refused(&name, DropReason::Ipv4Truncated, frame, web_v4());
    }
    for version in [0, 3, 5, 6, 15u8] {
        let name = format!("IPv4, version {version}");
        let frame = patched(&web_v4(), at::NETWORK, &[version << 4 | 5]);
        cases.refused(&name, DropReason::Ipv4Version, frame, web_v4());
    }
    for ihl in 0..5 {
        let name = format!("IPv4, IHL {ihl}");
        let frame = patched(&web_v4(), at::NETWORK, &[0x40 | ihl]);
        cases.refused(&name, DropReason::Ipv4HeaderLength, frame, web_v4());
    }
    for (name, byte) in [("time to live 0", 8), ("evil bit", 6)] {
        let value = if byte == 6 { 0x80 } else { 0 };
        let frame = patched(&web_v4(), at::NETWORK + byte, &[value]);
        cases.one(format!("IPv4, {name}"), frame, Expected::web());
    }
}

fn lengths(cases: &mut Cases) {
    let total =
        |frame: &[u8], length: u16| patched(frame, at::V4_TOTAL_LENGTH, &length.to_be_bytes());
    for length in [0, 1, 19] {
        let name = format!("IPv4, total length {length}");
        cases.refused(
            &name,
            DropReason::Ipv4LengthShort,
            total(&web_v4(), length),
            web_v4(),
        );
    }
    let with_options = v4_options(&[1, 1, 1, 1]);
    let frame = total(&with_options, 23);
    cases.refused(
        "IPv4, total length inside the options",
        DropReason::Ipv4LengthShort,
        frame,
        with_options,
    );
    for length in [41, 60, 1500, u16::MAX] {
        let name = format!("IPv4, total length {length} of 40");
        cases.refused(
            &name,
            DropReason::Ipv4LengthLong,
            total(&web_v4(), length),
            web_v4(),
        );
    }
    let frame = patched(&web_v4(), at::NETWORK, &[0x4f]);
    cases.refused(
        "IPv4, IHL 15 over a total length of 40",
        DropReason::Ipv4LengthShort,
        frame,
        web_v4(),
    );

    // The packet ends before the ports, which then lie in what is only padding.
    for (name, protocol, reason) in [
        ("TCP", TCP, DropReason::TcpTruncated),
        ("UDP", UDP, DropReason::UdpTruncated),
        ("SCTP", SCTP, DropReason::SctpTruncated),
        ("ICMP", ICMP, DropReason::IcmpTruncated),
    ] {
        let name = format!("IPv4, nothing but padding that looks like {name}");
        let frame = total(&v4(protocol, &syn()), 20);
        cases.refused(&name, reason, padded(&frame, 60), padded(&web_v4(), 60));
    }
    for length in [24, 28, 39] {
        let name = format!("IPv4, total length {length} ends inside TCP");
        let frame = padded(&total(&web_v4(), length), 60);
        cases.refused(
            &name,
            DropReason::TcpTruncated,
            frame,
            padded(&web_v4(), 60),
        );
    }
}

fn options(cases: &mut Cases) {
    let record_route: Vec<u8> = [&[1, 7, 39, 4][..], &[0; 36]].concat();
    let timestamp = [68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let accepted: [(&str, &[u8]); 8] = [
        ("four no-operations", &[1; 4]),
        ("forty no-operations", &[1; 40]),
        ("end at once, rubbish behind", &[0, 131, 255, 1]),
        ("record route over all 40 bytes", &record_route),
        ("timestamp", &timestamp),
        ("router alert", &[148, 4, 0, 0]),
        ("unknown option", &[222, 4, 0, 0]),
        ("option of two bytes", &[222, 2, 0, 0]),
    ];
    for (name, options) in accepted {
        cases.one(
            format!("IPv4 options: {name}"),
            v4_options(options),
            Expected::web(),
        );
        let denied = ethernet(
            ethertype::IPV4,
            &ipv4_options(options, TCP, &tcp(8080, tcp_flag::SYN)),
        );
        cases.one(
            format!("IPv4 options: {name}, no rule"),
            denied,
            Expected::no_rule(),
        );
    }
    // To who takes IHL for 5, this is a SYN to port 80.
    let decoy = [
        222, 0x14, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
    ];
    let denied = ethernet(
        ethertype::IPV4,
        &ipv4_options(&decoy, TCP, &tcp(8080, tcp_flag::SYN)),
    );
    cases.one(
        "IPv4 options: a decoy TCP header",
        denied,
        Expected::no_rule(),
    );
    cases.one(
        "IPv4 options: a decoy TCP header before the allowed port",
        v4_options(&decoy),
        Expected::web(),
    );

    let malformed: [(&str, &[u8], &[u8]); 6] = [
        ("length 0", &[7, 0, 4, 0], &[7, 3, 4, 0]),
        ("length 1", &[7, 1, 4, 0], &[7, 3, 4, 0]),
        ("length beyond the header", &[7, 5, 4, 0], &[7, 4, 4, 0]),
        ("length 255", &[7, 255, 4, 0], &[7, 4, 4, 0]),
        ("no room for a length", &[1, 1, 1, 7], &[1, 1, 1, 1]),
        (
            "second option too long",
            &[7, 3, 4, 7, 6, 0, 0, 0],
            &[7, 3, 4, 7, 5, 0, 0, 0],
        ),
    ];
    for (name, bad, mended) in malformed {
        let name = format!("IPv4 options: {name}");
        cases.refused(
            &name,
            DropReason::Ipv4Options,
            v4_options(bad),
            v4_options(mended),
        );
    }
    let routed: [(&str, &[u8], &[u8]); 4] = [
        ("loose source route", &[131, 3, 4, 0], &[7, 3, 4, 0]),
        ("strict source route", &[137, 3, 4, 0], &[7, 3, 4, 0]),
        (
            "source route behind no-operations",
            &[1, 1, 1, 131, 3, 4, 0, 0],
            &[1, 1, 1, 0, 131, 3, 4, 0],
        ),
        ("source route of length 0", &[137, 0, 0, 0], &[0, 137, 0, 0]),
    ];
    for (name, bad, mended) in routed {
        let name = format!("IPv4 options: {name}");
        cases.refused(
            &name,
            DropReason::Ipv4SourceRoute,
            v4_options(bad),
            v4_options(mended),
        );
    }
}

fn addresses(cases: &mut Cases) {
    let from = |a, b, c, d| {
        let source = Ipv4Addr::new(a, b, c, d);
        ethernet(ethertype::IPV4, &ipv4_between(source, HOST_V4, TCP, &syn()))
    };
    let refused = [
        (
            DropReason::SourceMulticast,
            [224, 0, 0, 0],
            [223, 255, 255, 255],
        ),
        (
            DropReason::SourceMulticast,
            [239, 255, 255, 255],
            [240, 0, 0, 0],
        ),
        (DropReason::SourceBroadcast, [255; 4], [255, 255, 255, 254]),
        (
            DropReason::SourceLoopback,
            [127, 0, 0, 0],
            [126, 255, 255, 255],
        ),
        (DropReason::SourceLoopback, [127, 0, 0, 1], [128, 0, 0, 1]),
        (
            DropReason::SourceLoopback,
            [127, 255, 255, 255],
            [128, 0, 0, 0],
        ),
        (DropReason::SourceZero, [0, 0, 0, 1], [0; 4]),
        (DropReason::SourceZero, [0, 255, 255, 255], [1, 0, 0, 0]),
        (
            DropReason::SourceIsDestination,
            HOST_V4.octets(),
            [198, 51, 100, 2],
        ),
    ];
    for (reason, [a, b, c, d], [e, f, g, h]) in refused {
        let name = format!("IPv4 from {a}.{b}.{c}.{d}");
        cases.refused(&name, reason, from(a, b, c, d), from(e, f, g, h));
    }
    let to = |a, b, c, d| {
        let destination = Ipv4Addr::new(a, b, c, d);
        ethernet(
            ethertype::IPV4,
            &ipv4_between(CLIENT_V4, destination, TCP, &syn()),
        )
    };
    for (bad, good) in [
        ([127, 0, 0, 1], [128, 0, 0, 1]),
        ([127, 255, 255, 255], [126, 255, 255, 255]),
    ] {
        let name = format!("IPv4 to {}", Ipv4Addr::from(bad));
        let ([a, b, c, d], [e, f, g, h]) = (bad, good);
        cases.refused(
            &name,
            DropReason::DestinationLoopback,
            to(a, b, c, d),
            to(e, f, g, h),
        );
    }
    let land = ipv4_between(CLIENT_V4, CLIENT_V4, UDP, &udp(53, 53, &[]));
    cases.pair(
        "IPv4, LAND with UDP",
        (
            ethernet(ethertype::IPV4, &land),
            Expected::drop(DropReason::SourceIsDestination),
        ),
        (v4(UDP, &udp(53, 53, &[])), Expected::dns()),
    );
}

fn fragments(cases: &mut Cases) {
    let whole = v4_fragment(0, false, TCP, &syn());
    let later = |offset, more, protocol| {
        let packet = ipv4_fragment_of_another(offset, more, protocol, &syn());
        ethernet(ethertype::IPV4, &packet)
    };
    let early = Expected::pass(PassReason::FragmentEarly);
    for (name, offset, more) in [
        ("a later fragment that looks like a SYN", 185, true),
        ("the last fragment", 185, false),
        ("the first offset behind TCP's header", 3, true),
    ] {
        cases.pair(
            &format!("IPv4, {name}"),
            (later(offset, more, TCP), early.clone()),
            (whole.clone(), Expected::web()),
        );
    }
    for (name, offset, protocol, reason) in [
        (
            "which overlaps the flags",
            1,
            TCP,
            DropReason::FragmentOverlap,
        ),
        (
            "which overlaps the urgent pointer",
            2,
            TCP,
            DropReason::FragmentOverlap,
        ),
        (
            "ends beyond 65,535 bytes",
            0x1fff,
            TCP,
            DropReason::FragmentBeyond,
        ),
        (
            "ends one byte beyond",
            8187,
            UDP,
            DropReason::FragmentBeyond,
        ),
    ] {
        let mended = match offset {
            1 | 2 => later(offset, true, UDP),
            _ => later(8186, false, protocol),
        };
        cases.pair(
            &format!("IPv4, a fragment at offset {offset} {name}"),
            (later(offset, false, protocol), Expected::drop(reason)),
            (mended, early.clone()),
        );
    }
    let with_data = [&syn()[..], &[0; 4]].concat();
    cases.one(
        "IPv4, first fragment",
        v4_fragment(0, true, TCP, &with_data),
        Expected::web(),
    );
    let denied = [&tcp(8080, tcp_flag::SYN)[..], &[0; 4]].concat();
    cases.one(
        "IPv4, first fragment, no rule",
        v4_fragment(0, true, TCP, &denied),
        Expected::no_rule(),
    );
    let both_flags = patched(&whole, at::NETWORK + 6, &[0x60, 0]);
    cases.one(
        "IPv4, first fragment that must not be fragmented",
        both_flags,
        Expected::web(),
    );
    // The UDP length is that of the whole datagram, of which a fragment holds less.
    let first = cut(&udp(40_000, 53, &[0; 64]), 24);
    cases.one(
        "IPv4, first fragment of a datagram",
        v4_fragment(0, true, UDP, &first),
        Expected::dns(),
    );
    let whole = v4_fragment(0, false, UDP, &first);
    cases.one(
        "IPv4, the same as a whole",
        whole,
        Expected::drop(DropReason::UdpLength),
    );
}

fn tiny_fragments(cases: &mut Cases) {
    let first = |protocol, payload: &[u8]| v4_fragment(0, true, protocol, payload);
    let ping = icmp(8, 0);
    let families: [(&str, u8, Vec<u8>, usize, Expected); 4] = [
        ("TCP", TCP, syn(), 19, Expected::web()),
        ("UDP", UDP, udp(40_000, 53, &[]), 7, Expected::dns()),
        (
            "SCTP",
            SCTP,
            sctp(40_000, 3868),
            11,
            Expected::rule("diameter").hits(SCTP, 3868),
        ),
        ("ICMP", ICMP, ping, 7, Expected::rule("ping")),
    ];
    for (name, protocol, segment, most, good) in families {
        for length in [0, 4, most] {
            cases.pair(
                &format!("IPv4, first fragment with {length} bytes of {name}"),
                (
                    first(protocol, &segment[..length]),
                    Expected::drop(DropReason::FragmentTiny),
                ),
                (first(protocol, &segment), good.clone()),
            );
        }
    }
    let options = tcp_options(80, tcp_flag::SYN, &[2, 4, 5, 180]);
    cases.refused(
        "IPv4, first fragment with half of TCP's options",
        DropReason::FragmentTiny,
        first(TCP, &options[..20]),
        first(TCP, &options),
    );
}

fn v4_options(options: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV4, &ipv4_options(options, TCP, &syn()))
}

fn v4_fragment(offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(
        ethertype::IPV4,
        &ipv4_fragment(offset, more, protocol, payload),
    )
}
