//! A policy on trial: what nobody confirms goes back by itself, and any of the last generations can be had again.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, reaches, tcp, udp, udp_from};
use firewall_tests::net::{Lab, firewall};
use serde_json::Value;

use crate::MODES;
use crate::probe::{InForce, Probe, TCP, policy};

/// How long a trial lasts here.
const TRIAL: &str = "3s";
const TRIAL_TIME: Duration = Duration::from_secs(3);
/// How much later than that the kernel may go back: a jiffy of 100 Hz, and what the probe takes, on a busy machine.
const LATE: Duration = Duration::from_millis(1500);

#[test]
fn what_nobody_confirms_gives_way_to_what_was_before() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&policy(InForce::A), mode)?;
        let probe = Probe::new(&lab)?;
        let file = lab.write("b.toml", &policy(InForce::B))?;
        let before = Instant::now();
        let said = lab.apply_file(&file, &["--confirm", TRIAL])?;
        let applied = Instant::now();
        ensure!(said.contains("generation 1 is in force again"), "{said}");
        // Nothing of ours runs: the command has ended, and the one process that looks on is killed.
        let mut watch =
            lab.inside
                .start_firewall(&["stats", "-i", lab.inside.interface(), "--watch"])?;
        watch.kill()?;
        watch.wait()?;
        ensure!(probe.in_force()? == InForce::B, "{mode}: not applied");
        let mut seen = InForce::B;
        let back = loop {
            let found = probe.in_force()?;
            match (seen, found) {
                (InForce::B, InForce::A) => break Instant::now(),
                (InForce::B, InForce::B) => {}
                other => anyhow::bail!("{mode}: {other:?}"),
            }
            seen = found;
            ensure!(
                applied.elapsed() < TRIAL_TIME + LATE,
                "{mode}: it never went back"
            );
        };
        // Whole seconds, from some moment within the apply.
        ensure!(
            back - before > TRIAL_TIME,
            "{mode}: back after {:?}",
            back - before
        );
        println!(
            "{mode}: back {:?} after the apply had ended, a trial of {TRIAL}",
            back - applied
        );

        let status = lab.inside.firewall(&["status"])?.success()?;
        ensure!(
            status.contains("generation 1 since")
                && status.contains("generation 2 was not confirmed in time"),
            "{status}"
        );
        let late = lab.inside.firewall(&["confirm"])?.failure(1)?;
        ensure!(late.contains("too late"), "{late}");
        ensure!(
            probe.in_force()? == InForce::A,
            "{mode}: a late confirmation counts"
        );
        ensure!(
            states(&lab)? == ["2 not confirmed", "1 in force"],
            "{:?}",
            states(&lab)?
        );
        // And it goes on from there as ever.
        let said = lab.apply_file(&file, &[])?;
        ensure!(said.contains("generation 3"), "{said}");
        ensure!(probe.in_force()? == InForce::B, "{mode}: not applied again");
    }
    Ok(())
}

#[test]
fn a_first_policy_that_nobody_confirms_lets_everything_in_again() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let said = lab.apply_file(&file, &["--confirm", TRIAL])?;
    ensure!(said.contains("everything is let in again"), "{said}");
    let probe = Probe::new(&lab)?;
    ensure!(probe.in_force()? == InForce::A, "not applied");
    let banned = lab.outside.v4.to_string();
    lab.inside
        .firewall(&["ban", &banned, "--for", "1h"])?
        .success()?;
    thread::sleep(TRIAL_TIME + Duration::from_millis(100));
    ensure!(
        probe.in_force()? == InForce::Nothing,
        "something is refused, or a ban holds"
    );
    let status = lab.inside.firewall(&["status"])?.success()?;
    ensure!(status.contains("EVERYTHING is let in"), "{status}");
    ensure!(
        lab.inside
            .firewall(&["rollback", "-i", lab.inside.interface()])?
            .failure(1)?
            .contains("none before"),
        "there is nothing to go back to"
    );
    // The ban is still there, for the policy to come.
    lab.inside.firewall(&["unban", &banned])?.success()?;
    lab.apply_file(&file, &[])?;
    ensure!(probe.in_force()? == InForce::A, "not applied again");
    Ok(())
}

#[test]
fn what_is_confirmed_stays() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "auto")?;
    let probe = Probe::new(&lab)?;
    let file = lab.write("b.toml", &policy(InForce::B))?;
    lab.apply_file(&file, &["--confirm", TRIAL])?;
    let other = lab.write("c.toml", &policy(InForce::Nothing))?;
    let arguments = [
        "apply",
        other.to_str().context("UTF-8")?,
        "-i",
        lab.inside.interface(),
    ];
    let refused = lab.inside.firewall(&arguments)?.failure(1)?;
    ensure!(refused.contains("firewall confirm"), "{refused}");
    ensure!(
        states(&lab)? == ["2 to be confirmed", "1 "],
        "{:?}",
        states(&lab)?
    );
    let said = lab.inside.firewall(&["confirm"])?.success()?;
    ensure!(said.contains("generation 2 stays"), "{said}");
    let again = lab.inside.firewall(&["confirm"])?.failure(1)?;
    ensure!(again.contains("nothing waits"), "{again}");
    thread::sleep(TRIAL_TIME + Duration::from_millis(100));
    ensure!(
        probe.in_force()? == InForce::B,
        "a confirmed policy went back"
    );
    Ok(())
}

