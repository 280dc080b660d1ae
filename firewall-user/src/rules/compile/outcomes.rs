//! What each decision does, and where it is counted.

use firewall_common::abi::image::{Candidate, Outcome};
use firewall_common::abi::reason::{DropReason, PassReason};

use super::RuleNumber;
use crate::counters::{Allocator, Subject, TooMany};
use crate::rules::model::{Action, Direction, Protocol, Rule};

/// Makes outcomes of the rules of one direction and of its default, and hands out their counters.
pub(super) struct Outcomes<'a, 's> {
    rules: &'a [&'s Rule],
    direction: Direction,
    default: Action,
    slots: &'a mut Allocator<'s>,
    /// Those that have been asked for: a rule is one in many places.
    candidates: Vec<Option<Candidate>>,
}

impl<'a, 's> Outcomes<'a, 's> {
    /// For `rules`, and `default` where none of them matches.
    pub(super) fn new(
        rules: &'a [&'s Rule],
        direction: Direction,
        default: Action,
        slots: &'a mut Allocator<'s>,
    ) -> Self {
        Self {
            rules,
            direction,
            default,
            slots,
            candidates: vec![None; rules.len() + 1],
        }
    }

    /// The rule, or the default, as a candidate.
    pub(super) fn candidate(&mut self, rule: RuleNumber) -> Result<Candidate, TooMany> {
        if let Some(known) = self.candidates[rule as usize] {
            return Ok(known);
        }
        let candidate = Candidate::new(rule, self.anywhere(rule)?);
        self.candidates[rule as usize] = Some(candidate);
        Ok(candidate)
    }

    /// What the rule does where its port may be any; an ingress rule with one port tells it all the same.
    fn anywhere(&mut self, rule: RuleNumber) -> Result<Outcome, TooMany> {
        let Some(decided) = self.rules.get(rule as usize) else {
            return Ok(self.default());
        };
        match (self.direction, decided.protocol, decided.ports.as_deref()) {
            (Direction::Ingress, Protocol::Number(protocol), Some(&[(port, last)]))
                if port == last && decided.terms.is_empty() =>
            {
                self.at_port(rule, protocol, port)
            }
            _ => {
                let slot = self.slots.slot(Subject::Rule(&decided.name[..]))?;
                let accepts = decided.action == Action::Accept;
                let outcome = Outcome::new(accepts, decided.log, slot);
                Ok(if decided.terms.is_empty() {
                    outcome
                } else {
                    outcome.with_terms()
                })
            }
        }
    }

    fn default(&self) -> Outcome {
        let pass = |reason: PassReason| Outcome::new(true, false, reason.counter());
        let drop = |reason: DropReason| Outcome::new(false, false, reason.counter());
        match (self.direction, self.default) {
            (Direction::Ingress, Action::Accept) => pass(PassReason::Default),
            (Direction::Ingress, Action::Drop) => drop(DropReason::NoRule),
            (Direction::Egress, Action::Accept) => pass(PassReason::EgressDefault),
            (Direction::Egress, Action::Drop) => drop(DropReason::EgressNoRule),
        }
        .by_default()
    }

    /// What the rule, or the default, does to what arrives for a named port.
    pub(super) fn at_port(
        &mut self,
        rule: RuleNumber,
        protocol: u8,
        port: u16,
    ) -> Result<Outcome, TooMany> {
        let (subject, action, log) = match self.rules.get(rule as usize) {
            // What it accepts may still be dropped, and is counted for the port before.
            Some(with) if !with.terms.is_empty() => return self.anywhere(rule),
            Some(rule) => (
                Subject::RuleAtPort(&rule.name[..], protocol, port),
                rule.action,
                rule.log,
            ),
            None => match self.default {
                Action::Accept => (
                    Subject::AcceptedAtPort(protocol, port),
                    Action::Accept,
                    false,
                ),
                Action::Drop => (Subject::DroppedAtPort(protocol, port), Action::Drop, false),
            },
        };
        let is_default = matches!(
            subject,
            Subject::AcceptedAtPort(..) | Subject::DroppedAtPort(..)
        );
        let slot = self.slots.slot(subject)?;
        let outcome = Outcome::new(action == Action::Accept, log, slot).saying_port();
        Ok(if is_default {
            outcome.by_default()
        } else {
            outcome
        })
    }

    /// The slot of what goes over the limit of a rule, which is its name in tables of state too.
    pub(super) fn over(&mut self, rule: &'s Rule) -> Result<u32, TooMany> {
        let name = &rule.name[..];
        self.slots.slot(match self.direction {
            Direction::Ingress => Subject::Over(name),
            Direction::Egress => Subject::EgressOver(name),
        })
    }

    /// The slot of a port's hits by outcomes that do not tell the port.
    pub(super) fn hits(&mut self, protocol: u8, port: u16) -> Result<u32, TooMany> {
        self.slots.slot(Subject::Port(protocol, port))
    }
}
