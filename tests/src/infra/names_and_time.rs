//! What every server asks: names and the time.

use std::fmt::Write as _;

use anyhow::Result;

use super::design::{SERVERS, SITE, SITE_NAME};
use super::machine::Machine;
use crate::net::Daemon;

/// Starts a resolver that knows the site and its servers.
pub(super) fn names(machine: &Machine) -> Result<Daemon> {
    let mut text = format!(
        "keep-in-foreground\nlog-facility=-\nno-resolv\nno-hosts\nuser=nobody\npid-file=\nhost-record={SITE_NAME},{},{}\n",
        SITE[0], SITE[1]
    );
    for server in SERVERS {
        let _ = writeln!(
            text,
            "host-record={}.example.test,{},{}",
            server.name, server.v4, server.v6
        );
    }
    machine.write("/etc/dnsmasq.conf", &text)?;
    let mut command = machine.command("dnsmasq");
    command.arg("--conf-file=/etc/dnsmasq.conf");
    machine.service("dnsmasq", &mut command, "started, version")
}

/// Starts a time server, which keeps to this machine's clock and never sets it.
pub(super) fn time(machine: &Machine) -> Result<Daemon> {
    machine.write(
        "/etc/chrony.conf",
        "local stratum 8\nallow all\ncmdport 0\nbindcmdaddress /\npidfile /run/chronyd.pid\n",
    )?;
    let mut command = machine.command("chronyd");
    command.args(["-x", "-u", "root", "-d", "-f", "/etc/chrony.conf"]);
    machine.service("chronyd", &mut command, "chronyd version")
}
