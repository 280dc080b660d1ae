//! A mistake in a rule file does not leave an interface open when the machine starts again.

use std::fs;

use anyhow::{Result, ensure};
use firewall_tests::net::Lab;
use rustix::process::Signal;

use super::{Service, wait_until};
use crate::probe::{InForce, Probe, policy};

/// A list that is part of the policy, from which nobody is let in.
const LIST: &str = "\n[groups]\nlisted = { file = \"listed.txt\" }\n";

#[test]
fn what_was_in_force_last_is_so_again_where_the_file_is_broken() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let list = lab.write("listed.txt", "198.51.100.0/24\n")?;
    let file = lab.write("a.toml", &(policy(InForce::A) + LIST))?;
    let guard = format!("{interface}={}", file.display());
    let start = || Service::start(&lab, &["--guard", &guard]);
    // As if the machine went down: what is pinned is gone with it.
    let go_down = |mut service: Service, signal: Signal| -> Result<()> {
        service.daemon.signal(signal)?;
        service.daemon.wait()?;
        drop(service);
        fs::remove_dir_all(lab.inside.pins())?;
        wait_until("it is off", || Ok(lab.inside.attached()?.is_none()))
    };
    go_down(start()?, Signal::KILL)?;

    for broken in ["its text", "its list"] {
        match broken {
            "its text" => fs::write(&file, "version = 1\nrule = 7\n")?,
            _ => {
                fs::write(&file, policy(InForce::A) + LIST)?;
                fs::remove_file(&list)?;
            }
        }
        let service = start()?;
        let said = service.daemon.said()?;
        let in_force = Probe::new(&lab)?.in_force()?;
        ensure!(in_force == InForce::A, "{broken}: {in_force:?}: {said}");
        ensure!(
            said.contains("what was in force last is so again"),
            "{said}"
        );
        let failures = service.metrics()?.value(
            "firewall_reload_failures_total",
            &[("interface", interface)],
        )?;
        ensure!(failures == 1.0, "{failures}");
        go_down(service, Signal::TERM)?;
    }

    // What is mended counts, and is what is kept from then on; also what a command has put in force.
    lab.write("a.toml", &policy(InForce::A))?;
    let service = start()?;
    lab.write("a.toml", &policy(InForce::B))?;
    lab.apply_file(&file, &[])?;
    go_down(service, Signal::TERM)?;
    fs::write(&file, "nonsense")?;
    let service = start()?;
    ensure!(Probe::new(&lab)?.in_force()? == InForce::B);

    // It goes with the firewall.
    lab.inside
        .firewall(&["detach", "-i", interface])?
        .success()?;
    drop(service);
    let service = start()?;
    ensure!(lab.inside.attached()?.is_none());
    let said = service.daemon.said()?;
    ensure!(said.contains("it is NOT guarded"), "{said}");
    Ok(())
}
