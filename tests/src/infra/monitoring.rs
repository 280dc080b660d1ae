//! Monitoring: exporters on every server, and a Prometheus that scrapes them all, with the rules that come with the firewall.

use std::fs;

use anyhow::Result;
use serde_json::Value;

use super::design::{Role, SERVERS, Server};
use super::machine::Machine;
use crate::net::{Daemon, prometheus, workspace};

/// The metrics of a machine.
pub(super) fn node_exporter(machine: &Machine) -> Result<Daemon> {
    let mut command = machine.unprivileged("prometheus-node-exporter");
    command
        .args(["--web.listen-address=:9100", "--collector.disable-defaults"])
        .args([
            "--collector.loadavg",
            "--collector.netdev",
            "--collector.netstat",
        ]);
    machine.service("node-exporter", &mut command, "msg=\"Listening on\"")
}

/// The metrics of a database.
pub(super) fn mysqld_exporter(machine: &Machine) -> Result<Daemon> {
    machine.write(
        "/run/exporter.cnf",
        "[client]\nuser = exporter\npassword = not-a-secret\nsocket = /run/mysql/mysql.sock\n",
    )?;
    let mut command = machine.unprivileged("prometheus-mysqld-exporter");
    command
        .args([
            "--config.my-cnf=/run/exporter.cnf",
            "--web.listen-address=:9104",
        ])
        .arg("--collect.slave_status");
    machine.service("mysqld-exporter", &mut command, "msg=\"Listening on\"")
}

/// Prometheus. It scrapes each second; alerts wait for two seconds where they would wait for minutes, and look back for half a
/// minute where they would for five.
pub(super) fn prometheus(machine: &Machine) -> Result<Daemon> {
    for file in ["alerts.yml", "recording.yml"] {
        let text =
            fs::read_to_string(workspace().join("firewall-user/dist/prometheus").join(file))?;
        let sooner: String = text
            .lines()
            .map(|line| match line.trim_start().split_once(": ") {
                Some(("for", _)) => "        for: 2s\n".to_owned(),
                Some(("interval", _)) => "    interval: 1s\n".to_owned(),
                _ => line.replace("[5m]", "[30s]") + "\n",
            })
            .collect();
        machine.write(&format!("/etc/prometheus/{file}"), &sooner)?;
    }
    machine.write("/etc/prometheus/prometheus.yml", &configuration())?;
    machine.folder("/run/prometheus")?;
    let mut command = machine.unprivileged("prometheus");
    command
        .args([
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/run/prometheus",
        ])
        .arg("--web.listen-address=:9090");
    machine.service(
        "prometheus",
        &mut command,
        "Server is ready to receive web requests",
    )
}

fn configuration() -> String {
    let guarded = || SERVERS.iter().filter(|one| one.role.rules().is_some());
    let of = |roles: &'static [Role]| guarded().filter(|one| roles.contains(&one.role));
    let job = |name: &str, port: u16, servers: &mut dyn Iterator<Item = &Server>| {
        let targets: String = servers
            .map(|server| {
                format!(
                    "      - targets: [\"{}:{port}\"]\n        labels: {{ role: \"{}\", host: \"{}\" }}\n",
                    server.v4,
                    server.role.name(),
                    server.name
                )
            })
            .collect();
        format!("  - job_name: {name}\n    static_configs:\n{targets}")
    };
    let mut text = "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n\
         rule_files:\n  - /etc/prometheus/recording.yml\n  - /etc/prometheus/alerts.yml\nscrape_configs:\n"
        .to_owned();
    text += &job("firewall", 9590, &mut guarded());
    text += &job("node", 9100, &mut guarded());
    text += &job("haproxy", 8404, &mut of(&[Role::Balancer]));
    text += &job("application", 8081, &mut of(&[Role::Application]));
    text += &job("mysql", 9104, &mut of(&[Role::Primary, Role::Replica]));
    text
}

/// What an expression gives now: labels and value of each series.
///
/// # Errors
///
/// Prometheus does not answer, or does not understand it.
pub fn ask(machine: &Machine, expression: &str) -> Result<Vec<(Value, f64)>> {
    prometheus::ask(
        machine.command("curl"),
        "127.0.0.1:9090",
        expression,
        |curl| machine.run(curl),
    )
}
