//! The firewall on a server: its rule file in force, and its service for monitoring.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::machine::{INTERFACE, Machine};
use crate::net::traffic::wait_at_most;
use crate::net::{Daemon, Outcome, Stats, workspace};

/// How long a service may take to listen, on a machine that does much else.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Where the rule file is, on the machine, as the package has it.
pub const RULES: &str = "/etc/firewall/eth0.toml";

/// Puts the rule file of its role in force, as it is; what the command said.
///
/// # Errors
///
/// It is refused, or the kernel says that nothing is attached.
pub fn apply(machine: &Machine) -> Result<String> {
    let rules = machine.server.role.rules().context("it is not guarded")?;
    machine.write(RULES, &fs::read_to_string(workspace().join(rules))?)?;
    let said = firewall(machine, &["apply", RULES, "-i", INTERFACE])?.success()?;
    let link = machine.must(&format!("ip link show dev {INTERFACE}"))?;
    if !link.contains("prog/xdp") {
        bail!("{}: nothing is attached: {link}", machine.name());
    }
    Ok(said)
}

/// Starts `firewall serve`, on all addresses, for the monitoring server; rules say who may ask.
pub(super) fn serve(machine: &Machine) -> Result<Daemon> {
    let mut command = machine.command("firewall");
    command.args([
        "serve",
        "--rules-dir",
        "/etc/firewall",
        "--listen",
        "[::]:9590",
    ]);
    let service = machine.service("firewall", &mut command, "")?;
    wait_until_it_listens(machine, 9590)?;
    Ok(service)
}

/// Runs `firewall` to its end.
///
/// # Errors
///
/// If it cannot be started.
pub fn firewall(machine: &Machine, arguments: &[&str]) -> Result<Outcome> {
    machine.run(machine.command("firewall").args(arguments))
}

/// The counters.
///
/// # Errors
///
/// If `firewall stats` fails, or says anything else than is documented.
pub fn stats(machine: &Machine) -> Result<Stats> {
    let arguments = ["stats", "-i", INTERFACE, "--format", "json"];
    let text = firewall(machine, &arguments)?.success()?;
    serde_json::from_str(&text).with_context(|| format!("not the documented JSON: {text}"))
}

/// Waits until somebody listens on a TCP port of the machine.
pub(super) fn wait_until_it_listens(machine: &Machine, port: u16) -> Result<()> {
    let listens = || -> Result<bool> {
        let place = format!(":{port:04X} ");
        let table = |file: &str| {
            fs::read_to_string(Path::new("/proc").join(format!("{}/net/{file}", machine.init())))
        };
        let tables = [table("tcp")?, table("tcp6")?].concat();
        // The state 0A is LISTEN.
        Ok(tables.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            matches!(words[..], [_, local, _, "0A", ..] if format!("{local} ").ends_with(&place))
        }))
    };
    wait_at_most(
        PATIENCE,
        &format!("{} listens on {port}", machine.name()),
        listens,
    )
}
