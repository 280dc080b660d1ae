//! Sets of packets as rules can tell them apart, and exact answers about them: nothing is sampled, and no packet is left out.
//!
//! What passes before any rule is asked (essentials) and what passes although rules refuse it (answers) is not the rules' to say,
//! and so not told of here.

mod cut;
pub(in crate::rules) mod division;
mod example;
pub(in crate::rules) mod ranges;
pub(in crate::rules) mod services;
mod sweep;
#[cfg(test)]
pub(in crate::rules) mod tests;
mod told;

use std::ops::ControlFlow;

use firewall_common::parse::{Addresses, Packet, protocol};

use super::model::{Action, AddressSet, Direction, Rule, RuleSet, SetId};
use division::Division;
pub use example::Example;
use ranges::Extent;
pub use services::Services;
pub use told::{FlagSet, ServiceSet};

/// Packets of one direction: all those from some addresses to some addresses with some services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which way the packets go.
    pub direction: Direction,
    /// Source addresses. `None`: any address of either family.
    pub from: Option<AddressSet>,
    /// Destination addresses. `None`: any address of either family.
    pub to: Option<AddressSet>,
    /// What they carry.
    pub services: Services,
}

/// A packet that rules treat otherwise than expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counterexample {
    /// The packet.
    pub example: Example,
    /// Index of the rule that decides it; `None` if it is the default.
    pub rule: Option<usize>,
}

impl Region {
    /// All packets of a direction.
    pub fn everything(direction: Direction) -> Self {
        Self {
            direction,
            from: None,
            to: None,
            services: Services::any(),
        }
    }

    /// The packets that `rule`, which is one of `rule_set`'s, matches.
    pub fn of_rule(rule_set: &RuleSet, rule: &Rule) -> Self {
        let set = |id: Option<SetId>| id.map(|id| rule_set.sets[id.0].clone());
        Self {
            direction: rule.direction,
            from: set(rule.from),
            to: set(rule.to),
            services: Services::of_rule(rule),
        }
    }

    /// Whether `packet`, which goes this way, is one of them.
    pub fn contains(&self, packet: &Packet) -> bool {
        let is_in = |set: &Option<AddressSet>, v4: Option<u32>, v6: Option<u128>| {
            set.as_ref().is_none_or(|set| {
                v4.is_some_and(|address| ranges::contain(&set.v4, address))
                    || v6.is_some_and(|address| ranges::contain(&set.v6, address))
            })
        };
        let by_address = match packet.addresses {
            Addresses::V4 {
                source,
                destination,
            } => is_in(&self.from, Some(source), None) && is_in(&self.to, Some(destination), None),
            Addresses::V6 {
                source,
                destination,
            } => {
                let [source, destination] = [source, destination]
                    .map(|[upper, lower]| u128::from(upper) << 64 | u128::from(lower));
                is_in(&self.from, None, Some(source)) && is_in(&self.to, None, Some(destination))
            }
        };
        by_address && self.services.contain(&packet.transport)
    }
}

/// Some packet of `region` that the rules of its direction (the first that matches, else the default) treat otherwise than
/// `expected`; `None` if there is none.
///
/// It is a packet that can come so far: none from or to addresses that no packet on a wire has, or with flags that no TCP sends.
pub fn counterexample(
    rule_set: &RuleSet,
    region: &Region,
    expected: Action,
) -> Option<Counterexample> {
    let clipped = |set: &Option<AddressSet>, possible: Extent<'static>| match set {
        Some(set) => possible.intersection(&Extent::addresses(Some(set))),
        None => possible,
    };
    let within = [
        clipped(&region.from, example::sources()),
        clipped(&region.to, example::destinations()),
        Extent::narrow(&region.services.numbers).into_owned(),
        Extent::narrow(&region.services.flags).into_owned(),
    ];
    if is_empty(&within) {
        return None;
    }
    let default = rule_set.defaults.of(region.direction);
    // The other list has no rules, and so always the expected answer.
    let mut division = Division::new(within, [default, expected]);
    for (index, rule) in rule_set.rules.iter().enumerate() {
        if rule.direction == region.direction {
            let set = |id: Option<SetId>| id.map(|id| &rule_set.sets[id.0]);
            let sets = [set(rule.from), set(rule.to)];
            division.push(0, rule_set, index, sets, rule.action != expected);
        }
    }
    let found = division.differences(&mut |piece| match Example::of(piece.extents) {
        Some(example) => ControlFlow::Break(example),
        None => ControlFlow::Continue(()),
    });
    let example = found.break_value()?;
    Some(Counterexample {
        example,
        rule: super::oracle::first_match(rule_set, region.direction, &example.packet()),
    })
}

/// Whether there is no packet in it. Without TCP nothing depends on flags.
fn is_empty(
    [source, destination, services, flags]: &[Extent<'_>; division::dimension::COUNT],
) -> bool {
    let all_of_tcp = Services::protocol(protocol::TCP).numbers;
    source.is_empty()
        || destination.is_empty()
        || services.is_empty()
        || (flags.is_empty() && Extent::narrow(&all_of_tcp).covers(services))
}
