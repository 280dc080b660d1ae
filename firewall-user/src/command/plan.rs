//! `firewall plan`: what a rule file would change if it were applied, told in packets; nothing is touched.

mod live;
mod shown;
mod words;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::{interface, once};
use crate::counters::Slots;
use crate::kernel::guard::{Found, Guard};
use crate::output::{self, Differs, Format, Output, Refused};
use crate::rules::compile::{Compiled, compile};
use crate::rules::diff::{self, Change, RuleChange, Setting, Shadowing};
use crate::rules::model::{Action, Defaults, RuleSet};
use crate::rules::{self, Loaded};
use crate::{lock, privilege};
use live::Live;
use words::Words;

/// What is compared with what.
#[derive(Args, Debug)]
pub(crate) struct Asked {
    /// The new rule file.
    pub(crate) file: PathBuf,
    /// Compare with the rules in force on this interface; may be given several times.
    #[arg(
        short,
        long = "interface",
        value_name = "IFACE",
        required_unless_present = "against"
    )]
    pub(crate) interface: Vec<String>,
    /// Compare with another rule file instead.
    #[arg(long, value_name = "OLDFILE", conflicts_with = "interface")]
    pub(crate) against: Option<PathBuf>,
    /// List every set of packets, however many there are.
    #[arg(long)]
    pub(crate) all: bool,
}

impl Asked {
    /// What `apply --dry-run` asks.
    pub(crate) fn dry_run(file: PathBuf, interface: Vec<String>) -> Self {
        Self {
            file,
            interface,
            against: None,
            all: false,
        }
    }
}

/// What changes.
struct Plan<'r> {
    file: String,
    /// The old rule file, or what else there is.
    against: String,
    interface: Option<String>,
    old: &'r RuleSet,
    new: &'r RuleSet,
    changes: Vec<Change>,
    rules: Vec<RuleChange>,
    settings: Vec<Setting>,
    shadowing: Shadowing,
    /// Of a guarded interface.
    live: Option<Live>,
}

/// A rule set and its tables.
struct Ready {
    rule_set: RuleSet,
    compiled: Compiled,
}

/// What is to be replaced.
struct Old {
    name: String,
    ready: Ready,
    interface: Option<String>,
    guard: Option<Box<Guard>>,
}

/// Tells it, and fails with [`Differs`] if anything changes.
///
/// # Errors
///
/// One of the files is wrong, or what is in force cannot be read.
pub(crate) fn run(asked: &Asked, output: &Output) -> Result<()> {
    let new = Ready::new(load(&asked.file, output)?)?;
    let mut changes = false;
    let mut told = Vec::new();
    let _look = match &asked.against {
        Some(_) => None,
        None => {
            privilege::require()?;
            Some(lock::shared()?)
        }
    };
    for old in olds(asked, output)? {
        let plan = Plan::new(&asked.file, &old, &new)?;
        changes |= plan.changes_something();
        match output.format {
            Format::Json => told.push(serde_json::to_value(shown::PlanJson::new(&plan))?),
            Format::Text => {
                if let Some(name) = plan
                    .interface
                    .as_ref()
                    .filter(|_| asked.interface.len() > 1)
                {
                    output.text(format_args!("{name}:"))?;
                }
                output.text(shown::text(&plan, asked.all))?;
            }
        }
    }
    output.json(&told)?;
    if changes {
        return Err(Differs.into());
    }
    Ok(())
}

fn load(file: &Path, output: &Output) -> Result<Loaded> {
    rules::load(file).or_else(|report| {
        match output.format {
            Format::Text => output.aside(report.render(output::colour(), output::width()))?,
            Format::Json => output
                .json(&serde_json::json!({ "file": file, "ok": false, "diagnostics": report }))?,
        }
        Err(Refused.into())
    })
}

fn olds(asked: &Asked, output: &Output) -> Result<Vec<Old>> {
    if let Some(file) = &asked.against {
        return Ok(vec![Old {
            name: file.display().to_string(),
            ready: Ready::new(load(file, output)?)?,
            interface: None,
            guard: None,
        }]);
    }
    let names = once(&asked.interface);
    names.iter().map(|name| Old::on(name, output)).collect()
}

impl Old {
    /// What is in force on an interface.
    fn on(name: &str, output: &Output) -> Result<Self> {
        let interface = Some(name.to_owned());
        let Found::Guard(guard) = Guard::find(&self::interface(name)?)? else {
            output.aside(format_args!(
                "note: {name} is not guarded, and everything is let in and out now"
            ))?;
            return Ok(Self {
                name: "nothing".to_owned(),
                ready: Ready::of(everything())?,
                interface,
                guard: None,
            });
        };
        Ok(Self {
            name: guard.description.file.clone(),
            ready: Ready::new(crate::live::loaded(&guard)?)?,
            interface,
            guard: Some(guard),
        })
    }
}

