//! What a rule accepts works, all else is refused and counted under its reason.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use firewall_tests::corpus;
use firewall_tests::net::traffic::{Echo, drain, ping, reaches, tcp, udp, udp_from};
use firewall_tests::net::{FramePort, Lab};

use crate::{MODES, rules};

const TCP_OPEN: u16 = 8080;
const TCP_SHUT: u16 = 9090;
const UDP_OPEN: u16 = 7000;
const UDP_SHUT: u16 = 7001;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

const SERVICES: [&str; 2] = [
    r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#,
    r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#,
];

#[test]
fn accepted_services_work_and_others_are_refused_native() -> Result<()> {
    accepted_services_work_and_others_are_refused("native")
}

#[test]
fn accepted_services_work_and_others_are_refused_generic() -> Result<()> {
    accepted_services_work_and_others_are_refused("generic")
}

fn accepted_services_work_and_others_are_refused(mode: &str) -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _web = Echo::start(&lab.inside, TCP_OPEN)?;
    let _other = Echo::start(&lab.inside, TCP_SHUT)?;
    let game = udp(&lab.inside, UDP_OPEN)?;
    let other = udp(&lab.inside, UDP_SHUT)?;
    let sender = udp(&lab.outside, 0)?;
    let addresses = [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)];

    for address in addresses {
        let reached = [
            tcp(&lab.outside, SocketAddr::new(address, TCP_SHUT), 10)?,
            reaches(&sender, SocketAddr::new(address, UDP_SHUT), &other)?,
        ];
        ensure!(
            reached == [true; 2],
            "without a firewall everything works: {reached:?}"
        );
    }

    lab.apply(&rules(&SERVICES), mode)?;
    for address in addresses {
        ensure!(
            tcp(&lab.outside, SocketAddr::new(address, TCP_OPEN), 1 << 20)?,
            "TCP to {address}"
        );
        ensure!(
            !tcp(&lab.outside, SocketAddr::new(address, TCP_SHUT), 1)?,
            "TCP to {address}, closed"
        );
        ensure!(
            reaches(&sender, SocketAddr::new(address, UDP_OPEN), &game)?,
            "UDP to {address}"
        );
        ensure!(
            !reaches(&sender, SocketAddr::new(address, UDP_SHUT), &other)?,
            "UDP to {address}, closed"
        );
    }

    let stats = lab.stats()?;
    ensure!(
        stats.interface == lab.inside.interface() && stats.mode == mode,
        "{stats:#?}"
    );
    // One SYN and one datagram over each of IPv4 and IPv6.
    ensure!(stats.dropped("no-rule") == 4, "{stats:#?}");
    ensure!(stats.totals.dropped.packets == 4, "{stats:#?}");
    ensure!(stats.rule("game") == Some(2), "{stats:#?}");
    ensure!(
        stats.rule("web").is_some_and(|packets| packets > 10),
        "a MiB is many segments: {stats:#?}"
    );
    Ok(())
}

#[test]
fn ports_count_what_was_sent_to_them() -> Result<()> {
    const SIZE: usize = 100;
    // Ethernet, IPv4 and UDP headers.
    const FRAME: u64 = SIZE as u64 + 14 + 20 + 8;
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let refused =
            r#"name = "old game"; action = "drop"; protocol = "udp"; ports = ["7001-7002"]"#;
        lab.apply(&rules(&[SERVICES[1], refused]), mode)?;
        let receiver = udp(&lab.inside, UDP_OPEN)?;
        let sender = udp_from(&lab.outside, lab.outside.v4)?;
        let sent = [(7000, 100), (7001, 60), (7002, 30), (7003, 15)];
        for (port, count) in sent {
            for _ in 0..count {
                sender.send_to(&[0; SIZE], (lab.inside.v4, port))?;
            }
            // The next hundred finds veth's queue of 256 empty.
            let total: u64 = sent
                .iter()
                .take_while(|one| one.0 <= port)
                .map(|one| one.1)
                .sum();
            lab.stats_when(|stats| {
                stats.dropped("no-rule")
                    + ["game", "old game"]
                        .iter()
                        .filter_map(|name| stats.rule(name))
                        .sum::<u64>()
                    == total
            })?;
        }

        let stats = lab.stats()?;
        for (port, count) in &sent[..3] {
            let counted = stats.port("udp", *port);
            let counted = counted.map(|counted| (counted.packets, counted.bytes));
            ensure!(
                counted == Some((*count, count * FRAME)),
                "{mode}, port {port}: {stats:#?}"
            );
        }
        ensure!(
            stats.port("udp", 7003).is_none(),
            "no rule names it: {stats:#?}"
        );
        ensure!(
            stats.rule("game") == Some(100) && stats.rule("old game") == Some(90),
            "{mode}: {stats:#?}"
        );
        ensure!(stats.dropped("no-rule") == 15, "{mode}: {stats:#?}");
        ensure!(
            stats.totals.dropped.packets == 105 && stats.totals.dropped.bytes == 105 * FRAME,
            "{stats:#?}"
        );
        ensure!(
            drain(&receiver)? == 100,
            "what was counted as accepted has to arrive"
        );
    }
    Ok(())
}

