//! The first step of a rule's life: a TOML file is read, becomes what was typed (`super::typed`), each value with its
//! place in the file, and is handed to [`super::validate`].

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use toml::de::DeTable;

use super::asserts;
use super::diagnostic::{Collector, Diagnostic, Report, Source};
use super::lists::{self, Lists};
use super::model::{Flows, RuleSet};
use super::pieces;
use super::syntax::{Damage, syntax_error};
use super::typed::{Reader, RuleFile};
use super::validate::{self, RulePlace};

/// Largest rule file. 65,000 rules with addresses and comments take about 10 MiB; long address lists belong in files of
/// their own, which are read much faster.
pub const MAX_FILE_BYTES: usize = 16 << 20;

const RULE_FILE: Kind = Kind {
    name: "a rule file",
    max_bytes: MAX_FILE_BYTES,
    too_large: "put long address lists in files of their own: under [groups], refused = { file = \"refused.txt\" }",
    not_found: "check the name",
};

/// Largest file in which all syntax errors are reported; in a larger one it is the first. The TOML parser gathers them
/// without bound, so megabytes of something else than TOML would cost gigabytes.
const MAX_RECOVERED_BYTES: usize = 1 << 20;

/// A rule file that can be applied.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub rule_set: RuleSet,
    /// What is probably not meant, in the order of the file.
    pub warnings: Vec<Diagnostic>,
    /// Its text, to point further diagnostics into.
    pub source: Source,
    /// Where each rule of `rule_set.rules` stands, by the same index.
    pub rule_places: Vec<RulePlace>,
    /// The address lists that it names.
    pub lists: Lists,
    /// How many assertions it has, which all hold.
    pub asserts: usize,
}

impl Loaded {
    /// A warning that points at the name of a rule. `rule` is its index in `rule_set.rules`.
    pub fn rule_warning(
        &self,
        rule: usize,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::warning(message).at(&self.source, self.rule_places[rule].name.clone(), label)
    }

    /// Adds the name of another rule to a diagnostic, such as the one that covers the first.
    pub fn also_at_rule(
        &self,
        diagnostic: Diagnostic,
        rule: usize,
        label: impl Into<String>,
    ) -> Diagnostic {
        diagnostic.also_at(&self.source, self.rule_places[rule].name.clone(), label)
    }
}

/// Reads and validates the rule file at `path`.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let name = path.to_string_lossy();
    let refuse = |refusal: Refusal| {
        Diagnostic::error(refusal.message)
            .help(refusal.help)
            .in_file(&name)
    };
    let bytes = read_text(path, &RULE_FILE).map_err(refuse)?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    match String::from_utf8(bytes) {
        Ok(text) => parse(&name, &text, base_dir),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let source = Source::new(&name, error.into_bytes());
            let error = Diagnostic::error("the file is not UTF-8 text")
                .help("save it as UTF-8, which TOML requires")
                .at(&source, at..at + 1, "not UTF-8 from here");
            Err(error.into())
        }
    }
}

/// Validates the text of a rule file. `source_name` is what diagnostics call it; files that its groups name are read
/// relative to `base_dir`.
pub fn parse(source_name: &str, text: &str, base_dir: &Path) -> Result<Loaded, Report> {
    parse_with(source_name, text, lists::From::Directory(base_dir))
}

/// The same, with address lists from elsewhere.
pub fn parse_with(source_name: &str, text: &str, lists: lists::From<'_>) -> Result<Loaded, Report> {
    parse_in_pieces(source_name, text, lists, None, pieces::PIECE)
}

/// The same, but that assertions have to hold only `within` some packets.
pub fn parse_within(
    source_name: &str,
    text: &str,
    lists: lists::From<'_>,
    within: asserts::Within,
) -> Result<Loaded, Report> {
    parse_in_pieces(source_name, text, lists, Some(within), pieces::PIECE)
}

/// What the text of a rule file that has been in force asks of the flow table. Nothing else of it is looked at, and no list.
pub(crate) fn flows(text: &str) -> Option<Flows> {
    let source = Source::new("", text);
    let mut collector = Collector::default();
    let (typed, _) = read_whole(text, &source, &mut collector)?;
    let alone = RuleFile {
        flows: typed.flows,
        ..RuleFile::default()
    };
    let none = lists::Lists::new();
    let mut lists = lists::Reader::new(lists::From::Kept(&none));
    let (rule_set, _) = validate::validate(alone, &source, &mut lists, &mut collector);
    (!collector.has_errors()).then_some(rule_set.flows)
}

