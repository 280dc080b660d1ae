//! `firewall rule`: add and remove single rules of what is in force.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};

use super::edit::{self, Changing, Edit};
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
            let words = format!("rule add {}", add.rule.name);
            edit::run(&add.edit, &Change::Add { words, add }, output)
        }
        RuleVerb::Remove { name, edit } => {
            let words = format!("rule remove {name}");
            edit::run(edit, &Change::Remove { words, name }, output)
        }
        RuleVerb::List { interfaces } => super::rules::run(&interfaces.names(), output),
    }
}

/// A change of the rules.
enum Change<'a> {
    Add { words: String, add: &'a Add },
    Remove { words: String, name: &'a str },
}

impl Changing for Change<'_> {
    fn words(&self) -> &str {
        let (Self::Add { words, .. } | Self::Remove { words, .. }) = self;
        words
    }

    fn make(&self, live: &mut Live) -> Result<Option<String>> {
        match self {
            Self::Add { add, .. } => {
                let beside = add.before.as_deref().or(add.after.as_deref());
                in_document(live, beside, |document| add_to(document, add))
            }
            Self::Remove { name, .. } => in_document(live, Some(name), |document| {
                document.remove_rule(name)?;
                Ok(format!("rule `{name}` is gone"))
            }),
        }
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
