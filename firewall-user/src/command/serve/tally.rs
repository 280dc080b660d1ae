//! What the service itself counts, beside what the kernel does.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the service began.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Scrapes that could not read everything.
    scrape_errors: AtomicU64,
    /// Connections that had to make room for later ones.
    refused: AtomicU64,
    interfaces: Mutex<BTreeMap<String, OfInterface>>,
}

/// What is counted of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OfInterface {
    /// How often it was gone, and was guarded again when it was back.
    pub(super) reattachments: u64,
    /// How often pins of it were lost, and put back.
    pub(super) repinned: u64,
    /// Whether it has a rule file that is applied when it changes, or at the start.
    pub(super) has_file: bool,
    /// How often that could not be applied.
    pub(super) reload_failures: u64,
    /// When it was applied last, or found to be in force, in seconds since 1970.
    pub(super) reloaded_at_s: Option<u64>,
}

impl Tally {
    pub(super) fn scrape_failed(&self) {
        self.scrape_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connection_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn scrape_errors(&self) -> u64 {
        self.scrape_errors.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Changes what is counted of the interface called `name`.
    pub(super) fn of(&self, name: &str, change: impl FnOnce(&mut OfInterface)) {
        let mut interfaces = self.lock();
        change(interfaces.entry(name.to_owned()).or_default());
    }

    /// What is counted of interfaces.
    pub(super) fn interfaces(&self) -> BTreeMap<String, OfInterface> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, OfInterface>> {
        // Whoever panicked while holding it has left numbers, which are whole.
        self.interfaces
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
