//! The rule files that generations came from, kept beside them: so that a live edit goes on from what is in force and not from
//! what a file is now, and so that any of the last generations can be had again.
//!
//! `source-N` and its `text-N` are pinned for generation N, and `list-HASH` for each address list that one of them names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::blob;
use super::pins::{self, Pins};
use super::upgrade::pin_again;

/// What a candidate is kept as, that is no generation.
pub const CANDIDATE: u64 = 0;

/// Most generations that are kept.
pub const MAX_KEPT: usize = 16;
/// Most bytes of rule files that are kept, of those before the one in force: of large files fewer are.
const MAX_KEPT_BYTES: usize = 32 << 20;

const SOURCE: &str = "source-";
const TEXT: &str = "text-";
const LIST: &str = "list-";

/// Where a generation came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its number.
    pub generation: u64,
    /// When it was put in force first, in seconds since 1970.
    pub applied_at_s: u64,
    /// The rule file it is, or was made from.
    pub file: String,
    /// The command that made it.
    pub change: String,
    /// How many rules it has.
    pub rules: usize,
    /// Whether it was to be confirmed, and was not in time.
    pub lapsed: bool,
    /// Whether somebody went back from it to what was in force before.
    #[serde(default)]
    pub rolled_back: bool,
    /// The live edit that is to be made in the files as well once this is confirmed, as the command writes it down.
    #[serde(default)]
    pub to_save: Option<String>,
    /// Bytes of its rule file's text, which is kept apart: most that is asked of a generation does not need it.
    pub text_bytes: usize,
    /// The address lists that this names.
    pub lists: Vec<KeptList>,
}

/// An address list of a generation: a text that is kept once for all that have it, and what has been changed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptList {
    /// Its path as the rule file has it.
    pub name: String,
    /// Where it was read.
    pub path: String,
    /// SHA-256 of the text, in hexadecimal.
    pub sha256: String,
    /// Lines that come to it.
    pub added: BTreeSet<String>,
    /// Lines that are not to be in it.
    pub removed: BTreeSet<String>,
    /// Those of `added` that were put into tables that were there: their addresses are of no other line, and of none of the sets that the
    /// list is part of otherwise.
    #[serde(default)]
    pub alone: BTreeSet<String>,
}

/// All that a generation came from.
#[derive(Debug)]
pub struct Source<'a> {
    /// What it was.
    pub kept: Kept,
    /// The rule file's text.
    pub text: Cow<'a, [u8]>,
    /// The texts of its address lists, by hash.
    pub lists: BTreeMap<String, &'a [u8]>,
}

/// What is kept for an interface.
#[derive(Clone, Debug)]
pub struct Archive {
    pins: Pins,
}

impl Archive {
    pub(super) fn of(pins: &Pins) -> Self {
        Self { pins: pins.clone() }
    }

    /// Keeps all that a generation came from; of the address lists, those that are not there yet.
    pub(super) fn keep(&self, Source { kept, text, lists }: &Source<'_>) -> Result<()> {
        for (hash, text) in lists {
            let path = self.pins.map(&list(hash));
            if !pins::exists(&path)? {
                blob::pin(&path, text)?;
            }
        }
        blob::pin(&self.pins.map(&self::text(kept.generation)), text)?;
        self.keep_again(kept)
    }

    /// Keeps all that is kept of another version's generations: in the same maps, but for a candidate's.
    pub(super) fn take_over(&self, from: &Pins) -> Result<()> {
        let other = Self::of(from);
        for prefix in [LIST, TEXT, SOURCE] {
            for name in other.names(prefix)? {
                if prefix == LIST || name != CANDIDATE.to_string() {
                    let name = format!("{prefix}{name}");
                    pin_again(&from.map(&name), &self.pins.map(&name))?;
                }
            }
        }
        Ok(())
    }

    /// Writes down what has changed about a generation that is kept.
    pub(super) fn keep_again(&self, kept: &Kept) -> Result<()> {
        let bytes =
            serde_json::to_vec(kept).context("writing down where a generation came from")?;
        blob::pin(&self.pins.map(&source(kept.generation)), &bytes)
    }

    /// The text of a generation's rule file.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn text(&self, generation: u64) -> Result<String> {
        let text = blob::read(&self.pins.map(&text(generation)))?;
        String::from_utf8(text).context("reading a rule file that is kept")
    }

    /// Where `generation` came from, if that is still kept.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(&self, generation: u64) -> Result<Option<Kept>> {
        let path = self.pins.map(&source(generation));
        if !pins::exists(&path)? {
            return Ok(None);
        }
        let kept = serde_json::from_slice(&blob::read(&path)?);
        kept.with_context(|| format!("reading {}", path.display()))
            .map(Some)
    }

    /// All that is kept, the latest first.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    pub fn all(&self) -> Result<Vec<Kept>> {
        let mut all = Vec::new();
        let generations = self.generations()?.into_iter().rev();
        for generation in generations.filter(|&generation| generation != CANDIDATE) {
            all.extend(self.read(generation)?);
        }
        Ok(all)
    }

    /// The text of an address list.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn list(&self, sha256: &str) -> Result<Vec<u8>> {
        blob::read(&self.pins.map(&list(sha256)))
    }

    /// Removes what is of generations above `newest`, which were never in force, and what is too old to be kept, but for those in
    /// `needed`.
    pub(super) fn tidy(&self, newest: u64, needed: &[u64]) -> Result<()> {
        let mut lists = BTreeSet::new();
        let (mut count, mut bytes) = (0, 0);
        for kept in self.all()? {
            count += 1;
            bytes += kept.text_bytes;
            let generation = kept.generation;
            let is_wanted = generation <= newest && count <= MAX_KEPT && bytes <= MAX_KEPT_BYTES;
            if is_wanted || needed.contains(&generation) {
                lists.extend(kept.lists.into_iter().map(|list| list.sha256));
            } else {
                pins::remove_file(&self.pins.map(&source(generation)))?;
                pins::remove_file(&self.pins.map(&text(generation)))?;
            }
        }
        if let Some(candidate) = self.read(CANDIDATE)? {
            lists.extend(candidate.lists.into_iter().map(|list| list.sha256));
        }
        for hash in self.names(LIST)? {
            if !lists.contains(&hash) {
                pins::remove_file(&self.pins.map(&list(&hash)))?;
            }
        }
        Ok(())
    }

    /// Removes what is kept of a candidate; its lists go with the next [`Self::tidy`].
    pub(super) fn forget_candidate(&self) -> Result<()> {
        pins::remove_file(&self.pins.map(&source(CANDIDATE)))?;
        pins::remove_file(&self.pins.map(&text(CANDIDATE)))
    }

    /// Numbers of all generations that are kept, in order.
    fn generations(&self) -> Result<BTreeSet<u64>> {
        let names = self.names(SOURCE)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// What follows `prefix` in the names of pins that begin so.
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let folder = self.pins.folder();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("reading {}", folder.display()))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix(prefix));
            names.extend(name.map(str::to_owned));
        }
        Ok(names)
    }
}

fn source(generation: u64) -> String {
    format!("{SOURCE}{generation}")
}

fn text(generation: u64) -> String {
    format!("{TEXT}{generation}")
}

fn list(sha256: &str) -> String {
    format!("{LIST}{sha256}")
}
