//! What was measured: a table a section for people, a flat list for machines.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::statistics::Spread;

/// A group of measurements in one unit, shown as one table.
#[derive(Debug)]
pub(crate) struct Section {
    /// Name in the JSON.
    pub(crate) id: &'static str,
    /// Heading.
    pub(crate) title: &'static str,
    /// Unit of all its values.
    pub(crate) unit: &'static str,
    /// What the numbers mean, below the heading.
    pub(crate) note: &'static str,
    /// Which way is better.
    pub(crate) better: Better,
}

/// Which way values get better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// An aim is the most it should be.
    Lower,
    /// An aim is the least it should be.
    Higher,
}

/// One measured value.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement {
    section: &'static str,
    case: String,
    subject: String,
    #[serde(flatten)]
    spread: Spread,
    unit: &'static str,
    better: Better,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<f64>,
}

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    kernel: String,
    processor: String,
    processors: usize,
    quick: bool,
    measurements: Vec<Measurement>,
}

/// Subject of the project's own values, which aims are for.
pub(crate) const FIREWALL: &str = "firewall";

impl Report {
    /// An empty report on this machine.
    pub(crate) fn new(quick: bool) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let processor = model.map_or("unknown", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        });
        Self {
            kernel: kernel.trim().to_owned(),
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            quick,
            measurements: Vec::new(),
        }
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, section: &Section, case: &str, subject: &str, spread: Spread) {
        self.measurements.push(Measurement {
            section: section.id,
            case: case.to_owned(),
            subject: subject.to_owned(),
            spread,
            unit: section.unit,
            better: section.better,
            aim: None,
        });
        eprintln!(
            "    {case}, {subject}: {} {}",
            shown(spread.median),
            section.unit
        );
    }

    /// Says what the value added last should be: at most or at least, by its section.
    pub(crate) fn aim(&mut self, aim: Option<f64>) {
        if let Some(last) = self.measurements.last_mut() {
            last.aim = aim;
        }
    }

    /// The machine, in one line.
    pub(crate) fn machine(&self) -> String {
        let Self {
            kernel,
            processor,
            processors,
            ..
        } = self;
        format!("{processors} processors {processor}, Linux {kernel}")
    }

    /// A section as a table: a row a case, a column a subject.
    pub(crate) fn table(&self, section: &Section) -> String {
        let here: Vec<_> = self
            .measurements
            .iter()
            .filter(|one| one.section == section.id)
            .collect();
        let (cases, subjects) = (
            unique(&here, |one| &one.case),
            unique(&here, |one| &one.subject),
        );
        let aims = here.iter().any(|one| one.aim.is_some());
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        let mut header = vec![section.unit.to_owned()];
        header.extend(subjects.iter().map(|&subject| subject.to_owned()));
        if aims {
            header.push("aim".to_owned());
        }
        table.set_header(header);
        for case in cases {
            let of_case = || here.iter().filter(|one| one.case == case);
            let mut row = vec![case.to_owned()];
            row.extend(subjects.iter().map(|&subject| {
                let value = of_case().find(|one| one.subject == subject);
                value.map_or_else(String::new, |value| value.cell())
            }));
            if aims {
                row.push(
                    of_case()
                        .find_map(|one| one.aim)
                        .map_or_else(String::new, shown),
                );
            }
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("\n## {}\n\n{}\n\n{table}", section.title, section.note)
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Measurement {
    fn cell(&self) -> String {
        let Spread { median, low, high } = self.spread;
        let misses = self.aim.is_some_and(|aim| match self.better {
            Better::Lower => median > aim,
            Better::Higher => median < aim,
        });
        let mark = if misses { " (!)" } else { "" };
        if shown(low) == shown(high) {
            return format!("{}{mark}", shown(median));
        }
        format!("{}{mark} [{}..{}]", shown(median), shown(low), shown(high))
    }
}

fn unique<'a>(
    measurements: &[&'a Measurement],
    name: impl Fn(&'a Measurement) -> &'a str,
) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    measurements
        .iter()
        .map(|one| name(one))
        .filter(|&name| seen.insert(name))
        .collect()
}

/// Three digits that count, with thousands apart.
pub(crate) fn shown(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 {
        return format!(
            "{value:.prec$}",
            prec = if value.abs() < 1.0 { 2 } else { 1 }
        );
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!(shown(0.256), "0.26");
        assert_eq!(shown(14.04), "14.0");
        assert_eq!(shown(14.0), "14");
        assert_eq!(shown(1234.6), "1,235");
        assert_eq!(shown(1_000_000.0), "1,000,000");
    }

    #[test]
    fn a_value_above_its_aim_is_marked() {
        let section = Section {
            id: "x",
            title: "X",
            unit: "ns",
            note: "N",
            better: Better::Lower,
        };
        let mut report = Report::new(true);
        report.add(&section, "a", FIREWALL, Spread::exactly(2.0));
        report.aim(Some(1.0));
        report.add(&section, "b", FIREWALL, Spread::exactly(1.0));
        report.aim(Some(1.0));
        let table = report.table(&section);
        assert!(
            table.contains("2 (!)") && !table.contains("1 (!)"),
            "{table}"
        );
    }
}
