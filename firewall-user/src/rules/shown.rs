//! How a diagnostic looks on a terminal: miette draws it, from copies of the lines it points at.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteSpanContents, SourceSpan,
    ThemeStyles,
};

use super::diagnostic::{Diagnostic, Place, Severity};

/// Characters of a source line that are shown; longer lines are cut around the place that matters.
const MAX_EXCERPT_CHARS: usize = 160;

/// Characters shown before the place that matters when a line is cut.
const EXCERPT_LEAD_CHARS: usize = 60;

/// Characters of a name or value repeated inside a message.
const MAX_QUOTED_CHARS: usize = 60;

/// A diagnostic as text for a terminal `width` columns wide.
pub(super) fn render(diagnostic: &Diagnostic, colour: bool, width: usize) -> String {
    let mut theme = GraphicalTheme::unicode_nocolor();
    if colour {
        theme.styles = ThemeStyles::ansi();
    }
    let mut out = String::new();
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_width(width);
    handler
        .render_report(&mut out, &Shown::new(diagnostic))
        .expect("writing to a String cannot fail, and every span lies in its excerpt");
    out
}

/// A copy of `line` that is safe to print (no control characters) and of bounded length, and where `span` is in it.
pub(super) fn excerpt(line: &[u8], span: Range<usize>) -> (String, Range<usize>) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Character by character with the byte offset of each in the file; invalid UTF-8 becomes U+FFFD.
    let mut chars: Vec<(usize, char)> = Vec::new();
    let mut offset = 0;
    // Only the part around the place is decoded, so that a line of megabytes costs nothing.
    let window_start = span
        .start
        .saturating_sub(4 * EXCERPT_LEAD_CHARS)
        .min(line.len());
    let window_end = span
        .start
        .saturating_add(4 * MAX_EXCERPT_CHARS)
        .min(line.len());
    for chunk in line[window_start..window_end].utf8_chunks() {
        for (at, c) in chunk.valid().char_indices() {
            chars.push((window_start + offset + at, printable(c)));
        }
        offset += chunk.valid().len();
        if !chunk.invalid().is_empty() {
            chars.push((window_start + offset, char::REPLACEMENT_CHARACTER));
            offset += chunk.invalid().len();
        }
    }
    let place = chars.partition_point(|&(at, _)| at < span.start);
    let cut = window_start > 0 || window_end < line.len() || chars.len() > MAX_EXCERPT_CHARS;
    let first = if cut {
        place.saturating_sub(EXCERPT_LEAD_CHARS)
    } else {
        0
    };
    let last = chars.len().min(first + MAX_EXCERPT_CHARS);

    let mut text = String::new();
    if first > 0 || window_start > 0 {
        text.push('…');
    }
    let (mut from, mut to) = (None, None);
    for &(at, c) in &chars[first..last] {
        if at >= span.start && from.is_none() {
            from = Some(text.len());
        }
        if at >= span.end && to.is_none() {
            to = Some(text.len());
        }
        text.push(c);
    }
    let from = from.unwrap_or(text.len());
    let to = to.unwrap_or(text.len()).max(from);
    if last < chars.len() || window_end < line.len() {
        text.push('…');
    }
    if from == text.len() {
        // Something is missing at the end of the line; miette needs a character there to point at.
        text.push(' ');
    }
    (text, from..to)
}

