//! The server program: nginx, with a page to serve and two services that somebody forgot to close.

use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{
    probe,
    stage::{Person, STATE, Stage},
};
use crate::{interrupt, shell};

/// The port of the page.
pub(super) const WEB: u16 = 80;

/// Ports that listen and should be reached by nobody.
pub(super) const FORGOTTEN: [u16; 2] = [6379, 8080];

/// How long nginx may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(5);

const PAGE: &str = "<!doctype html><title>It works</title><p>Served through the firewall.\n";

/// nginx while it runs; dropping it ends it.
#[derive(Debug)]
pub(super) struct Server {
    nginx: Child,
}

impl Server {
    /// Starts nginx and waits until it answers.
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let prefix = Path::new(STATE);
        let configuration = prefix.join("nginx.conf");
        fs::create_dir_all(prefix.join("www"))?;
        fs::write(prefix.join("www/index.html"), PAGE)?;
        fs::write(&configuration, self::configuration())?;
        let log = prefix.join("nginx.log");

        interrupt::check()?;
        let nginx = stage
            .command(Person::Server, "nginx")
            .args(["-e", "stderr", "-p"])
            .arg(prefix)
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .process_group(0)
            .spawn()
            .context("cannot start nginx")?;
        let mut server = Self { nginx };
        server.wait_until_it_answers(&log)?;
        Ok(server)
    }

    /// Tells people what listens.
    pub(super) fn describe(&self) {
        let [cache, staging] = FORGOTTEN;
        shell::note(&format!(
            "on the server, nginx serves a page on port {WEB}, and listens on {cache} and {staging} as well, \
             like services\nthat somebody forgot to close"
        ));
    }

    fn wait_until_it_answers(&mut self, log: &Path) -> Result<()> {
        let [address, _] = Person::Server.addresses();
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            if probe::fetch(Person::Server, SocketAddr::new(address, WEB))?.reached {
                return Ok(());
            }
            let ended = self.nginx.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("nginx did not start: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The group, because the worker outlives a master that is killed. TERM is nginx's fast shutdown.
        let group = Pid::from_child(&self.nginx);
        for (signal, patience) in [(Signal::TERM, PATIENCE), (Signal::KILL, PATIENCE)] {
            // Fails only if it has ended by itself.
            let _ = kill_process_group(group, signal);
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if !matches!(self.nginx.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Everything below the prefix, so that no file of an installed nginx is read or written.
fn configuration() -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("    {what}_temp_path {STATE}/{what};\n"))
        .collect();
    let forgotten: String = FORGOTTEN
        .iter()
        .map(|port| {
            format!(
                "    server {{ listen {port}; listen [::]:{port}; return 200 \"secrets\\n\"; }}\n"
            )
        })
        .collect();
    format!(
        "user root root;\n\
         daemon off;\n\
         worker_processes 1;\n\
         pid {STATE}/nginx.pid;\n\
         error_log stderr warn;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n    access_log off;\n    default_type text/html;\n{temporary}    \
         server {{ listen {WEB}; listen [::]:{WEB}; root {STATE}/www; }}\n{forgotten}}}\n"
    )
}
