//! A large rule file is read in pieces. The TOML parser makes lists of all tokens and of all events and then a tree, so that of a whole
//! megabyte it takes longer to have the memory than to read the text; and pieces can be read at the same time.

use std::collections::BTreeSet;
use std::iter;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Builder};

use memchr::memmem;
use toml::de::DeTable;

use super::diagnostic::{Collector, Source};
use super::typed::{Reader, RuleFile};

/// Bytes of a piece, but for the rest of its last rule.
pub(super) const PIECE: usize = 32 << 10;

/// Before which line a file may be cut.
const HEADING: &str = "\n[[rule]]";

/// Most threads that read pieces; with more of them the time goes into what comes afterwards.
const MAX_THREADS: usize = 4;

/// What the text of `source` says, read in pieces of this size. Nothing where that is more than good pieces: where something is wrong,
/// which is only told well of the whole, or where one piece goes on with a table that begins in another.
pub(super) fn read(text: &str, source: &Source, size: usize) -> Option<RuleFile> {
    let pieces = read_all(text, source, &pieces(text, size).collect::<Vec<_>>())?;
    let rules = pieces.iter().map(|piece| piece.file.rules.len()).sum();
    let mut pieces = pieces.into_iter();
    let head = pieces.next()?;
    if !head.keys.contains("version") {
        return None;
    }
    let mut file = head.file;
    file.rules.reserve_exact(rules);
    let mut seen = head.keys.clone();
    for Piece { keys, file: part } in pieces {
        // Behind the head everything is under headings, and those in double brackets begin anew.
        let begins = keys.iter().all(|key| match &key[..] {
            "rule" | "assert" => !head.keys.contains(key),
            _ => seen.insert(key.clone()),
        });
        if !begins {
            return None;
        }
        file.extend(part, |table| keys.contains(table));
    }
    Some(file)
}

/// What one piece says.
struct Piece {
    /// Names at its top level.
    keys: BTreeSet<String>,
    file: RuleFile,
}

impl Piece {
    /// Nothing where something is wrong with it, as it is where a cut was not before a heading but in a text of several lines, that is not
    /// closed.
    fn read(text: &str, source: &Source, place: Range<usize>) -> Option<Self> {
        let root = DeTable::parse(&text[place.clone()]).ok()?;
        let root = root.get_ref();
        let mut collector = Collector::default();
        let mut file = RuleFile::default();
        let mut reader = Reader {
            source,
            collector: &mut collector,
            base: place.start,
        };
        reader.tables(root, &mut file);
        let keys = root.keys().map(|key| key.get_ref().as_ref().to_owned());
        let keys = keys.collect();
        (!collector.has_errors()).then_some(Self { keys, file })
    }
}

/// All pieces in their order, read by as many threads as there are processors, and not many; nothing where something is wrong with one.
fn read_all(text: &str, source: &Source, places: &[Range<usize>]) -> Option<Vec<Piece>> {
    let next = AtomicUsize::new(0);
    let read_some = || {
        let mut read = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(place) = places.get(at) else {
                return Some(read);
            };
            let Some(piece) = Piece::read(text, source, place.clone()) else {
                next.store(places.len(), Ordering::Relaxed);
                return None;
            };
            read.push((at, piece));
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(places.len()).min(MAX_THREADS);
    let read: Option<Vec<_>> = thread::scope(|scope| {
        // Where the kernel has no thread to give, there are fewer.
        let others = (1..threads).map(|_| Builder::new().spawn_scoped(scope, read_some));
        let others: Vec<_> = others.flatten().collect();
        let mine = read_some();
        // What makes a thread panic does so where the whole is read, too.
        let others = others.into_iter().map(|other| other.join().ok().flatten());
        iter::once(mine).chain(others).collect()
    });
    let mut all: Vec<(usize, Piece)> = read?.into_iter().flatten().collect();
    all.sort_unstable_by_key(|&(at, _)| at);
    Some(all.into_iter().map(|(_, piece)| piece).collect())
}

/// The head, up to the first rule, and then pieces that begin with a rule.
fn pieces(text: &str, size: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = Some(0);
    iter::from_fn(move || {
        let start = next?;
        let least = if start == 0 { 0 } else { start + size };
        let rest = text.as_bytes().get(least..).unwrap_or_default();
        next = memmem::find(rest, HEADING.as_bytes()).map(|at| least + at + 1);
        Some(start..next.unwrap_or(text.len()))
    })
}

#[cfg(test)]
mod tests;
