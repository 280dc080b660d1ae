//! What leaves under an allowlist: what keeps a host on its network does without a rule, and what cannot be parsed does not.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{mapped, udp, wait_until};
use firewall_tests::net::{FramePort, Lab, Stats};
use firewall_tests::packets::{
    at, cut, ethernet_to, ethertype, ipv4_between, ipv6_between, patched, tcp, tcp_flag,
    udp as datagram,
};

use crate::rules;

/// Served, but nobody is there.
const ABSENT: u16 = 7777;
const RESOLVER: u16 = 7000;

/// LLDP's ethertype, and where it goes (IEEE 802.1AB, 7.1).
const LLDP: (u16, [u8; 6]) = (0x88cc, [0x01, 0x80, 0xc2, 0, 0, 0x0e]);

/// What a host sends to stay on its network, by the key that switches it.
const ESSENTIALS: [(&str, &[&str]); 6] = [
    ("arp", &["ARP request"]),
    ("neighbour-discovery", &["neighbour solicitation"]),
    (
        "path-mtu",
        &["port unreachable", "port unreachable over IPv6"],
    ),
    ("dhcp-client", &["DHCP", "DHCPv6"]),
    ("multicast-membership", &["IGMP report", "MLD report"]),
    ("link-layer", &["LLDP"]),
];

/// Nothing may leave but those essentials that are not `off`.
fn policy(off: &[&str]) -> String {
    let absent =
        format!(r#"name = "absent"; action = "accept"; protocol = "udp"; ports = [{ABSENT}]"#);
    let mut text = rules(&[&absent]) + "\n[defaults]\negress = \"drop\"\n\n[essentials]\n";
    for (key, _) in ESSENTIALS {
        text += &format!("{key} = {}\n", !off.contains(&key));
    }
    text
}

/// Two addresses that nobody has, others in each round, so that they are asked for anew.
fn nobody(round: u8) -> (Ipv4Addr, Ipv6Addr) {
    let last = 100 + round;
    (
        Ipv4Addr::new(192, 0, 2, last),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)),
    )
}

/// Has the host inside send all that is essential. Its memberships last as long as what is returned.
fn provoke(lab: &Lab, round: u8) -> Result<[UdpSocket; 2]> {
    let (inside, outside) = (&lab.inside, &lab.outside);
    // The kernel may tell a sender that its datagram was dropped.
    let sent = |from: &UdpSocket, to: IpAddr, port: u16| -> Result<()> {
        let _ = from.send_to(b"?", mapped(from, SocketAddr::new(to, port))?);
        Ok(())
    };
    let (v4, v6) = nobody(round);
    let client = udp(inside, 0)?;
    sent(&client, v4.into(), RESOLVER)?;
    sent(&client, v6.into(), RESOLVER)?;
    let visitor = udp(outside, 0)?;
    sent(&visitor, inside.v4.into(), ABSENT)?;
    sent(&visitor, inside.v6.into(), ABSENT)?;
    sent(&udp(inside, 68)?, outside.v4.into(), 67)?;
    sent(&udp(inside, 546)?, outside.v6.into(), 547)?;
    let frame = ethernet_to(LLDP.1, LLDP.0, &[0; 46]);
    let _ = FramePort::open(inside)?.send(&patched(&frame, 6, &inside.hardware_address()?));
    inside.enter(|| {
        let sockets = [
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        ];
        // Groups for documentation (RFC 6676, 2 and 3).
        sockets[0].join_multicast_v4(&Ipv4Addr::new(233, 252, 0, round), &inside.v4)?;
        let group = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0xdb8, 0, u16::from(round));
        sockets[1].join_multicast_v6(&group, 0)?;
        Ok(sockets)
    })
}

/// Which essential a frame is; `None` if it is none that [`provoke`] asks for, or is not of the host inside.
fn essential(frame: &[u8], inside: [u8; 6], round: u8) -> Option<&'static str> {
    let (v4, v6) = nobody(round);
    if frame.get(6..12)? != inside {
        return None;
    }
    let word = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
    };
    let (network, kind) = (at::NETWORK, word(at::ETHERTYPE)?);
    match kind {
        ethertype::ARP => {
            let asks = frame.get(network + 24..network + 28)? == v4.octets();
            asks.then_some("ARP request")
        }
        ethertype::IPV4 => {
            let upper = network + usize::from(frame[network] & 0xf) * 4;
            match (frame.get(network + 9)?, word(upper)?) {
                (2, _) => Some("IGMP report"),
                // Type 3, code 3.
                (1, 0x0303) => Some("port unreachable"),
                (17, 68) if word(upper + 2)? == 67 => Some("DHCP"),
                _ => None,
            }
        }
        ethertype::IPV6 => {
            let upper = at::V6_PAYLOAD;
            match (frame.get(network + 6)?, word(upper)?) {
                // Behind router alert in a hop-by-hop header of 8 bytes (RFC 3810, 5).
                (0, _) if word(upper + 8)? == 143 << 8 => Some("MLD report"),
                (58, 0x8700) => {
                    let asks = frame.get(upper + 8..upper + 24)? == v6.octets();
                    asks.then_some("neighbour solicitation")
                }
                // Type 1, code 4.
                (58, 0x0104) => Some("port unreachable over IPv6"),
                (17, 546) if word(upper + 2)? == 547 => Some("DHCPv6"),
                _ => None,
            }
        }
        kind if kind == LLDP.0 => Some("LLDP"),
        _ => None,
    }
}

