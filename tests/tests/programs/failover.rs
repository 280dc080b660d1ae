//! Two hosts that share an address by VRRP: the guarded one stands by until the other is gone.

use std::process::Command;

use anyhow::{Result, ensure};
use firewall_tests::net::traffic::{PATIENCE, wait_until};
use firewall_tests::net::{Daemon, Host, Lab, MODES, rules};

const SHARED: &str = "203.0.113.10";

/// Starts keepalived; the one with the higher priority is to have the address.
fn keepalived(lab: &Lab, host: &Host, priority: u8) -> Result<Daemon> {
    let interface = host.interface();
    let configuration = format!(
        "vrrp_instance shared {{\n state BACKUP\n interface {interface}\n virtual_router_id 51\n priority {priority}\n \
         version 3\n advert_int 0.2\n virtual_ipaddress {{ {SHARED}/32 dev {interface} }}\n}}\n"
    );
    let file = lab.write(&format!("keepalived-{interface}.conf"), &configuration)?;
    let place = |what: &str| {
        lab.directory()
            .join(format!("keepalived-{interface}.{what}"))
    };
    let mut command = Command::new("keepalived");
    command
        .args([
            "--dont-fork",
            "--log-console",
            "--no-syslog",
            "--log-detail",
            "--vrrp",
        ])
        .arg("--use-file")
        .arg(file)
        .arg("--pid")
        .arg(place("pid"))
        .arg("--vrrp_pid")
        .arg(place("vrrp-pid"));
    Daemon::start(host, &mut command, &place("log"), "Entering BACKUP STATE")
}

fn has_address(host: &Host) -> Result<bool> {
    let text = host.ip(&format!("-4 address show dev {}", host.interface()))?;
    Ok(text.contains(SHARED))
}

#[test]
fn the_guarded_one_stands_by_and_takes_over() -> Result<()> {
    const VRRP: &str =
        r#"name = "vrrp"; action = "accept"; protocol = "vrrp"; from = ["192.0.2.0/24"]"#;
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[VRRP]), mode)?;
        let master = keepalived(&lab, &lab.outside, 150)?;
        wait_until("the one outside has the address", || {
            has_address(&lab.outside)
        })?;
        let _backup = keepalived(&lab, &lab.inside, 100)?;
        // It would take over when it has heard nothing for three intervals, 0.6 s, and a little more.
        let before = lab.stats()?.rule("vrrp");
        std::thread::sleep(PATIENCE / 2);
        ensure!(
            !has_address(&lab.inside)?,
            "{mode}: it takes over from a master that is there"
        );
        ensure!(
            has_address(&lab.outside)?,
            "{mode}: the master lost the address"
        );
        ensure!(
            lab.stats()?.rule("vrrp") > before,
            "{mode}: no advertisement came"
        );

        drop(master);
        wait_until("the guarded one takes over", || has_address(&lab.inside))?;
    }
    Ok(())
}

/// The near miss: without the rule it hears nothing of the other, and both have the address.
#[test]
fn without_a_rule_both_are_master() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[]), "native")?;
    let _master = keepalived(&lab, &lab.outside, 150)?;
    wait_until("the one outside has the address", || {
        has_address(&lab.outside)
    })?;
    let _backup = keepalived(&lab, &lab.inside, 100)?;
    wait_until("the guarded one takes the address too", || {
        has_address(&lab.inside)
    })?;
    ensure!(has_address(&lab.outside)?, "the master gave way");
    lab.stats_when(|stats| stats.dropped("no-rule") > 0)?;
    Ok(())
}
