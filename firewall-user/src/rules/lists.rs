//! The address lists that a rule file names: where they are read from, and what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::Spanned;

use super::addresses::{Block, parse_block};
use super::diagnostic::{Collector, Diagnostic, Source};
use super::file::{self, Kind};

/// Largest address list file. A million IPv6 CIDRs are 45 MB; much more than that does not fit the kernel's tables, and
/// the file is held in memory while it is read.
pub const MAX_LIST_BYTES: usize = 100 << 20;

const ADDRESS_LIST: Kind = Kind {
    name: "an address list",
    max_bytes: MAX_LIST_BYTES,
    too_large: "merge its addresses into CIDRs, or split it into several lists",
    not_found: "check the name; it is relative to the directory of the rule file",
};

/// What some editors write at the start of a file.
pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Address lists by their path as the rule file has it.
pub type Lists = BTreeMap<String, Source>;

/// Where lists are found.
#[derive(Clone, Copy, Debug)]
pub enum From<'a> {
    /// In files; paths are relative to this directory.
    Directory(&'a Path),
    /// In what was read before, whatever the files are now.
    Kept(&'a Lists),
}

/// Reads lists, and remembers them.
pub(super) struct Reader<'a> {
    from: From<'a>,
    pub(super) read: Lists,
}

impl<'a> Reader<'a> {
    pub(super) fn new(from: From<'a>) -> Self {
        Self {
            from,
            read: Lists::new(),
        }
    }

    /// The list at `path`, which stands in `source`.
    pub(super) fn list(
        &mut self,
        path: &Spanned<String>,
        source: &Source,
        collector: &mut Collector,
    ) -> Option<Source> {
        let name = path.get_ref();
        if let Some(list) = self.read.get(name) {
            return Some(list.clone());
        }
        let list = match self.from {
            From::Directory(directory) => read(directory, name),
            From::Kept(lists) => lists.get(name).cloned().ok_or_else(|| {
                let message = format!("{name}: this list was not read when the file was applied");
                (message, "apply the file again")
            }),
        };
        match list {
            Ok(list) => {
                self.read.insert(name.clone(), list.clone());
                Some(list)
            }
            Err((message, help)) => {
                collector.error(|| {
                    Diagnostic::error(message)
                        .help(help)
                        .at(source, path.span(), "")
                });
                None
            }
        }
    }
}

fn read(directory: &Path, name: &str) -> Result<Source, (String, &'static str)> {
    let path = directory.join(name);
    match file::read_text(&path, &ADDRESS_LIST) {
        Ok(bytes) => Ok(Source::new(&path.to_string_lossy(), bytes)),
        Err(refusal) => Err((
            format!("{}: {}", path.display(), refusal.message),
            refusal.help,
        )),
    }
}

/// The text of a list with the lines in `added`, and without those that name the same addresses as one in `removed`.
pub(crate) fn edited(text: &[u8], added: &BTreeSet<String>, removed: &BTreeSet<String>) -> Vec<u8> {
    let mut edited = if removed.is_empty() {
        text.to_vec()
    } else {
        without(
            text,
            &removed
                .iter()
                .filter_map(|line| entry(line.as_bytes()))
                .collect::<Vec<_>>(),
        )
    };
    for line in added {
        if !edited.is_empty() && !edited.ends_with(b"\n") {
            edited.push(b'\n');
        }
        edited.extend_from_slice(line.as_bytes());
        edited.push(b'\n');
    }
    edited
}

/// Whether a line of the text names the same addresses as `line`.
pub(crate) fn has(text: &[u8], line: &str) -> bool {
    let Some(wanted) = entry(line.as_bytes()) else {
        return false;
    };
    text.split(|&byte| byte == b'\n')
        .any(|line| entry(line) == Some(wanted))
}

/// Whether two texts name the same addresses, in whatever order.
pub(crate) fn are_alike(one: &[u8], other: &[u8]) -> bool {
    let entries = |text: &[u8]| {
        let mut blocks: Vec<Block> = text
            .split(|&byte| byte == b'\n')
            .filter_map(entry)
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    };
    one == other || entries(one) == entries(other)
}

fn without(text: &[u8], removed: &[Block]) -> Vec<u8> {
    let mut left = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if !entry(line).is_some_and(|block| removed.contains(&block)) {
            left.extend_from_slice(line);
        }
    }
    left
}

/// What a line of a list names, if it names anything.
pub(crate) fn entry(line: &[u8]) -> Option<Block> {
    let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    let uncommented = line.split(|&byte| byte == b'#').next()?;
    parse_block(uncommented.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_alike_if_they_name_the_same_addresses() {
        let alike = |one: &str, other: &str| are_alike(one.as_bytes(), other.as_bytes());
        assert!(alike(
            "192.0.2.1\n192.0.2.2\n",
            "# b, a\n192.0.2.2/32\r\n192.0.2.1 # a"
        ));
        assert!(alike("\u{feff}192.0.2.1\n", "192.0.2.1\n"));
        assert!(!alike("\u{feff}192.0.2.1\n", "\u{feff}192.0.2.99\n"));
        assert!(!alike("192.0.2.1\n", "192.0.2.1\n192.0.2.2\n"));
        assert!(has("\u{feff}192.0.2.1\n".as_bytes(), "192.0.2.1"));
    }
}
