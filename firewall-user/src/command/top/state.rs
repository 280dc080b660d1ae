//! What is shown, and what keys do about it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::reading::{Kind, Line, Reading};

/// Readings whose rates are shown as a line.
const HISTORY: usize = 240;
/// Lines that a page key goes.
const PAGE: usize = 10;

/// What a key asks for that changes more than what is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Quit,
    Ban(String),
    Unban(String),
}

/// By what lines are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Packets a second, and then packets.
    Rate,
    Packets,
    Bytes,
    Name,
}

impl Order {
    const ALL: [Self; 4] = [Self::Rate, Self::Packets, Self::Bytes, Self::Name];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Name => "name",
        }
    }
}

/// What typed characters mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Typing {
    #[default]
    Keys,
    /// They go into the filter.
    Filter,
    /// `y` does it.
    Sure(Effect, String),
}

/// A line as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) line: Line,
    pub(super) packets_s: f64,
    pub(super) bytes_s: f64,
}

/// All that is shown.
#[derive(Debug)]
pub(super) struct State {
    readings: Vec<Reading>,
    before: Vec<Reading>,
    /// Packets a second of each interface, the latest last: let in, dropped, let out, kept from leaving.
    rates: BTreeMap<String, [VecDeque<u64>; 4]>,
    interface: usize,
    kind: usize,
    order: usize,
    reversed: bool,
    selected: usize,
    filter: String,
    typing: Typing,
    paused: bool,
    said: String,
}

impl State {
    pub(super) fn new(readings: Vec<Reading>) -> Self {
        let mut state = Self {
            readings: Vec::new(),
            before: Vec::new(),
            rates: BTreeMap::new(),
            interface: 0,
            kind: 0,
            order: 0,
            reversed: false,
            selected: 0,
            filter: String::new(),
            typing: Typing::Keys,
            paused: false,
            said: String::new(),
        };
        state.read(readings);
        state
    }

    /// Shows what has been read.
    pub(super) fn read(&mut self, readings: Vec<Reading>) {
        self.before = std::mem::replace(&mut self.readings, readings);
        for reading in &self.readings {
            let Some((before, elapsed_s)) = earlier(&self.before, reading) else {
                continue;
            };
            let rates = self.rates.entry(reading.interface.clone()).or_default();
            for ((rates, now), then) in rates.iter_mut().zip(reading.totals).zip(before.totals) {
                rates.push_back((now.saturating_sub(then) as f64 / elapsed_s).round() as u64);
                while rates.len() > HISTORY {
                    rates.pop_front();
                }
            }
        }
        self.interface = self.interface.min(self.readings.len().saturating_sub(1));
    }

    /// Says something in the last line.
    pub(super) fn say(&mut self, what: String) {
        self.said = what;
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused
    }

    /// The interface that is shown.
    pub(super) fn reading(&self) -> Option<&Reading> {
        self.readings.get(self.interface)
    }

    /// Which of how many that is.
    pub(super) const fn place(&self) -> (usize, usize) {
        (self.interface + 1, self.readings.len())
    }

    /// Packets a second over time: let in, dropped, let out, kept from leaving.
    pub(super) fn rates(&self) -> Option<&[VecDeque<u64>; 4]> {
        self.rates.get(&self.reading()?.interface)
    }

    pub(super) const fn kind(&self) -> Kind {
        Kind::ALL[self.kind]
    }

    pub(super) const fn order(&self) -> Order {
        Order::ALL[self.order]
    }

    pub(super) fn filter(&self) -> Option<&str> {
        (!self.filter.is_empty() || self.typing == Typing::Filter).then_some(&self.filter)
    }

    pub(super) const fn selected(&self) -> usize {
        self.selected
    }

    /// The last line.
    pub(super) fn said(&self) -> &str {
        match &self.typing {
            Typing::Sure(_, question) => question,
            Typing::Filter | Typing::Keys => &self.said,
        }
    }

