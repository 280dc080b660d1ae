//! The service, as systemd runs it: a stand-in that does what takes all of its rights.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::GUARDED;
use crate::machine::Machine;

/// How long systemd may take to start it again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Guards the interface by its rule file, tries what else asks the kernel, and says that it is there.
const STAND_IN: &str = r#"#!/bin/bash
set -e
firewall apply /etc/firewall/GUARDED.toml -i GUARDED
firewall doctor -i GUARDED
firewall stats -i GUARDED
firewall ban 198.51.100.7 -i GUARDED --for 1h
firewall explain tcp from 203.0.113.9 to :22 -i GUARDED
touch /var/lib/firewall/bans.json
if touch /etc/firewall/GUARDED.toml || touch /usr/sbin/firewall; then exit 1; fi
systemd-notify --ready
while systemd-notify WATCHDOG=1; do sleep 1; done
"#;

/// Has the unit run the stand-in.
pub(crate) fn stand_in(machine: &Machine) -> Result<()> {
    let script = STAND_IN.replace("GUARDED", GUARDED);
    machine.run(&format!(
        "cat > /usr/local/sbin/stand-in <<'END'\n{script}END\nchmod +x /usr/local/sbin/stand-in\n\
         mkdir -p /etc/systemd/system/firewall.service.d\n\
         cat > /etc/systemd/system/firewall.service.d/stand-in.conf <<'END'\n\
         [Service]\nExecStart=\nExecStart=/usr/local/sbin/stand-in\nNotifyAccess=all\nEND"
    ))?;
    Ok(())
}

/// Whether it runs and has said that it is ready.
pub(crate) fn is_active(machine: &Machine) -> Result<bool> {
    Ok(machine.run("systemctl is-active firewall || true")? == "active\n")
}

/// Waits until it runs and has said that it is ready.
pub(crate) fn wait_until_active(machine: &Machine) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_active(machine)? {
        ensure!(Instant::now() < deadline, "{}", said(machine)?);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The process that systemd has started last.
pub(crate) fn process(machine: &Machine) -> Result<String> {
    machine.run("systemctl show --property ExecMainPID firewall")
}

/// What it and systemd have said.
pub(crate) fn said(machine: &Machine) -> Result<String> {
    machine.run("systemctl --no-pager --full status firewall || true; journalctl --no-pager --unit firewall || true")
}
