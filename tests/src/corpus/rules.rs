//! Well-formed packets: rules that match, and the same with the one thing changed that the rule names.

use std::net::{Ipv4Addr, Ipv6Addr};

use firewall_common::abi::reason::PassReason;
use firewall_common::parse::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

use super::{Cases, Expected, Under};
use crate::packets::*;

const GRE: u8 = 47;

pub(super) fn add(cases: &mut Cases) {
    services(cases);
    addresses(cases);
    flags(cases);
    default_accept(cases);
}

fn services(cases: &mut Cases) {
    let none = Expected::no_rule;
    for (family, frame) in [("IPv4", v4 as fn(u8, &[u8]) -> Vec<u8>), ("IPv6", v6)] {
        let tls = Expected::rule("web").hits(TCP, 443);
        let diameter = Expected::rule("diameter").hits(SCTP, 3868);
        let pairs = [
            (
                "port 443",
                (frame(TCP, &tcp(443, 2)), tls),
                (frame(TCP, &tcp(444, 2)), none()),
            ),
            (
                "port 80",
                (frame(TCP, &syn()), Expected::web()),
                (frame(TCP, &tcp(79, 2)), none()),
            ),
            (
                "web over UDP",
                (frame(TCP, &syn()), Expected::web()),
                (frame(UDP, &udp(40_000, 80, &[])), none()),
            ),
            (
                "port 80 as source",
                (frame(TCP, &syn()), Expected::web()),
                (frame(TCP, &tcp_from(80, 40_000, 2)), none()),
            ),
            (
                "byte order",
                (frame(TCP, &syn()), Expected::web()),
                (frame(TCP, &tcp(80 << 8, 2)), none()),
            ),
            (
                "DNS",
                (frame(UDP, &udp(40_000, 53, &[])), Expected::dns()),
                (frame(UDP, &udp(53, 40_000, &[])), none()),
            ),
            (
                "DNS over TCP",
                (frame(UDP, &udp(40_000, 53, &[])), Expected::dns()),
                (frame(TCP, &tcp(53, 2)), none()),
            ),
            (
                "Diameter",
                (frame(SCTP, &sctp(40_000, 3868)), diameter),
                (frame(SCTP, &sctp(40_000, 3869)), none()),
            ),
            (
                "GRE",
                (frame(GRE, &syn()), Expected::rule("tunnel")),
                (frame(GRE + 1, &syn()), none()),
            ),
            (
                "nothing in it",
                (frame(GRE, &[]), Expected::rule("tunnel")),
                (frame(97, &[]), none()),
            ),
        ];
        for (name, case, near) in pairs {
            cases.pair(&format!("{family}, {name}"), case, near);
        }
    }
    let ping = (v4(ICMP, &icmp(8, 0)), Expected::rule("ping"));
    cases.pair(
        "echo request",
        ping.clone(),
        (v4(ICMP, &icmp(0, 0)), none()),
    );
    cases.pair(
        "echo request by its number in IPv6",
        ping,
        (v4(ICMP, &icmp(128, 0)), none()),
    );
    cases.one(
        "echo request with a code",
        v4(ICMP, &icmp(8, 77)),
        Expected::rule("ping"),
    );
    let ping = (v6(ICMPV6, &icmp(128, 0)), Expected::rule("ping over IPv6"));
    cases.pair(
        "echo request over IPv6",
        ping,
        (v6(ICMPV6, &icmp(129, 0)), none()),
    );
    for port in [1, 22, 1024, 65_535] {
        let expected = if port == 22 {
            none().hits(TCP, 22)
        } else {
            none()
        };
        cases.one(
            format!("SYN to port {port}"),
            v4(TCP, &tcp(port, 2)),
            expected,
        );
    }
    for protocol in 0..=255 {
        let known = [ICMP, TCP, UDP, ICMPV6, SCTP, GRE];
        if !known.contains(&protocol) {
            cases.one(
                format!("IPv4 protocol {protocol}"),
                v4(protocol, &syn()),
                none(),
            );
        }
    }
}

