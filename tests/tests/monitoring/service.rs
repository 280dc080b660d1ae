//! The service on a guarded host that has everything to tell, and traffic for it.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use firewall_tests::net::exposition::get;
use firewall_tests::net::traffic::{Echo, tcp, udp_from};
use firewall_tests::net::{Daemon, Lab, firewall};

/// The service's port.
const PORT: u16 = 9590;
/// A port that a server of the lab answers at.
const WEB: u16 = 80;
const LIMITED: u16 = 7001;
const REFUSED: u16 = 7002;

/// Rules of both directions, one with a limit, and what lets the monitoring host in, as the comment in `scrape.yml` has it.
const RULES: &str = r#"
version = 1
[groups]
monitoring = ["192.0.2.1"]
[[rule]]
name = "web"
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
name = "quiet"
direction = "egress"
action = "drop"
protocol = "udp"
ports = [9999]
[[rule]]
name = "firewall metrics"
action = "accept"
protocol = "tcp"
ports = [9590]
from = ["monitoring"]
"#;

/// The service, while it lives.
#[derive(Debug)]
pub(crate) struct Service {
    _serve: Daemon,
    /// The kernel keeps how long programs run while somebody has this.
    _statistics: OwnedFd,
}

/// Where monitoring finds it.
pub(crate) fn address(lab: &Lab) -> SocketAddr {
    SocketAddr::new(lab.inside.v4.into(), PORT)
}

impl Service {
    /// Has it guard the interface by [`RULES`], with a candidate beside them.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let statistics =
            enable_stats(Stats::RunTime).context("having the kernel keep run times")?;
        let file = lab.write("rules.toml", RULES)?;
        let mut command = Command::new(firewall()?);
        command
            .args(["serve", "--listen", &address(lab).to_string(), "--guard"])
            .arg(format!("{}={}", lab.inside.interface(), file.display()));
        let log = lab.directory().join("serve.log");
        let serve = Daemon::start(&lab.inside, &mut command, &log, "ready")?;
        let candidate = RULES.replace("ports = [80]", "ports = [81]");
        let candidate = lab.write("candidate.toml", &candidate)?;
        lab.apply_file(&candidate, &["--shadow"])?;
        traffic(lab)?;
        Ok(Self {
            _serve: serve,
            _statistics: statistics,
        })
    }
}

/// Some of what rules let in, limit and refuse, and of what no rule is about.
fn traffic(lab: &Lab) -> Result<()> {
    let _echo = Echo::start(&lab.inside, WEB)?;
    let web = SocketAddr::new(lab.inside.v4.into(), WEB);
    ensure!(tcp(&lab.outside, web, 10)?, "no answer");
    let client = udp_from(&lab.outside, lab.outside.v4)?;
    for port in [LIMITED, LIMITED, LIMITED, LIMITED, REFUSED] {
        client.send_to(b"?", (lab.inside.v4, port))?;
    }
    Ok(())
}

/// What `/metrics` has, as it is in `tests/fixtures/metrics.txt`: all that says what the metrics are, and each sample without its
/// value and those of its labels, once.
pub(crate) fn shape(lab: &Lab) -> Result<String> {
    let stream = lab
        .outside
        .enter(|| Ok(TcpStream::connect(address(lab))?))?;
    let answer = get(stream, "/metrics")?;
    ensure!(answer.status == 200, "{answer:?}");
    let mut lines: Vec<String> = Vec::new();
    for line in answer.body.lines() {
        let line = match line.starts_with('#') {
            true => line.to_owned(),
            false => without_values(line)?,
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// `name{label="a b",other="2"} 3` as `name{label,other}`. No value of the lab's has quotes in it.
fn without_values(sample: &str) -> Result<String> {
    let Some((name, rest)) = sample.split_once('{') else {
        let (name, _) = sample.split_once(' ').context("no value")?;
        return Ok(name.to_owned());
    };
    let (labels, _) = rest.rsplit_once('}').context("no end of labels")?;
    let names: Vec<_> = (labels.split('"').step_by(2))
        .map(|label| label.trim_matches([',', '=']))
        .filter(|label| !label.is_empty())
        .collect();
    Ok(format!("{name}{{{}}}", names.join(",")))
}

#[test]
fn values_are_left_out() -> Result<()> {
    for (sample, expected) in [
        ("a 1", "a"),
        (r#"a{b="c, d"} 1"#, "a{b}"),
        (r#"a{b="",d="{}"} 1 2"#, "a{b,d}"),
    ] {
        ensure!(without_values(sample)? == expected, "{sample}");
    }
    Ok(())
}
