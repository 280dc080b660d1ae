//! Ping and traceroute across a router, outwards and inwards.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::ping;
use firewall_tests::net::{Host, Lab, MODES, rules};

/// Echo requests, and the ports that traceroute sends to: the next one for each probe.
const PING_AND_TRACE: [&str; 3] = [
    r#"name = "ping"; action = "accept"; protocol = "icmp"; icmp-types = ["echo-request"]"#,
    r#"name = "ping6"; action = "accept"; protocol = "icmpv6"; icmp-types = ["echo-request"]"#,
    r#"name = "trace"; action = "accept"; protocol = "udp"; ports = ["33434-33534"]"#,
];

/// Who answers at each hop; `*` where nobody does.
fn trace(from: &Host, to: IpAddr) -> Result<Vec<String>> {
    let program = if to.is_ipv4() {
        "traceroute"
    } else {
        "traceroute6"
    };
    let mut command = Command::new("busybox");
    command
        .args([program, "-n", "-q", "1", "-w", "1", "-m", "2"])
        .arg(to.to_string());
    let text = from.run(&mut command)?.success()?;
    // A heading, then a line for each hop, its number first.
    text.lines()
        .skip(1)
        .map(|line| {
            let answerer = line.split_whitespace().nth(1);
            Ok(answerer.with_context(|| text.clone())?.to_owned())
        })
        .collect()
}

#[test]
fn ping_and_traceroute_go_out_and_come_in_by_rules_only() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let beyond = lab.beyond(1500)?;
        let families = [
            (
                IpAddr::from(lab.inside.v4),
                IpAddr::from(lab.outside.v4),
                IpAddr::from(beyond.v4),
                "203.0.113.1",
            ),
            (
                lab.inside.v6.into(),
                lab.outside.v6.into(),
                beyond.v6.into(),
                "2001:db8:5::1",
            ),
        ];
        lab.apply(&rules(&[]), mode)?;
        for (inside, router, far, router_from_far) in families {
            ensure!(ping(&lab.inside, far, "")?, "{mode}: {far} is not reached");
            let hops = trace(&lab.inside, far)?;
            // Time exceeded from the router, port unreachable from behind it.
            ensure!(
                hops == [router.to_string(), far.to_string()],
                "{mode}: {hops:?}"
            );

            ensure!(!ping(&beyond, inside, "")?, "{mode}: {inside} answers");
            let hops = trace(&beyond, inside)?;
            ensure!(hops == [router_from_far, "*"], "{mode}: {hops:?}");
        }
        let stats = lab.stats()?;
        ensure!(stats.passed("path-mtu") == 4, "{mode}: {stats:#?}");
        ensure!(stats.passed("answer") == 2, "{mode}: {stats:#?}");
        ensure!(stats.dropped("no-rule") == 4, "{mode}: {stats:#?}");

        lab.apply(&rules(&PING_AND_TRACE), mode)?;
        for (inside, _, _, router_from_far) in families {
            ensure!(
                ping(&beyond, inside, "")?,
                "{mode}: {inside} does not answer"
            );
            let hops = trace(&beyond, inside)?;
            ensure!(
                hops == [router_from_far, &inside.to_string()],
                "{mode}: {hops:?}"
            );
        }
        let stats = lab.stats()?;
        let counted = ["ping", "ping6", "trace"].map(|name| stats.rule(name));
        ensure!(counted == [Some(1), Some(1), Some(2)], "{mode}: {stats:#?}");
    }
    Ok(())
}
