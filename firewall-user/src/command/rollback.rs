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
    for name in &rollback.interfaces.names() {
        let (interface, mut guard) = guard(name)?;
        let from = guard.description.generation;
        let to = match rollback.to {
            Some(to) => to,
            None => earlier(&guard)?,
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
        if to < from {
            guard.mark_rolled_back(from)?;
        }
        follow(&interface, &guard, output)?;
        // Last, because the programs are loaded anew for that.
        if guard.drop_shadow()? {
            output.text(format_args!("{name}: no candidate is asked any more"))?;
        }
        results.push(json!({ "interface": name, "generation": to, "generation_before": from }));
    }
    output.json(&results)
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

/// What goes with a generation beside its tables.
fn follow(interface: &Interface, guard: &Guard, output: &Output) -> Result<()> {
    warn_who_is_shut_out(&guard.tables()?, output)?;
    let generation = guard.description.generation;
    // Everything is let in, by no file.
    if generation == 0 {
        return Ok(());
    }
    let text = guard.archive().text(generation)?;
    match rules::flows(&text) {
        Some(flows) => set_up_flows(guard, interface, &wanted(&flows), output),
        None => bail!("its timeouts cannot be read"),
    }
}
