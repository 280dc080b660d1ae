//! What monitoring sees: every target, the drops, the requests of each web server, replication, and an alert.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use firewall_tests::infra::design::SITE;
use firewall_tests::infra::{Machine, Site, monitoring};
use serde_json::Value;

use crate::client::Load;

/// How long something may take that depends on a few scrapes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What Prometheus scrapes: firewall and machine on eight servers, two balancers, two databases, one application.
const TARGETS: usize = 8 + 8 + 2 + 2 + 1;

pub(crate) fn drops_and_requests_are_seen_and_an_alert_fires(site: &mut Site) -> Result<()> {
    let prometheus = site.machine("mon1")?;
    // What the part before this one has done to the balancer: its rule of alerts.yml, with shorter times.
    let alert = wait_for(
        prometheus,
        r#"ALERTS{alertname="FirewallLimitsReached", alertstate="firing"}"#,
        |series| !series.is_empty(),
    )?;
    let (labels, _) = &alert[0];
    ensure!(
        alert.len() == 1 && labels["host"] == "lb1" && labels["rule"] == "web",
        "{alert:?}"
    );

    let load = Load::start(site, &SITE)?;
    wait_for(prometheus, "up == 1", |series| series.len() == TARGETS)?;
    // New connections by the firewall's own count, and requests as HAProxy has them; of each web server.
    for expression in [
        r#"sum by (host) (rate(firewall_port_connections_total{role="web", port="80"}[10s])) > 0.5"#,
        r#"sum by (server) (rate(haproxy_server_http_responses_total{proxy="web", code="2xx"}[10s])) > 0.5"#,
    ] {
        let series = wait_for(prometheus, expression, |series| series.len() >= 2)?;
        println!("{expression}: {series:?}");
    }
    let tally = load.stop()?;
    ensure!(tally.failed.is_empty(), "{tally:?}");

    for (host, reason) in [
        ("lb1", "rate-limit"),
        ("lb1", "banned"),
        ("lb1", "no-rule"),
        ("web2", "no-rule"),
        ("web1", "egress-no-rule"),
        ("db1", "rule"),
        ("db2", "rule"),
        ("mon1", "no-rule"),
    ] {
        let expression = format!(
            r#"max_over_time(firewall_packets_total{{host="{host}", reason="{reason}", verdict="drop"}}[10m]) > 0"#
        );
        wait_for(prometheus, &expression, |series| !series.is_empty())?;
    }
    wait_for(
        prometheus,
        r#"mysql_slave_status_slave_sql_running{host="db2"} == 1"#,
        |series| !series.is_empty(),
    )?;
    wait_for(prometheus, "notes_written_total > 2", |series| {
        !series.is_empty()
    })?;
    Ok(())
}

/// Waits until what an expression gives is `enough`.
fn wait_for(
    prometheus: &Machine,
    expression: &str,
    enough: impl Fn(&[(Value, f64)]) -> bool,
) -> Result<Vec<(Value, f64)>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let series = monitoring::ask(prometheus, expression)?;
        if enough(&series) {
            return Ok(series);
        }
        if Instant::now() > deadline {
            bail!("{expression} gives {series:?}");
        }
        thread::sleep(Duration::from_millis(250));
    }
}
