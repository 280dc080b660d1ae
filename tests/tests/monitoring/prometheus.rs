//! A Prometheus of Debian's, on a host of the lab, set up by the files in `firewall-user/dist`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use firewall_tests::net::{Daemon, Host, Lab, prometheus};
use serde_json::Value;

use crate::dist;

/// Where it is asked, on its own host.
const LISTENS: &str = "127.0.0.1:9090";

/// How long something may take that depends on a few scrapes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Prometheus on the host outside; it scrapes and evaluates each second.
pub(crate) struct Prometheus<'lab> {
    host: &'lab Host,
    _server: Daemon,
}

impl<'lab> Prometheus<'lab> {
    /// Starts it, with the example of a scrape, the recording rules and the alerts, none of which waits for minutes.
    pub(crate) fn start(lab: &'lab Lab, target: SocketAddr) -> Result<Self> {
        let configuration = configure(lab, target)?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}/tsdb",
                lab.directory().display()
            ))
            .arg(format!("--web.listen-address={LISTENS}"));
        let log = lab.directory().join("prometheus.log");
        let server = Daemon::start(
            &lab.outside,
            &mut command,
            &log,
            "Server is ready to receive web requests",
        )?;
        Ok(Self {
            host: &lab.outside,
            _server: server,
        })
    }

    /// What an expression gives now: labels and value of each series.
    pub(crate) fn ask(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        prometheus::ask(Command::new("curl"), LISTENS, expression, |curl| {
            self.host.run(curl)
        })
    }

    /// Waits until an expression gives something.
    pub(crate) fn wait_for(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let series = self.ask(expression)?;
            if !series.is_empty() {
                return Ok(series);
            }
            if Instant::now() > deadline {
                bail!("{expression} never gave anything");
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// The alerts that fire now.
    pub(crate) fn firing(&self) -> Result<Vec<String>> {
        let series = self.ask(r#"ALERTS{alertstate="firing"}"#)?;
        let name = |(labels, _): &(Value, f64)| labels["alertname"].to_string();
        Ok(series.iter().map(name).collect())
    }
}

/// Writes the configuration and the rules to the directory of the test.
fn configure(lab: &Lab, target: SocketAddr) -> Result<PathBuf> {
    for file in ["alerts.yml", "recording.yml"] {
        let text = fs::read_to_string(dist("prometheus").join(file))?;
        let at_once: Vec<_> = text
            .lines()
            .map(|line| match line.trim_start().split_once(": ") {
                Some(("for", _)) => "        for: 1s",
                Some(("interval", _)) => "    interval: 1s",
                _ => line,
            })
            .collect();
        lab.write(file, &at_once.join("\n"))?;
    }
    let example = fs::read_to_string(dist("prometheus/scrape.yml"))?;
    let mut text = "global:\n  evaluation_interval: 1s\n".to_owned() + &example;
    for (what, instead) in [
        (
            "/usr/share/firewall/prometheus",
            lab.directory().display().to_string(),
        ),
        ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
        (
            r#""192.0.2.17:9590", "192.0.2.18:9590""#,
            format!("\"{target}\""),
        ),
        (r#""192.0.2.33:9590""#, String::new()),
    ] {
        ensure!(text.contains(what), "no {what} in {text}");
        text = text.replace(what, &instead);
    }
    lab.write("prometheus.yml", &text)
}
