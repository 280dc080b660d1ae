//! Rule files of interfaces: which there are, what they were made of when they were applied, and whether that has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::policy::sha256;
use crate::rules::{self, Loaded, Report};

/// What comes behind the interface's name in the names of files in the folder of rules.
const SUFFIX: &str = "toml";

/// An interface and its rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    interface: String,
    file: PathBuf,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((interface, file)) if !interface.is_empty() && !file.is_empty() => Ok(Self {
                interface: interface.to_owned(),
                file: file.into(),
            }),
            _ => Err("write the interface and its rule file: eth0=/etc/firewall/web.toml".into()),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Policies {
    folder: Option<PathBuf>,
    assigned: Vec<Assignment>,
    files: BTreeMap<String, RuleFile>,
}

/// The rule file of an interface.
#[derive(Debug)]
pub(super) struct RuleFile {
    pub(super) path: PathBuf,
    /// The files that it consists of, as far as is known: itself and its address lists.
    parts: BTreeSet<PathBuf>,
    /// What was in them when they were looked at last.
    print: Option<String>,
    /// Whether it is to be applied.
    pub(super) is_due: bool,
    /// Whether it became due, or still was, while something waited to be confirmed.
    pub(super) is_held: bool,
    /// Whether that is only so while the interface is not guarded: it was there when the service began.
    pub(super) only_unguarded: bool,
    /// When it could not be applied last.
    pub(super) failed_at: Option<Instant>,
}

impl Policies {
    pub(super) fn new(folder: Option<PathBuf>, assigned: Vec<Assignment>) -> Self {
        Self {
            folder,
            assigned,
            files: BTreeMap::new(),
        }
    }

    /// Finds the files that there are now. Those that are new are due.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub(super) fn find(&mut self) -> Result<()> {
        let mut found = BTreeMap::new();
        if let Some(folder) = &self.folder {
            let entries = match fs::read_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                entries => Some(entries.with_context(|| format!("reading {}", folder.display()))?),
            };
            for entry in entries.into_iter().flatten() {
                let path = entry?.path();
                let is_rules = path.extension().is_some_and(|suffix| suffix == SUFFIX);
                let name = path.file_stem().and_then(|stem| stem.to_str());
                if let (true, Some(name)) = (is_rules, name) {
                    // Editors' own files begin so.
                    if !name.starts_with('.') {
                        found.insert(name.to_owned(), path);
                    }
                }
            }
        }
        let assigned = self.assigned.iter().cloned();
        found.extend(assigned.map(|one| (one.interface, one.file)));
        self.files
            .retain(|name, file| found.get(name) == Some(&file.path));
        for (name, path) in found {
            self.files
                .entry(name)
                .or_insert_with(|| RuleFile::new(path));
        }
        Ok(())
    }

    /// The files that there are are only for interfaces that are not guarded.
    pub(super) fn all_only_unguarded(&mut self) {
        for file in self.files.values_mut() {
            file.only_unguarded = true;
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut RuleFile> {
        self.files.get_mut(name)
    }

    /// All are to be applied, changed or not.
    pub(super) fn all_due(&mut self) {
        for file in self.files.values_mut() {
            file.is_due = true;
            file.only_unguarded = false;
        }
    }

    /// Those that are not what they were are to be applied.
    pub(super) fn changed_due(&mut self) {
        for file in self.files.values_mut() {
            if file.look() {
                file.is_due = true;
                file.only_unguarded = false;
            }
        }
    }

    /// The folders that have to be watched.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        let files = self.files.values();
        let parts = files.flat_map(|file| &file.parts);
        let folders = parts.filter_map(|part| part.parent());
        folders
            .map(Path::to_owned)
            .chain(self.folder.clone())
            .collect()
    }
}

impl RuleFile {
    fn new(path: PathBuf) -> Self {
        let path = std::path::absolute(&path).unwrap_or(path);
        let mut file = Self {
            parts: BTreeSet::from([path.clone()]),
            path,
            print: None,
            is_due: true,
            is_held: false,
            only_unguarded: false,
            failed_at: None,
        };
        // Its lists count from the start, whether or not it is to be applied.
        let _ = file.load();
        file
    }

    /// Reads it, and remembers what it is made of.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub(super) fn load(&mut self) -> Result<Loaded, Report> {
        self.look();
        let loaded = rules::load(&self.path)?;
        let lists = loaded.lists.values().map(|list| PathBuf::from(list.name()));
        self.parts = lists.chain([self.path.clone()]).collect();
        self.look();
        Ok(loaded)
    }

    /// Whether it is another than when this was called last.
    fn look(&mut self) -> bool {
        let mut all = String::new();
        for part in &self.parts {
            // One that cannot be read is told of when it is applied.
            all += &fs::read(part).map_or_else(|_| "-".to_owned(), |bytes| sha256(&bytes));
        }
        let print = Some(sha256(all.as_bytes()));
        let is_another = self.print != print;
        self.print = print;
        is_another
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(policies: &mut Policies, name: &str) -> bool {
        let file = policies.get_mut(name).unwrap();
        std::mem::take(&mut file.is_due)
    }

    #[test]
    fn an_assignment_names_an_interface_and_a_file() {
        let assignment: Assignment = "eth0.10=/etc/a=b.toml".parse().unwrap();
        assert_eq!(assignment.interface, "eth0.10");
        assert_eq!(assignment.file, Path::new("/etc/a=b.toml"));
        for wrong in ["", "eth0", "=a.toml", "eth0="] {
            assert!(wrong.parse::<Assignment>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_due_when_it_or_a_list_of_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "eth0.toml",
            "version = 1\n[groups]\nbad = { file = \"bad.txt\" }\n",
        );
        write("bad.txt", "192.0.2.1\n");
        write(".eth1.toml", "");
        write("README", "");
        let mut policies = Policies::new(Some(folder.path().to_owned()), Vec::new());
        policies.find().unwrap();
        assert_eq!(policies.names().collect::<Vec<_>>(), ["eth0"]);
        assert!(due(&mut policies, "eth0"), "it is new");
        policies.get_mut("eth0").unwrap().load().unwrap();

        policies.changed_due();
        assert!(!due(&mut policies, "eth0"));
        write("bad.txt", "192.0.2.2\n");
        policies.changed_due();
        assert!(due(&mut policies, "eth0"), "its list is another");
        write("README", "other");
        policies.changed_due();
        assert!(!due(&mut policies, "eth0"));
        // As editors do it.
        write("new", "version = 1\n");
        fs::rename(folder.path().join("new"), folder.path().join("eth0.toml")).unwrap();
        policies.changed_due();
        assert!(due(&mut policies, "eth0"));
        assert!(policies.folders().contains(folder.path()));
    }
}
