//! `firewall rollback`: go back to a generation that was in force before.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::apply::{set_up_flows, wanted};
use super::{guard, warn_who_is_shut_out};
use crate::cli::Interfaces;
use crate::kernel::guard::{Guard, Trial};
use crate::kernel::interface::Interface;
use crate::kernel::kept::Kept;
use crate::live::{self, Live};
use crate::output::Output;
use crate::{lock, policy, privilege, rules};

/// Where to go back to.
#[derive(Args, Debug)]
pub(crate) struct Rollback {
    #[command(flatten)]
    interfaces: Interfaces,
    /// This generation, earlier or later, instead of the one before what is in force; `firewall history` lists them.
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
}

pub(crate) fn run(rollback: &Rollback, output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    let mut results = Vec::new();
    let mut failed = Vec::new();
    for name in &rollback.interfaces.names() {
        // Whoever goes back is in a hurry: one that cannot keeps no other from it.
        match of_one(name, rollback.to, output) {
            Ok((from, to)) => results
                .push(json!({ "interface": name, "generation": to, "generation_before": from })),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    if !results.is_empty() {
        output.json(&results)?;
    }
    if !failed.is_empty() {
        bail!(failed.join("; "));
    }
    Ok(())
}

/// Goes back on one interface. Returns from which generation, and to which.
fn of_one(name: &str, to: Option<u64>, output: &Output) -> Result<(u64, u64)> {
    let (interface, mut guard) = guard(name)?;
    let from = guard.description.generation;
    let to = match to {
        Some(to) => to,
        None => earlier(&guard).with_context(|| name.to_owned())?,
    };
    if to == from {
        bail!("{name}: generation {to} is in force");
    }
    go_back(name, &mut guard, to).with_context(|| format!("{name} is as it was"))?;
    output.text(match to {
        0 => format!(
            "{name}: everything is let in, as before the firewall was attached; `firewall apply` puts rules in force, \
             `firewall detach` takes it off"
        ),
        _ => format!("{name}: generation {to} is in force again, instead of {from}"),
    })?;
    let followed = follow(&interface, &mut guard, from, output);
    followed.with_context(|| {
        format!("{name}: generation {to} is in force, but not all that goes with it")
    })?;
    Ok((from, to))
}

/// The generation before what is in force: of what is on trial that to which the kernel would go back, else the last one with a lower
/// number that nobody has gone back from, and that was not refused by nobody confirming it.
fn earlier(guard: &Guard) -> Result<u64> {
    if let (Trial::Waits(_), Some(before)) = (guard.trial, guard.before()?) {
        return Ok(before.generation);
    }
    let current = guard.description.generation;
    let kept = guard.archive().all()?;
    let is_wanted = |kept: &&Kept| kept.generation < current && !kept.lapsed && !kept.rolled_back;
    let earlier = kept.iter().find(is_wanted);
    earlier.map(|kept| kept.generation).with_context(|| {
        format!(
            "there is none before generation {current}; `firewall detach` takes the firewall off"
        )
    })
}

fn go_back(name: &str, guard: &mut Guard, to: u64) -> Result<()> {
    if guard.flip_to(to)? {
        return Ok(());
    }
    guard.refuse_in_trial(name)?;
    let live = Live::of_generation(guard, to)?;
    let loaded = live.loaded()?;
    let prepared = policy::prepare(&loaded, Some(&guard.description.policy), 0)?;
    let (image, description) = prepared.describe(live::file(&live.kept), to)?;
    guard.go_back(live::next_kept(live, image, description))
}

/// Sees to what goes with a generation beside its tables, when it is in force again instead of `from`.
fn follow(interface: &Interface, guard: &mut Guard, from: u64, output: &Output) -> Result<()> {
    let name = &interface.name;
    let generation = guard.description.generation;
    if generation < from {
        guard.mark_rolled_back(generation + 1..=from)?;
    }
    warn_who_is_shut_out(&guard.tables()?, output)?;
    // Everything is let in by no file, and what an early version had in force is not kept.
    if generation != 0 && guard.archive().read(generation)?.is_some() {
        let text = guard.archive().text(generation)?;
        let flows = rules::flows(&text).context("its timeouts cannot be read")?;
        set_up_flows(guard, interface, &wanted(&flows), output)?;
    }
    // Last, because the programs are loaded anew for that.
    if guard.drop_shadow()? {
        output.text(format_args!("{name}: no candidate is asked any more"))?;
    }
    Ok(())
}
