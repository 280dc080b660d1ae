//! What a new rule set changes: which packets it decides otherwise, exactly, and what is written in it otherwise.

mod merge;
mod order;
mod packets;
#[cfg(test)]
mod tests;
mod written;

pub use packets::{Change, Deciders};
pub use written::{RuleChange, Setting, Shadowing, rules, settings, shadowing};

use super::model::{Direction, RuleSet};

/// Every packet that rules of `old` refuse and `new` accepts, or the other way round: what arrives, then what leaves.
pub fn packets(old: &RuleSet, new: &RuleSet) -> Vec<Change> {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .flat_map(|direction| packets::changes(old, new, direction))
        .collect()
}
