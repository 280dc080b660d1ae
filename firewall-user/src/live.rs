//! The rule file that is in force on an interface, whatever the file is now: what live edits, plans and explanations go by.

pub(crate) mod known;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::kernel::description::Description;
use crate::kernel::guard::{Guard, Next};
use crate::kernel::image::Image;
use crate::kernel::kept::{self, Archive, Kept, KeptList};
use crate::policy::sha256;
use crate::rules::edit::RuleAt;
use crate::rules::{self, Loaded, Source, lists};
use crate::save;

/// A generation's rule file and address lists.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) kept: Kept,
    /// The rule file's text.
    pub(crate) text: String,
    /// Its rules as they were before any edit; none of a generation that is not in force, which nobody edits.
    pub(crate) rules: Vec<RuleAt>,
    texts: Texts,
}

/// Texts of the lists as they were read, by hash.
#[derive(Clone, Debug)]
enum Texts {
    /// They are kept, and read where they are needed: megabytes, of which many an edit needs none.
    Kept(Archive),
    /// They have been read.
    Read(BTreeMap<String, Arc<Vec<u8>>>),
}

impl Texts {
    fn of(&self, sha256: &str) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Kept(archive) => archive.list(sha256).map(Cow::Owned),
            Self::Read(texts) => Ok(Cow::Borrowed(&texts[sha256])),
        }
    }
}

impl Live {
    /// Those of the generation in force.
    ///
    /// # Errors
    ///
    /// They are not kept, or cannot be read.
    pub(crate) fn of(guard: &Guard) -> Result<Self> {
        if guard.description.policy.is_open {
            bail!("there are no rules in force, everything is let in: apply a file first");
        }
        let rules = guard.description.policy.rules.iter();
        let rules = rules.map(|rule| RuleAt {
            name: rule.name.clone(),
            line: rule.line,
        });
        Ok(Self {
            rules: rules.collect(),
            ..Self::of_generation(guard, guard.description.generation)?
        })
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
        let text = archive.text(generation)?;
        Ok(Self {
            kept,
            text,
            rules: Vec::new(),
            texts: Texts::Kept(archive),
        })
    }

    /// Those of the candidate, if there is one.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub(crate) fn candidate(guard: &Guard) -> Result<Option<Self>> {
        if guard.shadow()?.is_none() {
            return Ok(None);
        }
        Self::of_generation(guard, kept::CANDIDATE).map(Some)
    }

    /// Those that are in files now.
    ///
    /// # Errors
    ///
    /// All that is wrong with them, as text.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        Ok(Self::of_file(&rules::load(file)?))
    }

    /// Those of a file that has been loaded.
    pub(crate) fn of_file(loaded: &Loaded) -> Self {
        let mut texts = BTreeMap::new();
        let lists = kept_lists(loaded, |hash, text| {
            texts.insert(hash, Arc::new(text.to_vec()));
        });
        let kept = kept(loaded, loaded.source.name().to_owned(), lists);
        let text = String::from_utf8_lossy(loaded.source.bytes()).into_owned();
        let rules = loaded.rule_set.rules.iter();
        let rules = rules.map(|rule| RuleAt {
            name: rule.name.clone(),
            line: rule.line,
        });
        Self {
            kept,
            text,
            rules: rules.collect(),
            texts: Texts::Read(texts),
        }
    }

    /// The files in which this is not what it was `before`, with what they are to hold.
    ///
    /// # Errors
    ///
    /// A list cannot be read.
    pub(crate) fn changed_since(&self, before: &Self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut changed = Vec::new();
        if self.text != before.text {
            let text = self.text.clone().into_bytes();
            changed.push((PathBuf::from(&self.kept.file), text));
        }
        for (list, old) in self.kept.lists.iter().zip(&before.kept.lists) {
            if list != old {
                let text = save::as_before(&before.text(old)?, self.text(list)?);
                changed.push((PathBuf::from(&list.path), text));
            }
        }
        Ok(changed)
    }

    /// Changes the rule file's text, but for what an editor has put around its lines.
    pub(crate) fn set_text(&mut self, text: String) {
        let text = save::as_before(self.text.as_bytes(), text.into_bytes());
        self.text = String::from_utf8_lossy(&text).into_owned();
    }

    /// Whether this is the same text with the same addresses in its lists.
    ///
    /// # Errors
    ///
    /// A list cannot be read.
    pub(crate) fn is_alike(&self, other: &Self) -> Result<bool> {
        if self.text != other.text {
            return Ok(false);
        }
        let (lists, others) = (self.lists()?, other.lists()?);
        let is_alike = |(name, list): (&String, &Source)| {
            let other = others.get(name);
            other.is_some_and(|other| lists::are_alike(list.bytes(), other.bytes()))
        };
        Ok(lists.len() == others.len() && lists.iter().all(is_alike))
    }

    /// The list with this path in the rule file.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub(crate) fn list(&mut self, name: &str) -> Result<List<'_>> {
        let list = self.kept.lists.iter_mut().find(|list| list.name == name);
        let list = list.context("a list that is not kept")?;
        let text = self.texts.of(&list.sha256)?;
        Ok(List { list, text })
    }

    /// Forgets which addresses of lists are of one line alone, as they may not be any more.
    pub(crate) fn forget_alone(&mut self) {
        for list in &mut self.kept.lists {
            list.alone.clear();
        }
    }

    /// What they mean.
    ///
    /// # Errors
    ///
    /// All that is wrong with them, as text.
    pub(crate) fn loaded(&self) -> Result<Loaded> {
        let lists = self.lists()?;
        let kept = lists::From::Kept(&lists);
        Ok(rules::parse_with(&self.kept.file, &self.text, kept)?)
    }

    /// The lists as they are in force, by their paths in the rule file.
    ///
    /// # Errors
    ///
    /// One cannot be read.
    pub(crate) fn lists(&self) -> Result<lists::Lists> {
        let lists = self.kept.lists.iter().map(|list| {
            let source = Source::new(&list.path, self.text(list)?);
            Ok((list.name.clone(), source))
        });
        lists.collect()
    }

    /// The text of a list as it is in force.
    fn text(&self, list: &KeptList) -> Result<Vec<u8>> {
        let text = self.texts.of(&list.sha256)?;
        Ok(lists::edited(&text, &list.added, &list.removed))
    }
}

