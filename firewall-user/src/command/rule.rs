//! `firewall rule`: add and remove single rules of what is in force.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

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
    let (edit, change) = match verb {
        RuleVerb::Add(add) => {
            let Add {
                rule,
                name,
                comment,
                before,
                after,
                edit,
            } = &**add;
            let change = Change::Add {
                rule: Box::new(rule.clone()),
                name: name.clone(),
                comment: comment.clone(),
                before: before.clone(),
                after: after.clone(),
            };
            (edit, change)
        }
        RuleVerb::Remove { name, edit } => (edit, Change::Remove { name: name.clone() }),
        RuleVerb::List { interfaces } => return super::rules::run(&interfaces.names(), output),
    };
    edit::run(edit, edit::Change::Rule(change), output)
}

/// A change of the rules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    /// A rule comes.
    Add {
        rule: Box<Typed>,
        name: Option<String>,
        comment: Option<String>,
        before: Option<String>,
        after: Option<String>,
    },
    /// A rule goes.
    Remove { name: String },
}

impl Change {
    /// The command, in short.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Add { rule, .. } => format!("rule add {}", rule.name),
            Self::Remove { name } => format!("rule remove {name}"),
        }
    }

    /// Whether a file has the change already.
    pub(super) fn is_made(&self, live: &Live) -> bool {
        match self {
            Self::Add {
                rule,
                name: Some(name),
                comment,
                before,
                after,
            } => {
                // Taken out and put in again, it is what it was.
                let again = || -> Result<String, String> {
                    let mut document = Document::parse(&live.text)?;
                    document.remove_rule(name)?;
                    let place = place(before.as_deref(), after.as_deref());
                    document.add_rule((**rule).clone(), Some(name), comment.as_deref(), place)?;
                    Ok(document.text())
                };
                again().is_ok_and(|text| {
                    let mut again = live.clone();
                    again.set_text(text);
                    again.text == live.text
                })
            }
            Self::Add { name: None, .. } => false,
            Self::Remove { name } => live.rules.iter().all(|rule| rule.name != *name),
        }
    }

    /// Changes the text of what is in force, or of a file. Returns what has been done. A rule that is called by no name gets one here, and
    /// has it wherever else the change is made.
    pub(super) fn make(&mut self, live: &mut Live) -> Result<String> {
        match self {
            Self::Add {
                rule,
                name,
                comment,
                before,
                after,
            } => {
                let place = place(before.as_deref(), after.as_deref());
                let beside = before.as_deref().or(after.as_deref());
                let called = in_document(live, beside, |document| {
                    document.add_rule((**rule).clone(), name.as_deref(), comment.as_deref(), place)
                })?;
                let said = format!("rule `{called}` is there");
                *name = Some(called);
                Ok(said)
            }
            Self::Remove { name } => {
                in_document(live, Some(name), |document| document.remove_rule(name))?;
                Ok(format!("rule `{name}` is gone"))
            }
        }
    }
}

/// Where a rule is to be put.
fn place<'a>(before: Option<&'a str>, after: Option<&'a str>) -> Place<'a> {
    match (before, after) {
        (Some(name), _) => Place::Before(name),
        (None, Some(name)) => Place::After(name),
        (None, None) => Place::Last,
    }
}

/// Makes a change in the text of a rule file, beside the rule of a name or behind the last one.
fn in_document<T>(
    live: &mut Live,
    beside: Option<&str>,
    change: impl FnOnce(&mut Document<'_>) -> Result<T, String>,
) -> Result<T> {
    let document = Document::around(&live.text, &live.rules, beside);
    let mut document = document.map_err(|error| anyhow!("{error}"))?;
    let made = change(&mut document).map_err(|error| anyhow!("{error}"))?;
    let text = document.text();
    live.set_text(text);
    Ok(made)
}
