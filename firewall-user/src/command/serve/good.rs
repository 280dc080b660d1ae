//! What was in force last by an interface's rule file, kept on the disk: a mistake in the file must not leave the interface open when the
//! machine starts again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::kernel::guard::{Found, Guard, Trial};
use crate::kernel::interface;
use crate::live::Live;
use crate::rules::{self, Loaded, Source, lists};
use crate::save;

const FOLDER: &str = "/var/lib/firewall/good";

/// A rule file, and the address lists that it names.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Good {
    text: String,
    /// By the path that the rule file has for it.
    lists: BTreeMap<String, List>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct List {
    path: String,
    text: String,
}

/// What was kept. Generations begin anew where the firewall was taken off and put on again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    generation: u64,
    applied_at_s: u64,
}

/// Keeps what is in force on the interface called `name`, if it came from the rule file `path`, is not on trial, and is another one than `kept`,
/// which was kept last. It has to be the caller's turn.
///
/// # Errors
///
/// It cannot be read or written; what was kept before stays.
pub(super) fn keep(name: &str, path: &Path, kept: &mut Option<Kept>) -> Result<()> {
    // As it is now: a program may just have come onto it.
    let Some(interface) = interface::find(name)? else {
        return Ok(());
    };
    let Found::Guard(guard) = Guard::find(&interface)? else {
        return Ok(());
    };
    let (description, trial) = (&guard.description, guard.trial);
    let is_its = Path::new(&description.file) == path && !description.policy.is_open;
    let this = Kept {
        generation: description.generation,
        applied_at_s: description.applied_at_s,
    };
    if !is_its || trial != Trial::Over || *kept == Some(this) {
        return Ok(());
    }
    let live = Live::of(&guard)?;
    let lists = live.lists()?.into_iter().map(|(name, list)| {
        let list = List {
            path: list.name().to_owned(),
            text: String::from_utf8_lossy(list.bytes()).into_owned(),
        };
        (name, list)
    });
    let good = Good {
        lists: lists.collect(),
        text: live.text,
    };
    let bytes = serde_json::to_vec(&good).context("writing down rules")?;
    save::own(&place(name), &bytes)?;
    *kept = Some(this);
    Ok(())
}

/// What was kept of the interface called `name`, as if it were in the rule file `path`.
///
/// # Errors
///
/// It cannot be read, or is not valid any more.
pub(super) fn load(name: &str, path: &Path) -> Result<Option<Loaded>> {
    let place = place(name);
    let bytes = match fs::read(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.with_context(|| format!("reading {}", place.display()))?,
    };
    let good: Good =
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", place.display()))?;
    let lists: lists::Lists = (good.lists.into_iter())
        .map(|(name, list)| (name, Source::new(&list.path, list.text)))
        .collect();
    let path = path.display().to_string();
    let loaded = rules::parse_with(&path, &good.text, lists::From::Kept(&lists))?;
    Ok(Some(loaded))
}

/// Forgets what was kept of the interface called `name`.
///
/// # Errors
///
/// It cannot be removed.
pub(crate) fn forget(name: &str) -> Result<()> {
    let place = place(name);
    match fs::remove_file(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", place.display()))
        }
        _ => Ok(()),
    }
}

fn place(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.json"))
}
