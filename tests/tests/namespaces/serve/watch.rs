//! Rule files are applied when they change, and what is wrong with them leaves what is in force.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use firewall_tests::net::Lab;
use rustix::process::Signal;

use super::{Service, wait_until};
use crate::probe::{InForce, Probe, policy};

/// What a service is told that watches the lab's folder of rules.
fn arguments(lab: &Lab) -> Result<(PathBuf, String)> {
    let folder = lab.directory().join("rules");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.toml", lab.inside.interface()));
    Ok((file, folder.display().to_string()))
}

fn is_in_force(probe: &Probe, expected: InForce) -> Result<()> {
    wait_until(&format!("{expected:?}"), || {
        Ok(probe.in_force()? == expected)
    })
}

#[test]
fn what_is_changed_is_applied_and_what_is_broken_is_not() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let of_interface = [("interface", interface)];
    let (file, folder) = arguments(&lab)?;
    fs::write(&file, policy(InForce::A))?;
    let service = Service::start(&lab, &["--rules-dir", &folder, "--watch"])?;
    let probe = Probe::new(&lab)?;
    ensure!(probe.in_force()? == InForce::A, "guarded when it is ready");
    let failures = |expected: f64| {
        wait_until("failures", || {
            let metrics = service.metrics()?;
            Ok(metrics.find("firewall_reload_failures_total", &of_interface) == Some(expected))
        })
    };
    failures(0.0)?;
    ensure!(
        service
            .metrics()?
            .value("firewall_reload_success_timestamp_seconds", &of_interface)?
            > 1e9
    );

    // As editors save: beside, and renamed over.
    let beside = lab.write("rules/.new", &policy(InForce::B))?;
    fs::rename(&beside, &file)?;
    is_in_force(&probe, InForce::B)?;

    fs::write(
        &file,
        "version = 1\n[[rule]]\nname = \"x\"\naction = \"acept\"\n",
    )?;
    failures(1.0)?;
    ensure!(probe.in_force()? == InForce::B);
    let said = service.daemon.said()?;
    ensure!(
        said.contains("did you mean") && said.contains("what is in force stays so"),
        "{said}"
    );

    // Assertions are kept here as everywhere.
    let asserts =
        "\n[[assert]]\npacket = \"tcp to :22\"\nexpect = \"accept\"\nmessage = \"we can log in\"\n";
    fs::write(&file, policy(InForce::A) + asserts)?;
    failures(2.0)?;
    ensure!(probe.in_force()? == InForce::B);
    ensure!(service.daemon.said()?.contains("we can log in"));

    fs::write(&file, policy(InForce::A))?;
    is_in_force(&probe, InForce::A)?;
    // A file that is gone changes nothing.
    fs::remove_file(&file)?;
    thread::sleep(Duration::from_secs(1));
    ensure!(probe.in_force()? == InForce::A);
    fs::write(&file, policy(InForce::B))?;
    is_in_force(&probe, InForce::B)
}

#[test]
fn what_is_watched_can_be_on_trial() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (file, folder) = arguments(&lab)?;
    fs::write(&file, policy(InForce::A))?;
    let arguments = ["--rules-dir", &folder, "--watch", "--confirm", "4s"];
    let service = Service::start(&lab, &arguments)?;
    let probe = Probe::new(&lab)?;
    ensure!(probe.in_force()? == InForce::A);
    fs::write(&file, policy(InForce::B))?;
    is_in_force(&probe, InForce::B)?;
    let remaining = service
        .metrics()?
        .sum("firewall_policy_confirmation_remaining_seconds", &[]);
    ensure!((1.0..=4.0).contains(&remaining), "{remaining}");
    is_in_force(&probe, InForce::A)?;
    // The same is not tried again by itself, but confirmed it stays.
    thread::sleep(Duration::from_secs(2));
    ensure!(probe.in_force()? == InForce::A);
    fs::write(&file, policy(InForce::B) + "# again\n")?;
    is_in_force(&probe, InForce::B)?;
    lab.inside.firewall(&["confirm"])?.success()?;
    thread::sleep(Duration::from_secs(5));
    ensure!(probe.in_force()? == InForce::B);
    Ok(())
}

/// What nobody has confirmed does not come back by itself, be it the file that is watched.
#[test]
fn what_was_not_confirmed_is_not_applied_again() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (file, folder) = arguments(&lab)?;
    fs::write(&file, policy(InForce::A))?;
    let service = Service::start(&lab, &["--rules-dir", &folder, "--watch"])?;
    let probe = Probe::new(&lab)?;
    ensure!(probe.in_force()? == InForce::A);
    fs::write(&file, policy(InForce::B))?;
    lab.apply_file(&file, &["--confirm", "5s"])?;
    ensure!(probe.in_force()? == InForce::B);
    is_in_force(&probe, InForce::A)?;
    wait_until("it is told", || {
        Ok(service.daemon.said()?.contains("which nobody confirmed"))
    })?;
    ensure!(probe.in_force()? == InForce::A);
    // Once it is another it is applied.
    fs::write(&file, policy(InForce::B) + "# again\n")?;
    is_in_force(&probe, InForce::B)
}

/// A list of a file that the service has not applied itself is watched like any other, and an edit that is saved has been made already.
#[test]
fn lists_are_watched_from_the_start_and_edits_are_not_made_twice() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (file, folder) = arguments(&lab)?;
    let list = file.with_file_name("guests.txt");
    fs::write(&list, "192.0.2.77\n")?;
    let text = "version = 1\n[groups]\nguests = { file = \"guests.txt\" }\n[[rule]]\nname = \"game\"\n\
                action = \"accept\"\nprotocol = \"udp\"\nports = [7000]\nfrom = [\"guests\"]\n";
    fs::write(&file, text)?;
    lab.apply_file(&file, &[])?;
    let arguments = ["--rules-dir", &folder, "--watch", "--confirm", "1h"];
    let _service = Service::start(&lab, &arguments)?;
    let interface = lab.inside.interface();
    let edits = [
        ("add", "192.0.2.1"),
        ("add", "192.0.2.0"),
        ("remove", "192.0.2.1"),
    ];
    for (verb, address) in edits {
        let edit = ["group", verb, "guests", address, "--save", "-i", interface];
        lab.inside.firewall(&edit)?.success()?;
    }
    // Longer than it takes for a change to settle.
    thread::sleep(Duration::from_secs(3));
    ensure!(lab.stats()?.generation == 4, "{}", lab.stats()?.generation);
    fs::write(&list, "192.0.2.77\n192.0.2.78\n")?;
    wait_until("the list is applied", || Ok(lab.stats()?.generation == 5))?;
    lab.inside.firewall(&["confirm"])?.success()?;
    Ok(())
}

#[test]
fn without_watch_a_signal_has_files_applied() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (file, _) = arguments(&lab)?;
    fs::write(&file, policy(InForce::A))?;
    // What is guarded already is left as it is.
    lab.apply(&policy(InForce::B), "native")?;
    let guard = format!("{}={}", lab.inside.interface(), file.display());
    let service = Service::start(&lab, &["--guard", &guard])?;
    let probe = Probe::new(&lab)?;
    ensure!(probe.in_force()? == InForce::B);
    fs::write(&file, policy(InForce::A) + "# other\n")?;
    thread::sleep(Duration::from_secs(1));
    ensure!(probe.in_force()? == InForce::B);
    service.daemon.signal(Signal::HUP)?;
    is_in_force(&probe, InForce::A)
}
