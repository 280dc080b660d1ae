//! A lease by DHCP: obtained and renewed while everything else is refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{udp, udp_from, wait_until};
use firewall_tests::net::{Daemon, Lab, MODES, rules};
use rustix::process::Signal;

use crate::dnsmasq;

/// What the client calls with what it has learnt: it changes this namespace's interface, and no file of the system.
const SCRIPT: &str = r#"#!/bin/sh
echo "lease: $1 $ip"
if [ "$1" = bound ]; then ip address add "$ip/24" dev "$interface"; fi
"#;

fn server(lab: &Lab) -> Result<Daemon> {
    let directory = lab.directory().display();
    dnsmasq(
        lab,
        &[
            "--port=0".to_owned(),
            "--dhcp-range=192.0.2.100,192.0.2.110,2m".to_owned(),
            format!("--dhcp-leasefile={directory}/leases"),
            "--dhcp-authoritative".to_owned(),
            // It would wait for three seconds for whoever has the address already.
            "--no-ping".to_owned(),
            format!("--interface={}", lab.outside.interface()),
            "--bind-interfaces".to_owned(),
        ],
    )
}

fn client(lab: &Lab) -> Result<Command> {
    let script = lab.write("script", SCRIPT)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    let mut command = Command::new("busybox");
    command
        .args([
            "udhcpc",
            "-f",
            "-n",
            "-t",
            "4",
            "-T",
            "1",
            "-i",
            lab.inside.interface(),
            "-s",
        ])
        .arg(script);
    Ok(command)
}

#[test]
fn a_lease_is_obtained_and_renewed() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[]), mode)?;
        let server = server(&lab)?;
        let log = lab.directory().join("udhcpc.log");
        let mut client = Daemon::start(
            &lab.inside,
            &mut client(&lab)?,
            &log,
            "lease: bound 192.0.2.1",
        )
        .with_context(|| mode.to_owned())?;
        let before = lab.stats()?.passed("dhcp-client");
        ensure!(before >= 2, "{mode}, offer and acknowledgement: {before}");

        client.signal(Signal::USR1)?;
        client.wait_for("lease: renew 192.0.2.1")?;
        // The client asks again if its socket for the question takes the answer, so there may be more than one.
        wait_until("each of the server's answers is counted", || {
            let said = server.said()?;
            let [offered, acknowledged] =
                ["DHCPOFFER", "DHCPACK"].map(|what| said.matches(what).count());
            let passed = lab.stats()?.passed("dhcp-client");
            Ok(acknowledged >= 2 && passed == (offered + acknowledged) as u64)
        })
        .with_context(|| mode.to_owned())?;
        let stats = lab.stats()?;
        ensure!(stats.totals.dropped.packets == 0, "{mode}: {stats:#?}");
    }
    Ok(())
}

/// The near misses: that it is this essential, and that other ports are not the client's.
#[test]
fn no_lease_is_obtained_where_the_file_says_so() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(
        &(rules(&[]) + "\n[essentials]\ndhcp-client = false\n"),
        "native",
    )?;
    let server = server(&lab)?;
    let outcome = lab.inside.run(&mut client(&lab)?)?;
    ensure!(outcome.code == Some(1), "it has a lease: {outcome}");
    ensure!(
        server.said()?.contains("DHCPOFFER"),
        "nobody offered any: {}",
        server.said()?
    );
    ensure!(lab.stats()?.dropped("no-rule") >= 1, "{:#?}", lab.stats()?);
    drop(server);

    lab.apply(&rules(&[]), "native")?;
    let before = lab.stats()?.dropped("no-rule");
    let receiver = udp(&lab.inside, 68)?;
    let other = udp_from(&lab.outside, lab.outside.v4)?;
    other.send_to(b"not from a server's port", (lab.inside.v4, 68))?;
    ensure!(receiver.recv(&mut [0; 64]).is_err(), "it arrived");
    ensure!(lab.stats()?.dropped("no-rule") == before + 1);
    Ok(())
}

/// Where nothing may leave that no rule names, the client's questions do, unless the file says that they do not.
#[test]
fn a_lease_is_asked_for_though_nothing_else_may_leave() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let closed = rules(&[]) + "\n[defaults]\negress = \"drop\"\n";
    lab.apply(
        &format!("{closed}\n[essentials]\ndhcp-client = false\n"),
        "native",
    )?;
    let server = server(&lab)?;
    let outcome = lab.inside.run(&mut client(&lab)?)?;
    ensure!(outcome.code == Some(1), "it has a lease: {outcome}");
    ensure!(
        !server.said()?.contains("DHCPDISCOVER"),
        "it was asked: {}",
        server.said()?
    );
    let stats = lab.stats()?;
    // As often as the client asks.
    ensure!(stats.dropped("egress-no-rule") >= 4, "{stats:#?}");

    lab.apply(&closed, "native")?;
    let before = lab.stats()?;
    let log = lab.directory().join("udhcpc.log");
    let mut client = Daemon::start(
        &lab.inside,
        &mut client(&lab)?,
        &log,
        "lease: bound 192.0.2.1",
    )?;
    client.signal(Signal::USR1)?;
    client.wait_for("lease: renew 192.0.2.1")?;
    let stats = lab.stats()?;
    // Discover, request, and the request to renew.
    ensure!(
        stats.passed("egress-essential") >= before.passed("egress-essential") + 3,
        "{stats:#?}"
    );
    ensure!(stats.egress.dropped == before.egress.dropped, "{stats:#?}");
    Ok(())
}
