//! Wakes the service when a pin or a rule file changes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::kernel::pins::BPFFS;

/// How long files have to be left alone before they are read: whoever changes several does so at once.
const SETTLED: Duration = Duration::from_millis(300);
/// How long is waited for that at the most.
const PATIENCE: Duration = Duration::from_secs(2);

/// What wakes the service, and why.
#[derive(Debug, Default)]
pub(super) struct Wake {
    pub(super) notify: Notify,
    files: Mutex<Option<Changes>>,
}

/// When the first and the last of several changes was.
#[derive(Clone, Copy, Debug)]
struct Changes {
    first: Instant,
    last: Instant,
}

/// How it stands with changes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// There were none.
    Same,
    /// There were some, and more may come so soon.
    Changing(Duration),
    /// There were some, and they are taken.
    Changed,
}

impl Wake {
    /// Takes the changes that there were.
    pub(super) fn files(&self) -> Files {
        let mut files = self.lock();
        let Some(changes) = *files else {
            return Files::Same;
        };
        let left = SETTLED.saturating_sub(changes.last.elapsed());
        let left = left.min(PATIENCE.saturating_sub(changes.first.elapsed()));
        if !left.is_zero() {
            return Files::Changing(left);
        }
        *files = None;
        Files::Changed
    }

    fn file_changed(&self) {
        let now = Instant::now();
        let mut files = self.lock();
        let first = files.map_or(now, |changes| changes.first);
        *files = Some(Changes { first, last: now });
        drop(files);
        self.notify.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Changes>> {
        self.files
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Folders that are watched.
#[derive(Debug)]
pub(super) struct Watcher {
    watcher: RecommendedWatcher,
    folders: BTreeSet<PathBuf>,
}

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    ///
    /// There is no inotify.
    pub(super) fn new(wake: Arc<Wake>) -> Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            match event {
                // Reading changes nothing.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => {}
                Ok(event) if event.paths.iter().all(|path| path.starts_with(BPFFS)) => {
                    wake.notify.notify_one();
                }
                // Of events that were lost nobody knows what they were about.
                Ok(_) | Err(_) => wake.file_changed(),
            }
        });
        Ok(Self {
            watcher: watcher.context("starting to watch files")?,
            folders: BTreeSet::new(),
        })
    }

    /// Watches just these folders. One that was made anew is another.
    pub(super) fn watch(&mut self, folders: BTreeSet<PathBuf>) {
        for gone in self.folders.difference(&folders) {
            // It may be gone itself.
            let _ = self.watcher.unwatch(gone);
        }
        self.folders = folders;
        self.folders.retain(|folder| {
            let watched = self.watcher.watch(folder, RecursiveMode::NonRecursive);
            watched.is_ok() || !Path::new(folder).exists()
        });
    }
}
