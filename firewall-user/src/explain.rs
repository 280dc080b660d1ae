//! What becomes of a packet, and why: what it meets under an image ([`met`]), which rule it nearly matched ([`nearly`]), and what
//! the counter says that it ended in.

pub(crate) mod judge;
pub(crate) mod met;
mod nearly;
pub(crate) mod simulated;
#[cfg(test)]
mod tests;

use firewall_common::abi::reason::{DropReason, PassReason};

use crate::counters::Subject;
use crate::kernel::description::{DescribedRule, Policy};

/// What has decided a packet, as its counter tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause<'p> {
    /// Dropped without a rule.
    Drop(DropReason),
    /// Let through without a rule.
    Pass(PassReason),
    /// A rule.
    Rule(&'p DescribedRule),
    /// A rule accepts it, but it is more than the rule's limit lets through.
    Over(&'p DescribedRule),
}

impl<'p> Cause<'p> {
    /// The cause that is counted in `slot`, if one is.
    pub(crate) fn of(slot: u32, policy: &'p Policy) -> Option<Self> {
        if let Some(cause) = Self::without_rule(slot) {
            return Some(cause);
        }
        let rule = |name: &str| policy.rules.iter().find(|rule| rule.name == name);
        let (subject, _) = policy.slots.iter().find(|&(_, at)| at == slot)?;
        match subject {
            Subject::Rule(name) | Subject::RuleAtPort(name, ..) => rule(name).map(Self::Rule),
            Subject::Over(name) | Subject::EgressOver(name) => rule(name).map(Self::Over),
            Subject::AcceptedAtPort(..) => Some(Self::Pass(PassReason::Default)),
            Subject::DroppedAtPort(..) => Some(Self::Drop(DropReason::NoRule)),
            Subject::Port(..) | Subject::GoneAtPort(..) | Subject::Reserved(_) => None,
        }
    }

    /// The same where it is a reason that has a counter of its own, under any policy.
    pub(crate) fn without_rule(slot: u32) -> Option<Self> {
        let mut drops = DropReason::ALL.iter();
        if let Some(&reason) = drops.find(|reason| reason.counter() == slot) {
            return Some(Self::Drop(reason));
        }
        let mut passes = PassReason::ALL.iter();
        let reason = passes.find(|reason| reason.counter() == slot);
        reason.map(|&reason| Self::Pass(reason))
    }

    /// Whether the packet goes on, or is answered.
    pub(crate) fn accepts(&self) -> bool {
        match self {
            Self::Drop(_) | Self::Over(_) => false,
            Self::Pass(_) => true,
            Self::Rule(rule) => rule.action == "accept",
        }
    }

    /// The rule that it is about.
    pub(crate) fn rule(&self) -> Option<&'p DescribedRule> {
        match *self {
            Self::Drop(_) | Self::Pass(_) => None,
            Self::Rule(rule) | Self::Over(rule) => Some(rule),
        }
    }

    /// Whether it is a ban.
    pub(crate) fn is_ban(&self) -> bool {
        matches!(self, Self::Drop(DropReason::Banned))
    }

    /// The reason's name in counters and metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Drop(reason) => reason.label(),
            Self::Pass(reason) => reason.label(),
            Self::Rule(_) => DropReason::Rule.label(),
            Self::Over(rule) if rule.is_egress() => DropReason::EgressRateLimit.label(),
            Self::Over(_) => DropReason::RateLimit.label(),
        }
    }

    /// One sentence for people.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Drop(reason) => reason.sentence().to_owned(),
            Self::Pass(reason) => reason.sentence().to_owned(),
            Self::Rule(rule) => format!("{} decides.", called(rule)),
            Self::Over(rule) => {
                format!(
                    "{} accepts it, but it is more than its limit lets through.",
                    called(rule)
                )
            }
        }
    }
}

/// A rule in a sentence: `rule "ssh" (line 40)`.
pub(crate) fn called(rule: &DescribedRule) -> String {
    format!("rule `{}` (line {})", rule.name, rule.line)
}
