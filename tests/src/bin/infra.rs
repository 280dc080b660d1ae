//! `cargo xtask infra`: the site, from nothing to the map.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use firewall_tests::infra::{Programs, Site, design, map, probe};
use rustix::process::Signal;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What was asked for.
#[derive(Default)]
struct Options {
    keep: bool,
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => options.keep = true,
            "--end-with-parent" => {
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            }
            other => {
                bail!("{other} is not known; usage: firewall-infra [--keep] [--end-with-parent]")
            }
        }
    }
    Ok(options)
}

fn run() -> Result<()> {
    let options = options()?;
    let started = Instant::now();
    say("==> machines, cables and services, none of them guarded");
    let mut site = Site::build(&Programs {
        application: beside("firewall-infra-application")?,
    })?;
    for machine in site.machines() {
        let server = machine.server;
        say(&format!(
            "    {:<7} {:<14} {:<20} {:<14} {}",
            server.name,
            server.v4.to_string(),
            server.v6.to_string(),
            server.role.name(),
            server.role.rules().unwrap_or("not guarded"),
        ));
    }
    let decoys = probe::Decoys::start(&site)?;
    say("==> before: everybody tries every service of everybody");
    let before = look(&site, |_| true)?;
    let closed = before.iter().filter(|seen| !seen.reached).count();
    say(&format!(
        "    {} tries over IPv4 and IPv6, {} arrived",
        before.len(),
        before.len() - closed
    ));
    if closed > 0 {
        let first = before.iter().find(|seen| !seen.reached);
        bail!("without a firewall everything has to arrive, but {first:?}");
    }

    say("==> the rule file of its role is applied on each server");
    let said = site.guard()?;
    for (machine, said) in site.guarded().zip(said) {
        say(&format!("    {:<7} {}", machine.name(), said.trim_end()));
    }
    say("==> after: the same again");
    let after = look(&site, map::is_designed)?;
    drop(decoys);
    let reached = after.iter().filter(|seen| seen.reached).count();
    say(&format!("    {} tries, {reached} arrived", after.len()));
    println!("{}", map::table(&after));
    let differences = map::differences(&after);
    if !differences.is_empty() {
        bail!("not as designed:\n  {}", differences.join("\n  "));
    }
    say(&format!(
        "==> as designed, after {} s",
        started.elapsed().as_secs()
    ));
    if options.keep {
        wait(&site)?;
    }
    Ok(())
}

/// Everybody tries everything, one machine after the other.
fn look(site: &Site, expected: fn(&probe::Seen) -> bool) -> Result<Vec<probe::Seen>> {
    let mut all = Vec::new();
    for machine in site.machines() {
        all.extend(probe::all_from(site, machine, expected)?);
    }
    Ok(all)
}

/// Tells how to get into the machines, and waits until a signal ends this process, and with it all of them.
fn wait(site: &Site) -> Result<()> {
    say("==> it stays until Ctrl-C; in another terminal, a shell on each machine:");
    for machine in site.machines() {
        say(&format!(
            "    {:<7} nsenter --target {} --net --mount --pid --uts --ipc --wd=/ -- bash",
            machine.name(),
            machine.init()
        ));
    }
    let [v4, v6] = design::SITE;
    say(&format!(
        "    the site is {v4} and {v6}, for {}",
        design::SITE_NAME
    ));
    loop {
        std::thread::park();
    }
}

/// A program that was built with this one.
fn beside(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let folder = here.parent().context("this program lies nowhere")?;
    Ok(folder.join(name))
}

fn say(text: &str) {
    eprintln!("{text}");
}
