//! However the builder ends, its machines end with it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use firewall_tests::net::{firewall, search_path};

use crate::{is_possible, say};

/// How long it may take until all have begun, and until all have ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// The machines of the site, the router included.
const MACHINES: usize = 14;

#[test]
fn machines_end_with_a_builder_that_is_killed() -> Result<()> {
    if !is_possible()? {
        return Ok(());
    }
    let mut builder = Command::new(env!("CARGO_BIN_EXE_firewall-infra"))
        .env("FIREWALL_BIN", firewall()?)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let begun = wait(|| Ok(Some(below(builder.id())?).filter(|all| begun(all) >= MACHINES)));
    builder.kill()?;
    builder.wait()?;
    let begun = begun?;
    wait(|| {
        let left: Vec<_> = begun.iter().filter(|one| is_there(one)).collect();
        Ok(left.is_empty().then_some(()))
    })?;
    say(&format!("{} processes have ended with it", begun.len()))
}

/// A process, by its number and when it began: numbers come again.
type Process = (u32, String);

/// How many of them are the first process of a machine, which reads from the builder.
fn begun(all: &BTreeSet<Process>) -> usize {
    let is_first = |(number, _): &&Process| {
        fs::read_to_string(format!("/proc/{number}/comm")).is_ok_and(|name| name == "cat\n")
    };
    all.iter().filter(is_first).count()
}

/// All that `process` has started, and what these have started.
fn below(process: u32) -> Result<BTreeSet<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(|name| name.parse::<u32>().ok())
            && let Some((parent, began)) = stat(number)
        {
            all.push((number, parent, began));
        }
    }
    let mut found = BTreeSet::new();
    let mut parents = BTreeSet::from([process]);
    loop {
        let known = parents.len();
        for (number, parent, began) in &all {
            if parents.contains(parent) {
                parents.insert(*number);
                found.insert((*number, began.clone()));
            }
        }
        if parents.len() == known {
            return Ok(found);
        }
    }
}

/// The parent of a process, and when it began.
fn stat(number: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // Behind the name, which is in brackets (proc_pid_stat(5)): its state, its parent, and as the 20th its beginning.
    let (_, behind) = text.rsplit_once(") ")?;
    let mut words = behind.split(' ');
    let parent = words.nth(1)?.parse().ok()?;
    Some((parent, words.nth(17)?.to_owned()))
}

fn is_there((number, began): &Process) -> bool {
    stat(*number).is_some_and(|(_, now)| now == *began)
}

fn wait<T>(mut done: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = done()? {
            return Ok(result);
        }
        if Instant::now() > deadline {
            bail!("not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn this_process_is_found_below_its_parent() -> Result<()> {
    let own = std::process::id();
    let (parent, began) = stat(own).ok_or_else(|| anyhow::anyhow!("no {own}"))?;
    ensure!(below(parent)?.contains(&(own, began)));
    Ok(())
}
