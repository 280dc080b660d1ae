//! Scrapes: the kernel is read once for all that come at the same time, on a thread of its own, and what was read is sent to all of
//! them. No lock of commands is taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tracing::warn;

use super::exposition::Exposition;
use super::tally::Tally;
use crate::kernel::interface;
use crate::kernel::reading::{self, Known, Reading};

/// How long what was read is sent to others as well.
const FRESH: Duration = Duration::from_millis(250);
/// How many texts may be on their way to clients at a time, the last one included. While all of them are taken slowly no further one is made,
/// and the last one is sent: no longer than a connection lasts.
const MAX_TEXTS: usize = 4;

/// Reads and remembers.
#[derive(Debug)]
pub(super) struct Scraper {
    /// These interfaces; without any, all that are guarded.
    interfaces: Vec<String>,
    tally: Arc<Tally>,
    known: Arc<Mutex<Known>>,
    last: tokio::sync::Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    read_at: Option<Instant>,
    text: Bytes,
    /// Those that somebody may still have.
    texts: Vec<Weak<Owned>>,
}

/// A text, which goes when the last client that takes it does.
#[derive(Debug)]
struct Owned(String);

/// A client's share in a text.
struct Share(Arc<Owned>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        self.0.0.as_bytes()
    }
}

impl Scraper {
    pub(super) fn new(interfaces: Vec<String>, tally: Arc<Tally>) -> Self {
        Self {
            interfaces,
            tally,
            known: Arc::default(),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// What there is now, in OpenMetrics.
    pub(super) async fn scrape(&self) -> Bytes {
        let mut last = self.last.lock().await;
        last.texts.retain(|text| text.strong_count() > 0);
        let is_fresh = last.read_at.is_some_and(|at| at.elapsed() < FRESH);
        if is_fresh || last.texts.len() >= MAX_TEXTS {
            return last.text.clone();
        }
        let (interfaces, known) = (self.interfaces.clone(), self.known.clone());
        let tally = self.tally.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut known = known
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let readings = read(&interfaces, &mut known, &tally);
            Exposition::new(readings, &tally).text()
        });
        match reading.await {
            Ok(text) => {
                let text = Arc::new(Owned(text));
                last.texts.push(Arc::downgrade(&text));
                last.text = Bytes::from_owner(Share(text));
                last.read_at = Some(Instant::now());
            }
            // It panicked: what was read before is still there.
            Err(error) => {
                self.tally.scrape_failed();
                warn!("scraping: {error}");
            }
        }
        last.text.clone()
    }
}

/// Reads all interfaces that can be read; the others are told, and counted.
fn read(names: &[String], known: &mut Known, tally: &Tally) -> Vec<Reading> {
    let failed = |what: &str, error: anyhow::Error| {
        tally.scrape_failed();
        warn!("{what}: not read for metrics: {error:#}");
    };
    let all = match interface::all() {
        Ok(all) => all,
        Err(error) => {
            failed("interfaces", error);
            Vec::new()
        }
    };
    let pinned = match reading::interfaces(known) {
        Ok(pinned) => pinned,
        Err(error) => {
            failed("pins", error);
            Vec::new()
        }
    };
    let mut readings = BTreeMap::new();
    let is_wanted = |name: &&String| names.is_empty() || names.contains(name);
    for name in pinned.iter().filter(is_wanted) {
        match reading::read(name, &all, known) {
            Ok(reading) => {
                readings.insert(name.clone(), reading);
            }
            Err(error) => failed(name, error),
        }
    }
    readings.into_values().collect()
}