fn addresses(cases: &mut Cases) {
    let v4_from = |a, b, c, d| {
        let source = Ipv4Addr::new(a, b, c, d);
        ethernet(ethertype::IPV4, &ipv4_between(source, HOST_V4, TCP, &syn()))
    };
    // The port's hits are counted whoever decides.
    let refused = || Expected::rule("refused").hits(TCP, 80);
    for (inside, outside) in [
        ([203, 0, 113, 0], [203, 0, 112, 255]),
        ([203, 0, 113, 255], [203, 0, 114, 0]),
    ] {
        let ([a, b, c, d], [e, f, g, h]) = (inside, outside);
        let name = format!("refused {a}.{b}.{c}.{d}");
        cases.pair(
            &name,
            (v4_from(a, b, c, d), refused()),
            (v4_from(e, f, g, h), Expected::web()),
        );
    }
    let v6_from = |source: &str| {
        let source: Ipv6Addr = source.parse().expect("an address");
        ethernet(ethertype::IPV6, &ipv6_between(source, HOST_V6, TCP, &syn()))
    };
    for (inside, outside) in [
        ("2001:db8:bad::", "2001:db8:bac:ffff:ffff:ffff:ffff:ffff"),
        ("2001:db8:bad:ffff:ffff:ffff:ffff:ffff", "2001:db8:bae::"),
    ] {
        let name = format!("refused {inside}");
        cases.pair(
            &name,
            (v6_from(inside), refused()),
            (v6_from(outside), Expected::web()),
        );
    }
    let to_them = ipv4_between(CLIENT_V4, Ipv4Addr::new(203, 0, 113, 1), TCP, &syn());
    cases.one(
        "to a refused address",
        ethernet(ethertype::IPV4, &to_them),
        Expected::web(),
    );
}

fn flags(cases: &mut Cases) {
    let office = Ipv4Addr::new(192, 0, 2, 128);
    let ssh = |source, flags| {
        ethernet(
            ethertype::IPV4,
            &ipv4_between(source, HOST_V4, TCP, &tcp(22, flags)),
        )
    };
    let (accepted, none) = (
        Expected::rule("ssh").hits(TCP, 22),
        Expected::no_rule().hits(TCP, 22),
    );
    let case = (ssh(office, tcp_flag::SYN), accepted.clone());
    let not = |frame| (frame, none.clone());
    cases.pair(
        "ssh from the office, not from beside it",
        case.clone(),
        not(ssh(Ipv4Addr::new(192, 0, 2, 127), tcp_flag::SYN)),
    );
    cases.pair(
        "ssh by SYN, not with ACK",
        case.clone(),
        not(ssh(office, tcp_flag::SYN | tcp_flag::ACK)),
    );
    cases.pair(
        "ssh by SYN, not by ACK alone",
        case,
        not(ssh(office, tcp_flag::ACK)),
    );
    cases.one(
        "ssh by SYN with other flags",
        ssh(office, tcp_flag::SYN | tcp_flag::PSH | 0xc0),
        accepted.clone(),
    );
    let office: Ipv6Addr = "2001:db8:ff1::22".parse().expect("an address");
    let ssh = |flags| {
        ethernet(
            ethertype::IPV6,
            &ipv6_between(office, HOST_V6, TCP, &tcp(22, flags)),
        )
    };
    cases.pair(
        "ssh over IPv6",
        (ssh(tcp_flag::SYN), accepted),
        (ssh(tcp_flag::RST), none),
    );
}

fn default_accept(cases: &mut Cases) {
    cases.under(Under::Open);
    let accepted = Expected::pass(PassReason::Default);
    let telnet = (
        v4(TCP, &tcp(23, 2)),
        Expected::rule("no telnet").hits(TCP, 23),
    );
    cases.pair(
        "accept by default, TCP",
        telnet,
        (v4(TCP, &tcp(24, 2)), accepted.clone()),
    );
    let denied = (
        v6(TCP, &tcp(23, 2)),
        Expected::rule("no telnet").hits(TCP, 23),
    );
    cases.pair(
        "accept by default",
        (v6(UDP, &udp(1, 23, &[])), accepted.clone()),
        denied,
    );
    cases.one("accept by default, any protocol", v4(99, &[]), accepted);
    cases.under(Under::Server);
}
