//! The state on a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as TextLine, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState, Tabs};

use super::reading::{Kind, Reading};
use super::state::{Shown, State};
use crate::output::{bytes, count};

/// Totals, each with its colour.
const TOTALS: [(&str, Color); 4] = [
    ("let in", Color::Green),
    ("dropped", Color::Red),
    ("let out", Color::Cyan),
    ("kept from leaving", Color::Yellow),
];

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, rates, tabs, table, said, help] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(state), head);
    draw_rates(frame, state, rates);
    let titles = Kind::ALL
        .iter()
        .zip(1..)
        .map(|(kind, number)| format!("{number} {}", kind.title()));
    let chosen = Kind::ALL.iter().position(|kind| *kind == state.kind());
    frame.render_widget(Tabs::new(titles).select(chosen), tabs);
    draw_table(frame, state, table);
    frame.render_widget(Paragraph::new(state.said().to_owned()), said);
    let keys =
        "q quit  tab/1-6 table  i interface  s sort  r reverse  / filter  p pause  b ban  u unban";
    frame.render_widget(Paragraph::new(keys).style(dim()), help);
}

fn heading(state: &State) -> Paragraph<'static> {
    let Some(reading) = state.reading() else {
        return Paragraph::new("no interface is guarded");
    };
    let Reading {
        interface,
        mode,
        generation,
        waits_s,
        flows: (used, size),
        ..
    } = reading;
    let (place, of) = state.place();
    let mut spans = vec![
        Span::styled(interface.clone(), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(
            " ({place} of {of})  {mode} mode  generation {generation}  flows {} of {}",
            count((*used).into()),
            count((*size).into()),
        )),
    ];
    if let Some(left) = waits_s {
        let waits = format!("  to be confirmed within {left} s");
        spans.push(Span::styled(waits, Style::new().fg(Color::Yellow)));
    }
    if state.is_paused() {
        spans.push(Span::styled("  paused", Style::new().fg(Color::Yellow)));
    }
    Paragraph::new(TextLine::from(spans))
}

fn draw_rates(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let rows = Layout::vertical([Constraint::Length(1); 4]).split(area);
    for (index, ((title, colour), area)) in TOTALS.iter().zip(rows.iter()).enumerate() {
        let history = state.rates().map(|rates| &rates[index]);
        let now = history.and_then(|history| history.back().copied());
        let [words, line] =
            Layout::horizontal([Constraint::Length(34), Constraint::Min(10)]).areas(*area);
        let rate = format!("{title:<18}{:>12}/s", count(now.unwrap_or(0)));
        frame.render_widget(Paragraph::new(rate).style(Style::new().fg(*colour)), words);
        let wanted = usize::from(line.width);
        let values: Vec<u64> = history
            .into_iter()
            .flat_map(|history| history.iter().skip(history.len().saturating_sub(wanted)))
            .copied()
            .collect();
        let sparkline = Sparkline::default().data(values);
        frame.render_widget(sparkline.style(Style::new().fg(*colour)), line);
    }
}

fn draw_table(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let sorted = format!("by {}", state.order().title());
    let filtered = state.filter().map(|filter| format!("only /{filter}"));
    let about = [Some(sorted), filtered].into_iter().flatten();
    let right = |text: &'static str| Cell::from(TextLine::from(text).right_aligned());
    let heading = [
        Cell::from(state.kind().title().to_uppercase()),
        right("PACKETS/S"),
        right("BYTES/S"),
        right("PACKETS"),
        right("BYTES"),
        Cell::from(about.collect::<Vec<_>>().join(", ")),
    ];
    let lines = state.lines();
    let widths = [
        Constraint::Min(20),
        Constraint::Length(12),
        Constraint::Length(12),
        Constraint::Length(14),
        Constraint::Length(12),
        Constraint::Fill(2),
    ];
    let table = Table::new(lines.iter().map(row), widths)
        .header(Row::new(heading).style(dim()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let selected = state.selected().min(lines.len().saturating_sub(1));
    let mut place = TableState::new().with_selected((!lines.is_empty()).then_some(selected));
    frame.render_stateful_widget(table, area, &mut place);
}

fn row(shown: &Shown) -> Row<'static> {
    let right = |text: String| Cell::from(TextLine::from(text).right_aligned());
    let line = &shown.line;
    // Where nothing is counted there is nothing to be told.
    let unless_zero = |text: String, value: u64| if value == 0 { String::new() } else { text };
    Row::new([
        Cell::from(line.name.clone()),
        right(count(shown.packets_s.round() as u64)),
        right(bytes(shown.bytes_s.round() as u64)),
        right(unless_zero(count(line.packets), line.packets)),
        right(unless_zero(bytes(line.bytes), line.bytes)),
        Cell::from(line.about.clone()),
    ])
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}
