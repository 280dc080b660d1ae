//! How results are shown: aligned text for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Text or JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; documented in the README and stable.
    Json,
}

/// Standard output in a format.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// Whether to go on without a reader: what a command does must not depend on whether somebody reads of it.
    goes_on: bool,
}

/// A failure that has been told in full already.
#[derive(Debug, thiserror::Error)]
#[error("refused")]
pub(crate) struct Refused;

/// What was asked for has been told in full, and it is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("not well")]
pub(crate) struct Unwell;

/// Two things that were compared are not the same, which has been told in full; exit code 3 says so.
#[derive(Debug, thiserror::Error)]
#[error("something changes")]
pub(crate) struct Differs;

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            goes_on: true,
        }
    }

    /// The same for what is written for its own sake, be it for ever: it ends where nobody reads any more.
    pub(crate) fn that_ends(self) -> Self {
        Self {
            goes_on: false,
            ..self
        }
    }

    fn written(&self, written: io::Result<()>) -> Result<()> {
        match written {
            Err(error) if self.goes_on && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }

    /// Writes text, or nothing where JSON is asked for.
    pub(crate) fn text(&self, text: impl std::fmt::Display) -> Result<()> {
        if self.format == Format::Text {
            self.written(writeln!(io::stdout(), "{text}"))?;
        }
        Ok(())
    }

    /// Writes one JSON value, or nothing where text is asked for.
    pub(crate) fn json(&self, value: &impl serde::Serialize) -> Result<()> {
        if self.format == Format::Json {
            let text = serde_json::to_string_pretty(value)?;
            self.written(writeln!(io::stdout(), "{text}"))?;
        }
        Ok(())
    }

    /// Writes one JSON value as a line of its own, or nothing where text is asked for: what is a list of any length.
    pub(crate) fn json_line(&self, value: &impl serde::Serialize) -> Result<()> {
        if self.format == Format::Json {
            let text = serde_json::to_string(value)?;
            self.written(writeln!(io::stdout(), "{text}"))?;
        }
        Ok(())
    }

    /// Writes something for people that is not the result, such as warnings, to standard error.
    pub(crate) fn aside(&self, text: impl std::fmt::Display) -> Result<()> {
        self.written(writeln!(io::stderr(), "{text}"))
    }
}

/// Whether standard error shows colours.
pub(crate) fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Columns to wrap messages at.
pub(crate) fn width() -> usize {
    comfy_table::Table::new()
        .width()
        .map_or(100, usize::from)
        .clamp(60, 120)
}

/// A table without lines: a heading, then columns aligned; those named in `right` to the right.
pub(crate) fn table(
    heading: &[&str],
    right: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The padding of the last column is nothing to copy into a ticket.
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Bytes for people, with a binary unit.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A number with its thousands apart.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds for people: the two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

/// Seconds since 1970 as UTC, ISO 8601.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Days since 1970 as a date of the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(61), "1 min 1 s");
        assert_eq!(duration(86_400 * 5 + 7200), "5 d 2 h");
    }

    #[test]
    fn time_is_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_763_000_000), "2025-11-13T02:13:20Z");
    }
}