#[test]
fn a_rollback_ends_a_trial_at_once_and_cuts_no_connection() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "auto")?;
    let probe = Probe::new(&lab)?;
    let _server = Echo::start(&lab.inside, TCP)?;
    let target = SocketAddr::new(lab.inside.v4.into(), TCP);
    ensure!(
        tcp(&lab.outside, target, 1000)?,
        "the server is not reached"
    );
    let file = lab.write("b.toml", &policy(InForce::B))?;
    lab.apply_file(&file, &["--confirm", "1h"])?;
    ensure!(probe.in_force()? == InForce::B, "not applied");
    let said = lab
        .inside
        .firewall(&["rollback", "-i", lab.inside.interface()])?
        .success()?;
    ensure!(said.contains("generation 1 is in force again"), "{said}");
    ensure!(probe.in_force()? == InForce::A, "not back");
    ensure!(
        states(&lab)? == ["2 not confirmed", "1 in force"],
        "{:?}",
        states(&lab)?
    );
    ensure!(
        tcp(&lab.outside, target, 1000)?,
        "the server is not reached any more"
    );
    Ok(())
}

/// Generations come back as they were, with the lists that they were applied with, whatever the files are now.
#[test]
fn any_kept_generation_can_be_had_again() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let text = "version = 1\n\n[groups]\nguests = { file = \"guests.txt\" }\n\n[[rule]]\nname = \"game\"\n\
                action = \"accept\"\nprotocol = \"udp\"\nports = [7000]\nfrom = [\"guests\"]\n";
    lab.write("guests.txt", &format!("{}\n", lab.stranger()))?;
    let file = lab.write("rules.toml", text)?;
    lab.apply_file(&file, &[])?;
    let receiver = udp(&lab.inside, 7000)?;
    let sender = udp_from(&lab.outside, lab.stranger())?;
    let target = SocketAddr::new(lab.inside.v4.into(), 7000);
    ensure!(
        reaches(&sender, target, &receiver)?,
        "the stranger is a guest"
    );
    for number in 2..=20 {
        lab.write("guests.txt", &format!("192.0.2.{number}\n"))?;
        lab.apply_file(&file, &[])?;
    }
    ensure!(
        !reaches(&sender, target, &receiver)?,
        "the stranger is no guest any more"
    );
    let kept = states(&lab)?;
    ensure!(kept.len() == 16 && kept[0] == "20 in force", "{kept:?}");
    let gone = lab
        .inside
        .firewall(&["rollback", "-i", interface, "--to", "1"])?
        .failure(1)?;
    ensure!(gone.contains("not kept"), "{gone}");

    lab.write("guests.txt", &format!("{}\n", lab.stranger()))?;
    lab.apply_file(&file, &[])?;
    fs::remove_file(lab.directory().join("guests.txt"))?;
    let said = lab
        .inside
        .firewall(&["rollback", "-i", interface])?
        .success()?;
    ensure!(
        said.contains("generation 20 is in force again, instead of 21"),
        "{said}"
    );
    ensure!(
        !reaches(&sender, target, &receiver)?,
        "the list of generation 20"
    );
    lab.inside
        .firewall(&["rollback", "-i", interface])?
        .success()?;
    ensure!(states(&lab)?[2] == "19 in force", "{:?}", states(&lab)?);
    lab.inside
        .firewall(&["rollback", "-i", interface, "--to", "21"])?
        .success()?;
    ensure!(
        reaches(&sender, target, &receiver)?,
        "the list of generation 21"
    );
    lab.write("guests.txt", "192.0.2.99\n")?;
    let said = lab.apply_file(&file, &[])?;
    ensure!(
        said.contains("generation 22"),
        "numbers are not used twice: {said}"
    );
    Ok(())
}

