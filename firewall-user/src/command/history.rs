//! `firewall history`: the generations of an interface.

use anyhow::Result;
use serde::Serialize;

use super::guard;
use crate::kernel::guard::{Guard, Trial};
use crate::kernel::kept::Kept;
use crate::output::{Output, table, utc};
use crate::{lock, privilege};

/// A generation.
#[derive(Debug, Serialize)]
struct Entry {
    generation: u64,
    /// `in force`, `to be confirmed`, `not confirmed`, `rolled back`, or nothing in particular.
    state: &'static str,
    applied_at: String,
    rules: usize,
    /// The command that made it.
    change: String,
    file: String,
}

#[derive(Debug, Serialize)]
struct History {
    interface: String,
    /// Seconds in which what is in force has to be confirmed.
    confirm_in_s: Option<u64>,
    generations: Vec<Entry>,
}

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _look = lock::shared()?;
    let mut all = Vec::new();
    for name in names {
        let (_, guard) = guard(name)?;
        let history = history(name, &guard)?;
        show(&history, output)?;
        all.push(history);
    }
    output.json(&all)
}

fn history(name: &str, guard: &Guard) -> Result<History> {
    let newest = guard.newest()?;
    let lapsed = match guard.trial {
        Trial::Lapsed => guard.before()?.map(|lapsed| lapsed.generation),
        Trial::Over | Trial::Waits(_) => None,
    };
    let entry = |kept: Kept| Entry {
        generation: kept.generation,
        state: if kept.generation == guard.description.generation {
            match guard.trial {
                Trial::Waits(_) => "to be confirmed",
                Trial::Over | Trial::Lapsed => "in force",
            }
        } else if kept.lapsed || Some(kept.generation) == lapsed {
            "not confirmed"
        } else if kept.rolled_back {
            "rolled back"
        } else {
            ""
        },
        applied_at: utc(kept.applied_at_s),
        rules: kept.rules,
        change: kept.change,
        file: kept.file,
    };
    let kept = guard.archive().all()?.into_iter();
    Ok(History {
        interface: name.to_owned(),
        confirm_in_s: match guard.trial {
            Trial::Waits(left) => Some(left),
            Trial::Over | Trial::Lapsed => None,
        },
        // What is above was made by a command that was killed before it was in force.
        generations: kept
            .filter(|kept| kept.generation <= newest)
            .map(entry)
            .collect(),
    })
}

fn show(history: &History, output: &Output) -> Result<()> {
    let rows = history.generations.iter().map(|entry| {
        vec![
            entry.generation.to_string(),
            entry.state.to_owned(),
            entry.applied_at.clone(),
            entry.rules.to_string(),
            entry.change.clone(),
            entry.file.clone(),
        ]
    });
    let heading = ["generation", "", "applied", "rules", "by", "file"];
    let waits = history
        .confirm_in_s
        .map(|left| format!(", {left} s left to confirm"));
    output.text(format_args!(
        "{}{}",
        history.interface,
        waits.unwrap_or_default()
    ))?;
    output.text(table(&heading, &[0, 3], rows))
}
