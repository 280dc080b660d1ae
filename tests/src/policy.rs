//! A rule set with its tables, and what the host's copy of the decision makes of a frame under it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use firewall_common::abi::counter::Counter;
use firewall_common::abi::image::Line;
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::decide::{Decision, decide};
use firewall_common::tables::HostWorld;
use firewall_user::rules::compile::{Compiled, Slots, compile};
use firewall_user::rules::model::{Direction, RuleSet};

/// A compiled rule set.
#[derive(Debug)]
pub struct Policy {
    /// What was compiled.
    pub rule_set: RuleSet,
    /// Its tables.
    pub compiled: Compiled,
}

/// What one frame does: the decision, and what it adds to which counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The decision.
    pub decision: Decision,
    /// Slot and bytes of each count, in order.
    pub counted: Vec<(u32, u32)>,
}

/// Something that has a counter, by meaning rather than by slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// Dropped without a rule.
    Drop(DropReason),
    /// Passed without a rule.
    Pass(PassReason),
    /// Decided by the rule with this name.
    Rule(String),
    /// Arrived for this port of this protocol.
    Port(u8, u16),
}

impl Policy {
    /// Compiles the text of a rule file.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self> {
        match firewall_user::rules::parse("test.toml", text, Path::new(".")) {
            Ok(loaded) => Self::new(loaded.rule_set),
            Err(report) => bail!("{}", report.render(false, 120)),
        }
    }

    /// Compiles a rule set.
    ///
    /// # Errors
    ///
    /// What the compiler says.
    pub fn new(rule_set: RuleSet) -> Result<Self> {
        let compiled = compile(&rule_set, Direction::Ingress, &Slots::default())?;
        Ok(Self { rule_set, compiled })
    }

    /// Decides `frame` on the host.
    pub fn decide(&self, frame: &[u8]) -> Effect {
        decide_by(&self.compiled.image, frame)
    }

    /// The slot of a counter, if this policy has one for it.
    pub fn slot(&self, counted: &Counted) -> Option<u32> {
        match counted {
            Counted::Drop(reason) => Some(reason.counter()),
            Counted::Pass(reason) => Some(reason.counter()),
            Counted::Rule(name) => self.compiled.slots.rules.get(name).copied(),
            Counted::Port(protocol, port) => {
                self.compiled.slots.ports.get(&(*protocol, *port)).copied()
            }
        }
    }

    /// What the counts of an effect mean, sorted.
    pub fn meaning(&self, effect: &Effect) -> Vec<(Counted, u32)> {
        let mut counted: Vec<_> = effect
            .counted
            .iter()
            .map(|&(slot, bytes)| (self.counted(slot).expect("a slot with a meaning"), bytes))
            .collect();
        counted.sort();
        counted
    }

    /// What is counted in `slot`.
    pub fn counted(&self, slot: u32) -> Option<Counted> {
        let drop = DropReason::ALL
            .iter()
            .find(|reason| reason.counter() == slot);
        let pass = PassReason::ALL
            .iter()
            .find(|reason| reason.counter() == slot);
        let slots = &self.compiled.slots;
        drop.map(|&reason| Counted::Drop(reason))
            .or(pass.map(|&reason| Counted::Pass(reason)))
            .or_else(|| {
                let name = slots.rules.iter().find(|(_, s)| **s == slot)?.0;
                Some(Counted::Rule(name.clone()))
            })
            .or_else(|| {
                let &(protocol, port) = slots.ports.iter().find(|(_, s)| **s == slot)?.0;
                Some(Counted::Port(protocol, port))
            })
    }
}

/// Decides `frame` by the tables in `image`.
pub fn decide_by(image: &[Line], frame: &[u8]) -> Effect {
    let counted = RefCell::new(Vec::new());
    let world = HostWorld::new(image, |slot, bytes| {
        counted.borrow_mut().push((slot, bytes))
    });
    let decision = decide(frame, &world);
    Effect {
        decision,
        counted: counted.into_inner(),
    }
}

/// Sums of counters that are not zero, by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(pub BTreeMap<u32, (u64, u64)>);

impl Sums {
    /// Adds what a frame counts. Slots from `slots` on do not exist, and the program does not count in them.
    pub fn add(&mut self, effect: &Effect, slots: u32) {
        for &(slot, bytes) in effect.counted.iter().filter(|(slot, _)| *slot < slots) {
            let (packets, total) = self.0.entry(slot).or_default();
            *packets += 1;
            *total += u64::from(bytes);
        }
    }

    /// The sums in a list of all counters.
    pub fn of(counters: &[Counter]) -> Self {
        let counted = (0u32..).zip(counters);
        let counted = counted.filter(|(_, counter)| counter.packets != 0 || counter.bytes != 0);
        Self(
            counted
                .map(|(slot, counter)| (slot, (counter.packets, counter.bytes)))
                .collect(),
        )
    }
}
