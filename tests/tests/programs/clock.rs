//! The time of day: asked by NTP, told, and never set, since the clock is that of the whole machine.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::{Daemon, Lab, MODES, Outcome, rules};

/// chronyd with a configuration of this test's own; without control of the clock, and without sockets for commands.
fn chronyd(lab: &Lab, name: &str, configuration: &str) -> Result<Command> {
    let pid = lab.directory().join(format!("{name}.pid"));
    let text = format!(
        "{configuration}\ncmdport 0\nbindcmdaddress /\npidfile {}\n",
        pid.display()
    );
    let file = lab.write(&format!("{name}.conf"), &text)?;
    let mut command = Command::new("chronyd");
    command.args(["-x", "-u", "root", "-f"]).arg(file);
    Ok(command)
}

/// Asks a server once.
fn ask(lab: &Lab, server: IpAddr, patience: &str) -> Result<Outcome> {
    let configuration = format!("server {server} iburst maxsamples 1");
    let mut command = chronyd(lab, "client", &configuration)?;
    lab.inside.run(command.args(["-Q", "-t", patience]))
}

#[test]
fn the_time_is_told() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let mut server = chronyd(&lab, "server", "local stratum 8\nallow all")?;
        let log = lab.directory().join("chronyd.log");
        let _server = Daemon::start(&lab.outside, server.arg("-d"), &log, "chronyd version")?;
        lab.apply(&rules(&[]), mode)?;
        for address in [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)] {
            let before = lab.stats()?.passed("answer");
            let outcome = ask(&lab, address, "15")?;
            let said = outcome.stderr.clone();
            outcome
                .success()
                .with_context(|| format!("{mode}, {address}"))?;
            ensure!(
                said.contains("System clock wrong by"),
                "{mode}, {address}: {said}"
            );
            ensure!(said.contains("(ignored)"), "{mode}, {address}: {said}");
            ensure!(lab.stats()?.passed("answer") > before, "{mode}, {address}");
        }
        ensure!(
            lab.stats()?.totals.dropped.packets == 0,
            "{mode}: {:#?}",
            lab.stats()?
        );
    }
    Ok(())
}

/// The near miss: nobody may ask this host, which would be an amplifier.
#[test]
fn a_time_server_that_no_rule_serves_is_not_reached() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let mut server = chronyd(&lab, "server", "local stratum 8\nallow all")?;
    let log = lab.directory().join("chronyd.log");
    let _server = Daemon::start(&lab.inside, server.arg("-d"), &log, "chronyd version")?;
    let asked = |patience: &str| -> Result<bool> {
        let configuration = format!("server {} iburst maxsamples 1", lab.inside.v4);
        let mut command = chronyd(&lab, "client", &configuration)?;
        let outcome = lab.outside.run(command.args(["-Q", "-t", patience]))?;
        Ok(outcome.code == Some(0))
    };
    ensure!(asked("15")?, "without a firewall it answers");
    lab.apply(&rules(&[]), "native")?;
    ensure!(!asked("3")?, "it answers");
    ensure!(lab.stats()?.dropped("no-rule") > 0);
    lab.apply(
        &rules(&[r#"name = "time"; action = "accept"; protocol = "udp"; ports = ["ntp"]"#]),
        "native",
    )?;
    ensure!(asked("15")?, "with a rule it answers");
    Ok(())
}
