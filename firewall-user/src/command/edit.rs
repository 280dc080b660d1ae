//! What all live edits have in common: the rule file in force is changed as text, checked like any other, compiled and put in force, and
//! if asked for, saved.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use super::confirm::OnTrial;
use super::{guard, warn_who_is_shut_out};
use crate::cli::Interfaces;
use crate::kernel::guard::Guard;
use crate::live::{self, Live};
use crate::output::{self, Format, Output};
use crate::policy::{self, Prepared};
use crate::save::{self, RealDisk, Written};
use crate::{lock, memory, privilege};

/// How a live edit is made.
#[derive(Args, Debug)]
pub(crate) struct Edit {
    #[command(flatten)]
    pub(crate) interfaces: Interfaces,
    /// Change the rule file, or the address list, as well; comments and order stay.
    #[arg(long)]
    save: bool,
    #[command(flatten)]
    trial: OnTrial,
}

/// What became of one interface.
#[derive(Debug, Serialize)]
struct Edited {
    interface: String,
    /// Whether there is a new generation.
    changed: bool,
    generation: u64,
    /// What was done, for people.
    said: String,
    /// The files that were changed as well.
    saved: Vec<PathBuf>,
}

/// An interface that is ready for its new generation.
struct Ready {
    name: String,
    guard: Guard,
    live: Live,
    said: String,
    prepared: Prepared,
}

/// What is changed.
pub(crate) trait Changing {
    /// The command, in short.
    fn words(&self) -> &str;

    /// Changes the text of what is in force. Returns what has been done, or nothing where nothing is to be done.
    fn make(&self, live: &mut Live) -> Result<Option<String>>;

    /// Changes text and tables, where the tables need not be made anew for that; if not, both are as they were.
    fn make_at_once(&self, _guard: &Guard, _live: &mut Live) -> Result<Option<Made>> {
        Ok(None)
    }
}

/// What a change has come to.
pub(crate) struct Made {
    /// What was done, for people.
    pub(crate) said: String,
    pub(crate) prepared: Prepared,
}

/// Makes an edit.
pub(crate) fn run(edit: &Edit, change: &impl Changing, output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    let mut ready = Vec::new();
    let mut results: Vec<Edited> = Vec::new();
    let mut files = BTreeSet::new();
    for name in &edit.interfaces.names() {
        let (_, guard) = guard(name)?;
        guard.refuse_in_trial(name)?;
        guard.refuse_in_shadow(name)?;
        let mut live = Live::of(&guard)?;
        files.insert(PathBuf::from(&live.kept.file));
        let made = made(change, &guard, &mut live);
        let Some(Made { said, prepared }) = made.with_context(|| format!("{name} is as it was"))?
        else {
            results.push(nothing(name, &guard));
            continue;
        };
        live.kept.change = change.words().to_owned();
        warn(&prepared, output)?;
        ready.push(Ready {
            name: name.clone(),
            guard,
            live,
            said,
            prepared,
        });
    }
    // What cannot be saved is told before anything is changed.
    let mut written = Vec::new();
    if edit.save {
        for file in files {
            written.extend(write(&file, change)?);
        }
    }
    let trial = edit.trial.lasts();
    for one in ready {
        results.push(put_in_force(one, trial)?);
    }
    let mut saved = Vec::new();
    for (path, written) in written {
        let put = written.put();
        put.context("the change is in force, and not saved")?;
        saved.push(path);
    }
    for result in &mut results {
        result.saved.clone_from(&saved);
        output.text(&result.said)?;
    }
    for path in &saved {
        output.text(format_args!("saved in {}", path.display()))?;
    }
    output.json(&results)
}

fn made(change: &impl Changing, guard: &Guard, live: &mut Live) -> Result<Option<Made>> {
    if let Some(made) = change.make_at_once(guard, live)? {
        return Ok(Some(made));
    }
    memory::in_large_pieces();
    let Some(said) = change.make(live)? else {
        return Ok(None);
    };
    live.forget_alone();
    // While all is compiled, the kernel makes room for the tables and waits for the programs that are running. If there is no room it may
    // yet do for less.
    let draft = guard.draft().ok().flatten();
    let loaded = live.loaded()?;
    let mut prepared = policy::prepare(&loaded, Some(&guard.description.policy), MAX_WARNINGS)?;
    leave(loaded);
    if let Some(draft) = draft {
        prepared.image = draft.hold(prepared.image);
    }
    Ok(Some(Made { said, prepared }))
}

fn nothing(name: &str, guard: &Guard) -> Edited {
    let generation = guard.description.generation;
    Edited {
        interface: name.to_owned(),
        changed: false,
        generation,
        said: format!("{name}: nothing to do, generation {generation} has that already"),
        saved: Vec::new(),
    }
}

fn put_in_force(ready: Ready, trial: Option<Duration>) -> Result<Edited> {
    let Ready {
        name,
        mut guard,
        live,
        said,
        prepared,
    } = ready;
    let (image, description) = prepared.describe(live::file(&live.kept), guard.newest()? + 1)?;
    let switched = guard.switch(live::next_kept(live, image, description), trial);
    switched.with_context(|| format!("{name} is as it was"))?;
    let generation = guard.description.generation;
    let confirm = trial.map(|trial| {
        format!(
            "; `firewall confirm` within {} s keeps that",
            trial.as_secs()
        )
    });
    leave(guard);
    Ok(Edited {
        said: format!(
            "{name}: {said}, generation {generation}{}",
            confirm.unwrap_or_default()
        ),
        interface: name,
        changed: true,
        generation,
        saved: Vec::new(),
    })
}

/// Leaves memory to the end of the process, which is near: to give it back name by name takes longer where there are thousands of rules.
fn leave<T>(used: T) {
    std::mem::forget(used);
}

/// Tells whether the operator would be shut out, and some of what the compiler noticed: all of it would be read again with every edit.
fn warn(prepared: &Prepared, output: &Output) -> Result<()> {
    warn_who_is_shut_out(&prepared.image, output)?;
    if output.format == Format::Text {
        for warning in &prepared.warnings {
            output.aside(warning.render(output::colour(), output::width()))?;
        }
    }
    Ok(())
}

/// Warnings that are shown.
const MAX_WARNINGS: usize = 5;

/// Makes the same edit in the files, and writes what they are to be beside them. They may have other changes than are in force, which
/// stay.
fn write(file: &Path, change: &impl Changing) -> Result<Vec<(PathBuf, Written<RealDisk>)>> {
    let why = || {
        format!(
            "nothing is changed, because it could not be saved in {}",
            file.display()
        )
    };
    let before = Live::read(file).with_context(why)?;
    let mut after = before.clone();
    if change.make(&mut after).with_context(why)?.is_none() {
        return Ok(Vec::new());
    }
    after.loaded().with_context(why)?;
    let changed = after.changed_since(&before)?.into_iter();
    changed
        .map(|(path, bytes)| {
            let path = std::fs::canonicalize(&path)
                .with_context(|| format!("looking for {}", path.display()))?;
            let written = save::write(RealDisk, &path, &bytes).with_context(why)?;
            Ok((path, written))
        })
        .collect()
}
