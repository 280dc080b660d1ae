//! Processes that are killed, and commands that come at the same time.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use firewall_tests::net::traffic::wait_until;
use firewall_tests::net::{Lab, Outcome};

use crate::growth::{MANY, counter_maps};
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
fn kill_apply(lab: &Lab, file: &Path, delay: Duration) -> Result<bool> {
    let file = file.to_str().context("a path that is not UTF-8")?;
    kill_after(lab, &["apply", file], delay)
}

/// The same of any command for the guarded interface.
pub(crate) fn kill_after(lab: &Lab, command: &[&str], delay: Duration) -> Result<bool> {
    let started = Instant::now();
    let mut running = lab
        .inside
        .start_firewall(&[command, &["-i", lab.inside.interface()]].concat())?;
    thread::sleep(delay.saturating_sub(started.elapsed()));
    running.kill()?;
    let outcome = Outcome::from(running.wait_with_output()?);
    ensure!(
        outcome.code == Some(0) || outcome.signal == Some(SIGKILL),
        "{outcome}"
    );
    Ok(outcome.signal == Some(SIGKILL))
}

/// How long an undisturbed `apply` takes: the median of a few, other tests being at work beside.
fn duration(apply: impl Fn() -> Result<Duration>) -> Result<Duration> {
    let mut durations = [Duration::ZERO; 5];
    for duration in &mut durations {
        *duration = apply()?;
    }
    durations.sort();
    Ok(durations[durations.len() / 2])
}

/// The moments after which to kill a command that takes `whole`, so many from its start to its end, again and again.
pub(crate) fn moments(whole: Duration, count: u32) -> impl Iterator<Item = Duration> {
    (0..count)
        .cycle()
        .map(move |moment| whole * moment / count)
        .take(TRIES as usize)
}

#[test]
fn a_killed_apply_leaves_the_old_policy_or_the_new() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [a, b] = files(&lab)?;
    let probe = Probe::new(&lab)?;
    kill_applies(&lab, &probe, &b, KILLS, || {
        // Every other apply goes undisturbed, from whatever the killed one has left.
        lab.apply_file(&a, &[]).map(drop)
    })
}

#[test]
fn an_apply_killed_while_it_makes_room_for_counters_does_so_too() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [a, _] = files(&lab)?;
    let many = format!("\n[[rule]]\n{}\n", MANY.replace("; ", "\n"));
    let b = lab.write("many.toml", &(policy(InForce::B) + &many))?;
    let probe = Probe::new(&lab)?;
    let (attached, asked) = (Cell::new(false), Cell::new(0));
    // Once at each moment.
    kill_applies(&lab, &probe, &b, MOMENTS, || {
        if attached.replace(true) {
            // The next one finishes what the killed one has begun, and nothing is left of the interruption.
            lab.apply_file(&b, &[])?;
            ensure!(counter_maps(&lab)? == 2, "the room grew once");
            // Each time two of the four datagrams are for this rule, in both policies.
            let stats = lab.stats()?;
            let expected = u64::from(2 * (probe.asked() - asked.get()));
            ensure!(
                stats.rule("udp") == Some(expected),
                "{expected}: {:?}",
                stats.rules
            );
            // Only the first one after attaching has to make room.
            let interface = lab.inside.interface();
            lab.inside
                .firewall(&["detach", "-i", interface])?
                .success()?;
        }
        asked.set(probe.asked());
        lab.apply_file(&a, &[]).map(drop)
    })
}