    /// The lines of the table, sorted and filtered.
    pub(super) fn lines(&self) -> Vec<Shown> {
        let Some(reading) = self.reading() else {
            return Vec::new();
        };
        let before = earlier(&self.before, reading);
        let then: HashMap<(&str, &str), &Line> = before
            .iter()
            .flat_map(|(before, _)| before.lines(self.kind()))
            .map(|line| (key(line), line))
            .collect();
        let filter = self.filter.to_lowercase();
        let matches = |line: &&Line| {
            line.name.to_lowercase().contains(&filter)
                || line.about.to_lowercase().contains(&filter)
        };
        let lines = reading.lines(self.kind()).iter().filter(matches);
        let mut lines: Vec<Shown> = lines
            .map(|line| {
                let rate = |now: u64, then: u64, elapsed_s: f64| {
                    now.saturating_sub(then) as f64 / elapsed_s
                };
                let then = then.get(&key(line)).zip(before.as_ref());
                let (packets_s, bytes_s) = then.map_or((0.0, 0.0), |(then, (_, elapsed_s))| {
                    (
                        rate(line.packets, then.packets, *elapsed_s),
                        rate(line.bytes, then.bytes, *elapsed_s),
                    )
                });
                Shown {
                    line: line.clone(),
                    packets_s,
                    bytes_s,
                }
            })
            .collect();
        // Lines that are alike in that keep their order, which is that of the rule file.
        match self.order() {
            Order::Rate => lines.sort_by(|a, b| {
                let by_rate = b.packets_s.total_cmp(&a.packets_s);
                by_rate.then(b.line.packets.cmp(&a.line.packets))
            }),
            Order::Packets => lines.sort_by_key(|shown| Reverse(shown.line.packets)),
            Order::Bytes => lines.sort_by_key(|shown| Reverse(shown.line.bytes)),
            Order::Name => lines.sort_by(|a, b| a.line.name.cmp(&b.line.name)),
        }
        if self.reversed {
            lines.reverse();
        }
        lines
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Effect {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Effect::Quit;
        }
        match std::mem::take(&mut self.typing) {
            Typing::Keys => return self.command(key.code),
            Typing::Filter => self.type_filter(key.code),
            Typing::Sure(effect, _) => {
                if key.code == KeyCode::Char('y') {
                    return effect;
                }
                self.said = "nothing was done".to_owned();
            }
        }
        Effect::None
    }

    fn type_filter(&mut self, code: KeyCode) {
        self.typing = Typing::Filter;
        self.selected = 0;
        match code {
            KeyCode::Enter => self.typing = Typing::Keys,
            KeyCode::Esc => {
                self.typing = Typing::Keys;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
    }

    fn command(&mut self, code: KeyCode) -> Effect {
        let lines = self.lines().len();
        let last = lines.saturating_sub(1);
        let down = |state: &Self, by: usize| state.selected.saturating_add(by).min(last);
        match code {
            KeyCode::Char('q') => return Effect::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char(digit @ '1'..='6') => self.show(digit as usize - '1' as usize),
            KeyCode::Tab => self.show((self.kind + 1) % Kind::ALL.len()),
            KeyCode::BackTab => self.show((self.kind + Kind::ALL.len() - 1) % Kind::ALL.len()),
            KeyCode::Char('i') | KeyCode::Right => self.turn(1),
            KeyCode::Left => self.turn(self.readings.len().saturating_sub(1)),
            KeyCode::Char('s') => self.order = (self.order + 1) % Order::ALL.len(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Char('/') => self.typing = Typing::Filter,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.selected = down(self, 1),
            KeyCode::PageDown => self.selected = down(self, PAGE),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.selected = 0,
            KeyCode::End | KeyCode::Char('G') => self.selected = last,
            KeyCode::Char('b') => self.ask_to_ban(),
            KeyCode::Char('u') => self.ask_to_unban(),
            _ => {}
        }
        Effect::None
    }

    fn show(&mut self, kind: usize) {
        self.kind = kind;
        self.selected = 0;
    }

    fn turn(&mut self, by: usize) {
        self.interface = (self.interface + by) % self.readings.len().max(1);
        self.selected = 0;
    }

    fn selected_name(&self) -> Option<String> {
        let lines = self.lines();
        Some(lines.get(self.selected)?.line.name.clone())
    }

    fn ask_to_ban(&mut self) {
        match self.selected_name() {
            Some(name)
                if matches!(self.kind(), Kind::Talkers | Kind::Refused)
                    && name.parse::<IpAddr>().is_ok() =>
            {
                let question = format!("ban {name} for {} everywhere? y/n", super::BAN_FOR);
                self.typing = Typing::Sure(Effect::Ban(name), question);
            }
            _ => self.said = "choose somebody to be banned (4, 5)".to_owned(),
        }
    }

    fn ask_to_unban(&mut self) {
        match self.selected_name() {
            Some(name) if self.kind() == Kind::Bans => {
                let question = format!("lift the ban of {name}? y/n");
                self.typing = Typing::Sure(Effect::Unban(name), question);
            }
            _ => self.said = "choose a ban to be lifted (6)".to_owned(),
        }
    }
}

/// By what a line is the same in two readings.
fn key(line: &Line) -> (&str, &str) {
    // Of reasons and rules there may be one of a name for each direction.
    let direction = if line.about.contains("egress") {
        "egress"
    } else {
        ""
    };
    (&line.name, direction)
}

/// The same interface as it was read before, and how many seconds that was earlier.
fn earlier<'a>(before: &'a [Reading], reading: &Reading) -> Option<(&'a Reading, f64)> {
    let before = before
        .iter()
        .find(|one| one.interface == reading.interface)?;
    let elapsed_s = reading.at.duration_since(before.at).as_secs_f64();
    (elapsed_s > 0.0).then_some((before, elapsed_s))
}

#[cfg(test)]
mod tests;
