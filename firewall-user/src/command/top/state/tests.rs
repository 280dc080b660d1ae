use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::view::draw;
use super::*;

fn line(name: &str, about: &str, packets: u64, bytes: u64) -> Line {
    Line {
        name: name.to_owned(),
        about: about.to_owned(),
        packets,
        bytes,
    }
}

fn reading(interface: &str, at: Instant, factor: u64) -> Reading {
    let tables = [
        (
            Kind::Rules,
            vec![
                line("web", "accept", 1_000 * factor, 90_000 * factor),
                line("ssh", "accept, 3 over its limit", 20 * factor, 4_000_000),
                line("idle", "drop", 0, 0),
            ],
        ),
        (
            Kind::Talkers,
            vec![
                line("192.0.2.7", "1 flow", 10 * factor, 0),
                line("2001:db8::7", "2 flows", 90 * factor, 0),
            ],
        ),
        (
            Kind::Refused,
            vec![line("198.51.100.9", "no-rule: tcp", 3 * factor, 180)],
        ),
        (
            Kind::Bans,
            vec![line("203.0.113.0/24", "for ever, by command: loud", 0, 0)],
        ),
    ];
    Reading {
        at,
        interface: interface.to_owned(),
        mode: "native",
        generation: 3,
        waits_s: (factor > 1).then_some(42),
        totals: [1_020 * factor, 7 * factor, 900 * factor, 0],
        flows: (2, 131_072),
        tables: tables.into(),
    }
}

/// Two readings of two interfaces, two seconds apart.
fn state() -> State {
    let start = Instant::now();
    let both = |at, factor| vec![reading("fwt0", at, factor), reading("fwt1", at, factor)];
    let mut state = State::new(both(start, 1));
    state.read(both(start + Duration::from_secs(2), 2));
    state
}

fn press(state: &mut State, keys: &str) -> Vec<Effect> {
    let codes = keys.chars().map(|key| match key {
        '\t' => KeyCode::Tab,
        '\n' => KeyCode::Enter,
        '\x1b' => KeyCode::Esc,
        key => KeyCode::Char(key),
    });
    let effects = codes.map(|code| state.key(KeyEvent::from(code)));
    effects.filter(|effect| *effect != Effect::None).collect()
}

fn names(state: &State) -> Vec<String> {
    let lines = state.lines().into_iter();
    lines.map(|shown| shown.line.name).collect()
}

#[test]
fn rates_are_of_the_time_between_readings() {
    let state = state();
    let lines = state.lines();
    let rates: Vec<(f64, f64)> = (lines.iter())
        .map(|shown| (shown.packets_s, shown.bytes_s))
        .collect();
    assert_eq!(rates, [(500.0, 45_000.0), (10.0, 0.0), (0.0, 0.0)]);
    let [accepted, dropped, ..] = state.rates().unwrap();
    // 3.5 a second.
    assert_eq!((accepted[0], dropped[0]), (510, 4));
}

#[test]
fn counts_that_begin_anew_are_no_negative_rates() {
    let mut state = state();
    let later = Instant::now() + Duration::from_secs(4);
    state.read(vec![reading("fwt0", later, 0)]);
    assert!(state.lines().iter().all(|shown| shown.packets_s == 0.0));
    assert_eq!(state.rates().unwrap()[0].back(), Some(&0));
    assert_eq!(state.place(), (1, 1));
}

#[test]
fn lines_are_sorted_and_filtered() {
    let mut state = state();
    assert_eq!(names(&state), ["web", "ssh", "idle"]);
    press(&mut state, "r");
    assert_eq!(names(&state), ["idle", "ssh", "web"]);
    press(&mut state, "rss");
    assert_eq!(
        (state.order(), names(&state)[0].as_str()),
        (Order::Bytes, "ssh")
    );
    press(&mut state, "s");
    assert_eq!(names(&state), ["idle", "ssh", "web"]);
    // Keys that are typed into the filter do nothing else.
    press(&mut state, "/limit\n");
    assert_eq!(names(&state), ["ssh"]);
    press(&mut state, "\x1b");
    assert_eq!(names(&state).len(), 3);
}

#[test]
fn who_is_chosen_is_banned_after_a_question() {
    let mut state = state();
    press(&mut state, "b");
    assert_eq!(state.said(), "choose somebody to be banned (4, 5)");
    press(&mut state, "4b");
    assert_eq!(state.said(), "ban 2001:db8::7 for 10m everywhere? y/n");
    assert_eq!(press(&mut state, "n"), []);
    assert_eq!(state.said(), "nothing was done");
    let banned = press(&mut state, "jby");
    assert_eq!(banned, [Effect::Ban("192.0.2.7".to_owned())]);
    let banned = press(&mut state, "\tby");
    assert_eq!(banned, [Effect::Ban("198.51.100.9".to_owned())]);
    let lifted = press(&mut state, "\tuy");
    assert_eq!(lifted, [Effect::Unban("203.0.113.0/24".to_owned())]);
    assert_eq!(press(&mut state, "q"), [Effect::Quit]);
}

#[test]
fn a_key_leads_to_the_next_interface() {
    let mut state = state();
    assert_eq!(state.place(), (1, 2));
    press(&mut state, "i");
    assert_eq!(
        (state.place(), state.reading().unwrap().interface.as_str()),
        ((2, 2), "fwt1")
    );
    press(&mut state, "i");
    assert_eq!(state.place(), (1, 2));
}

#[test]
fn all_of_it_is_drawn() {
    let mut terminal = Terminal::new(TestBackend::new(100, 14)).unwrap();
    terminal.draw(|frame| draw(frame, &state())).unwrap();
    insta::assert_snapshot!(terminal.backend());
}

#[test]
fn any_size_can_be_drawn_on() {
    let state = state();
    for (width, height) in [(1, 1), (3, 40), (200, 2), (20, 5)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &state)).unwrap();
    }
}
