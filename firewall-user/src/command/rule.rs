//! `firewall rule`: add and remove single rules of what is in force.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};

use super::edit::{self, Edit};
use crate::cli::Interfaces;
use crate::live::Live;
use crate::output::Output;
use crate::rules::edit::{Document, Place};
use crate::rules::notation::{self, Typed};

/// What is done about a rule.
#[derive(Debug, Subcommand)]
pub(crate) enum RuleVerb {
    /// Add a rule, from one packet to the next.
    Add(Box<Add>),
    /// Remove a rule.
    Remove {
        /// Its name.
        name: String,
        #[command(flatten)]
        edit: Edit,
    },
    /// The rules in force, with what each has decided; as `firewall rules`.
    List {
        #[command(flatten)]
        interfaces: Interfaces,
    },
}

/// A rule to be added.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// The rule: `accept tcp 443 from office`, `drop any from 203.0.113.0/24`, `accept tcp ssh limit 6/m per source`.
    #[arg(value_parser = notation::parse)]
    rule: Typed,
    /// What it is called; unless told, what it says without its action.
    #[arg(long)]
    name: Option<String>,
    /// Why it is there.
    #[arg(long)]
    comment: Option<String>,
    /// Before the rule of this name; behind all others unless told. The first that matches decides.
    #[arg(long, value_name = "NAME", conflicts_with = "after")]
    before: Option<String>,
    /// Behind the rule of this name.
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    #[command(flatten)]
    edit: Edit,
}

pub(crate) fn run(verb: &RuleVerb, output: &Output) -> Result<()> {
    match verb {
        RuleVerb::Add(add) => {
            let change = format!("rule add {}", add.rule.name);
            edit::run(&add.edit, &change, output, |live| {
                let beside = add.before.as_deref().or(add.after.as_deref());
                in_document(live, beside, |document| add_to(document, add))
            })
        }
        RuleVerb::Remove { name, edit } => {
            let change = format!("rule remove {name}");
            edit::run(edit, &change, output, |live| {
                in_document(live, Some(name), |document| {
                    document.remove_rule(name)?;
                    Ok(format!("rule `{name}` is gone"))
                })
            })
        }
        RuleVerb::List { interfaces } => super::rules::run(&interfaces.interface, output),
    }
}

fn add_to(document: &mut Document<'_>, add: &Add) -> Result<String, String> {
    let place = match (&add.before, &add.after) {
        (Some(name), _) => Place::Before(name),
        (None, Some(name)) => Place::After(name),
        (None, None) => Place::Last,
    };
    let (name, comment) = (add.name.as_deref(), add.comment.as_deref());
    let name = document.add_rule(add.rule.clone(), name, comment, place)?;
    Ok(format!("rule `{name}` is there"))
}

/// Makes a change in the text of a rule file, beside the rule of a name or behind the last one.
fn in_document(
    live: &mut Live,
    beside: Option<&str>,
    change: impl FnOnce(&mut Document<'_>) -> Result<String, String>,
) -> Result<Option<String>> {
    let document = Document::around(&live.text, &live.rules, beside);
    let mut document = document.map_err(|error| anyhow!("{error}"))?;
    let said = change(&mut document).map_err(|error| anyhow!("{error}"))?;
    live.text = document.text();
    Ok(Some(said))
}
