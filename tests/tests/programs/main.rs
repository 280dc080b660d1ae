//! Real programs through a guarded interface: what hosts depend on goes on working, and what looks like it does not pass.
//!
//! The host inside is guarded, and drops what no rule accepts; the programs come from Debian's packages.

mod address;
mod bans;
mod clock;
mod downloads;
mod failover;
mod leases;
mod logins;
mod names;
mod path_mtu;
mod readme;
mod sessions;
mod traces;

use std::process::Command;

use anyhow::Result;
use firewall_tests::net::{Daemon, Lab};

/// Starts dnsmasq on the host outside, with nothing of the system's configuration.
fn dnsmasq(lab: &Lab, arguments: &[String]) -> Result<Daemon> {
    let mut command = Command::new("dnsmasq");
    command
        .args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
        ])
        .args(["--no-resolv", "--no-hosts", "--user=root", "--pid-file="])
        .args(arguments);
    let log = lab.directory().join("dnsmasq.log");
    Daemon::start(&lab.outside, &mut command, &log, "started, version")
}

/// Writes the users that sshd wants, `passwd` and `shadow`, to the directory of the test.
fn users(lab: &Lab) -> Result<()> {
    let directory = lab.directory().display();
    lab.write(
        "passwd",
        &format!(
            "root:x:0:0::{directory}:/bin/sh\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
        ),
    )?;
    lab.write(
        "shadow",
        "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n",
    )?;
    Ok(())
}
