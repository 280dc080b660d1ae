//! What is wrong with a rule file and where: collected while it is read, shown to a person or written as JSON.
//!
//! A [`Diagnostic`] copies the line it points at, made safe for a terminal, so it outlives the file it came from.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::shown::{self, excerpt};

/// Errors (and warnings, apart) that one report lists; the rest is counted. Beyond a hundred nobody reads on, and a file
/// of garbage must not cost gigabytes of messages.
pub const MAX_REPORTED: usize = 100;

/// The whole report of a file that was refused: every error and every warning, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What has to be mended. At most [`MAX_REPORTED`], then one that says how many more there are.
    pub errors: Vec<Diagnostic>,
    /// What is probably not meant. Bounded likewise.
    pub warnings: Vec<Diagnostic>,
}

impl Report {
    /// Errors, then warnings.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.errors.iter().chain(&self.warnings)
    }

    /// Every diagnostic as text for a terminal `width` columns wide, a blank line between them.
    pub fn render(&self, colour: bool, width: usize) -> String {
        let texts: Vec<String> = self
            .diagnostics()
            .map(|d| d.render(colour, width))
            .collect();
        texts.join("\n")
    }
}

impl From<Diagnostic> for Report {
    fn from(error: Diagnostic) -> Self {
        Self {
            errors: vec![error],
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false, 100).trim_end())
    }
}

impl std::error::Error for Report {}

/// A JSON array of its diagnostics.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.diagnostics())
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but probably does not do what was meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong: what, where, and what to write instead.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub(super) severity: Severity,
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) file: Arc<str>,
    pub(super) place: Option<Place>,
    pub(super) related: Vec<Place>,
    /// Said because something is absent, so it may be a mere consequence of a syntax error elsewhere.
    pub(super) of_absence: bool,
}

impl Diagnostic {
    /// An error that points nowhere yet.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// A warning that points nowhere yet.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        Self {
            severity,
            message,
            help: None,
            file: Arc::from(""),
            place: None,
            related: Vec::new(),
            of_absence: false,
        }
    }

    /// Adds what to write or do instead.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names the file, for a diagnostic that is about the file as a whole.
    pub fn in_file(mut self, file: &str) -> Self {
        self.file = Arc::from(file);
        self
    }

    /// Points at the bytes `span` of `source`, with a few words shown beneath them.
    pub fn at(mut self, source: &Source, span: Range<usize>, label: impl Into<String>) -> Self {
        self.file = source.0.name.clone();
        self.place = Some(Place::new(source, span, label.into()));
        self
    }

    /// Points at a second place that belongs to the matter, such as the first of two equal names.
    pub fn also_at(
        mut self,
        source: &Source,
        span: Range<usize>,
        label: impl Into<String>,
    ) -> Self {
        self.related.push(Place::new(source, span, label.into()));
        self
    }

    /// Marks a diagnostic that says that something is absent.
    pub(super) fn of_absence(mut self) -> Self {
        self.of_absence = true;
        self
    }

    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Name of the file it is about, as the user gave it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where it is; `None` when it is about the file as a whole.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Further places that belong to it.
    pub fn related(&self) -> &[Place] {
        &self.related
    }

    /// Text for a terminal `width` columns wide: the sentence, the line with the place underlined, the help.
    pub fn render(&self, colour: bool, width: usize) -> String {
        shown::render(self, colour, width)
    }
}

/// `{severity, file, line, column, message, help}`; line and column are null for a whole file, help may be null.
impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut record = serializer.serialize_struct("Diagnostic", 6)?;
        record.serialize_field("severity", self.severity.as_str())?;
        record.serialize_field("file", &*self.file)?;
        record.serialize_field("line", &self.place.as_ref().map(Place::line))?;
        record.serialize_field("column", &self.place.as_ref().map(Place::column))?;
        record.serialize_field("message", &self.message)?;
        record.serialize_field("help", &self.help)?;
        record.end()
    }
}

/// A place in a source, with the line it is on.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) file: Arc<str>,
    span: Range<usize>,
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) label: String,
    pub(super) excerpt: String,
    pub(super) underlined: Range<usize>,
}

