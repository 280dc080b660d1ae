//! The rule file that is in force on an interface, whatever the file is now: what live edits, plans and explanations go by.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

use crate::kernel::description::Description;
use crate::kernel::guard::{Guard, Next};
use crate::kernel::kept::{Kept, KeptList};
use crate::policy::{Prepared, sha256};
use crate::rules::{self, Loaded, Source, lists};

/// A generation's rule file and address lists.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) kept: Kept,
    /// Texts of the lists as they were read, by hash.
    texts: BTreeMap<String, Vec<u8>>,
}

impl Live {
    /// Those of the generation in force.
    ///
    /// # Errors
    ///
    /// They are not kept, or cannot be read.
    pub(crate) fn of(guard: &Guard) -> Result<Self> {
        Self::of_generation(guard, guard.description.generation)
    }

    /// Those of this generation.
    ///
    /// # Errors
    ///
    /// They are not kept, or cannot be read.
    pub(crate) fn of_generation(guard: &Guard, generation: u64) -> Result<Self> {
        let archive = guard.archive();
        let kept = archive.read(generation)?.with_context(|| {
            format!("generation {generation} is not kept; `firewall history` lists those that are")
        })?;
        let mut texts = BTreeMap::new();
        for list in &kept.lists {
            if !texts.contains_key(&list.sha256) {
                texts.insert(list.sha256.clone(), archive.list(&list.sha256)?);
            }
        }
        Ok(Self { kept, texts })
    }

    /// What they mean.
    ///
    /// # Errors
    ///
    /// All that is wrong with them, as text.
    pub(crate) fn loaded(&self) -> Result<Loaded> {
        let Kept { file, text, .. } = &self.kept;
        let lists = self.lists();
        rules::parse_with(file, text, lists::From::Kept(&lists))
            .map_err(|report| anyhow!("{}", report.render(false, 100)))
    }

    /// The lists as they are in force.
    fn lists(&self) -> lists::Lists {
        let lists = self.kept.lists.iter().map(|list| {
            let text = &self.texts[&list.sha256];
            let text = lists::edited(text, &list.added, &list.removed);
            (list.name.clone(), Source::new(&list.path, text))
        });
        lists.collect()
    }
}

/// The rule set in force on an interface.
///
/// # Errors
///
/// It is not kept, or cannot be read.
pub(crate) fn loaded(guard: &Guard) -> Result<Loaded> {
    Live::of(guard)?.loaded()
}

/// The generation that `prepared` becomes, `change` being the command that makes it. `kept` has what it came from where that is not
/// the file that was `loaded`.
pub(crate) fn next<'a>(
    loaded: &'a Loaded,
    prepared: Prepared,
    description: Description,
    change: String,
) -> Next<'a> {
    let mut texts = BTreeMap::new();
    let mut lists = Vec::new();
    for (name, list) in &loaded.lists {
        let hash = sha256(list.bytes());
        lists.push(KeptList {
            name: name.clone(),
            path: list.name().to_owned(),
            sha256: hash.clone(),
            added: Default::default(),
            removed: Default::default(),
        });
        texts.insert(hash, list.bytes());
    }
    let kept = Kept {
        generation: description.generation,
        applied_at_s: description.applied_at_s,
        file: description.file.clone(),
        change,
        rules: description.policy.rules.len(),
        lapsed: false,
        text: String::from_utf8_lossy(loaded.source.bytes()).into_owned(),
        lists,
    };
    Next {
        image: prepared.image,
        description,
        kept,
        lists: texts,
    }
}

/// The same, of a rule file that is kept, perhaps edited.
pub(crate) fn next_kept<'a>(live: Live, prepared: Prepared, description: Description) -> Next<'a> {
    let kept = Kept {
        generation: description.generation,
        applied_at_s: description.applied_at_s,
        rules: description.policy.rules.len(),
        lapsed: false,
        ..live.kept
    };
    Next {
        image: prepared.image,
        description,
        kept,
        lists: BTreeMap::new(),
    }
}

/// The path of the rule file, to be described.
pub(crate) fn file(kept: &Kept) -> &Path {
    Path::new(&kept.file)
}