#[test]
fn ping_passes_from_where_the_rule_says() -> Result<()> {
    let ping_rules = [
        r#"name = "ping"; action = "accept"; protocol = "icmp"; icmp-types = ["echo-request"]; from = ["192.0.2.0/24"]"#,
        r#"name = "ping6"; action = "accept"; protocol = "icmpv6"; icmp-types = ["echo-request"]; from = ["2001:db8::1"]"#,
    ];
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.outside.ip(&format!(
            "address add 2001:db8::9/64 dev {} nodad",
            lab.outside.interface()
        ))?;
        let (v4, v6) = (lab.inside.v4.into(), lab.inside.v6.into());
        let from_stranger = format!("-I {}", lab.stranger());
        ensure!(
            ping(&lab.outside, v4, &from_stranger)?,
            "without a firewall it works from everywhere"
        );

        lab.apply(&rules(&ping_rules), mode)?;
        ensure!(
            ping(&lab.outside, v4, &format!("-I {}", lab.outside.v4))?,
            "{mode}: from a listed network"
        );
        ensure!(
            !ping(&lab.outside, v4, &from_stranger)?,
            "{mode}: from another"
        );
        ensure!(
            ping(&lab.outside, v6, "-I 2001:db8::1")?,
            "{mode}: from the listed address"
        );
        ensure!(
            !ping(&lab.outside, v6, "-I 2001:db8::9")?,
            "{mode}: from its neighbour"
        );

        let stats = lab.stats()?;
        ensure!(
            stats.rule("ping") == Some(1) && stats.rule("ping6") == Some(1),
            "{stats:#?}"
        );
        ensure!(stats.dropped("no-rule") == 2, "{stats:#?}");
    }
    Ok(())
}

/// The frames that verdicts and parity are tested with, sent over a cable: what the kernel makes of them on the way (VLAN
/// tags, buffers) changes nothing.
#[test]
fn every_frame_of_the_corpus_is_counted_as_on_the_host() -> Result<()> {
    for mode in MODES {
        for under in corpus::Under::ALL {
            let Some(lab) = Lab::new()? else {
                return Ok(());
            };
            // The policy that drops neighbour discovery would count that of the host outside.
            let switch = format!("ipv6/conf/{}/disable_ipv6", lab.outside.interface());
            lab.outside.sysctl(&switch, "1")?;
            // One of them lists VLANs.
            lab.inside.must(&format!(
                "ethtool -K {} rxvlan off rx-vlan-stag-hw-parse off",
                lab.inside.interface()
            ))?;
            lab.apply(&under.toml(), mode)?;
            let port = FramePort::open(&lab.outside)?;
            let mut expected = std::collections::BTreeMap::<String, u64>::new();
            let mut sent = 0;
            for case in corpus::ALL.iter().filter(|case| case.under == under) {
                // A packet socket sends no less than an Ethernet header.
                if case.frame.len() < ETHERNET {
                    continue;
                }
                let corpus::By::Drop(reason) = case.expected.by else {
                    continue;
                };
                port.send(&case.frame)?;
                *expected.entry(reason.label().to_owned()).or_default() += 1;
                sent += 1;
                // Far below veth's queue of 256.
                if sent % 64 == 0 {
                    lab.stats_when(|stats| stats.totals.dropped.packets == sent)?;
                }
            }
            let stats = lab.stats_when(|stats| stats.totals.dropped.packets >= sent)?;
            for (reason, count) in expected {
                ensure!(
                    stats.dropped(&reason) == count,
                    "{mode}, {under:?}, {reason}: {count} sent: {stats:#?}"
                );
            }
        }
    }
    Ok(())
}
