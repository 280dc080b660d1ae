//! `firewall serve`: what it tells monitoring, and what it sees to.

mod bans;
mod counters;
mod endpoint;
mod good;
mod hold;
mod metrics;
mod notify;
mod returned;
mod watch;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::exposition::{Answer, Exposition, get};
use firewall_tests::net::{Daemon, Host, Lab, firewall};

/// What it says when it has looked at everything once.
const READY: &str = "ready";
/// How long what was read is told again.
const FRESH: Duration = Duration::from_millis(260);

/// How long it may take to do what it has to wait for its turn for: commands of other tests have theirs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` says so.
fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The service at work.
struct Service {
    daemon: Daemon,
    socket: PathBuf,
}

impl Service {
    /// Starts it on the host inside, with a socket in the lab's directory.
    fn start(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        Self::start_on(lab, &lab.inside, arguments, |command| command)
    }

    fn start_on(
        lab: &Lab,
        host: &Host,
        arguments: &[&str],
        more: impl Fn(&mut Command) -> &mut Command,
    ) -> Result<Self> {
        let socket = lab.directory().join("metrics.sock");
        let log = lab.directory().join("serve.log");
        let mut command = Command::new(firewall()?);
        command.args(["serve", "--listen"]);
        command.arg(format!("unix:{}", socket.display()));
        command.args(arguments);
        let daemon = Daemon::start(host, more(&mut command), &log, READY)?;
        Ok(Self { daemon, socket })
    }

    fn get(&self, path: &str) -> Result<Answer> {
        get(UnixStream::connect(&self.socket)?, path)
    }

    /// What there is now, and not what was read a moment ago.
    fn metrics(&self) -> Result<Exposition> {
        thread::sleep(FRESH);
        let answer = self.get("/metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        let kind = "content-type: application/openmetrics-text; version=1.0.0";
        ensure!(answer.headers.contains(kind), "{}", answer.headers);
        Exposition::read(&answer.body).with_context(|| answer.body)
    }
}