/// Control and text-direction characters of a hostile file must not reach the terminal.
fn printable(c: char) -> char {
    match c {
        '\t' => '\t',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// `text` in backquotes, shortened and with control characters escaped, to be repeated in a message.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("`");
    for (n, c) in text.chars().enumerate() {
        if n == MAX_QUOTED_CHARS {
            out.push('…');
            break;
        }
        if printable(c) == c && c != '\t' {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out.push('`');
    out
}

/// A diagnostic as miette wants it: the excerpts, one a line, stand behind each other in one imagined source.
#[derive(Debug)]
struct Shown<'d> {
    diagnostic: &'d Diagnostic,
    pieces: Vec<Piece>,
    labels: Vec<LabeledSpan>,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    file: Arc<str>,
    text: String,
    line: usize,
    column: usize,
}

impl<'d> Shown<'d> {
    fn new(diagnostic: &'d Diagnostic) -> Self {
        let mut shown = Self {
            diagnostic,
            pieces: Vec::new(),
            labels: Vec::new(),
        };
        for place in diagnostic.place.iter().chain(&diagnostic.related) {
            shown.push(place);
        }
        shown
    }

    fn push(&mut self, place: &Place) {
        let same =
            |p: &&Piece| p.file == place.file && p.line == place.line && p.text == place.excerpt;
        let offset = if let Some(piece) = self.pieces.iter().find(same) {
            piece.offset
        } else {
            // Two bytes apart, so that no label of one piece touches the next.
            let offset = self
                .pieces
                .last()
                .map_or(0, |p| p.offset + p.text.len() + 2);
            self.pieces.push(Piece {
                offset,
                file: place.file.clone(),
                text: place.excerpt.clone(),
                line: place.line,
                column: place.column,
            });
            offset
        };
        let label = (!place.label.is_empty()).then(|| place.label.clone());
        let span = SourceSpan::from(offset + place.underlined.start..offset + place.underlined.end);
        self.labels.push(if self.labels.is_empty() {
            LabeledSpan::new_primary_with_span(label, span)
        } else {
            LabeledSpan::new_with_span(label, span)
        });
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.diagnostic.place.is_none() && !self.diagnostic.file.is_empty() {
            write!(f, "{}: ", self.diagnostic.file)?;
        }
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.diagnostic.help.as_ref()?;
        Some(Box::new(help))
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty()).then(|| Box::new(self.labels.iter().cloned()) as Box<_>)
    }
}

impl miette::SourceCode for Shown<'_> {
    /// The piece that holds `span`, whatever context is asked for; a span over two pieces is out of bounds, which makes
    /// miette show them apart.
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let end = span.offset() + span.len();
        let holds = |p: &&Piece| p.offset <= span.offset() && end <= p.offset + p.text.len();
        let piece = self
            .pieces
            .iter()
            .find(holds)
            .ok_or(miette::MietteError::OutOfBounds)?;
        // Without context miette asks for the position to print in the heading, otherwise for the line to draw.
        let column = if before == 0 { piece.column - 1 } else { 0 };
        Ok(Box::new(MietteSpanContents::new_named(
            piece.file.to_string(),
            piece.text.as_bytes(),
            (piece.offset, piece.text.len()).into(),
            piece.line - 1,
            column,
            1,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let line = format!("{}here{}", "é".repeat(100_000), "ü".repeat(100_000));
        let (text, place) = excerpt(line.as_bytes(), 200_000..200_004);
        assert_eq!(&text[place], "here");
        assert!(text.starts_with('…') && text.ends_with('…'));
        assert_eq!(text.chars().count(), MAX_EXCERPT_CHARS + 2);
        // A place longer than what is shown is underlined as far as it is shown.
        let (text, place) = excerpt(line.as_bytes(), 2..400_000);
        assert_eq!(place, 2..text.len() - '…'.len_utf8());
    }

    #[test]
    fn short_lines_are_shown_whole() {
        assert_eq!(excerpt(b"name = 1\r", 7..8), ("name = 1".to_owned(), 7..8));
        assert_eq!(excerpt(b"name =", 6..6), ("name = ".to_owned(), 6..6));
        assert_eq!(excerpt(b"", 0..0), (" ".to_owned(), 0..0));
        assert_eq!(
            excerpt(b"a\x1b[2J\xff\"", 6..7),
            ("a\u{fffd}[2J\u{fffd}\"".to_owned(), 10..11)
        );
    }

    #[test]
    fn quoting_escapes_and_shortens() {
        assert_eq!(quoted("büro 1"), "`büro 1`");
        assert_eq!(quoted("a\x1b\tb\u{202e}"), "`a\\u{1b}\\tb\\u{202e}`");
        assert_eq!(quoted(&"x".repeat(61)), format!("`{}…`", "x".repeat(60)));
    }
}
