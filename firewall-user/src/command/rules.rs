//! `firewall rules`: the rules in force.

use anyhow::Result;
use serde_json::json;

use super::guard;
use crate::output::{self, Output, table};
use crate::{lock, privilege};

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _look = lock::shared()?;
    let mut results = Vec::new();
    for name in names {
        let (_, guard) = guard(name)?;
        let policy = &guard.description.policy;
        let counters = guard.counters(policy.rules.iter().map(|rule| rule.slot))?;
        let rows = policy.rules.iter().zip(&counters).map(|(rule, counter)| {
            vec![
                rule.name.clone(),
                rule.action.clone(),
                rule.matches.clone(),
                output::count(counter.packets),
                output::bytes(counter.bytes),
                rule.comment.clone().unwrap_or_default(),
            ]
        });
        let default = if policy.default_accepts {
            "accept"
        } else {
            "drop"
        };
        output.text(format_args!(
            "{name}: generation {}, {}",
            guard.description.generation, guard.description.file
        ))?;
        output.text(table(
            &["RULE", "ACTION", "MATCHES", "PACKETS", "BYTES", "COMMENT"],
            &[3, 4],
            rows,
        ))?;
        output.text(format_args!("what no rule matches: {default}\n"))?;
        let rules: Vec<_> = policy
            .rules
            .iter()
            .zip(&counters)
            .map(|(rule, counter)| {
                json!({
                    "name": rule.name, "action": rule.action, "matches": rule.matches, "comment": rule.comment,
                    "line": rule.line, "packets": counter.packets, "bytes": counter.bytes,
                })
            })
            .collect();
        results.push(json!({
            "interface": name, "generation": guard.description.generation, "file": guard.description.file,
            "default": default, "rules": rules,
        }));
    }
    output.json(&results)
}