impl Place {
    fn new(source: &Source, span: Range<usize>, label: String) -> Self {
        let bytes = source.bytes();
        let start = span.start.min(bytes.len());
        let (line, column) = source.position(start);
        let line_start = source.line_start(start);
        let line_end = memchr::memchr(b'\n', &bytes[line_start..]);
        let line_end = line_end.map_or(bytes.len(), |n| line_start + n);
        let span = start..span.end.clamp(start, bytes.len());
        let (excerpt, underlined) = excerpt(
            &bytes[line_start..line_end],
            span.start - line_start..span.end - line_start,
        );
        Self {
            file: source.0.name.clone(),
            span,
            line,
            column,
            label,
            excerpt,
            underlined,
        }
    }

    /// Name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Bytes of the file that are meant.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Line of the first of them, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Character in that line, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// The words shown beneath them.
    pub fn label(&self) -> &str {
        &self.label
    }
}

/// A named text that diagnostics point into. Cloning it is cheap.
#[derive(Clone)]
pub struct Source(Arc<SourceText>);

struct SourceText {
    name: Arc<str>,
    bytes: Vec<u8>,
}

impl Source {
    /// `name` is shown to the user: the path as they gave it.
    pub fn new(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(SourceText {
            name: Arc::from(name),
            bytes: bytes.into(),
        }))
    }

    /// The name shown to the user.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The text, which need not be UTF-8.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let bytes = self.bytes();
        let offset = offset.min(bytes.len());
        let line_start = self.line_start(offset);
        let before = &bytes[line_start..offset];
        let characters = before.iter().filter(|&&b| (b as i8) >= -0x40).count();
        (1 + count_newlines(&bytes[..line_start]), 1 + characters)
    }

    /// Offset of the first byte of the line that `offset` is on.
    pub(super) fn line_start(&self, offset: usize) -> usize {
        self.bytes()[..offset]
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |n| n + 1)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({:?}, {} bytes)", self.name(), self.bytes().len())
    }
}

/// Newlines in `bytes`.
pub(super) fn count_newlines(bytes: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', bytes).count()
}

/// Gathers diagnostics while a file is read, and stops building them once there are [`MAX_REPORTED`].
#[derive(Default)]
pub(super) struct Collector {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    more_errors: usize,
    more_warnings: usize,
}

impl Collector {
    /// Takes an error; `make` runs only when it will be shown.
    pub(super) fn error(&mut self, make: impl FnOnce() -> Diagnostic) {
        if self.errors.len() < MAX_REPORTED {
            self.errors.push(make());
        } else {
            self.more_errors += 1;
        }
    }

    /// Takes a warning; `make` runs only when it will be shown.
    pub(super) fn warning(&mut self, make: impl FnOnce() -> Diagnostic) {
        if self.warnings.len() < MAX_REPORTED {
            self.warnings.push(make());
        } else {
            self.more_warnings += 1;
        }
    }

    /// Keeps of the errors so far only those that `keep` says yes to.
    pub(super) fn retain_errors(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.errors.retain(keep);
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The report, in the order of the file called `main`; what other files hold comes after.
    pub(super) fn finish(mut self, main: &str) -> Report {
        let order = |d: &Diagnostic| {
            (
                &*d.file != main,
                d.file.clone(),
                d.place.as_ref().map_or(0, |p| p.span.start),
            )
        };
        self.errors.sort_by_cached_key(order);
        self.warnings.sort_by_cached_key(order);
        if self.more_errors > 0 {
            let more = format!("there are {} more errors, not shown", self.more_errors);
            self.errors.push(Diagnostic::error(more).in_file(main));
        }
        if self.more_warnings > 0 {
            let more = format!("there are {} more warnings, not shown", self.more_warnings);
            self.warnings.push(Diagnostic::warning(more).in_file(main));
        }
        Report {
            errors: self.errors,
            warnings: self.warnings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let source = Source::new("x", "aé\r\nbü=1\n");
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(3), (1, 3));
        assert_eq!(source.position(5), (2, 1));
        assert_eq!(source.position(8), (2, 3));
        assert_eq!(source.position(99), (3, 1));
    }

    /// Whatever is pointed at, rendering finds it.
    #[test]
    fn every_span_can_be_rendered() {
        let source = Source::new("x", "a = \"é\"\n\n\tb\n\r\n# end");
        for start in 0..30 {
            for end in 0..30 {
                let diagnostic = Diagnostic::error("m").at(&source, start..end, "l").also_at(
                    &source,
                    end..start,
                    "",
                );
                let shown = diagnostic.render(false, 80);
                assert!(shown.contains("[x:"), "{shown}");
            }
        }
        assert!(
            Diagnostic::warning("m")
                .in_file("f")
                .render(false, 80)
                .contains("f: m")
        );
    }
}
