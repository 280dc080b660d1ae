//! A real Prometheus scrapes a guarded host, finds data for every panel, and alarms when the host falls silent.

use anyhow::{Result, ensure};
use firewall_tests::net::Lab;

use crate::prometheus::Prometheus;
use crate::service::{Service, address, shape};
use crate::{METRICS, dashboard};

/// What the dashboard is tested against, and whoever writes queries can look up.
#[test]
fn metrics_are_those_of_the_list() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _service = Service::start(&lab)?;
    let shape = shape(&lab)?;
    ensure!(
        shape == METRICS,
        "tests/fixtures/metrics.txt is another than:\n{shape}"
    );
    Ok(())
}

#[test]
fn every_panel_and_recording_rule_finds_data() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _service = Service::start(&lab)?;
    let prometheus = Prometheus::start(&lab, address(&lab))?;
    // The last one there is: it takes two scrapes, and a recording rule.
    prometheus.wait_for("instance_interface:firewall_drops:rate5m_p95_1d")?;
    for (place, expression) in dashboard::expressions()? {
        let series = prometheus.ask(&expression)?;
        ensure!(!series.is_empty(), "{place}: nothing for {expression}");
    }
    for record in [
        "instance_interface:firewall_packets:rate5m",
        "instance_interface:firewall_bytes:rate5m",
        "instance_interface_reason:firewall_drops:rate5m",
        "instance_interface:firewall_limited_packets:rate5m",
        "instance_port:firewall_connections:rate5m",
        "instance:firewall_flows:ratio",
        "instance_interface:firewall_bans:ratio",
    ] {
        ensure!(!prometheus.ask(record)?.is_empty(), "nothing for {record}");
    }
    ensure!(
        prometheus.firing()?.is_empty(),
        "{:?}",
        prometheus.firing()?
    );
    Ok(())
}

#[test]
fn an_alert_fires_when_a_guarded_host_tells_nothing_any_more() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let service = Service::start(&lab)?;
    let prometheus = Prometheus::start(&lab, address(&lab))?;
    prometheus.wait_for(r#"up{job="firewall", role="web"} == 1"#)?;
    let attached = prometheus.wait_for("firewall_attached")?;
    ensure!(
        attached.iter().all(|(_, attached)| *attached == 1.0),
        "{attached:?}"
    );
    ensure!(
        prometheus.firing()?.is_empty(),
        "{:?}",
        prometheus.firing()?
    );
    ensure!(lab.stats()?.rule("firewall metrics") > Some(0));

    drop(service);
    prometheus.wait_for(r#"ALERTS{alertname="FirewallDown", alertstate="firing"}"#)?;
    // The kernel guards without the service.
    ensure!(lab.inside.attached()?.is_some());
    Ok(())
}
