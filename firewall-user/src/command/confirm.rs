//! Trials, and `firewall confirm`: keep what is on trial.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::guards;
use crate::kernel::guard::Trial;
use crate::output::Output;
use crate::{lock, privilege, rules};

/// Whether what a command puts in force is on trial.
#[derive(Args, Debug)]
pub(crate) struct OnTrial {
    /// Go back to what was in force before, unless `firewall confirm` comes within this time (90, 60s, 5m, 1h). The kernel
    /// does that, whatever becomes of this process, of the session or of the network.
    #[arg(long, value_name = "TIME", value_parser = rules::duration_s)]
    confirm: Option<u32>,
}

impl OnTrial {
    /// How long the trial lasts, if there is one.
    pub(crate) fn lasts(&self) -> Option<Duration> {
        self.confirm
            .map(|seconds| Duration::from_secs(seconds.into()))
    }
}

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    let mut results = Vec::new();
    for (name, mut guard) in guards(names)? {
        // Without names it is about what waits; whoever names an interface is told that nothing does.
        if names.is_empty() && guard.trial == Trial::Over {
            continue;
        }
        let left = (guard.confirm()).map_err(|error| error.context(name.clone()))?;
        let generation = guard.description.generation;
        output.text(format_args!(
            "{name}: generation {generation} stays, confirmed with {left} s left"
        ))?;
        results.push(json!({ "interface": name, "generation": generation, "left_s": left }));
    }
    if results.is_empty() {
        bail!("nothing waits to be confirmed");
    }
    output.json(&results)
}
