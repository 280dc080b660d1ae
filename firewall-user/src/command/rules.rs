//! `firewall rules`: the rules in force.

use anyhow::Result;
use serde_json::json;

use super::guard;
use crate::counters::Sums;
use crate::kernel::description::DescribedRule;
use crate::output::{self, Output, table};
use crate::{lock, privilege};

/// Column of the direction, which is shown where there are rules of both.
const DIRECTION: usize = 1;

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _look = lock::shared()?;
    let mut results = Vec::new();
    for name in names {
        let (_, guard) = guard(name)?;
        let policy = &guard.description.policy;
        let sums = Sums::read(&policy.slots, |slots| {
            guard.counters()?.read(slots.iter().copied())
        })?;
        let counters: Vec<_> = policy
            .rules
            .iter()
            .map(|rule| sums.rule(&rule.name))
            .collect();
        let both_directions = policy.rules.iter().any(DescribedRule::is_egress);
        let rows = policy.rules.iter().zip(&counters).map(|(rule, counter)| {
            let mut row = vec![
                rule.name.clone(),
                rule.action.clone(),
                rule.matches.clone(),
                output::count(counter.packets),
                output::bytes(counter.bytes),
                rule.comment.clone().unwrap_or_default(),
            ];
            if both_directions {
                row.insert(DIRECTION, rule.direction.clone());
            }
            row
        });
        let mut headings = vec!["RULE", "ACTION", "MATCHES", "PACKETS", "BYTES", "COMMENT"];
        let mut numbers = [3, 4];
        if both_directions {
            headings.insert(DIRECTION, "DIRECTION");
            numbers = [4, 5];
        }
        let default = action(policy.default_accepts);
        let egress_default = action(policy.egress_default_accepts);
        output.text(format_args!(
            "{name}: generation {}, {}",
            guard.description.generation, guard.description.file
        ))?;
        output.text(table(&headings, &numbers, rows))?;
        if both_directions || !policy.egress_default_accepts {
            output.text(format_args!(
                "what no rule matches: ingress {default}, egress {egress_default}\n"
            ))?;
        } else {
            output.text(format_args!("what no rule matches: {default}\n"))?;
        }
        let rules: Vec<_> = policy
            .rules
            .iter()
            .zip(&counters)
            .map(|(rule, counter)| {
                json!({
                    "name": rule.name, "direction": rule.direction, "action": rule.action, "matches": rule.matches,
                    "comment": rule.comment, "line": rule.line, "packets": counter.packets, "bytes": counter.bytes,
                })
            })
            .collect();
        results.push(json!({
            "interface": name, "generation": guard.description.generation, "file": guard.description.file,
            "default": default, "egress_default": egress_default, "rules": rules,
        }));
    }
    output.json(&results)
}

const fn action(accepts: bool) -> &'static str {
    if accepts { "accept" } else { "drop" }
}