/// Kills an `apply` of `b`, which has the second policy, `kills` times at different moments, each time after `prepare` has
/// put the first in force.
fn kill_applies(
    lab: &Lab,
    probe: &Probe,
    b: &Path,
    kills: u32,
    prepare: impl Fn() -> Result<()>,
) -> Result<()> {
    let whole = duration(|| {
        prepare()?;
        let started = Instant::now();
        lab.apply_file(b, &[])?;
        Ok(started.elapsed())
    })?;

    let mut killed = 0;
    for moment in moments(whole, MOMENTS) {
        prepare().with_context(|| format!("after {killed} kills"))?;
        ensure!(
            probe.in_force()? == InForce::A,
            "an apply after {killed} kills has no effect"
        );
        killed += u32::from(kill_apply(lab, b, moment)?);
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
        if killed == kills {
            break;
        }
    }
    ensure!(
        killed == kills,
        "of {TRIES} applies only {killed} were still running when they were to be killed"
    );
    lab.apply_file(b, &[])?;
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
    for moment in moments(whole, MOMENTS) {
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
        ensure!(
            !attached || lab.inside.egress()?.len() == 1,
            "after {at}: what arrives is filtered, and what leaves not seen"
        );
        lab.apply_file(&a, &[])
            .with_context(|| format!("the apply after {at}"))?;
        wait_until("one program sees what leaves", || {
            Ok(lab.inside.egress()?.len() == 1)
        })?;
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
            !lab.inside.pins().exists() && lab.inside.egress()?.is_empty(),
            "after {at}, detached, but there are pins"
        );
        if killed == KILLS {
            return Ok(());
        }
    }
    bail!("of {TRIES} applies only {killed} were still running when they were to be killed")
}

#[test]
fn a_first_apply_killed_between_its_links_is_cleared_up() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [a, _] = files(&lab)?;
    let interface = lab.inside.interface();
    let probe = Probe::new(&lab)?;
    let half = || -> Result<()> {
        lab.apply_file(&a, &[])?;
        std::fs::remove_file(lab.inside.state().join("link"))?;
        wait_until("XDP is off", || Ok(lab.inside.attached()?.is_none()))?;
        ensure!(
            lab.inside.egress()?.len() == 1,
            "what leaves is not seen any more"
        );
        ensure!(probe.in_force()? == InForce::Nothing, "it is not half off");
        let status = lab.inside.firewall(&["status", "-i", interface])?;
        let status = status.success()?;
        ensure!(status.contains("not guarded"), "{status}");
        Ok(())
    };
    half()?;
    lab.apply_file(&a, &[])?;
    ensure!(probe.in_force()? == InForce::A, "the next apply guards");
    wait_until("only the new program sees what leaves", || {
        Ok(lab.inside.egress()?.len() == 1)
    })?;
    half()?;
    lab.inside
        .firewall(&["detach", "-i", interface])?
        .success()?;
    ensure!(!lab.inside.pins().exists(), "there are pins");
    wait_until("nothing sees what leaves", || {
        Ok(lab.inside.egress()?.is_empty())
    })
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

#[test]
fn an_interface_that_was_renamed_stays_guarded() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("rules.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let name = lab.inside.interface();
    let guarded = lab.inside.attached()?;
    ensure!(guarded.is_some());
    lab.inside.ip(&format!("link set {name} down"))?;
    lab.inside.ip(&format!("link set {name} name {name}r"))?;
    // Whoever says the new name is told the old one.
    let renamed = format!("{name}r");
    let path = file.to_str().context("a path that is not UTF-8")?;
    for arguments in [
        &["apply", path][..],
        &["stats"],
        &["detach"],
        &["rule", "add", "accept udp 9"],
    ] {
        let arguments = [arguments, &["-i", &renamed]].concat();
        let told = lab.inside.firewall(&arguments)?.failure(1)?;
        ensure!(told.contains(&format!("is guarded as {name}")), "{told}");
    }
    // Another card gets its name.
    lab.inside
        .ip(&format!("link add {name} type veth peer name {name}x"))?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    for arguments in [&["apply", file, "-i", name][..], &["detach", "-i", name]] {
        let told = lab.inside.firewall(arguments)?.failure(1)?;
        ensure!(told.contains(&format!("is now called {name}r")), "{told}");
    }
    lab.inside.ip(&format!("link delete {name}"))?;
    lab.inside.ip(&format!("link set {name}r name {name}"))?;
    ensure!(lab.inside.attached()? == guarded, "it was taken off");
    lab.inside.ip(&format!("link set {name} down"))?;
    lab.inside.ip(&format!("link set {name} name {name}r"))?;
    lab.inside.firewall(&["detach", "-i", name])?.success()?;
    let shown = lab.inside.ip(&format!("link show dev {name}r"))?;
    ensure!(!shown.contains("prog/xdp"), "{shown}");
    lab.inside.ip(&format!("link set {name}r name {name}"))?;
    Ok(())
}