/// What holds where there is no firewall.
fn everything() -> RuleSet {
    RuleSet {
        defaults: Defaults {
            ingress: Action::Accept,
            egress: Action::Accept,
        },
        ..RuleSet::default()
    }
}

impl Ready {
    fn new(loaded: Loaded) -> Result<Self> {
        Self::of(loaded.rule_set)
    }

    fn of(rule_set: RuleSet) -> Result<Self> {
        Ok(Self {
            compiled: compile(&rule_set, &Slots::default())?,
            rule_set,
        })
    }
}

impl<'r> Plan<'r> {
    fn new(file: &Path, before: &'r Old, after: &'r Ready) -> Result<Self> {
        let [old, new] = [&before.ready.rule_set, &after.rule_set];
        let [tables, new_tables] = [&before.ready.compiled, &after.compiled];
        let changes = diff::packets(old, new);
        let live = match &before.guard {
            Some(guard) => {
                let images = [&tables.image[..], &new_tables.image[..]];
                Some(Live::read(guard, old, &changes, images)?)
            }
            None => None,
        };
        Ok(Self {
            file: file.display().to_string(),
            against: before.name.clone(),
            interface: before.interface.clone(),
            old,
            new,
            changes,
            rules: diff::rules(old, new),
            settings: diff::settings(old, new),
            shadowing: diff::shadowing((old, tables), (new, new_tables)),
            live,
        })
    }

    fn words(&self) -> Words<'r> {
        Words::new([&self.new.groups, &self.old.groups])
    }

    /// Whether anything that is written or decided is not what it was.
    fn changes_something(&self) -> bool {
        !(self.changes.is_empty() && self.rules.is_empty() && self.settings.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"
version = 1
[groups]
office = ["203.0.113.0/24"]
[[rule]]
name = "ssh"
action = "accept"
protocol = "tcp"
ports = ["ssh"]
from = ["198.51.100.0/24"]
[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [80, 443]
"#;

    const NEW: &str = r#"
version = 1
[defaults]
egress = "drop"
[groups]
office = ["203.0.113.0/24"]
[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [80, 443]
limit = { rate = "100/s" }
[[rule]]
name = "admin"
action = "accept"
protocol = "tcp"
ports = [8443]
from = ["office"]
[[rule]]
name = "resolver"
action = "accept"
direction = "egress"
protocol = "udp"
ports = [53]
"#;

    fn ready(text: &str) -> Ready {
        let loaded = rules::parse("a.toml", text, Path::new(".")).expect("it is valid");
        Ready::new(loaded).expect("it has tables")
    }

    fn told(old: &str, new: &str, all: bool) -> String {
        let old = Old {
            name: "old.toml".to_owned(),
            ready: ready(old),
            interface: None,
            guard: None,
        };
        let new = ready(new);
        let plan = Plan::new(Path::new("new.toml"), &old, &new).expect("no kernel is asked");
        let text = shown::text(&plan, all);
        assert_eq!(plan.changes_something(), text != "nothing changes");
        text
    }

    #[test]
    fn a_plan_tells_packets_and_why_then_what_is_written() {
        insta::assert_snapshot!(told(OLD, NEW, false), @r"
        + newly accepted: tcp 8443 from office (203.0.113.0/24) to any           by rule `admin` (line 13), was refused by default
        - newly refused: tcp 22 from 198.51.100.0/24 to any                      by default, was accepted by rule `ssh` (line 5)
        - newly refused on its way out: any protocol but udp 53 from any to any  by default, was accepted by default
        2 rules added: `admin`, `resolver`
        1 rule removed: `ssh`
        1 rule changed: `web` (limit)
        defaults.egress: was accept, now drop
        ");
        assert_eq!(told(NEW, NEW, false), "nothing changes");
    }

    #[test]
    fn many_sets_are_listed_only_if_all_are_asked_for() {
        let rule = |number: u16| {
            let port = 1000 + 2 * number;
            format!(
                "[[rule]]\nname = \"{number}\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [{port}]\n"
            )
        };
        let rules: String = (0..25).map(rule).collect();
        let [none, many] = ["", &rules].map(|rules| format!("version = 1\n{rules}"));
        let lines = |all| told(&none, &many, all).lines().count();
        // Twenty, how many more, and that rules were added.
        assert_eq!([lines(false), lines(true)], [22, 26]);
    }
}