/// The same, in pieces of this size where there are several.
pub(super) fn parse_in_pieces(
    source_name: &str,
    text: &str,
    lists: lists::From<'_>,
    within: Option<asserts::Within>,
    size: usize,
) -> Result<Loaded, Report> {
    let source = Source::new(source_name, text);
    let mut collector = Collector::default();
    if text.len() > MAX_FILE_BYTES {
        let refusal = RULE_FILE.too_large();
        let error = Diagnostic::error(refusal.message).help(refusal.help);
        return Err(error.in_file(source_name).into());
    }
    let in_pieces = (text.len() > size).then(|| pieces::read(text, &source, size));
    let (mut typed, damage) = match in_pieces.flatten() {
        Some(typed) => (typed, None),
        None => match read_whole(text, &source, &mut collector) {
            Some(read) => read,
            None => return Err(collector.finish(source_name)),
        },
    };
    let asserts = std::mem::take(&mut typed.asserts);
    let mut lists = lists::Reader::new(lists);
    let (rule_set, rule_places) = validate::validate(typed, &source, &mut lists, &mut collector);
    if let Some(damage) = &damage {
        collector.retain_errors(|error| !damage.explains(&source, error));
        for (error, list) in &damage.errors {
            collector.error(|| syntax_error(&source, error, list.as_ref()));
        }
    }
    asserts::check(
        &asserts,
        &rule_set,
        &rule_places,
        &source,
        within,
        &mut collector,
    );
    let failed = collector.has_errors();
    let report = collector.finish(source_name);
    if failed {
        return Err(report);
    }
    Ok(Loaded {
        rule_set,
        warnings: report.warnings,
        source,
        rule_places,
        lists: lists.read,
        asserts: asserts.len(),
    })
}

/// What was typed, as far as syntax errors let it be known. Nothing where too much is wrong with it, which has been said.
fn read_whole(
    text: &str,
    source: &Source,
    collector: &mut Collector,
) -> Option<(RuleFile, Option<Damage>)> {
    let (root, damage) = match DeTable::parse(text) {
        Ok(root) => (root, None),
        Err(first) if text.len() > MAX_RECOVERED_BYTES => {
            collector.error(|| syntax_error(source, &first, None));
            return None;
        }
        Err(_) => {
            let (root, errors) = DeTable::parse_recoverable(text);
            let damage = Damage::of(source, root.get_ref(), errors);
            (root, Some(damage))
        }
    };
    if damage.as_ref().is_some_and(|damage| damage.headings) {
        for (error, list) in damage.iter().flat_map(|damage| &damage.errors) {
            collector.error(|| syntax_error(source, error, list.as_ref()));
        }
        return None;
    }
    let mut reader = Reader {
        source,
        collector,
        base: 0,
    };
    Some((reader.rule_file(root.get_ref()), damage))
}

/// A kind of file that is read, in the words of its error messages.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) max_bytes: usize,
    pub(super) too_large: &'static str,
    pub(super) not_found: &'static str,
}

impl Kind {
    fn too_large(&self) -> Refusal {
        let most = self.max_bytes >> 20;
        let message = format!(
            "this is larger than {most} MiB, the most that {} may have",
            self.name
        );
        Refusal::new(message, self.too_large)
    }

    fn unreadable(&self, error: &std::io::Error) -> Refusal {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => self.not_found,
            std::io::ErrorKind::PermissionDenied => {
                "check the permissions of the file and of its directories"
            }
            _ => "check the file and the disk it is on",
        };
        Refusal::new(format!("this cannot be read: {}", io_message(error)), help)
    }

    fn not_regular(&self, file_type: std::fs::FileType) -> Refusal {
        let message = format!("this is {}, not {}", type_of_file(file_type), self.name);
        Refusal::new(message, "name a text file")
    }
}

/// Why a file was not read, and what to do.
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) help: &'static str,
}

impl Refusal {
    fn new(message: String, help: &'static str) -> Self {
        Self { message, help }
    }
}

/// Reads a regular text file of at most the kind's size. Never blocks: what is not a regular file is not opened.
pub(super) fn read_text(path: &Path, kind: &Kind) -> Result<Vec<u8>, Refusal> {
    let unreadable = |error: std::io::Error| kind.unreadable(&error);
    // Asked before opening, because opening a device can have effects, and again after, because it may have changed.
    let before = std::fs::metadata(path).map_err(unreadable)?;
    if !before.is_file() {
        return Err(kind.not_regular(before.file_type()));
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let file = File::from(opened);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(kind.not_regular(metadata.file_type()));
    }
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if size > kind.max_bytes {
        return Err(kind.too_large());
    }
    let mut bytes = Vec::with_capacity(size + 1);
    // A file can grow while it is read, and those in /proc have no size.
    let at_most = u64::try_from(kind.max_bytes)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(at_most)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > kind.max_bytes {
        return Err(kind.too_large());
    }
    if bytes.contains(&0) {
        let message = format!("this is a binary file, not {}", kind.name);
        return Err(Refusal::new(message, "name a text file"));
    }
    Ok(bytes)
}

/// The system's sentence without the number that Rust appends.
fn io_message(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_lowercase()
}

fn type_of_file(file_type: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match file_type {
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a pipe",
        t if t.is_socket() => "a socket",
        t if t.is_char_device() || t.is_block_device() => "a device",
        _ => "no regular file",
    }
}
