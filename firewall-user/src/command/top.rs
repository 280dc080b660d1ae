//! `firewall top`: what comes and goes, live, on a terminal.

mod reading;
mod refused;
mod state;
mod view;

use std::io::{self, IsTerminal as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::guards;
use crate::privilege;
use reading::Reading;
use refused::Refused;
use state::{Effect, State};

/// What to look at.
#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Only these interfaces; all guarded ones unless told.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    /// Seconds from one reading to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
}

/// How long what is told of packets may wait to be taken in, and how often the programs are told that somebody reads.
const DRAIN: Duration = Duration::from_secs(1);
/// For how long a key bans.
const BAN_FOR: &str = "10m";

pub(crate) fn run(top: &Top) -> Result<()> {
    privilege::require()?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!(
            "this takes a terminal; `firewall stats --watch` and `firewall watch` write lines to anything"
        );
    }
    let mut refused = Refused::default();
    let mut state = State::new(read(&top.interface, &mut refused)?);
    // Whatever happens then, a panic too, the terminal is as it was.
    let mut terminal = ratatui::try_init().context("preparing the terminal")?;
    let looked = look(&mut terminal, top, &mut state, &mut refused);
    ratatui::restore();
    looked
}

fn look(
    terminal: &mut DefaultTerminal,
    top: &Top,
    state: &mut State,
    refused: &mut Refused,
) -> Result<()> {
    let every = Duration::from_secs(top.every);
    let mut next = Instant::now() + every;
    loop {
        refused.drain();
        terminal.draw(|frame| view::draw(frame, state))?;
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            next = Instant::now() + every;
            if !state.is_paused() {
                match read(&top.interface, refused) {
                    Ok(readings) => state.read(readings),
                    Err(error) => state.say(format!("{error:#}")),
                }
            }
            continue;
        }
        if !event::poll(left.min(DRAIN))? {
            continue;
        }
        // A key that is held down says so again and again, and then that it is let go.
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match state.key(key) {
            Effect::None => {}
            Effect::Quit => return Ok(()),
            Effect::Ban(who) => state.say(firewall(&[
                "ban",
                &who,
                "--for",
                BAN_FOR,
                "--reason",
                "firewall top",
            ])),
            Effect::Unban(who) => state.say(firewall(&["unban", &who])),
        }
    }
}

/// Does what the command of that name does, with all that it asks and refuses. Returns what it says.
fn firewall(arguments: &[&str]) -> String {
    let ran = std::env::current_exe().and_then(|own| Command::new(own).args(arguments).output());
    match ran {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&said).trim().replace('\n', "; ")
        }
        Err(error) => format!("error: {error}"),
    }
}

fn read(names: &[String], refused: &mut Refused) -> Result<Vec<Reading>> {
    let _look = crate::lock::shared()?;
    let guards = guards(names)?;
    refused.listen(&guards);
    guards
        .iter()
        .map(|(name, guard)| Reading::of(name, guard, refused.lines(name)))
        .collect()
}
