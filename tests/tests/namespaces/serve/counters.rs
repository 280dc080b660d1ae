//! Counters never go backwards, whatever becomes of policies and of the service.

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::exposition::Exposition;
use firewall_tests::net::traffic::udp_from;
use firewall_tests::net::{Lab, rules};
use rustix::process::Signal;

use super::{Service, wait_until};
use crate::growth::MANY;

const GAME: &str = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#;
const CHAT: &str = r#"name = "chat"; action = "accept"; protocol = "udp"; ports = [7001]"#;
const NO_CHAT: &str = r#"name = "chat"; action = "drop"; protocol = "udp"; ports = [7001]"#;
const TRAP: &str = r#"name = "trap"; action = "drop"; protocol = "udp"; ports = [7002]"#;

/// Seconds in which what is in force has to be confirmed.
const REMAINING: &str = "firewall_policy_confirmation_remaining_seconds";

/// Datagrams to each port, for each policy.
const EACH: u64 = 5;

/// Sums of what rules decided, which have to be exact although rules come and go.
fn by_rules(metrics: &Exposition, interface: &str, verdict: &str) -> f64 {
    let labels = [
        ("interface", interface),
        ("direction", "ingress"),
        ("verdict", verdict),
        ("reason", "rule"),
    ];
    metrics.sum("firewall_packets_total", &labels)
}

/// What goes with rules and ports that are no more.
fn may_go(name: &str) -> bool {
    name.starts_with("firewall_rule_") || name.starts_with("firewall_port_")
}

#[test]
fn counters_never_go_backwards() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    lab.apply(&rules(&[GAME, CHAT, TRAP]), "native")?;
    let mut service = Service::start(&lab, &[])?;
    let client = udp_from(&lab.outside, lab.outside.v4)?;
    let knock = || -> Result<()> {
        let before = lab.stats()?;
        let sum = |stats: &firewall_tests::net::Stats| {
            let (accepted, dropped) = (stats.totals.accepted, stats.totals.dropped);
            accepted.packets + dropped.packets
        };
        for port in [7000, 7001, 7002] {
            for _ in 0..EACH {
                client.send_to(b"?", (lab.inside.v4, port))?;
            }
        }
        let all = sum(&before) + 3 * EACH;
        lab.stats_when(|stats| sum(stats) >= all).map(drop)
    };
    // What rules have accepted and dropped so far: with each policy, as many of the three ports as it accepts or drops by rule.
    let (mut accepted, mut dropped) = (0, 0);
    let mut before = service.metrics()?;
    let mut step = |what: &str, service: &Service, accepts: u64, drops: u64| -> Result<()> {
        knock()?;
        accepted += accepts * EACH;
        dropped += drops * EACH;
        let now = service.metrics()?;
        let fell = now.backwards(&before, may_go);
        ensure!(fell.is_empty(), "{what}: {fell:#?}");
        for (verdict, expected) in [("accept", accepted), ("drop", dropped)] {
            let found = by_rules(&now, interface, verdict);
            ensure!(
                found == expected as f64,
                "{what}: {verdict}: {found}, not {expected}"
            );
        }
        before = now;
        Ok(())
    };
    step("at first", &service, 2, 1)?;
    lab.apply(&rules(&[GAME]), "native")?;
    step("rules are gone", &service, 1, 0)?;
    lab.apply(&rules(&[NO_CHAT, TRAP]), "native")?;
    step("others are there", &service, 0, 2)?;
    lab.apply(&rules(&[GAME, CHAT]), "native")?;
    step("one accepts that dropped", &service, 2, 0)?;
    lab.inside
        .firewall(&["rollback", "-i", interface])?
        .success()?;
    step("back", &service, 0, 2)?;
    lab.inside
        .firewall(&["rollback", "-i", interface, "--to", "1"])?
        .success()?;
    step("further back", &service, 2, 1)?;
    service.daemon.signal(Signal::KILL)?;
    drop(service);
    service = Service::start(&lab, &[])?;
    step("the service was killed", &service, 2, 1)?;
    let many = lab.write("many.toml", &rules(&[GAME, MANY]))?;
    lab.apply_file(&many, &[])?;
    step("there are more counters", &service, 1, 0)?;
    let trial = lab.write("trial.toml", &rules(&[CHAT, NO_CHAT_AT_TRIAL]))?;
    lab.apply_file(&trial, &["--confirm", "10s"])?;
    step("on trial", &service, 1, 1)?;
    wait_until("the trial is over", || {
        let left = service.metrics()?.sum(REMAINING, &[]);
        Ok(left == 0.0)
    })?;
    step("the trial is over", &service, 1, 0).context("nobody has written that down")?;
    lab.apply(&rules(&[TRAP]), "native")?;
    step("after that", &service, 0, 1)
}

const NO_CHAT_AT_TRIAL: &str =
    r#"name = "tried"; action = "drop"; protocol = "udp"; ports = [7000]"#;

#[test]
fn what_stats_says_of_all_rules_never_falls_either() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[GAME, TRAP]), "native")?;
    let client = udp_from(&lab.outside, lab.outside.v4)?;
    for port in [7000, 7002] {
        client.send_to(b"?", (lab.inside.v4, port))?;
    }
    let before = lab.stats_when(|stats| stats.dropped("rule") == 1)?;
    lab.apply(&rules(&[CHAT]), "native")?;
    let after = lab.stats()?;
    ensure!(after.dropped("rule") == 1, "{after:#?}");
    ensure!(after.totals.accepted.packets >= before.totals.accepted.packets);
    ensure!(after.totals.dropped.packets >= before.totals.dropped.packets);
    Ok(())
}