/// An address list that is being changed.
#[derive(Debug)]
pub(crate) struct List<'a> {
    list: &'a mut KeptList,
    text: Cow<'a, [u8]>,
}

impl List<'_> {
    /// Adds lines. Returns those that it did not have.
    pub(crate) fn add(&mut self, lines: &[String]) -> Vec<String> {
        let mut added = Vec::new();
        for line in lines {
            let was_removed = self.list.removed.remove(line);
            if was_removed || (!self.has(line) && self.list.added.insert(line.clone())) {
                added.push(line.clone());
            }
        }
        added
    }

    /// Takes lines out. Returns those that it had.
    pub(crate) fn remove(&mut self, lines: &[String]) -> Vec<String> {
        let mut removed = Vec::new();
        for line in lines {
            let was_added = self.list.added.remove(line);
            let is_there = self.has(line) && self.list.removed.insert(line.clone());
            if was_added || is_there {
                removed.push(line.clone());
            }
        }
        removed
    }

    /// Whether the text has a line that names the same addresses.
    fn has(&self, line: &str) -> bool {
        lists::has(&self.text, line)
    }
}

/// The rule set in force on an interface.
///
/// # Errors
///
/// It is not kept, or cannot be read.
pub(crate) fn loaded(guard: &Guard) -> Result<Loaded> {
    if guard.description.policy.is_open {
        return Ok(rules::parse("(no rules)", OPEN, Path::new("."))?);
    }
    Live::of(guard)?.loaded()
}

/// What is in force where a first policy was not confirmed, as a rule file.
const OPEN: &str = "version = 1\n[defaults]\ningress = \"accept\"\negress = \"accept\"\n";

/// The generation that `image` becomes, `change` being the command that makes it, from the file that was `loaded`.
pub(crate) fn next<'a>(
    loaded: &'a Loaded,
    image: Image,
    description: Description,
    change: String,
) -> Next<'a> {
    Next {
        image,
        source: source(loaded, &description, change),
        description,
    }
}

/// What a generation came from: the file that was `loaded`, by the command `change`.
pub(crate) fn source<'a>(
    loaded: &'a Loaded,
    description: &Description,
    change: String,
) -> kept::Source<'a> {
    let mut texts = BTreeMap::new();
    let lists = kept_lists(loaded, |hash, text| {
        texts.insert(hash, text);
    });
    let kept = Kept {
        generation: description.generation,
        applied_at_s: description.applied_at_s,
        change,
        ..kept(loaded, description.file.clone(), lists)
    };
    kept::Source {
        kept,
        text: Cow::Borrowed(loaded.source.bytes()),
        lists: texts,
    }
}

/// What is known of a rule file before it is put in force.
fn kept(loaded: &Loaded, file: String, lists: Vec<KeptList>) -> Kept {
    Kept {
        generation: 0,
        applied_at_s: 0,
        file,
        change: String::new(),
        rules: loaded.rule_set.rules.len(),
        lapsed: false,
        rolled_back: false,
        to_save: None,
        text_bytes: loaded.source.bytes().len(),
        lists,
    }
}

/// The lists that a file names; `text` is told the text of each by its hash.
fn kept_lists<'a>(loaded: &'a Loaded, mut text: impl FnMut(String, &'a [u8])) -> Vec<KeptList> {
    let lists = loaded.lists.iter().map(|(name, list)| {
        let hash = sha256(list.bytes());
        text(hash.clone(), list.bytes());
        KeptList {
            name: name.clone(),
            path: list.name().to_owned(),
            sha256: hash,
            added: BTreeSet::new(),
            removed: BTreeSet::new(),
            alone: BTreeSet::new(),
        }
    });
    lists.collect()
}

/// The same, of a rule file that is kept, perhaps edited.
pub(crate) fn next_kept<'a>(live: Live, image: Image, description: Description) -> Next<'a> {
    let kept = Kept {
        generation: description.generation,
        applied_at_s: description.applied_at_s,
        rules: description.policy.rules.len(),
        lapsed: false,
        rolled_back: false,
        to_save: None,
        text_bytes: live.text.len(),
        ..live.kept
    };
    let source = kept::Source {
        kept,
        text: Cow::Owned(live.text.into_bytes()),
        lists: BTreeMap::new(),
    };
    Next {
        image,
        description,
        source,
    }
}

/// The path of the rule file, to be described.
pub(crate) fn file(kept: &Kept) -> &Path {
    Path::new(&kept.file)
}
