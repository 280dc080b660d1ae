//! Syntax errors of a rule file in this program's words, and which other errors are mere consequences of them.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Source};
use super::shown::quoted;

/// What syntax errors did to the table that the parser recovered.
pub(super) struct Damage {
    /// The errors that are told: the first of each line and of each list, with the list.
    pub(super) errors: Vec<(toml::de::Error, Option<Range<usize>>)>,
    /// Lists with an error inside. An unclosed one swallows what follows.
    lists: Vec<Range<usize>>,
    /// A `[heading]` is broken, so the keys below it ended up in a wrong table.
    pub(super) headings: bool,
}

impl Damage {
    pub(super) fn of(
        source: &Source,
        root: &DeTable<'_>,
        mut errors: Vec<toml::de::Error>,
    ) -> Self {
        errors.sort_by_key(start_of);
        let mut all_lists = Vec::new();
        outer_lists(root, &mut all_lists);
        all_lists.sort_by_key(|list| list.start);
        let mut damage = Self {
            errors: Vec::new(),
            lists: Vec::new(),
            headings: false,
        };
        let mut last_line = usize::MAX;
        for error in errors {
            let at = start_of(&error);
            let line = source.line_start(at);
            let before = all_lists.partition_point(|list| list.start <= at);
            let list = before
                .checked_sub(1)
                .map(|n| all_lists[n].clone())
                .filter(|list| at <= list.end);
            let known = list.is_some() && damage.lists.last() == list.as_ref();
            damage.headings |=
                list.is_none() && source.bytes()[line..].trim_ascii_start().starts_with(b"[");
            if line != last_line && !known {
                damage.errors.push((error, list.clone()));
            }
            last_line = line;
            damage.lists.extend(list.filter(|_| !known));
        }
        damage
    }

    /// Whether an error is probably a mere consequence of the damage.
    pub(super) fn explains(&self, source: &Source, error: &Diagnostic) -> bool {
        let Some(place) = error.place().filter(|place| place.file() == source.name()) else {
            return false;
        };
        let start = place.span().start;
        let line = source.line_start(start);
        error.of_absence
            || self
                .errors
                .iter()
                .any(|(e, _)| source.line_start(start_of(e)) == line)
            || self.lists.iter().any(|list| list.contains(&start))
    }
}

/// Where an error of the TOML parser is.
fn start_of(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// Places of the lists `[...]` that are not inside other lists; `[[rule]]` makes none.
fn outer_lists(table: &DeTable<'_>, into: &mut Vec<Range<usize>>) {
    for value in table.values() {
        match value.get_ref() {
            // The heading, two brackets, is the place of both the array of tables and its first element.
            DeValue::Array(list)
                if list
                    .first()
                    .is_some_and(|first| first.span() == value.span()) =>
            {
                for element in list.iter().filter_map(|e| e.get_ref().as_table()) {
                    outer_lists(element, into);
                }
            }
            DeValue::Array(_) => into.push(value.span()),
            DeValue::Table(inner) => outer_lists(inner, into),
            _ => {}
        }
    }
}

/// The TOML parser's error in this program's words.
pub(super) fn syntax_error(
    source: &Source,
    error: &toml::de::Error,
    list: Option<&Range<usize>>,
) -> Diagnostic {
    let span = error.span().unwrap_or(0..0);
    let found = source.bytes().get(span.clone()).unwrap_or_default();
    let found = quoted(&String::from_utf8_lossy(found));
    let message = error.message();
    let begins = |with: &str| message.starts_with(with);
    let value = begins("string values must be quoted")
        || begins("invalid boolean")
        || begins("invalid float");
    let (message, help) = if begins("duplicate key") {
        (
            format!("{found} is written twice"),
            "keep one of them".to_owned(),
        )
    } else if begins("missing comma between array")
        || begins("unexpected `=` in array")
        || begins("unclosed array,")
    {
        let help =
            "lists look like [80, 443, \"ssh\"]: a comma between two values and `]` at the end";
        (
            "this list is not closed, or a comma is missing".to_owned(),
            help.to_owned(),
        )
    } else if value && span.is_empty() {
        let help = "write one, such as \"text\", 80, true or [80, 443]";
        ("there is no value after `=`".to_owned(), help.to_owned())
    } else if value {
        (
            format!("{found} is not a value"),
            "put text in double quotes".to_owned(),
        )
    } else if begins("key with no value") {
        let help = "write key = value, or put `#` before a comment";
        (
            "this line has no `=` and no value".to_owned(),
            help.to_owned(),
        )
    } else if begins("unclosed table") || begins("unclosed array table") {
        let help = "headings look like [groups] and [[rule]]";
        ("this heading is not closed".to_owned(), help.to_owned())
    } else if begins("invalid basic string") || begins("invalid literal string") {
        let help = "end the text with the quote it began with, on the same line";
        ("this text is not closed".to_owned(), help.to_owned())
    } else {
        (
            format!("this is not TOML: {message}"),
            "see https://toml.io for how to write it".to_owned(),
        )
    };
    let diagnostic = Diagnostic::error(message).help(help).at(source, span, "");
    match list {
        Some(list) => {
            diagnostic.also_at(source, list.start..list.start + 1, "the list begins here")
        }
        None => diagnostic,
    }
}
