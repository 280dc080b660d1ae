//! `[[assert]]`: what is to become of all packets of a kind, whatever the rules say in detail. A file that does not keep to it is
//! refused, with a packet that shows it.
//!
//! Essentials and rules count. Bans, limits, VLANs, and what is let through because it answers something, are left aside; a rule
//! with a limit accepts.

mod essentials;
mod region;
#[cfg(test)]
mod tests;

use super::addresses::{Block, SetBuilder};
use super::diagnostic::{Collector, Diagnostic, Source};
use super::model::{Action, AddressSet, Direction, RuleSet};
use super::packet::{Concrete, PacketError, Pattern};
use super::region::ranges::intersection;
use super::region::{Region, counterexample};
use super::shown::quoted;
use super::typed::RawAssert;
use super::validate::RulePlace;

/// Most assertions of a file. Each asks all rules, which among the most that there can be takes milliseconds to a second.
const MAX_ASSERTS: usize = 1_000;

/// Reports every assertion that is wrong and, if nothing else in the file is, every one that does not hold.
pub(super) fn check(
    raw: &[RawAssert],
    rule_set: &RuleSet,
    places: &[RulePlace],
    source: &Source,
    within: Option<Within>,
    collector: &mut Collector,
) {
    if let Some(one) = raw.get(MAX_ASSERTS) {
        let message = format!(
            "the file has {} assertions, more than the {MAX_ASSERTS} there can be",
            raw.len()
        );
        collector.error(|| {
            Diagnostic::error(message)
                .help("say more with fewer: a field that is left out stands for all of its values")
                .at(source, one.heading.clone(), "")
        });
    }
    // Of rules that are wrong nothing can be said.
    let are_sound = !collector.has_errors();
    for assert in raw.iter().take(MAX_ASSERTS) {
        let (Some(packet), Some(expect)) = (&assert.packet, assert.expect) else {
            continue;
        };
        let refuse = |error: PacketError, collector: &mut Collector| {
            collector.error(|| {
                let refusal = Diagnostic::error(error.message()).help(error.help());
                refusal.at(source, packet.span(), "")
            });
        };
        let pattern = match packet.get_ref().parse::<Pattern>() {
            Ok(pattern) => pattern,
            Err(error) => {
                refuse(error, collector);
                continue;
            }
        };
        if !are_sound {
            continue;
        }
        let region = match region::of(&pattern, rule_set) {
            Ok(region) => region,
            Err(error) => {
                refuse(error, collector);
                continue;
            }
        };
        let Some(region) = within_of(region, within) else {
            continue;
        };
        if let Some(broken) = broken(rule_set, &region, expect) {
            let message = match &assert.message {
                Some(message) => format!("an assertion does not hold: {}", message.get_ref()),
                None => format!(
                    "an assertion does not hold: {} has to be {}",
                    quoted(packet.get_ref()),
                    done(expect)
                ),
            };
            collector.error(|| {
                let error = Diagnostic::error(message).at(
                    source,
                    packet.span(),
                    format!("`{}` is {}", broken.packet, done(opposite(expect))),
                );
                broken.by.tell(error, region.direction, places, source)
            });
        }
    }
}

/// Some packets, where the others are known to be decided as they were.
#[derive(Clone, Copy, Debug)]
pub struct Within {
    /// Their addresses.
    pub block: Block,
    /// Whether these are destinations.
    pub is_destination: bool,
}

/// The part of a region that is within some packets.
fn within_of(mut region: Region, within: Option<Within>) -> Option<Region> {
    let Some(within) = within else {
        return Some(region);
    };
    let mut block = SetBuilder::default();
    block.push(within.block);
    let block = block.finish();
    let side = match within.is_destination {
        true => &mut region.to,
        false => &mut region.from,
    };
    let part = match side {
        Some(set) => AddressSet {
            v4: intersection(&set.v4, &block.v4),
            v6: intersection(&set.v6, &block.v6),
        },
        None => block,
    };
    let is_empty = part.v4.is_empty() && part.v6.is_empty();
    *side = Some(part);
    (!is_empty).then_some(region)
}

/// A packet that becomes something else than is expected.
struct Broken {
    packet: Concrete,
    by: By,
}

/// What decides it.
enum By {
    /// The essential with this key.
    Essential(&'static str),
    /// The rule with this index.
    Rule(usize),
    /// The default.
    Default,
}

/// A packet of the region that becomes something else than is expected, if there is one.
fn broken(rule_set: &RuleSet, region: &Region, expect: Action) -> Option<Broken> {
    let direction = region.direction;
    if expect == Action::Drop
        && let Some((example, key)) = essentials::passing(rule_set, region)
    {
        return Some(Broken {
            packet: Concrete::of(&example.packet(), direction),
            by: By::Essential(key),
        });
    }
    let asked = essentials::without_passed(rule_set, region);
    let found = counterexample(rule_set, &asked, expect)?;
    Some(Broken {
        packet: Concrete::of(&found.example.packet(), direction),
        by: found.rule.map_or(By::Default, By::Rule),
    })
}

impl By {
    fn tell(
        &self,
        error: Diagnostic,
        direction: Direction,
        places: &[RulePlace],
        source: &Source,
    ) -> Diagnostic {
        let key = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        match self {
            Self::Rule(rule) => error
                .also_at(source, places[*rule].name.clone(), "by this rule")
                .help("change the rule, or the assertion if it asks for too much"),
            Self::Default => error.help(format!(
                "no rule matches it, so `{key}` under [defaults] decides: add a rule for it, or change the assertion if it asks for \
                 too much"
            )),
            Self::Essential(essential) => error.help(format!(
                "it passes before the rules: write {essential} = false under [essentials], or name in the assertion what it is about"
            )),
        }
    }
}

const fn done(action: Action) -> &'static str {
    match action {
        Action::Accept => "accepted",
        Action::Drop => "dropped",
    }
}

const fn opposite(action: Action) -> Action {
    match action {
        Action::Accept => Action::Drop,
        Action::Drop => Action::Accept,
    }
}
