//! What all live edits have in common: the rule file in force is changed as text, checked like any other, compiled and put in force, and
//! if asked for, saved.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::confirm::OnTrial;
use super::{group, guard, rule, warn_who_is_shut_out};
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
    /// Change the rule file, or the address list, as well, with `--confirm` once it is confirmed; comments and order stay.
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

/// What is changed. It can be kept until it is confirmed, and only then be made in the files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    Rule(rule::Change),
    Group(group::Change),
}

impl Change {
    /// The command, in short.
    fn words(&self) -> String {
        match self {
            Self::Rule(change) => change.words(),
            Self::Group(change) => change.words(),
        }
    }

    /// Changes the text of what is in force. Returns what has been done, or nothing where nothing is to be done.
    fn make(&mut self, live: &mut Live) -> Result<Option<String>> {
        match self {
            Self::Rule(change) => change.make(live).map(Some),
            Self::Group(change) => change.make(live),
        }
    }

    /// Whether a file has the change already: others have saved it in the same one.
    fn is_made(&self, live: &Live) -> bool {
        match self {
            Self::Rule(change) => change.is_made(live),
            Self::Group(change) => change.is_made(live),
        }
    }

    /// Changes text and tables, where the tables need not be made anew for that; if not, both are as they were.
    fn make_at_once(&self, guard: &Guard, live: &mut Live) -> Result<Option<Made>> {
        match self {
            Self::Rule(_) => Ok(None),
            Self::Group(change) => change.make_at_once(guard, live),
        }
    }
}

/// What a change has come to.
pub(crate) struct Made {
    /// What was done, for people.
    pub(crate) said: String,
    pub(crate) prepared: Prepared,
}

/// Makes an edit.
pub(crate) fn run(edit: &Edit, mut change: Change, output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    let trial = edit.trial.lasts();
    let mut ready = Vec::new();
    let mut results: Vec<Edited> = Vec::new();
    let (mut changed, mut unchanged) = (BTreeSet::new(), BTreeSet::new());
    for name in &edit.interfaces.names() {
        let (_, guard) = guard(name)?;
        guard.refuse_in_trial(name)?;
        guard.refuse_in_shadow(name)?;
        let mut live = Live::of(&guard)?;
        let file = PathBuf::from(&live.kept.file);
        let made = made(&mut change, &guard, &mut live);
        let Some(Made { said, prepared }) = made.with_context(|| format!("{name} is as it was"))?
        else {
            results.push(nothing(name, &guard));
            unchanged.insert(file);
            continue;
        };
        changed.insert(file);
        live.kept.change = change.words();
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
    let (mut written, mut later) = (Vec::new(), BTreeSet::new());
    if edit.save {
        let mut write = |file: &PathBuf, pending: &mut Pending| {
            write(file, &mut change, pending).with_context(|| {
                let file = file.display();
                format!("nothing is changed, because it could not be saved in {file}")
            })
        };
        if trial.is_some() {
            // What nobody confirms must not be put in force by whoever reads the file next.
            let mut tried = Vec::new();
            changed
                .iter()
                .try_for_each(|file| write(file, &mut tried))?;
            later.extend(tried.into_iter().map(|(path, _)| path));
            unchanged.retain(|file| !changed.contains(file));
        } else {
            unchanged.append(&mut changed);
        }
        unchanged
            .iter()
            .try_for_each(|file| write(file, &mut written))?;
        written.retain(|(path, _)| !later.contains(path));
    }
    let to_save = (edit.save && trial.is_some()).then_some(&change);
    let mut done: Vec<String> = Vec::new();
    for one in ready {
        let name = one.name.clone();
        let edited = put_in_force(one, trial, to_save).with_context(|| match done[..] {
            [] => format!("{name} is as it was"),
            _ => format!(
                "{name} is as it was; {} has the change already, and nothing is saved",
                done.join(", ")
            ),
        })?;
        done.push(name);
        results.push(edited);
    }
    let saved = put(written).context("the change is in force, and not saved")?;
    for result in &mut results {
        result.saved.clone_from(&saved);
        output.text(&result.said)?;
    }
    tell_saved(&saved, output)?;
    output.json(&results)
}

/// Files that are written and not yet in their places.
type Pending = Vec<(PathBuf, Written<RealDisk>)>;

/// Puts files in their places. Returns where these are.
fn put(pending: Pending) -> Result<Vec<PathBuf>> {
    let mut saved = Vec::new();
    for (path, written) in pending {
        written.put()?;
        saved.push(path);
    }
    Ok(saved)
}

/// Makes a change in the file as well, which has been confirmed only now. Returns the files that were changed.
///
/// # Errors
///
/// A sentence; no file is changed, or it is not known which are.
pub(super) fn save(file: &Path, change: &str) -> Result<Vec<PathBuf>> {
    let mut change: Change = serde_json::from_str(change).context("reading what is to be saved")?;
    if Live::read(file).is_ok_and(|live| change.is_made(&live)) {
        return Ok(Vec::new());
    }
    let mut pending = Vec::new();
    let written = write(file, &mut change, &mut pending).and_then(|()| put(pending));
    written.with_context(|| format!("saving it in {}", file.display()))
}

/// Says which files were changed.
pub(super) fn tell_saved(saved: &[PathBuf], output: &Output) -> Result<()> {
    let mut saved = saved.iter();
    saved.try_for_each(|path| output.text(format_args!("saved in {}", path.display())))
}

fn made(change: &mut Change, guard: &Guard, live: &mut Live) -> Result<Option<Made>> {
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

/// Puts it in force, and notes what is `to_save` where it is to be confirmed first.
fn put_in_force(ready: Ready, trial: Option<Duration>, to_save: Option<&Change>) -> Result<Edited> {
    let Ready {
        name,
        mut guard,
        live,
        said,
        prepared,
    } = ready;
    let (image, description) = prepared.describe(live::file(&live.kept), guard.newest()? + 1)?;
    let mut next = live::next_kept(live, image, description);
    next.source.kept.to_save = to_save.map(serde_json::to_string).transpose()?;
    guard.switch(next, trial)?;
    let generation = guard.description.generation;
    let confirm = trial.map(|trial| {
        let saves = to_save.map_or("", |_| ", and saves it");
        format!(
            "; `firewall confirm` within {} s keeps that{saves}",
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

/// Makes the same edit in the files, and writes what they are to be beside them, but for what is `pending` already: a list may be named by
/// several rule files. They may have other changes than are in force, which stay.
fn write(file: &Path, change: &mut Change, pending: &mut Pending) -> Result<()> {
    let before = Live::read(file)?;
    let mut after = before.clone();
    if change.make(&mut after)?.is_none() {
        return Ok(());
    }
    after.loaded()?;
    for (path, bytes) in after.changed_since(&before)? {
        let path = std::fs::canonicalize(&path)
            .with_context(|| format!("looking for {}", path.display()))?;
        if pending.iter().all(|(other, _)| *other != path) {
            let written = save::write(RealDisk, &path, &bytes)?;
            pending.push((path, written));
        }
    }
    Ok(())
}