/// Whoever goes back does not want what they have gone back from, however often they do.
#[test]
fn going_back_once_more_skips_what_somebody_has_gone_back_from() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let rollback = |more: &[&str]| {
        let arguments = [&["rollback", "-i", interface], more].concat();
        lab.inside.firewall(&arguments)
    };
    for which in [InForce::A, InForce::B] {
        lab.apply(&policy(which), "auto")?;
    }
    rollback(&[])?.success()?;
    ensure!(states(&lab)? == ["2 rolled back", "1 in force"]);
    lab.apply(&(policy(InForce::A) + "# another\n"), "auto")?;
    lab.apply(&(policy(InForce::B) + "# another\n"), "auto")?;
    for expected in [3, 1] {
        let said = rollback(&[])?.success()?;
        let expected = format!("generation {expected} is in force again");
        ensure!(said.contains(&expected), "{said}");
    }
    let said = rollback(&[])?.failure(1)?;
    ensure!(said.contains("none before generation 1"), "{said}");
    // Whoever names it wants it.
    rollback(&["--to", "2"])?.success()?;
    let expected = ["4 rolled back", "3 rolled back", "2 in force", "1 "];
    ensure!(states(&lab)? == expected, "{:?}", states(&lab)?);
    // Past several: none of them was wanted.
    rollback(&["--to", "4"])?.success()?;
    rollback(&["--to", "1"])?.success()?;
    lab.apply(&(policy(InForce::A) + "# a third\n"), "auto")?;
    let said = rollback(&[])?.success()?;
    ensure!(said.contains("generation 1 is in force again"), "{said}");
    Ok(())
}

#[test]
fn a_rollback_that_fails_leaves_the_candidate() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let run = |arguments: &[&str]| {
        lab.inside
            .firewall(&[arguments, &["-i", interface]].concat())
    };
    lab.apply(&policy(InForce::A), "auto")?;
    lab.apply(&policy(InForce::B), "auto")?;
    let probe = Probe::new(&lab)?;
    let candidate = lab.write("candidate.toml", &policy(InForce::A))?;
    lab.apply_file(&candidate, &["--shadow"])?;
    let said = run(&["rollback", "--to", "999"])?.failure(1)?;
    ensure!(said.contains("is as it was"), "{said}");
    let said = run(&["shadow"])?.success()?;
    ensure!(said.contains("candidate.toml"), "{said}");
    let said = run(&["rollback"])?.success()?;
    ensure!(said.contains("no candidate is asked any more"), "{said}");
    ensure!(probe.in_force()? == InForce::A);
    run(&["shadow"])?.failure(1)?;
    Ok(())
}

#[test]
fn one_that_is_too_late_keeps_no_other_from_being_confirmed() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let second = format!("{}2", lab.inside.interface());
    lab.inside
        .ip(&format!("link add {second} type veth peer name {second}p"))?;
    lab.apply(&policy(InForce::A), "auto")?;
    let file = lab.write("b.toml", &policy(InForce::B))?;
    lab.apply_file(&file, &["--confirm", "1s"])?;
    let path = file.to_str().context("UTF-8")?;
    let of_second = ["apply", path, "-i", &second, "--confirm", "1h"];
    lab.inside.firewall(&of_second)?.success()?;
    thread::sleep(Duration::from_millis(1100));
    let said = lab.inside.firewall(&["confirm"])?.failure(1)?;
    ensure!(
        said.contains("too late: generation 1 is in force"),
        "{said}"
    );
    let said = lab.inside.firewall(&["confirm"])?.failure(1)?;
    ensure!(said.contains("nothing waits"), "{said}");
    ensure!(states(&lab)? == ["2 not confirmed", "1 in force"]);
    let history = ["history", "-i", &second];
    let said = lab.inside.firewall(&history)?.success()?;
    ensure!(said.contains("in force"), "{said}");
    lab.inside.firewall(&["detach", "-i", &second])?.success()?;
    Ok(())
}

/// What a command does and says by its exit code does not depend on whether somebody reads it.
#[test]
fn without_a_reader_all_is_done() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "auto")?;
    let file = lab.write("b.toml", &policy(InForce::B))?;
    let path = file.to_str().context("UTF-8")?;
    for (arguments, code) in [
        (&["plan", path][..], 3),
        (&["rule", "add", "accept udp 9"], 0),
        (&["rule", "add", "drop any", "--before", "udp 9"], 0),
        (&["plan", path, "--format", "json"], 3),
        (&["apply", path], 0),
        (&["rollback"], 0),
    ] {
        let mut command = Command::new(firewall()?);
        let closed = || -> Result<Stdio> { Ok(std::io::pipe()?.1.into()) };
        command
            .args(arguments)
            .args(["-i", lab.inside.interface()])
            .stdin(Stdio::null())
            .stdout(closed()?)
            .stderr(closed()?);
        let ended = lab.inside.start(&mut command)?.wait()?;
        ensure!(ended.code() == Some(code), "{arguments:?}: {ended}");
    }
    ensure!(states(&lab)?.len() == 4, "{:?}", states(&lab)?);
    Ok(())
}

/// Each generation that is kept, the latest first: its number and its state.
fn states(lab: &Lab) -> Result<Vec<String>> {
    let arguments = ["history", "-i", lab.inside.interface(), "--format", "json"];
    let said = lab.inside.firewall(&arguments)?.success()?;
    let said: Value = serde_json::from_str(&said)?;
    let generations = said[0]["generations"]
        .as_array()
        .context("no generations")?;
    let state = |entry: &Value| {
        format!(
            "{} {}",
            entry["generation"],
            entry["state"].as_str().unwrap_or("?")
        )
    };
    Ok(generations.iter().map(state).collect())
}
