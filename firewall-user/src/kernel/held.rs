//! What is pinned for an interface, held by a process as well: a pin that is lost is put back, and until then the kernel guards on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::programs::links::{FdLink, PinnedLink};

use super::attachment;
use super::pins::{self, Hook, Pins};

/// Everything in an interface's folder.
#[derive(Debug)]
pub struct Held {
    pins: Pins,
    objects: BTreeMap<OsString, Object>,
}

/// A pin, and what it is of.
#[derive(Debug)]
struct Object {
    /// Number of the pin's inode: another object under the name has another.
    inode: u64,
    /// The object. aya has a type for each kind, and its links are the ones that are just what the kernel was asked for: getting an
    /// object and pinning it are the same calls for maps, programs and links.
    object: FdLink,
}

/// Where the links are that this process has descriptors of.
#[derive(Debug)]
pub struct Links(BTreeMap<u32, u32>);

impl Links {
    /// As they are now.
    ///
    /// # Errors
    ///
    /// procfs is out of reach.
    pub fn read() -> Result<Self> {
        attachment::links().map(Self)
    }
}

/// What a look at the pins has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The links are pinned, and all that is pinned is held.
    Whole,
    /// The pin of a link that is held is not there.
    Lost,
    /// Nothing is held, and there is nothing to hold.
    Nothing,
}

impl Held {
    /// What is pinned for the interface called `name`; nothing yet.
    pub fn of(name: &str) -> Self {
        Self {
            pins: Pins::of(name),
            objects: BTreeMap::new(),
        }
    }

    /// Holds what is pinned now, unless a link that is held has lost its pin: then everything goes on being held.
    ///
    /// # Errors
    ///
    /// The BPF file system cannot be read.
    pub fn look(&mut self) -> Result<Look> {
        if self.pins.other_abi()?.is_some() {
            // Another version takes it over, or has: it is that one's now.
            self.objects.clear();
            return Ok(Look::Nothing);
        }
        let pinned = self.pinned()?;
        let links = Hook::ALL.map(|hook| self.pins.link(hook));
        let mut links = links.iter().filter_map(|link| link.file_name());
        if links.any(|link| self.objects.contains_key(link) && !pinned.contains_key(link)) {
            return Ok(Look::Lost);
        }
        if !pins::exists(&self.pins.link(Hook::Ingress))? {
            // Not guarded, or not yet.
            self.objects.clear();
            return Ok(Look::Nothing);
        }
        let folder = self.pins.folder();
        self.objects
            .retain(|name, object| pinned.get(name) == Some(&object.inode));
        for (name, inode) in pinned {
            if !self.objects.contains_key(&name)
                && let Ok(pin) = PinnedLink::from_pin(folder.join(&name))
            {
                let object = FdLink::from(pin);
                self.objects.insert(name, Object { inode, object });
            }
        }
        Ok(Look::Whole)
    }

    /// Pins what is held and has lost its pin, the link for what arrives last. Returns the names.
    ///
    /// # Errors
    ///
    /// What the kernel says; what could not be pinned is still held.
    pub fn put_back(&mut self) -> Result<Vec<String>> {
        self.pins.refuse_other_abi()?;
        pins::ensure_bpffs()?;
        self.pins.create()?;
        let pinned = self.pinned()?;
        let last = self.pins.link(Hook::Ingress);
        let mut lost: Vec<OsString> = (self.objects.keys())
            .filter(|&name| !pinned.contains_key(name))
            .cloned()
            .collect();
        lost.sort_by_key(|name| last.file_name() == Some(name));
        let mut names = Vec::new();
        for name in lost {
            let path = self.pins.folder().join(&name);
            if let Some(Object { object, .. }) = self.objects.remove(&name) {
                let pinned = object.pin(&path);
                let pinned = pinned.with_context(|| format!("pinning {}", path.display()))?;
                let object = FdLink::from(pinned);
                // The next look finds the new pin's inode.
                names.push(name.to_string_lossy().into_owned());
                self.objects.insert(name, Object { inode: 0, object });
            }
        }
        Ok(names)
    }

    /// The links that are held, by hook, with the program that each runs and the index of the interface that it is on.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn at_work(&self, links: &Links) -> Result<BTreeMap<&'static str, (u32, u32)>> {
        let mut at_work = BTreeMap::new();
        for hook in Hook::ALL {
            let path = self.pins.link(hook);
            let held = path.file_name().and_then(|name| self.objects.get(name));
            if let Some(Object { object, .. }) = held {
                let info = object.info().context("asking for a link")?;
                if let Some(&index) = links.0.get(&info.id()) {
                    at_work.insert(hook.name(), (info.program_id(), index));
                }
            }
        }
        Ok(at_work)
    }

    /// Lets go of everything. Whatever has no pin then is gone.
    pub fn let_go(&mut self) {
        self.objects.clear();
    }

    /// The folder that is looked at.
    pub fn folder(&self) -> PathBuf {
        self.pins.folder()
    }

    /// Names and inodes of what is pinned.
    fn pinned(&self) -> Result<BTreeMap<OsString, u64>> {
        let folder = self.pins.folder();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.with_context(|| format!("reading {}", folder.display()))?,
        };
        let mut pinned = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            pinned.insert(entry.file_name(), entry.ino());
        }
        Ok(pinned)
    }
}
