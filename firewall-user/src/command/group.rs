//! `firewall group`: add and remove members of the address groups in force.

use anyhow::{Result, anyhow, bail};
use clap::Subcommand;

use super::edit::{self, Changing, Edit, Made};
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
    let (way, word, name, members, edit) = match verb {
        GroupVerb::Add {
            name,
            members,
            edit,
        } => (Way::In, "add", name, members, edit),
        GroupVerb::Remove {
            name,
            members,
            edit,
        } => (Way::Out, "remove", name, members, edit),
    };
    for member in members {
        if let Err(error) = parse_block(member.as_bytes()) {
            bail!("{member}: {error}; {}", error.help());
        }
    }
    let change = Change {
        words: format!("group {word} {name} {}", shortened(members)),
        name,
        members,
        way,
    };
    edit::run(edit, &change, output)
}

/// A change of a group.
struct Change<'a> {
    words: String,
    name: &'a str,
    members: &'a [String],
    way: Way,
}

impl Changing for Change<'_> {
    fn words(&self) -> &str {
        &self.words
    }

    fn make(&self, live: &mut Live) -> Result<Option<String>> {
        change_group(live, self.name, self.members, self.way)
    }

    fn make_at_once(&self, guard: &Guard, live: &mut Live) -> Result<Option<Made>> {
        let made = known::change(guard, live, self.name, self.members, self.way)?;
        Ok(made.map(|prepared| Made {
            said: said(self.name, self.members, self.way),
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
            live.text = document.text();
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
