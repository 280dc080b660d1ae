//! A guarded game server: its files, and who is seen to reach what.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{PATIENCE, drain, reaches, udp, udp_from};
use firewall_tests::net::{Lab, Outcome};
use serde_json::Value;

/// A UDP port that is always open, one for players, one for guests, and one that the file does not name.
const PORTS: [u16; 4] = [7100, 7101, 7102, 7103];

/// How long a datagram is waited for that one to the open port, sent after it, has overtaken.
const STRAGGLER: Duration = Duration::from_millis(20);

/// Its rule file.
pub(super) const FILE: &str = "\
# A game server.
version = 1

[groups]
# Who may play.
players = [
    \"192.0.2.1\", # Ann
]
guests = { file = \"guests.txt\" }

# ---- What is served ----

[[rule]]
name = \"open\"
action = \"accept\"
protocol = \"udp\"
ports = [7100]

# The game.
[[rule]]
name = \"game\"   # for players
action = \"accept\"
protocol = \"udp\"
ports = [7101]
from = [\"players\"]

# Talk.
[[rule]]
name = \"chat\"
action = \"accept\"
protocol = \"udp\"
ports = [7102]
from = [\"guests\"]
";

/// The list of its guests.
pub(super) const GUESTS: &str = "# Who may talk.\n198.51.100.7  # the stranger\n";

/// A lab with that file in force, and sockets to see by what is.
pub(super) struct Game {
    pub(super) lab: Lab,
    pub(super) file: PathBuf,
    senders: [UdpSocket; 2],
    receivers: Vec<UdpSocket>,
}

impl Game {
    pub(super) fn new() -> Result<Option<Self>> {
        let Some(lab) = Lab::new()? else {
            return Ok(None);
        };
        lab.write("guests.txt", GUESTS)?;
        let file = lab.write("rules.toml", FILE)?;
        lab.apply_file(&file, &[])?;
        Ok(Some(Self {
            senders: [
                udp_from(&lab.outside, lab.outside.v4)?,
                udp_from(&lab.outside, lab.stranger())?,
            ],
            receivers: PORTS
                .iter()
                .map(|port| udp(&lab.inside, *port))
                .collect::<Result<_>>()?,
            lab,
            file,
        }))
    }

    /// Runs `firewall` for the guarded interface; words are cut at `|`.
    pub(super) fn run(&self, line: &str) -> Result<Outcome> {
        let words = line.split('|').chain(["-i", self.lab.inside.interface()]);
        self.lab.inside.firewall(&words.collect::<Vec<_>>())
    }

    /// Makes an edit, which has to be the next generation. Returns the files that it says it has saved.
    pub(super) fn edit(&self, line: &str) -> Result<Vec<String>> {
        let generation = self.generation()?;
        let said = self.run(&format!("{line}|--format|json"))?.success()?;
        let said: Value = serde_json::from_str(&said)?;
        ensure!(
            said[0]["changed"] == true && said[0]["generation"] == generation + 1,
            "{line}: {said}"
        );
        ensure!(self.generation()? == generation + 1, "{line}");
        let saved = said[0]["saved"].as_array().context("no saved files")?;
        let saved = saved.iter().filter_map(Value::as_str);
        Ok(saved.map(str::to_owned).collect())
    }

    /// Makes an edit that has to be refused with these words, and to change nothing.
    pub(super) fn refused(&self, line: &str, says: &[&str]) -> Result<()> {
        let before = (self.kept()?, self.files()?, self.seen()?);
        let said = self.run(line)?.failure(1)?;
        for words in says {
            ensure!(said.contains(words), "{line}: no {words:?} in {said:?}");
        }
        let after = (self.kept()?, self.files()?, self.seen()?);
        ensure!(before == after, "{line}: {before:?}, but then {after:?}");
        Ok(())
    }

    pub(super) fn generation(&self) -> Result<u64> {
        Ok(self.lab.stats()?.generation)
    }

    /// Number, state and change of each generation that is kept.
    pub(super) fn kept(&self) -> Result<Vec<String>> {
        let said = self.run("history|--format|json")?.success()?;
        let said: Value = serde_json::from_str(&said)?;
        let kept = said[0]["generations"]
            .as_array()
            .context("no generations")?;
        let line =
            |one: &Value| format!("{} {} {}", one["generation"], one["state"], one["change"]);
        Ok(kept.iter().map(line).collect())
    }

    /// All files of the lab, with what is in them.
    fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.lab.directory())? {
            let path = entry?.path();
            files.push((path.clone(), fs::read_to_string(path)?));
        }
        files.sort();
        Ok(files)
    }

    /// Whether `(the host outside, the stranger)` reach the ports for players, for guests, and the one that the file does not name.
    pub(super) fn seen(&self) -> Result<[(bool, bool); 3]> {
        let mut seen = [(false, false); 3];
        for (index, seen) in seen.iter_mut().enumerate() {
            let [outside, stranger] = &self.senders;
            *seen = (
                self.passes(outside, index + 1)?,
                self.passes(stranger, index + 1)?,
            );
        }
        Ok(seen)
    }

    fn passes(&self, sender: &UdpSocket, port: usize) -> Result<bool> {
        let at = |port: usize| SocketAddr::new(self.lab.inside.v4.into(), PORTS[port]);
        sender.send_to(b"probe", at(port))?;
        self.receivers[0].set_read_timeout(Some(PATIENCE))?;
        ensure!(
            reaches(sender, at(0), &self.receivers[0])?,
            "the port that is always open does not answer"
        );
        self.receivers[port].set_read_timeout(Some(STRAGGLER))?;
        Ok(drain(&self.receivers[port])? == 1)
    }

    pub(super) fn text(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.file)?)
    }

    pub(super) fn guests(&self) -> Result<String> {
        Ok(fs::read_to_string(self.lab.directory().join("guests.txt"))?)
    }

    /// What is seen while only the file is in force.
    pub(super) const AT_FIRST: [(bool, bool); 3] = [(true, false), (false, true), (false, false)];
}
