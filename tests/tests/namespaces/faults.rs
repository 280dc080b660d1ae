//! Processes that are killed, and commands that come at the same time.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use firewall_tests::net::{Lab, Outcome};

use crate::probe::{InForce, Probe, policy};

/// How often `apply` is killed.
const KILLS: u32 = 50;

/// Moments to kill it at, from its start to its end.
const MOMENTS: u32 = 20;

/// Tries, of which some come too late.
const TRIES: u32 = 10 * KILLS;

const SIGKILL: i32 = 9;

/// The two policies as files.
fn files(lab: &Lab) -> Result<[PathBuf; 2]> {
    Ok([
        lab.write("a.toml", &policy(InForce::A))?,
        lab.write("b.toml", &policy(InForce::B))?,
    ])
}

/// Starts an `apply`, kills it after `delay`, and says whether it was still running then.
fn kill_apply(lab: &Lab, file: &std::path::Path, delay: Duration) -> Result<bool> {
    let file = file.to_str().context("a path that is not UTF-8")?;
    let started = Instant::now();
    let mut apply = lab
        .inside
        .start_firewall(&["apply", file, "-i", lab.inside.interface()])?;
    thread::sleep(delay.saturating_sub(started.elapsed()));
    apply.kill()?;
    let outcome = Outcome::from(apply.wait_with_output()?);
    ensure!(
        outcome.code == Some(0) || outcome.signal == Some(SIGKILL),
        "{outcome}"
    );
    Ok(outcome.signal == Some(SIGKILL))
}

/// How long an undisturbed `apply` takes: the median of a few, other tests being at work beside.
fn duration(mut apply: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut durations = [Duration::ZERO; 5];
    for duration in &mut durations {
        let started = Instant::now();
        apply()?;
        *duration = started.elapsed();
    }
    durations.sort();
    Ok(durations[durations.len() / 2])
}

/// The moments after which to kill an `apply` that takes `whole`, again and again.
fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    (0..MOMENTS)
        .cycle()
        .map(move |moment| whole * moment / MOMENTS)
        .take(TRIES as usize)
}

#[test]
fn a_killed_apply_leaves_the_old_policy_or_the_new() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [a, b] = files(&lab)?;
    lab.apply_file(&a, &[])?;
    let probe = Probe::new(&lab)?;
    let mut turn = [&b, &a].into_iter().cycle();
    let whole = duration(|| {
        lab.apply_file(turn.next().context("endless")?, &[])
            .map(drop)
    })?;

    let mut killed = 0;
    for moment in moments(whole) {
        // Every other apply goes undisturbed, from whatever the killed one has left.
        lab.apply_file(&a, &[])
            .with_context(|| format!("after {killed} kills"))?;
        ensure!(
            probe.in_force()? == InForce::A,
            "an apply after {killed} kills has no effect"
        );
        killed += u32::from(kill_apply(&lab, &b, moment)?);
        let in_force = probe
            .in_force()
            .with_context(|| format!("after kill {killed}, at {moment:?}"))?;
        ensure!(
            in_force != InForce::Nothing,
            "after kill {killed}, at {moment:?}, the interface is open"
        );
        ensure!(
            lab.inside.attached()?.is_some(),
            "after kill {killed}, at {moment:?}, nothing is attached"
        );
        if killed == KILLS {
            break;
        }
    }
    ensure!(
        killed == KILLS,
        "of {TRIES} applies only {killed} were still running when they were to be killed"
    );
    lab.apply_file(&b, &[])?;
    ensure!(
        probe.in_force()? == InForce::B,
        "the apply after the last kill has no effect"
    );
    Ok(())
}

#[test]
fn a_killed_first_apply_leaves_the_interface_open_or_guarded() -> Result<()> {
    const KILLS: u32 = 25;
    const SETTLED: Duration = Duration::from_millis(20);
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [a, _] = files(&lab)?;
    let interface = lab.inside.interface();
    let detach = || lab.inside.firewall(&["detach", "-i", interface])?.success();
    let probe = Probe::new(&lab)?;
    let mut whole = Duration::ZERO;
    for _ in 0..3 {
        let started = Instant::now();
        lab.apply_file(&a, &[])?;
        whole = started.elapsed();
        detach()?;
    }

    let mut killed = 0;
    for moment in moments(whole) {
        killed += u32::from(kill_apply(&lab, &a, moment)?);
        let at = format!("kill {killed}, at {moment:?}");
        // The kernel lets go of what a killed process held a moment later.
        thread::sleep(SETTLED);
        let in_force = probe.in_force().with_context(|| format!("after {at}"))?;
        let attached = lab.inside.attached()?.is_some();
        ensure!(
            (in_force == InForce::A) == attached,
            "after {at}: {in_force:?}, attached: {attached}"
        );
        lab.apply_file(&a, &[])
            .with_context(|| format!("the apply after {at}"))?;
        ensure!(
            probe.in_force()? == InForce::A,
            "the apply after {at} has no effect"
        );
        detach().with_context(|| format!("the detach after {at}"))?;
        let in_force = probe.in_force()?;
        ensure!(
            in_force == InForce::Nothing,
            "after {at}, detached, but {in_force:?} is in force"
        );
        ensure!(
            !lab.inside.pins().exists(),
            "after {at}, detached, but there are pins"
        );
        if killed == KILLS {
            return Ok(());
        }
    }
    bail!("of {TRIES} applies only {killed} were still running when they were to be killed")
}

#[test]
fn the_kernel_guards_when_every_process_is_gone() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [a, _] = files(&lab)?;
    lab.apply_file(&a, &[])?;
    let interface = lab.inside.interface();
    let mut watch = lab
        .inside
        .start_firewall(&["stats", "-i", interface, "--watch"])?;
    thread::sleep(Duration::from_millis(300));
    ensure!(
        watch.try_wait()?.is_none(),
        "it watches until it is stopped"
    );
    watch.kill()?;
    watch.wait()?;
    let processes = lab
        .inside
        .must(&format!("ip netns pids {}", lab.inside.namespace()))?;
    // The shell of this very command runs there, and nothing of ours.
    for process in processes.split_whitespace() {
        let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        ensure!(
            name.trim() != "firewall",
            "process {process} is still there"
        );
    }
    ensure!(Probe::new(&lab)?.in_force()? == InForce::A, "nobody guards");
    Ok(())
}

#[test]
fn two_applies_at_once_end_with_one_of_the_policies() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let files = files(&lab)?;
    let probe = Probe::new(&lab)?;
    let interface = lab.inside.interface();
    for round in 0..10 {
        if round % 5 == 0 && round > 0 {
            // Twice the race is for the first attachment.
            lab.inside
                .firewall(&["detach", "-i", interface])?
                .success()?;
        }
        let mut running = Vec::new();
        for file in &files {
            let file = file.to_str().context("a path that is not UTF-8")?;
            running.push(
                lab.inside
                    .start_firewall(&["apply", file, "-i", interface])?,
            );
        }
        for apply in running {
            Outcome::from(apply.wait_with_output()?)
                .success()
                .with_context(|| format!("round {round}"))?;
        }
        let in_force = probe.in_force().with_context(|| format!("round {round}"))?;
        ensure!(
            in_force != InForce::Nothing,
            "round {round}: nothing is in force"
        );
    }
    Ok(())
}