#[test]
fn essentials_leave_though_no_rule_lets_them_and_not_where_they_are_off() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    // That the two know each other is not the matter here.
    for (host, other) in [(&lab.inside, &lab.outside), (&lab.outside, &lab.inside)] {
        let mac = other.hardware_address()?.map(|byte| format!("{byte:02x}"));
        for address in [IpAddr::from(other.v4), IpAddr::from(other.v6)] {
            host.ip(&format!(
                "neighbour replace {address} lladdr {} dev {} nud permanent",
                mac.join(":"),
                host.interface()
            ))?;
        }
    }
    // Nor how often the kernel sends errors.
    lab.inside.sysctl("ipv4/icmp_ratelimit", "0")?;
    lab.inside.sysctl("ipv6/icmp/ratelimit", "0")?;
    let mac = lab.inside.hardware_address()?;

    let all = ESSENTIALS.map(|(key, _)| key);
    let one_by_one = all.iter().map(std::slice::from_ref);
    let cases = [&[][..], &all[..]].into_iter().chain(one_by_one);
    for (round, off) in (0..).zip(cases) {
        lab.apply(&policy(off), "native")?;
        let before = lab.stats()?;
        let cable = FramePort::listen(&lab.outside)?;
        let _memberships = provoke(&lab, round)?;
        let sent = |is_off: bool| -> BTreeSet<&str> {
            let chosen = ESSENTIALS
                .into_iter()
                .filter(|(key, _)| off.contains(key) == is_off);
            chosen.flat_map(|(_, kinds)| kinds).copied().collect()
        };
        let (leave, stay) = (sent(false), sent(true));
        let mut seen = BTreeSet::new();
        wait_until("all that may leave does", || {
            let frames = cable.received()?;
            seen.extend(
                frames
                    .iter()
                    .filter_map(|frame| essential(frame, mac, round)),
            );
            Ok(seen.is_superset(&leave))
        })
        .with_context(|| format!("without {off:?}: {seen:?}"))?;
        ensure!(seen == leave, "without {off:?}: {seen:?}");
        let stats = lab.stats_when(|stats| {
            let grown = |now: u64, before: u64, kinds: &BTreeSet<_>| {
                let grown = now - before;
                // Some are sent again.
                grown >= kinds.len() as u64 && (grown > 0) != kinds.is_empty()
            };
            let passed = |stats: &Stats| stats.passed("egress-essential");
            let refused = |stats: &Stats| stats.dropped("egress-no-rule");
            grown(passed(stats), passed(&before), &leave)
                && grown(refused(stats), refused(&before), &stay)
        });
        stats.with_context(|| format!("without {off:?}, before: {before:#?}"))?;
    }
    Ok(())
}

/// A process that may write frames writes what it likes. Where nothing is filtered, that is its own matter.
#[test]
fn what_cannot_be_parsed_leaves_only_where_nothing_is_filtered() -> Result<()> {
    const OPEN: &str = "version = 1\n";
    let filtered = rules(&[&format!(
        r#"name = "resolver"; direction = "egress"; action = "accept"; protocol = "udp"; ports = [{RESOLVER}]"#
    )]) + "\n[defaults]\negress = \"drop\"\n";
    for (policy, is_filtered) in [(OPEN, false), (&filtered, true)] {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(policy, "native")?;
        let (from, to) = (&lab.inside, &lab.outside);
        let mac = to.hardware_address()?;
        let asked = datagram(40_000, RESOLVER, b"a sound question");
        let v4 = ethernet_to(
            mac,
            ethertype::IPV4,
            &ipv4_between(from.v4, to.v4, 17, &asked),
        );
        let v6 = ethernet_to(
            mac,
            ethertype::IPV6,
            &ipv6_between(from.v6, to.v6, 17, &asked),
        );
        let segment = tcp(RESOLVER, tcp_flag::SYN);
        let cut_short = ipv4_between(from.v4, to.v4, 6, &segment[..12]);
        let malformed = [
            patched(&v4, at::NETWORK, &[0x55]),
            patched(&v4, at::NETWORK, &[0x44]),
            patched(&v4, at::V4_TOTAL_LENGTH, &[0x05, 0xdc]),
            patched(&v6, at::V6_PAYLOAD_LENGTH, &[0x05, 0xdc]),
            patched(&v4, at::V4_PAYLOAD + 4, &[0, 7]),
            cut(&v6, at::NETWORK + 30),
            ethernet_to(mac, ethertype::IPV4, &cut_short),
            // Of no protocol that is known here.
            ethernet_to(mac, 0x88b5, b"local experiment"),
        ];
        let (port, cable) = (FramePort::open(from)?, FramePort::listen(to)?);
        for frame in malformed.iter().chain([&v4, &v6]) {
            // The kernel tells that it was dropped.
            let _ = port.send(frame);
        }
        let frames = cable.received()?;
        ensure!(
            frames.contains(&v4) && frames.contains(&v6),
            "sound ones leave"
        );
        for (number, frame) in malformed.iter().enumerate() {
            ensure!(
                frames.contains(frame) != is_filtered,
                "number {number}, filtered: {is_filtered}"
            );
        }
        let stats = lab.stats()?;
        let expected = if is_filtered { malformed.len() } else { 0 };
        ensure!(
            stats.dropped("egress-malformed") == expected as u64,
            "{stats:#?}"
        );
        ensure!(
            stats.rule("resolver") == is_filtered.then_some(2),
            "{stats:#?}"
        );
    }
    Ok(())
}
