//! The firewall command, as an administrator of the server would call it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{
    namespace,
    stage::{Person, Stage},
};
use crate::shell;

/// Counters that a demonstration cannot end without: whatever no rule lets in, and each kind of scan.
const EXPECTED: [&str; 4] = [
    "no-rule",
    "tcp-flags-null",
    "tcp-flags-invalid",
    "tcp-flags-xmas",
];

/// The built command, on the server.
#[derive(Debug)]
pub(super) struct Firewall<'a> {
    program: PathBuf,
    stage: &'a Stage,
}

/// What `firewall stats --format json` says; the parts that are shown.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Stats {
    pub(super) rules: Vec<Rule>,
    pub(super) reasons: Vec<Reason>,
    pub(super) totals: Totals,
}

/// A rule's counter.
#[derive(Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) count: Count,
}

/// The counter of a reason to drop a packet, or to let it pass without a rule.
#[derive(Debug, Deserialize)]
pub(super) struct Reason {
    pub(super) reason: String,
    #[serde(flatten)]
    pub(super) count: Count,
}

/// Everything that came in.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Totals {
    pub(super) accepted: Count,
    pub(super) dropped: Count,
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Stats {
    /// What should have been counted and was not, a sentence each.
    pub(super) fn missing(&self) -> Vec<String> {
        let counted = |name| {
            self.reasons
                .iter()
                .any(|reason| reason.reason == name && reason.count.packets > 0)
        };
        EXPECTED
            .into_iter()
            .filter(|name| !counted(*name))
            .map(|name| format!("no packet was counted under the reason {name}"))
            .collect()
    }
}

impl<'a> Firewall<'a> {
    pub(super) fn new(program: &Path, stage: &'a Stage) -> Self {
        Self {
            program: program.to_owned(),
            stage,
        }
    }

    /// Puts the rules of a file in force.
    pub(super) fn apply(&self, rules: &Path) -> Result<()> {
        let file = rules.file_name().unwrap_or_default().to_string_lossy();
        let interface = Person::Server.interface();
        shell::note(&format!("$ firewall apply rules/{file} -i {interface}"));
        let said = namespace::run(self.command("apply").arg(rules))?;
        shell::note(said.trim_end());
        Ok(())
    }

    /// The counters.
    pub(super) fn stats(&self) -> Result<Stats> {
        let said = namespace::run(self.command("stats").args(["--format", "json"]))?;
        serde_json::from_str(&said)
            .with_context(|| format!("unexpected output of firewall stats:\n{said}"))
    }

    /// What is in force, in the command's own words.
    pub(super) fn status(&self) -> Result<String> {
        namespace::run(&mut self.command("status"))
    }

    /// Takes the firewall off the interface.
    pub(super) fn detach(&self) -> Result<()> {
        let said = namespace::run(&mut self.command("detach"))?;
        shell::note(said.trim_end());
        Ok(())
    }

    /// What is left after detaching and should not be, a sentence each.
    pub(super) fn leftovers(&self) -> Result<Vec<String>> {
        let interface = Person::Server.interface();
        let mut left = Vec::new();
        let pins = Path::new("/sys/fs/bpf/firewall").join(interface);
        if fs::exists(&pins)? {
            left.push(format!("{} is still there", pins.display()));
        }
        let link = namespace::run(
            self.stage
                .command(Person::Server, "ip")
                .args(["link", "show", interface]),
        )?;
        if link.contains("prog/xdp") {
            left.push(format!("a program is still attached: {}", link.trim()));
        }
        Ok(left)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.stage.command(Person::Server, &self.program);
        command.args([verb, "-i", Person::Server.interface()]);
        command
    }
}
