//! `firewall apply`: put a rule file in force.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use super::interface;
use crate::kernel::guard::{self, Found, Guard, ModeChoice, remove_stale};
use crate::kernel::interface::{Interface, Mode};
use crate::kernel::pins;
use crate::output::{self, Format, Output, Refused};
use crate::rules::{self, Loaded};
use crate::session::Session;
use crate::{lock, policy, privilege};

/// What became of one interface.
#[derive(Debug, Serialize)]
struct Applied {
    interface: String,
    /// Whether anything changed.
    changed: bool,
    mode: Mode,
    generation: u64,
    rules: usize,
    table_bytes: u64,
}

pub(crate) fn run(file: &Path, names: &[String], mode: ModeChoice, output: &Output) -> Result<()> {
    let loaded = rules::load(file).or_else(|report| {
        match output.format {
            Format::Text => output.aside(report.render(output::colour(), output::width()))?,
            Format::Json => output
                .json(&serde_json::json!({ "file": file, "ok": false, "diagnostics": report }))?,
        }
        Err(anyhow::Error::from(Refused))
    })?;
    privilege::require()?;
    let _turn = lock::exclusive()?;
    pins::ensure_bpffs()?;
    // All must be fit to be guarded before the first is touched.
    let interfaces = names
        .iter()
        .map(|name| interface(name))
        .collect::<Result<Vec<_>>>()?;
    for interface in &interfaces {
        if !matches!(Guard::find(interface)?, Found::Guard(_)) {
            guard::check(interface)?;
        }
    }
    let mut applied = Vec::new();
    for (index, interface) in interfaces.iter().enumerate() {
        let one = apply(file, &loaded, interface, mode, index == 0, output).with_context(|| {
            let done: Vec<&str> = names[..index].iter().map(String::as_str).collect();
            match done[..] {
                [] => format!("{} is as it was", interface.name),
                _ => format!(
                    "{} is as it was; {} has the new policy already",
                    interface.name,
                    done.join(", ")
                ),
            }
        })?;
        output.text(describe(&one))?;
        applied.push(one);
    }
    output.json(&applied)
}

fn apply(
    file: &Path,
    loaded: &Loaded,
    interface: &Interface,
    mode: ModeChoice,
    first: bool,
    output: &Output,
) -> Result<Applied> {
    let found = Guard::find(interface)?;
    let before = match &found {
        Found::Guard(guard) => Some(&guard.description),
        Found::Nothing | Found::Stale => None,
    };
    let prepared = policy::prepare(loaded, before.map(|before| &before.policy))?;
    if first && output.format == Format::Text {
        for warning in loaded.warnings.iter().chain(&prepared.warnings) {
            output.aside(warning.render(output::colour(), output::width()))?;
        }
    }
    if let Some(session) = Session::current().filter(|session| session.is_shut_out(&prepared.image))
    {
        output.aside(format_args!(
            "warning: these rules shut out the SSH session in which you type: nothing accepts tcp from {} to port {}",
            session.client.0, session.server.1,
        ))?;
    }
    if before.is_none() && !prepared.policy.default_accepts {
        output.aside(
            "note: this version does not follow connections: answers to those that this host opens are dropped unless a \
             rule accepts them",
        )?;
    }
    let description = prepared.describe(file, before)?;
    let (guard, changed) = match found {
        Found::Guard(guard) => {
            refuse_other_mode(&guard, interface, mode)?;
            if guard.description.policy == description.policy {
                (guard, false)
            } else {
                let mut guard = guard;
                guard.switch(prepared.image, description)?;
                (guard, true)
            }
        }
        Found::Stale => {
            remove_stale(&interface.name)?;
            (
                Guard::attach(interface, mode, prepared.image, &description)?,
                true,
            )
        }
        Found::Nothing => (
            Guard::attach(interface, mode, prepared.image, &description)?,
            true,
        ),
    };
    Ok(Applied {
        interface: interface.name.clone(),
        changed,
        mode: guard.mode,
        generation: guard.description.generation,
        rules: guard.description.policy.rules.len(),
        table_bytes: guard.description.policy.image_bytes,
    })
}

fn refuse_other_mode(guard: &Guard, interface: &Interface, mode: ModeChoice) -> Result<()> {
    let name = &interface.name;
    match (mode, guard.mode) {
        (ModeChoice::Native, Mode::Generic | Mode::Offloaded)
        | (ModeChoice::Generic, Mode::Native | Mode::Offloaded) => {
            bail!(
                "{name} is guarded in {} mode; to change that, `firewall detach -i {name}` first, which opens the \
                 interface until the next apply",
                guard.mode.as_str(),
            )
        }
        _ => Ok(()),
    }
}

fn describe(applied: &Applied) -> String {
    let Applied {
        interface,
        mode,
        generation,
        rules,
        ..
    } = applied;
    if !applied.changed {
        return format!(
            "{interface}: nothing to do, generation {generation} has these rules already"
        );
    }
    format!(
        "{interface}: guarded in {} mode, generation {generation}, {rules} rules, {} of tables",
        mode.as_str(),
        output::bytes(applied.table_bytes),
    )
}
