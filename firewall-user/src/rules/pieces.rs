//! A large rule file is read in pieces. The TOML parser makes lists of all tokens and of all events and then a tree, so that of a whole
//! megabyte it takes longer to have the memory than to read the text.

use std::collections::HashSet;
use std::ops::Range;

use memchr::memmem;
use toml::de::DeTable;

use super::diagnostic::{Collector, Source};
use super::typed::{Reader, RuleFile};

/// Bytes of a piece, but for the rest of its last rule.
pub(super) const PIECE: usize = 32 << 10;

/// Before which line a file may be cut.
const HEADING: &str = "\n[[rule]]";

/// What the text of `source` says, read in pieces of this size. Nothing where that is more than good pieces: where something is wrong,
/// which is only told well of the whole, or where one piece goes on with a table that begins in another.
pub(super) fn read(text: &str, source: &Source, size: usize) -> Option<RuleFile> {
    let mut file = RuleFile::default();
    let mut collector = Collector::default();
    let (mut of_head, mut seen) = (HashSet::new(), HashSet::new());
    for piece in pieces(text, size) {
        // Where a cut was not before a heading but in a text of several lines, that is not closed.
        let root = DeTable::parse(&text[piece.clone()]).ok()?;
        let root = root.get_ref();
        let is_head = piece.start == 0;
        if is_head && !root.contains_key("version") {
            return None;
        }
        for key in root.keys() {
            let key = key.get_ref().as_ref();
            // Behind the head everything is under headings, and those in double brackets begin anew.
            let begins = match key {
                "rule" | "assert" if !is_head => !of_head.contains(key),
                _ => seen.insert(key.to_owned()),
            };
            if !begins {
                return None;
            }
        }
        if is_head {
            of_head.clone_from(&seen);
        }
        let mut reader = Reader {
            source,
            collector: &mut collector,
            base: piece.start,
        };
        reader.tables(root, &mut file);
    }
    (!collector.has_errors()).then_some(file)
}

/// The head, up to the first rule, and then pieces that begin with a rule.
fn pieces(text: &str, size: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let start = next?;
        let least = if start == 0 { 0 } else { start + size };
        let rest = text.as_bytes().get(least..).unwrap_or_default();
        next = memmem::find(rest, HEADING.as_bytes()).map(|at| least + at + 1);
        Some(start..next.unwrap_or(text.len()))
    })
}

#[cfg(test)]
mod tests;
