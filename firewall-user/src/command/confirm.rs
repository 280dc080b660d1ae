//! Trials, and `firewall confirm`: keep what is on trial.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::{edit, guards};
use crate::kernel::guard::{Guard, Trial};
use crate::output::Output;
use crate::{lock, privilege, rules};

/// Whether what a command puts in force is on trial.
#[derive(Args, Debug)]
pub(crate) struct OnTrial {
    /// Go back to what was in force before, unless `firewall confirm` comes within this time (90, 60s, 5m, 1h). The kernel
    /// does that, whatever becomes of this process, of the session or of the network.
    #[arg(long, value_name = "TIME", value_parser = rules::trial_s)]
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
    let mut failed = Vec::new();
    let mut saved: BTreeMap<(String, String), Vec<PathBuf>> = BTreeMap::new();
    for (name, mut guard) in guards(names)? {
        let generation = guard.description.generation;
        // What was confirmed and could not be saved then can be now.
        let is_unsaved = guard.trial == Trial::Over && to_save(&guard)?.is_some();
        // Without names it is about what waits; whoever names an interface is told that nothing does.
        if names.is_empty() && guard.trial == Trial::Over && !is_unsaved {
            continue;
        }
        // One that is too late must not keep the others from being confirmed.
        let left = match guard.confirm() {
            _ if is_unsaved => 0,
            Ok(left) => left,
            Err(error) => {
                failed.push(format!("{name}: {error:#}"));
                continue;
            }
        };
        output.text(match is_unsaved {
            true => format!("{name}: generation {generation} was confirmed already"),
            false => format!("{name}: generation {generation} stays, confirmed with {left} s left"),
        })?;
        let saved = match save(&guard, &mut saved) {
            Ok(saved) => saved,
            Err(error) => {
                failed.push(format!("{name}: it stays, and is not saved: {error:#}"));
                Vec::new()
            }
        };
        results.push(
            json!({ "interface": name, "generation": generation, "left_s": left, "saved": saved }),
        );
    }
    edit::tell_saved(&saved.into_values().flatten().collect::<Vec<_>>(), output)?;
    if !results.is_empty() {
        output.json(&results)?;
    }
    match (results.is_empty(), failed.is_empty()) {
        (true, true) => bail!("nothing waits to be confirmed"),
        (_, false) => bail!(failed.join("; ")),
        (false, true) => Ok(()),
    }
}

/// Makes a live edit in the files too that waited for this; in a file of several interfaces once. Returns which files those were.
fn save(
    guard: &Guard,
    saved: &mut BTreeMap<(String, String), Vec<PathBuf>>,
) -> Result<Vec<PathBuf>> {
    let Some(key) = to_save(guard)? else {
        return Ok(Vec::new());
    };
    let files = match saved.get(&key) {
        Some(files) => files.clone(),
        None => edit::save(Path::new(&key.0), &key.1)?,
    };
    guard.mark_saved()?;
    saved.insert(key, files.clone());
    Ok(files)
}

/// The rule file in which a live edit is to be made too, and that edit.
fn to_save(guard: &Guard) -> Result<Option<(String, String)>> {
    let kept = guard.archive().read(guard.description.generation)?;
    Ok(kept.and_then(|kept| Some((kept.file, kept.to_save?))))
}
