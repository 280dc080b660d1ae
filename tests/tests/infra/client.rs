//! Clients of the site: curl, one connection a request unless told, and a load of requests that goes on while things happen.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use firewall_tests::infra::design::SITE_NAME;
use firewall_tests::infra::{Machine, Site, network};

/// How long a request may take, in seconds.
const PATIENCE_S: &str = "5";

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The code of HTTP.
    pub(crate) status: u16,
    /// Headers and, behind an empty line, the body.
    pub(crate) text: String,
}

impl Answer {
    /// The web server that has answered.
    pub(crate) fn served_by(&self) -> Option<&str> {
        let mut lines = self.text.lines();
        lines.find_map(|line| line.strip_prefix("x-served-by: "))
    }

    pub(crate) fn body(&self) -> &str {
        let behind = self.text.split_once("\r\n\r\n");
        behind.map_or("", |(_, body)| body).trim_end()
    }
}

/// curl on a machine, which takes the site to be at `address`.
pub(crate) fn curl(machine: &Machine, address: IpAddr) -> Command {
    let mut command = machine.command("curl");
    command
        .args(["--disable", "--silent", "--show-error", "--noproxy", "*"])
        .args(["--max-time", PATIENCE_S, "--cacert", "/run/site.crt"])
        .arg("--resolve")
        .arg(format!("{SITE_NAME}:443:{}", network::in_url(address)));
    command
}

/// Asks the site at `address` for a path over HTTPS; `more` goes to curl.
pub(crate) fn ask(machine: &Machine, address: IpAddr, path: &str, more: &[&str]) -> Result<Answer> {
    let mut command = curl(machine, address);
    command
        .arg("--include")
        .args(more)
        .arg(format!("https://{SITE_NAME}{path}"));
    let text = machine.run(&mut command)?.success()?;
    let status = text.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer { status, text })
}

/// Gets a page that has to be there.
pub(crate) fn get(machine: &Machine, address: IpAddr, path: &str) -> Result<Answer> {
    let answer = ask(machine, address, path, &[])?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(answer)
}

/// Writes a note; its number.
pub(crate) fn write(machine: &Machine, address: IpAddr, note: &str) -> Result<u64> {
    let answer = ask(machine, address, "/notes", &["--data-binary", note])?;
    ensure!(answer.status == 200, "writing: {answer:?}");
    Ok(answer.body().parse()?)
}

/// What has become of requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// How many were answered with 200.
    pub(crate) served: u64,
    /// The others: when each was given up, and what curl said.
    pub(crate) failed: Vec<(Instant, String)>,
    /// The longest time without an answer.
    pub(crate) longest_gap: Duration,
}

/// Requests until it is stopped.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<Tally>>,
}

/// Between requests of a worker: the machine has other things to do as well.
const PAUSE: Duration = Duration::from_millis(40);

/// Requests on one connection of the worker that keeps them open.
const PER_CONNECTION: u64 = 20;

impl Load {
    /// Begins: at each address one that connects anew for each request, every other of them a write, and one that keeps its
    /// connections for [`PER_CONNECTION`] requests.
    pub(crate) fn start(site: &Site, addresses: &[IpAddr]) -> Result<Self> {
        let is_over = Arc::<AtomicBool>::default();
        let mut workers = Vec::new();
        for address in addresses {
            let client = site.machine("client")?;
            let mut note = curl(client, *address);
            note.args(["--write-out", "%{http_code}\n", "--output", "/dev/null"])
                .args(["--data-binary", "written under load"])
                .arg(format!("https://{SITE_NAME}/notes"));
            let mut page = curl(client, *address);
            page.args(["--write-out", "%{http_code}\n", "--output", "/dev/null"])
                .arg(format!("https://{SITE_NAME}/"));
            let mut many = curl(client, *address);
            many.args(["--write-out", "%{http_code}\n", "--output", "/dev/null"])
                .arg(format!("https://{SITE_NAME}/?[1-{PER_CONNECTION}]"));
            let single = vec![(page, 1), (note, 1)];
            for commands in [single, vec![(many, PER_CONNECTION)]] {
                let is_over = Arc::clone(&is_over);
                workers.push(thread::spawn(move || work(commands, &is_over)));
            }
        }
        Ok(Self { is_over, workers })
    }

    /// Ends it; what became of all requests.
    pub(crate) fn stop(self) -> Result<Tally> {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for worker in self.workers {
            let Ok(tally) = worker.join() else {
                bail!("a worker has panicked");
            };
            all.served += tally.served;
            all.failed.extend(tally.failed);
            all.longest_gap = all.longest_gap.max(tally.longest_gap);
        }
        Ok(all)
    }
}

/// Runs the commands in turn; each is for so many requests.
fn work(mut commands: Vec<(Command, u64)>, is_over: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut last = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        for (command, requests) in &mut commands {
            let (served, said) = match command.output() {
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let served = text.lines().filter(|line| *line == "200").count() as u64;
                    (served, text + &String::from_utf8_lossy(&output.stderr))
                }
                Err(error) => (0, error.to_string()),
            };
            tally.served += served;
            if served > 0 {
                tally.longest_gap = tally.longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            if served < *requests {
                tally.failed.push((Instant::now(), said));
            }
            thread::sleep(PAUSE);
        }
    }
    tally
}
