//! `firewall group`: add and remove members of the address groups in force.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::edit::{self, Edit, Made};
use crate::kernel::guard::Guard;
use crate::live::Live;
use crate::live::known;
use crate::output::Output;
use crate::rules::addresses::parse_block;
use crate::rules::compile::lists::Way;
use crate::rules::edit::{Document, Members};

/// What is done about a group.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupVerb {
    /// Add addresses to a group, from one packet to the next.
    Add {
        /// The group.
        name: String,
        /// Addresses and CIDRs.
        #[arg(required = true, value_name = "CIDR")]
        members: Vec<String>,
        #[command(flatten)]
        edit: Edit,
    },
    /// Take addresses out of a group, as they were put into it.
    Remove {
        /// The group.
        name: String,
        /// Addresses and CIDRs.
        #[arg(required = true, value_name = "CIDR")]
        members: Vec<String>,
        #[command(flatten)]
        edit: Edit,
    },
}

pub(crate) fn run(verb: &GroupVerb, output: &Output) -> Result<()> {
    let (way, name, members, edit) = match verb {
        GroupVerb::Add {
            name,
            members,
            edit,
        } => (Way::In, name, members, edit),
        GroupVerb::Remove {
            name,
            members,
            edit,
        } => (Way::Out, name, members, edit),
    };
    let change = Change {
        name: name.clone(),
        members: spelled_alike(members)?,
        way,
    };
    edit::run(edit, edit::Change::Group(change), output)
}

/// The same addresses, each once and spelled in one way: what was put in as `192.0.2.1` is taken out as `192.0.2.1/32`, and in again.
fn spelled_alike(members: &[String]) -> Result<Vec<String>> {
    let (mut alike, mut known) = (Vec::new(), BTreeSet::new());
    for member in members {
        match parse_block(member.as_bytes()) {
            Ok(block) if known.insert(block) => alike.push(block.to_string()),
            Ok(_) => {}
            Err(error) => bail!("{member}: {error}; {}", error.help()),
        }
    }
    Ok(alike)
}

/// A change of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Change {
    name: String,
    members: Vec<String>,
    way: Way,
}

impl Change {
    /// The command, in short.
    pub(super) fn words(&self) -> String {
        let word = match self.way {
            Way::In => "add",
            Way::Out => "remove",
        };
        format!("group {word} {} {}", self.name, shortened(&self.members))
    }

    /// Changes the text of what is in force. Returns what has been done, or nothing where nothing is to be done.
    pub(super) fn make(&self, live: &mut Live) -> Result<Option<String>> {
        change_group(live, &self.name, &self.members, self.way)
    }

    /// Whether a file has the change already.
    pub(super) fn is_made(&self, live: &Live) -> bool {
        let mut other = live.clone();
        match self.way {
            Way::In => matches!(self.make(&mut other), Ok(None)),
            // All of them can be put in again.
            Way::Out => self.members.iter().all(|member| {
                let members = std::slice::from_ref(member);
                matches!(
                    change_group(&mut other, &self.name, members, Way::In),
                    Ok(Some(_))
                )
            }),
        }
    }

    /// Changes text and tables, where the tables need not be made anew for that; if not, both are as they were.
    pub(super) fn make_at_once(&self, guard: &Guard, live: &mut Live) -> Result<Option<Made>> {
        let made = known::change(guard, live, &self.name, &self.members, self.way)?;
        Ok(made.map(|prepared| Made {
            said: said(&self.name, &self.members, self.way),
            prepared,
        }))
    }
}

/// Makes the change in the rule file or in the list that the group is made of.
fn change_group(
    live: &mut Live,
    name: &str,
    members: &[String],
    way: Way,
) -> Result<Option<String>> {
    let mut document = Document::parse(&live.text).map_err(|error| anyhow!("{error}"))?;
    let failed = |error: String| anyhow!("{error}");
    let changed = match document.members(name).map_err(failed)? {
        Members::Here => {
            let changed = match way {
                Way::In => document.add_members(name, members),
                Way::Out => document.remove_members(name, members),
            };
            let text = document.text();
            live.set_text(text);
            changed.map_err(failed)?
        }
        Members::List(list) => {
            let mut list = live.list(&list)?;
            match way {
                Way::In => list.add(members),
                Way::Out => list.remove(members),
            }
        }
    };
    if way == Way::Out && changed.len() < members.len() {
        let missing: Vec<&str> = members
            .iter()
            .filter(|member| !changed.contains(member))
            .map(String::as_str)
            .collect();
        bail!(
            "group `{name}` does not have {} written so; what is part of a larger CIDR is not taken out of it",
            missing.join(", ")
        );
    }
    Ok((!changed.is_empty()).then(|| said(name, &changed, way)))
}

fn said(name: &str, changed: &[String], way: Way) -> String {
    let what = shortened(changed);
    match way {
        Way::In => format!("group `{name}` has {what}"),
        Way::Out => format!("group `{name}` has {what} no more"),
    }
}

/// A few of them by name.
fn shortened(members: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = members[..members.len().min(SHOWN)].join(", ");
    match members.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
