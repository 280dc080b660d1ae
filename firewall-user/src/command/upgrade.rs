//! `firewall upgrade`: take over what an older version guards, without a packet lost.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{interface, once};
use crate::kernel::description::Description;
use crate::kernel::interface::{self as interfaces, Interface};
use crate::kernel::pins;
use crate::kernel::upgrade::Plan;
use crate::output::Output;
use crate::rules::{self, Loaded};
use crate::{live, lock, policy, privilege};

/// What is recorded of where the generation came from.
const CHANGE: &str = "upgrade";

/// What is to be taken over.
#[derive(Args, Debug)]
pub(crate) struct Upgrade {
    /// Only these interfaces; all that an older version guards unless told.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    /// Say what would be done, and what cannot be kept; touch nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What becomes of one interface.
#[derive(Debug, Serialize)]
struct Upgraded {
    interface: String,
    /// The ABI version that guarded it.
    from: u32,
    /// The one that does now, or would.
    to: u32,
    /// Whether anything was done.
    changed: bool,
    /// What is in force before and after.
    generation: u64,
    /// What is not kept, a sentence each.
    lost: Vec<String>,
}

/// An interface, what is to be done there, and the rule file in force, if the older version did not keep it and it is still what it
/// was.
struct Target {
    name: String,
    plan: Plan,
    loaded: Option<Loaded>,
}

pub(crate) fn run(upgrade: &Upgrade, output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    // All is said before the first is touched.
    let targets = targets(&upgrade.interface, output)?;
    if targets.is_empty() && upgrade.interface.is_empty() {
        output.text(
            "nothing to do: no older version guards an interface of this network namespace",
        )?;
    }
    for target in &targets {
        for lost in target.lost() {
            output.aside(format_args!("note: {}: {lost}", target.name))?;
        }
    }
    let mut results = Vec::new();
    for target in targets {
        let mut result = target.result();
        if !upgrade.dry_run {
            target.carry_out()?;
            result.changed = true;
        }
        output.text(describe(&result))?;
        results.push(result);
    }
    output.json(&results)
}

fn targets(names: &[String], output: &Output) -> Result<Vec<Target>> {
    let found: Vec<Interface> = if names.is_empty() {
        let pinned = pins::interfaces()?;
        let all = interfaces::all()?.into_iter();
        all.filter(|found| pinned.contains(&found.name)).collect()
    } else {
        let names = once(names);
        let found = names.iter().map(|name| interface(name));
        found.collect::<Result<_>>()?
    };
    let mut targets: Vec<Target> = Vec::new();
    for interface in found {
        let name = &interface.name;
        match Plan::of(&interface)? {
            Some(plan) => targets.push(Target {
                name: name.clone(),
                loaded: match plan.keeps_sources() {
                    true => None,
                    false => in_force(&plan.description),
                },
                plan,
            }),
            None if names.is_empty() => {}
            None => output.text(format_args!(
                "{name}: nothing to do, no older version guards it"
            ))?,
        }
    }
    Ok(targets)
}

impl Target {
    /// What is not kept.
    fn lost(&self) -> Vec<String> {
        let mut lost = self.plan.losses().to_vec();
        let is_kept = self.loaded.is_some() || self.plan.keeps_sources();
        if !is_kept && !self.plan.ends_another() {
            lost.push(format!(
                "{} is not any more what is in force, which holds but cannot be edited rule by rule until the next `firewall apply`",
                self.plan.description.file
            ));
        }
        lost
    }

    fn result(&self) -> Upgraded {
        Upgraded {
            interface: self.name.clone(),
            from: self.plan.from(),
            to: self.plan.to(),
            changed: false,
            generation: self.plan.description.generation,
            lost: self.lost(),
        }
    }

    fn carry_out(self) -> Result<()> {
        let description = &self.plan.description;
        let source = (self.loaded.as_ref())
            .map(|loaded| live::source(loaded, description, CHANGE.to_owned()));
        self.plan.carry_out(source.as_ref())
    }
}

/// The rule file that `description` names, if it and its address lists are still what is in force.
fn in_force(description: &Description) -> Option<Loaded> {
    let loaded = rules::load(Path::new(&description.file)).ok()?;
    let policy = &description.policy;
    if policy::sha256(loaded.source.bytes()) != policy.file_sha256 {
        return None;
    }
    // Of lists there is no hash but that of the tables they are in, which tells if it is the same.
    let is_same = loaded.lists.is_empty()
        || policy::prepare(&loaded, Some(policy), 0)
            .is_ok_and(|prepared| prepared.policy.image_sha256 == policy.image_sha256);
    is_same.then_some(loaded)
}

fn describe(upgraded: &Upgraded) -> String {
    let Upgraded {
        interface,
        from,
        to,
        changed,
        generation,
        ..
    } = upgraded;
    let guards = if *changed { "guards" } else { "would guard" };
    format!(
        "{interface}: v{to} {guards} in the place of v{from}; generation {generation} stays in force, and flows, bans, limits and \
         counts go on"
    )
}
