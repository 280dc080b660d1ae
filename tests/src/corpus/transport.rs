//! TCP, UDP, SCTP, ICMP: truncation, lengths, flags, ports, families.

use firewall_common::abi::reason::DropReason::{
    self, TcpFlagsFinRst, TcpFlagsInvalid, TcpFlagsNull, TcpFlagsSynFin, TcpFlagsSynRst,
    TcpFlagsXmas,
};
use firewall_common::parse::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

use super::{Cases, Expected};
use crate::packets::*;

pub(super) fn add(cases: &mut Cases) {
    truncated(cases);
    data_offset(cases);
    flags(cases);
    ports(cases);
    udp_length(cases);
    icmp_families(cases);
}

/// Every header cut at every byte, in both families.
fn truncated(cases: &mut Cases) {
    let diameter = Expected::rule("diameter").hits(SCTP, 3868);
    let headers: [(&str, u8, Vec<u8>, DropReason, Expected); 3] = [
        ("TCP", TCP, syn(), DropReason::TcpTruncated, Expected::web()),
        (
            "UDP",
            UDP,
            udp(40_000, 53, &[]),
            DropReason::UdpTruncated,
            Expected::dns(),
        ),
        (
            "SCTP",
            SCTP,
            cut(&sctp(40_000, 3868), 12),
            DropReason::SctpTruncated,
            diameter,
        ),
    ];
    for (name, protocol, header, reason, good) in headers {
        for length in 0..header.len() {
            for (family, frame) in [("IPv4", v4 as fn(u8, &[u8]) -> Vec<u8>), ("IPv6", v6)] {
                cases.pair(
                    &format!("{family}, {length} bytes of {name}"),
                    (frame(protocol, &header[..length]), Expected::drop(reason)),
                    (frame(protocol, &header), good.clone()),
                );
            }
        }
    }
    for length in 0..8 {
        let reason = DropReason::IcmpTruncated;
        cases.pair(
            &format!("IPv4, {length} bytes of ICMP"),
            (v4(ICMP, &icmp(8, 0)[..length]), Expected::drop(reason)),
            (v4(ICMP, &icmp(8, 0)[..8]), Expected::rule("ping")),
        );
        cases.pair(
            &format!("IPv6, {length} bytes of ICMPv6"),
            (v6(ICMPV6, &icmp(128, 0)[..length]), Expected::drop(reason)),
            (
                v6(ICMPV6, &icmp(128, 0)[..8]),
                Expected::rule("ping over IPv6"),
            ),
        );
    }
}

fn data_offset(cases: &mut Cases) {
    let reason = DropReason::TcpDataOffset;
    let offset = |words: u8| patched(&syn(), 12, &[words << 4]);
    for words in (0..5).chain(6..16) {
        cases.refused(
            &format!("TCP data offset {words}, IPv4"),
            reason,
            v4(TCP, &offset(words)),
            web_v4(),
        );
        cases.refused(
            &format!("TCP data offset {words}, IPv6"),
            reason,
            v6(TCP, &offset(words)),
            web_v6(),
        );
    }
    let beyond = padded(&v4(TCP, &offset(6)), 60);
    cases.refused(
        "TCP data offset into the padding",
        reason,
        beyond,
        padded(&web_v4(), 60),
    );
    let options = tcp_options(80, tcp_flag::SYN, &[2, 4, 5, 180, 1, 3, 3, 7]);
    cases.one("TCP with options", v4(TCP, &options), Expected::web());
    let reserved = patched(&syn(), 12, &[0x5f]);
    cases.one(
        "TCP with reserved bits",
        v4(TCP, &reserved),
        Expected::web(),
    );
    let ninety = tcp_options(80, tcp_flag::SYN, &[1; 40]);
    cases.one(
        "TCP with 40 bytes of options",
        v6(TCP, &ninety),
        Expected::web(),
    );
}

const OK: Option<DropReason> = None;
const NULL: Option<DropReason> = Some(TcpFlagsNull);
const BAD: Option<DropReason> = Some(TcpFlagsInvalid);
const SF: Option<DropReason> = Some(TcpFlagsSynFin);
const SR: Option<DropReason> = Some(TcpFlagsSynRst);
const FR: Option<DropReason> = Some(TcpFlagsFinRst);
const XMAS: Option<DropReason> = Some(TcpFlagsXmas);

/// What each value of the lower six flags gives. `OK` is what is 1 in nf_conntrack's `tcp_valid_flags`
/// (net/netfilter/nf_conntrack_proto_tcp.c), which leaves out PSH.
#[rustfmt::skip]
const FLAGS: [Option<DropReason>; 64] = [
    //         none  FIN   SYN  SYN+FIN RST FIN+RST SYN+RST all three
    /*      */ NULL, BAD,  OK,  SF,     OK,  FR,    SR,     SF,
    /* PSH  */ BAD,  BAD,  OK,  SF,     OK,  FR,    SR,     SF,
    /* ACK  */ OK,   OK,   OK,  SF,     OK,  FR,    SR,     SF,
    /* AP   */ OK,   OK,   OK,  SF,     OK,  FR,    SR,     SF,
    /* URG  */ BAD,  BAD,  OK,  SF,     BAD, FR,    SR,     SF,
    /* UP   */ BAD,  XMAS, OK,  SF,     BAD, FR,    SR,     SF,
    /* UA   */ OK,   OK,   BAD, SF,     BAD, FR,    SR,     SF,
    /* UAP  */ OK,   OK,   BAD, SF,     BAD, FR,    SR,     SF,
];

