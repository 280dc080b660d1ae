//! The tables at the end.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, TableComponent, presets};

use super::{
    firewall::{Count, Stats},
    probe::{Check, Sight},
};

/// Who saw what, before and after; what was good for the server in green, what was bad in red, on a terminal.
pub(super) fn before_and_after(checks: &[Check], before: &[Sight], after: &[Sight]) {
    let mut table = table(["who", "what", "before", "after"]);
    for ((check, before), after) in checks.iter().zip(before).zip(after) {
        let cell = |sight: &Sight| {
            let good = sight.reached == check.person.is_welcome();
            Cell::new(&sight.text).fg(if good { Color::Green } else { Color::Red })
        };
        table.add_row([
            Cell::new(check.person.name()),
            Cell::new(&check.what),
            cell(before),
            cell(after),
        ]);
    }
    println!("\nBefore and after\n{table}");
}

/// What the firewall has counted.
pub(super) fn counters(stats: &Stats) {
    let mut table = table(["counter", "packets", "bytes"]);
    let mut add = |name: String, count: Count| {
        table.add_row([
            Cell::new(name),
            Cell::new(grouped(count.packets)).set_alignment(CellAlignment::Right),
            Cell::new(grouped(count.bytes)).set_alignment(CellAlignment::Right),
        ]);
    };
    for rule in stats.rules.iter().filter(|rule| rule.count.packets > 0) {
        add(format!("rule {:?}", rule.name), rule.count);
    }
    for reason in stats
        .reasons
        .iter()
        .filter(|reason| reason.count.packets > 0)
    {
        add(format!("reason {}", reason.reason), reason.count);
    }
    add("all accepted".to_owned(), stats.totals.accepted);
    add("all dropped".to_owned(), stats.totals.dropped);
    println!("\nWhat the firewall counted (firewall stats)\n{table}");
}

/// The command's own view.
pub(super) fn status(text: &str) {
    println!(
        "\nWhat is in force (firewall status)\n{}\n",
        text.trim_end()
    );
}

fn table<const COLUMNS: usize>(header: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─')
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_are_grouped_by_three() {
        let numbers = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
    }
}
