//! Metrics tell what `firewall stats` tells, and nothing that a packet brings is a label.

use anyhow::{Result, ensure};
use firewall_tests::net::exposition::Exposition;
use firewall_tests::net::traffic::{Echo, tcp, udp, udp_from};
use firewall_tests::net::{Lab, Stats};
use std::net::SocketAddr;

use super::Service;

/// A rule for what arrives and one for what leaves, a limit, and names that need escapes.
const RULES: &str = r#"
version = 1
[defaults]
egress = "drop"
[[rule]]
name = "the \"web\" \\ server"
action = "accept"
protocol = "tcp"
ports = [80]
[[rule]]
name = "few"
action = "accept"
protocol = "udp"
ports = [7001]
limit = { rate = "3/h", burst = 3 }
[[rule]]
name = "trap"
action = "drop"
protocol = "udp"
ports = [7002]
[[rule]]
name = "quiet"
direction = "egress"
action = "drop"
protocol = "udp"
ports = [9999]
[[rule]]
name = "outwards"
direction = "egress"
action = "accept"
"#;

/// Packets of every kind that the rules tell apart.
fn traffic(lab: &Lab) -> Result<()> {
    let (inside, outside) = (lab.inside.v4, lab.outside.v4);
    let _echo = Echo::start(&lab.inside, 80)?;
    tcp(&lab.outside, SocketAddr::new(inside.into(), 80), 10)?;
    let client = udp_from(&lab.outside, outside)?;
    for port in [7001, 7001, 7001, 7001, 7002, 7003] {
        client.send_to(b"?", (inside, port))?;
    }
    let server = udp(&lab.inside, 0)?;
    for port in [9999, 9998] {
        // What rules keep from leaving is told to whoever sends it.
        let _ = server.send_to(b"?", (outside, port));
    }
    Ok(())
}

#[test]
fn metrics_are_what_stats_says() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(RULES, "native")?;
    let service = Service::start(&lab, &[])?;
    traffic(&lab)?;
    let stats = lab.stats_when(|stats| stats.dropped("rate-limit") == 1)?;
    let metrics = service.metrics()?;
    // What leaves by itself, neighbour discovery say, may have come in between.
    let stats_after = lab.stats()?;
    agrees(&metrics, &stats, &stats_after)?;

    let interface = lab.inside.interface();
    let of = |hook, mode| [("interface", interface), ("hook", hook), ("mode", mode)];
    ensure!(metrics.value("firewall_attached", &of("xdp", "native"))? == 1.0);
    ensure!(metrics.value("firewall_attached", &of("tcx", "tcx"))? == 1.0);
    for (name, expected) in [
        ("firewall_policy_generation", 1.0),
        ("firewall_policy_rules", 5.0),
        ("firewall_policy_confirmation_remaining_seconds", 0.0),
        ("firewall_bans", 0.0),
        ("firewall_reattachments_total", 0.0),
    ] {
        let value = metrics.value(name, &[("interface", interface)])?;
        ensure!(value == expected, "{name}: {value}");
    }
    ensure!(metrics.sum("firewall_policy_info", &[("interface", interface)]) == 1.0);
    ensure!(metrics.sum("firewall_build_info", &[]) == 1.0);
    ensure!(metrics.sum("firewall_scrape_errors_total", &[]) == 0.0);
    Ok(())
}

/// Each value is between what `stats` said before and what it says after.
fn agrees(metrics: &Exposition, before: &Stats, after: &Stats) -> Result<()> {
    let interface = ("interface", before.interface.as_str());
    let is_between = |what: &str, value: f64, before: u64, after: u64| {
        let is_it = value >= before as f64 && value <= after as f64;
        ensure!(is_it, "{what}: {value}, and stats says {before} to {after}");
        Ok(())
    };
    for (old, new) in before.rules.iter().zip(&after.rules) {
        let of_rule = [interface, ("rule", old.name.as_str())];
        let packets = metrics.sum("firewall_rule_packets_total", &of_rule);
        is_between(&old.name, packets, old.packets, new.packets)?;
        let bytes = metrics.sum("firewall_rule_bytes_total", &of_rule);
        is_between(&old.name, bytes, old.bytes, new.bytes)?;
        let limited = metrics.sum("firewall_rule_limited_packets_total", &of_rule);
        is_between(&old.name, limited, old.limited, new.limited)?;
    }
    for (old, new, verdict) in [
        (&before.reasons, &after.reasons, "drop"),
        (&before.passes, &after.passes, "accept"),
    ] {
        for (old, new) in old.iter().zip(new).filter(|(old, _)| old.reason != "rule") {
            let labels = [interface, ("reason", &old.reason), ("verdict", verdict)];
            let packets = metrics.sum("firewall_packets_total", &labels);
            is_between(&old.reason, packets, old.packets, new.packets)?;
        }
    }
    for (old, new) in before.ports.iter().zip(&after.ports) {
        let port = old.port.to_string();
        let labels = [interface, ("protocol", &old.protocol), ("port", &port)];
        let packets = metrics.value("firewall_port_packets_total", &labels)?;
        is_between(&port, packets, old.packets, new.packets)?;
        let connections = metrics.value("firewall_port_connections_total", &labels)?;
        is_between(&port, connections, old.connections, new.connections)?;
    }
    for (old, new, direction, verdict) in [
        (
            before.totals.accepted,
            after.totals.accepted,
            "ingress",
            "accept",
        ),
        (
            before.totals.dropped,
            after.totals.dropped,
            "ingress",
            "drop",
        ),
        (
            before.egress.accepted,
            after.egress.accepted,
            "egress",
            "accept",
        ),
        (
            before.egress.dropped,
            after.egress.dropped,
            "egress",
            "drop",
        ),
    ] {
        let labels = [interface, ("direction", direction), ("verdict", verdict)];
        let packets = metrics.sum("firewall_packets_total", &labels);
        is_between(verdict, packets, old.packets, new.packets)?;
        let bytes = metrics.sum("firewall_bytes_total", &labels);
        is_between(verdict, bytes, old.bytes, new.bytes)?;
    }
    let size = metrics.value("firewall_flow_table_size", &[interface])?;
    ensure!(size == before.flows.size as f64);
    let created = metrics.value("firewall_flows_created_total", &[interface])?;
    is_between("flows", created, before.flows.created, after.flows.created)
}

#[test]
fn nothing_that_is_sent_becomes_a_label() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(RULES, "native")?;
    let service = Service::start(&lab, &[])?;
    traffic(&lab)?;
    let before = service.metrics()?;
    for stranger in [lab.outside.v4, lab.stranger()] {
        let client = udp_from(&lab.outside, stranger)?;
        for port in 1024..2048 {
            client.send_to(b"?", (lab.inside.v4, port))?;
        }
    }
    lab.stats_when(|stats| stats.dropped("no-rule") > 1500)?;
    let after = service.metrics()?;
    ensure!(
        after.len() == before.len(),
        "{} -> {}",
        before.len(),
        after.len()
    );
    ensure!(after.backwards(&before, |_| false).is_empty());
    Ok(())
}