fn flags(cases: &mut Cases) {
    // ECE and CWR say nothing about whether a combination is sent (RFC 3168).
    for (name, also) in [
        ("", 0),
        (" with ECE", 0x40),
        (" with CWR", 0x80),
        (" with both", 0xc0),
    ] {
        for (flags, outcome) in (0u8..).zip(FLAGS) {
            let name = format!("TCP flags {flags:#04x}{name}");
            let (frame, ack) = (|flags| v4(TCP, &tcp(80, flags)), tcp_flag::ACK);
            match outcome {
                None => cases.one(name, frame(flags | also), Expected::web()),
                Some(reason) => {
                    cases.refused(&name, reason, frame(flags | also), frame(ack | also))
                }
            }
        }
    }
    for (flags, outcome) in (0u8..).zip(FLAGS) {
        let expected = outcome.map_or(Expected::web(), Expected::drop);
        cases.one(
            format!("TCP flags {flags:#04x} over IPv6"),
            v6(TCP, &tcp(80, flags)),
            expected,
        );
    }
}

fn ports(cases: &mut Cases) {
    let zero = Expected::drop(DropReason::PortZero);
    let diameter = Expected::rule("diameter").hits(SCTP, 3868);
    for (name, frame) in [("IPv4", v4 as fn(u8, &[u8]) -> Vec<u8>), ("IPv6", v6)] {
        let pairs = [
            (
                "TCP from port 0",
                TCP,
                tcp_from(0, 80, 2),
                tcp_from(1, 80, 2),
                Expected::web(),
            ),
            (
                "UDP from port 0",
                UDP,
                udp(0, 53, &[]),
                udp(1, 53, &[]),
                Expected::dns(),
            ),
            (
                "SCTP from port 0",
                SCTP,
                sctp(0, 3868),
                sctp(65_535, 3868),
                diameter.clone(),
            ),
            (
                "TCP to port 0",
                TCP,
                tcp(0, 2),
                tcp(1, 2),
                Expected::no_rule(),
            ),
            (
                "UDP to port 0",
                UDP,
                udp(53, 0, &[]),
                udp(53, 1, &[]),
                Expected::no_rule(),
            ),
            (
                "SCTP to port 0",
                SCTP,
                sctp(3868, 0),
                sctp(3868, 256),
                Expected::no_rule(),
            ),
        ];
        for (what, protocol, bad, good, outcome) in pairs {
            cases.pair(
                &format!("{name}, {what}"),
                (frame(protocol, &bad), zero.clone()),
                (frame(protocol, &good), outcome),
            );
        }
    }
}

fn udp_length(cases: &mut Cases) {
    let reason = DropReason::UdpLength;
    let whole = udp(40_000, 53, &[0; 4]);
    let frame = |length: u16| patched(&whole, 4, &length.to_be_bytes());
    for length in [0, 1, 7, 13, 100, u16::MAX] {
        for (name, family) in [("IPv4", v4 as fn(u8, &[u8]) -> Vec<u8>), ("IPv6", v6)] {
            cases.pair(
                &format!("{name}, UDP length {length} of 12"),
                (family(UDP, &frame(length)), Expected::drop(reason)),
                (family(UDP, &whole), Expected::dns()),
            );
        }
    }
    for length in [8, 11] {
        let name = format!("UDP length {length} of 12, which leaves some out");
        cases.one(name, v4(UDP, &frame(length)), Expected::dns());
    }
    let beyond = padded(&v4(UDP, &frame(14)), 60);
    cases.pair(
        "UDP length into the padding",
        (beyond, Expected::drop(reason)),
        (padded(&v4(UDP, &whole), 60), Expected::dns()),
    );
    // RFC 3828: a coverage, not a length; no rule names the protocol.
    cases.one("UDP-Lite", v4(136, &frame(0)), Expected::no_rule());
}

fn icmp_families(cases: &mut Cases) {
    let reason = Expected::drop(DropReason::IcmpFamily);
    for kind in [3, 8, 128, 135] {
        cases.pair(
            &format!("ICMP type {kind} in IPv6"),
            (v6(ICMP, &icmp(kind, 0)), reason.clone()),
            (v6(ICMPV6, &icmp(128, 0)), Expected::rule("ping over IPv6")),
        );
        cases.pair(
            &format!("ICMPv6 type {kind} in IPv4"),
            (v4(ICMPV6, &icmp(kind, 0)), reason.clone()),
            (v4(ICMP, &icmp(8, 0)), Expected::rule("ping")),
        );
    }
}
