//! A rule set with its tables, and what the host's copy of the decision makes of a frame under it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Result, bail};
use firewall_common::abi::counter::Counter;
use firewall_common::abi::fragment::FragmentKey;
use firewall_common::abi::image::Line;
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::decide::{Decision, decide};
use firewall_common::tables::{Fragments, HostWorld, Tally};
use firewall_user::counters::Slots;
use firewall_user::rules::compile::{Compiled, compile};
use firewall_user::rules::model::RuleSet;

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
        let compiled = compile(&rule_set, &Slots::default())?;
        Ok(Self { rule_set, compiled })
    }

    /// Decides `frame` on the host.
    pub fn decide(&self, frame: &[u8]) -> Effect {
        decide_by(&self.compiled.image, frame)
    }

    /// What the counts of an effect mean, sorted.
    pub fn meaning(&self, effect: &Effect) -> Vec<(Counted, u32)> {
        let mut counted: Vec<_> = effect
            .counted
            .iter()
            .flat_map(|&(slot, bytes)| {
                let meanings = self.counted(slot);
                assert!(!meanings.is_empty(), "slot {slot} means nothing");
                meanings.into_iter().map(move |counted| (counted, bytes))
            })
            .collect();
        counted.sort();
        counted
    }

    /// What is counted in `slot`.
    pub fn counted(&self, slot: u32) -> Vec<Counted> {
        let reason = |slot| {
            let drop = DropReason::ALL.iter().find(|drop| drop.counter() == slot);
            let pass = PassReason::ALL.iter().find(|pass| pass.counter() == slot);
            drop.map(|&drop| Counted::Drop(drop))
                .or(pass.map(|&pass| Counted::Pass(pass)))
        };
        let subject = self.compiled.slots.iter().find(|(_, at)| *at == slot);
        let Some((subject, _)) = subject else {
            return reason(slot).into_iter().collect();
        };
        let rule = subject.rule().map(|name| Counted::Rule(name.to_owned()));
        let port = subject
            .port()
            .map(|(protocol, port)| Counted::Port(protocol, port));
        let reason = subject.reason().and_then(reason);
        rule.into_iter().chain(port).chain(reason).collect()
    }

    /// Packets and bytes by meaning, from those by slot.
    pub fn meanings(&self, sums: &Sums) -> BTreeMap<Counted, (u64, u64)> {
        let mut meanings = BTreeMap::new();
        for (&slot, &(packets, bytes)) in &sums.0 {
            for counted in self.counted(slot) {
                let sum: &mut (u64, u64) = meanings.entry(counted).or_default();
                *sum = (sum.0 + packets, sum.1 + bytes);
            }
        }
        meanings
    }
}

/// Decides `frame` by the tables in `image`.
pub fn decide_by(image: &[Line], frame: &[u8]) -> Effect {
    decide_after(image, &FirstFragments::default(), frame)
}

/// First fragments that were seen.
#[derive(Debug, Default)]
pub struct FirstFragments(RefCell<HashMap<FragmentKey, bool>>);

impl Fragments for FirstFragments {
    fn first(&self, key: &FragmentKey) -> Option<bool> {
        self.0.borrow().get(key).copied()
    }

    fn remember(&self, key: &FragmentKey, accepts: bool) {
        self.0.borrow_mut().insert(*key, accepts);
    }
}

/// Decides `frame`, after others have left behind what `fragments` holds.
pub fn decide_after(image: &[Line], fragments: &FirstFragments, frame: &[u8]) -> Effect {
    let counted = RefCell::new(Vec::new());
    let world = HostWorld::new(image, |slot, tally: Tally| {
        counted.borrow_mut().push((slot, tally.bytes))
    })
    .with_fragments(fragments);
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
