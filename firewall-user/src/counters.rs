//! What each counter slot counts. One packet is one write in the kernel wherever the tables know both the rule and the
//! port; how many packets a rule, a port or a reason had is therefore a sum over slots.

mod gone;

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use firewall_common::abi::counter::{
    Counter, FLOWS_CONTENDED, FLOWS_CREATED, FLOWS_EVICTED, MAX_SLOTS, NAMED_BASE,
};
use firewall_common::abi::reason::{DropReason, PassReason};
use foldhash::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use gone::{Decides, Deciding, Gone};

/// What the packets in a slot have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject<Name = String> {
    /// Decided by this rule, whatever the port.
    Rule(Name),
    /// Arrived for this port of this protocol; another slot counts who decided.
    Port(u8, u16),
    /// Decided by this rule, for this port of this protocol.
    RuleAtPort(Name, u8, u16),
    /// Accepted because no rule matched, for this port of this protocol.
    AcceptedAtPort(u8, u16),
    /// Dropped because no rule matched, for this port of this protocol.
    DroppedAtPort(u8, u16),
    /// Accepted by this rule, and dropped because it is over the rule's limit.
    Over(Name),
    /// The same of what leaves.
    EgressOver(Name),
    /// Arrived for this port of this protocol, and was decided by a rule that there is no more. The slot's own number tells several apart.
    GoneAtPort(u8, u16, u32),
    /// Nothing any more, but the number is not to be given to anything yet.
    Reserved(u32),
}

impl<Name> Subject<Name> {
    /// The same, of a rule that is called otherwise.
    pub fn map<'s, Other>(&'s self, name: impl FnOnce(&'s Name) -> Other) -> Subject<Other> {
        match self {
            Self::Rule(rule) => Subject::Rule(name(rule)),
            Self::Port(protocol, port) => Subject::Port(*protocol, *port),
            Self::RuleAtPort(rule, protocol, port) => {
                Subject::RuleAtPort(name(rule), *protocol, *port)
            }
            Self::AcceptedAtPort(protocol, port) => Subject::AcceptedAtPort(*protocol, *port),
            Self::DroppedAtPort(protocol, port) => Subject::DroppedAtPort(*protocol, *port),
            Self::Over(rule) => Subject::Over(name(rule)),
            Self::EgressOver(rule) => Subject::EgressOver(name(rule)),
            Self::GoneAtPort(protocol, port, slot) => Subject::GoneAtPort(*protocol, *port, *slot),
            Self::Reserved(slot) => Subject::Reserved(*slot),
        }
    }

    /// Protocol and port, if the slot tells.
    pub const fn port(&self) -> Option<(u8, u16)> {
        match *self {
            Self::Port(protocol, port)
            | Self::RuleAtPort(_, protocol, port)
            | Self::AcceptedAtPort(protocol, port)
            | Self::DroppedAtPort(protocol, port)
            | Self::GoneAtPort(protocol, port, _) => Some((protocol, port)),
            Self::Rule(_) | Self::Over(_) | Self::EgressOver(_) | Self::Reserved(_) => None,
        }
    }

    /// The slot of the reason that these packets also count for.
    pub const fn reason(&self) -> Option<u32> {
        match self {
            Self::AcceptedAtPort(..) => Some(PassReason::Default.counter()),
            Self::DroppedAtPort(..) => Some(DropReason::NoRule.counter()),
            Self::Over(_) => Some(DropReason::RateLimit.counter()),
            Self::EgressOver(_) => Some(DropReason::EgressRateLimit.counter()),
            _ => None,
        }
    }
}

impl<Name: AsRef<str>> Subject<Name> {
    /// The rule that decided, if the slot tells.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Rule(name) | Self::RuleAtPort(name, ..) => Some(name.as_ref()),
            _ => None,
        }
    }

    /// The rule over whose limit it is, if it is that.
    pub fn over(&self) -> Option<&str> {
        match self {
            Self::Over(name) | Self::EgressOver(name) => Some(name.as_ref()),
            _ => None,
        }
    }
}

/// What each slot counts, in the order of the slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(Subject<Name>, u32)>")]
#[serde(bound(deserialize = "Name: Deserialize<'de>"))]
pub struct Slots<Name = String>(Vec<(Subject<Name>, u32)>);

impl<Name> From<Vec<(Subject<Name>, u32)>> for Slots<Name> {
    fn from(mut list: Vec<(Subject<Name>, u32)>) -> Self {
        list.sort_unstable_by_key(|&(_, slot)| slot);
        Self(list)
    }
}

impl<Name> Slots<Name> {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject<Name>, u32)> {
        self.0.iter().map(|(subject, slot)| (subject, *slot))
    }

    /// Every slot that is given to something, in order.
    pub fn used(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|&(_, slot)| slot)
    }
}

impl Slots {
    /// The slot of a subject, found by looking at all of them.
    pub fn get(&self, subject: &Subject) -> Option<u32> {
        let mut all = self.iter();
        all.find_map(|(one, slot)| (one == subject).then_some(slot))
    }

    /// The same, but of rules for which `is_another` holds, a rule of that name is not the one that counted: it begins at zero. What of
    /// these a port still needs stays its, and the slots in `reserved` are not given to anything.
    pub fn without(&self, is_another: impl Fn(&str) -> bool, reserved: &[u32]) -> Slots<&str> {
        let slots = self.iter().map(|(subject, slot)| match subject.rule() {
            Some(rule) if is_another(rule) => (gone(subject, slot), slot),
            _ => (subject.map(String::as_str), slot),
        });
        let used: HashSet<u32> = self.used().collect();
        let reserved = reserved.iter().filter(|slot| !used.contains(slot));
        let reserved = reserved.map(|&slot| (Subject::Reserved(slot), slot));
        Slots::from(slots.chain(reserved).collect::<Vec<_>>())
    }
}

/// There are no slots left.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "the rules and the ports that they name need more than {limit} counters; name fewer single ports"
)]
pub struct TooMany {
    /// Most slots there can be.
    pub limit: u32,
}

/// Hands out slots. What had one before keeps it, so that counts go on over generations.
#[derive(Debug)]
pub struct Allocator<'a> {
    /// Slots by what they count, and whether that still is counted.
    slots: HashMap<Subject<&'a str>, (u32, bool)>,
    /// Whether each slot is of before.
    taken: Vec<bool>,
    next: u32,
}

impl<'a> Allocator<'a> {
    /// Goes on from the slots of the generation before.
    pub fn new(before: &Slots<&'a str>) -> Self {
        let old = before.iter();
        let old = old.map(|(&subject, slot)| (subject, (slot, false)));
        let highest = before.used().last().unwrap_or(0);
        let mut taken = vec![false; highest as usize + 1];
        before.used().for_each(|slot| taken[slot as usize] = true);
        Self {
            slots: old.collect(),
            taken,
            next: NAMED_BASE,
        }
    }

    /// The slot of `subject`: its old one, or the lowest that nobody has.
    ///
    /// # Errors
    ///
    /// There are none left.
    pub fn slot(&mut self, subject: Subject<&'a str>) -> Result<u32, TooMany> {
        match self.slots.entry(subject) {
            Entry::Occupied(mut entry) => {
                let (slot, is_counted) = entry.get_mut();
                *is_counted = true;
                Ok(*slot)
            }
            Entry::Vacant(entry) => {
                let is_taken = |slot: u32| self.taken.get(slot as usize) == Some(&true);
                while is_taken(self.next) {
                    self.next += 1;
                }
                if self.next >= MAX_SLOTS {
                    return Err(TooMany {
                        limit: MAX_SLOTS - NAMED_BASE,
                    });
                }
                entry.insert((self.next, true));
                self.next += 1;
                Ok(self.next - 1)
            }
        }
    }

    /// The slots given, and those of before that sums still need: a rule's packets at a port that it no longer names
    /// are still that rule's, and what was decided without a rule still counts for its reason. `ports` are in order.
    pub fn finish(self, rules: impl Iterator<Item = &'a str>, ports: &[(u8, u16)]) -> Slots {
        // Mostly there is nothing that is not counted any more, and then nobody need know the rules' names.
        let is_counted = self.slots.values().all(|&(_, is_counted)| is_counted);
        let rules: HashSet<&str> = if is_counted {
            HashSet::default()
        } else {
            rules.collect()
        };
        let of_before = |subject: Subject<&'a str>, slot: u32| match subject.rule() {
            Some(rule) if !rules.contains(rule) => gone(&subject, slot),
            _ => subject,
        };
        let is_needed = |subject: &Subject<&str>| {
            subject.rule().is_some()
                || (subject.port()).is_some_and(|port| ports.binary_search(&port).is_ok())
                || subject.reason().is_some()
        };
        let highest = self.slots.values().map(|&(slot, _)| slot).max();
        let mut in_order = vec![None; highest.map_or(0, |highest| highest as usize + 1)];
        for (subject, (slot, is_counted)) in self.slots {
            let subject = match is_counted {
                true => subject,
                false => of_before(subject, slot),
            };
            if is_counted || is_needed(&subject) {
                in_order[slot as usize] = Some((subject.map(|&name| name.to_owned()), slot));
            }
        }
        Slots(in_order.into_iter().flatten().collect())
    }
}

/// What a rule's slot counts when the rule is gone.
fn gone<Name, Of>(subject: &Subject<Name>, slot: u32) -> Subject<Of> {
    match subject.port() {
        Some((protocol, port)) => Subject::GoneAtPort(protocol, port, slot),
        None => Subject::Reserved(slot),
    }
}

/// Sums over slots.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// By rule.
    pub rules: BTreeMap<String, Counter>,
    /// By rule, what its limit dropped.
    pub over: BTreeMap<String, Counter>,
    /// By protocol and port.
    pub ports: BTreeMap<(u8, u16), Counter>,
    /// By slot of a drop or pass reason, and of what becomes of flows.
    pub reasons: BTreeMap<u32, Counter>,
}

impl Sums {
    /// The sums, `read` being asked for all slots at once.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn read<E>(
        slots: &Slots,
        read: impl FnOnce(&[u32]) -> Result<Vec<Counter>, E>,
    ) -> Result<Self, E> {
        let reasons = DropReason::ALL.iter().map(|reason| reason.counter());
        let reasons = reasons.chain(PassReason::ALL.iter().map(|reason| reason.counter()));
        let reasons = reasons.chain([FLOWS_CREATED, FLOWS_EVICTED, FLOWS_CONTENDED]);
        let asked: Vec<u32> = reasons.clone().chain(slots.used()).collect();
        let counters = read(&asked)?;
        let (of_reasons, of_subjects) = counters.split_at(reasons.clone().count());
        let mut sums = Self::default();
        for (reason, &counter) in reasons.zip(of_reasons) {
            add(sums.reasons.entry(reason).or_default(), counter);
        }
        for ((subject, _), &counter) in slots.iter().zip(of_subjects) {
            if let Some(rule) = subject.rule() {
                add(sums.rules.entry(rule.to_owned()).or_default(), counter);
            }
            if let Some(rule) = subject.over() {
                add(sums.over.entry(rule.to_owned()).or_default(), counter);
            }
            if let Some(port) = subject.port() {
                add(sums.ports.entry(port).or_default(), counter);
            }
            if let Some(reason) = subject.reason() {
                add(sums.reasons.entry(reason).or_default(), counter);
            }
        }
        Ok(sums)
    }

    /// What a rule decided.
    pub fn rule(&self, name: &str) -> Counter {
        self.rules.get(name).copied().unwrap_or_default()
    }

    /// What a rule's limit dropped.
    pub fn over(&self, name: &str) -> Counter {
        self.over.get(name).copied().unwrap_or_default()
    }

    /// What arrived for a port.
    pub fn port(&self, port: (u8, u16)) -> Counter {
        self.ports.get(&port).copied().unwrap_or_default()
    }

    /// What was decided for the reason with this slot.
    pub fn reason(&self, slot: u32) -> Counter {
        self.reasons.get(&slot).copied().unwrap_or_default()
    }
}

fn add(sum: &mut Counter, counter: Counter) {
    *sum = sum.plus(counter);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As they are, when no rule is another.
    fn all(slots: &Slots) -> Slots<&str> {
        slots.without(|_| false, &[])
    }

    #[test]
    fn what_had_a_slot_keeps_it_and_gaps_are_filled() {
        let subject = Subject::Rule;
        let none = Slots::default();
        let mut first = Allocator::new(&none);
        let (a, b) = (
            first.slot(subject("a")).unwrap(),
            first.slot(subject("b")).unwrap(),
        );
        let first = first.finish(["a", "b"].into_iter(), &[]);
        let mut second = Allocator::new(&all(&first));
        assert_eq!(second.slot(subject("b")), Ok(b));
        let second = second.finish(["b"].into_iter(), &[]);
        let mut third = Allocator::new(&all(&second));
        assert_eq!(third.slot(subject("b")), Ok(b));
        assert_eq!(third.slot(subject("c")), Ok(a));
    }

    #[test]
    fn a_rule_keeps_what_it_counted_at_a_port_that_it_no_longer_names() {
        let none = Slots::default();
        let mut first = Allocator::new(&none);
        let gone = Subject::RuleAtPort("web", 6, 8080);
        let slot = first.slot(gone).unwrap();
        let first = first.finish(["web"].into_iter(), &[(6, 8080)]);
        let mut second = Allocator::new(&all(&first));
        second.slot(Subject::RuleAtPort("web", 6, 80)).unwrap();
        let second = second.finish(["web"].into_iter(), &[(6, 80)]);
        assert_eq!(second.get(&gone.map(|&name| name.to_owned())), Some(slot));

        let sums = Sums::read(&second, |slots| {
            Ok::<_, ()>(
                slots
                    .iter()
                    .map(|_| Counter {
                        packets: 1,
                        bytes: 60,
                        connections: 0,
                    })
                    .collect(),
            )
        })
        .unwrap();
        assert_eq!(sums.rule("web").packets, 2);
        assert_eq!(sums.port((6, 80)).packets, 1);
    }

    #[test]
    fn a_default_drop_at_a_port_counts_for_both() {
        let none = Slots::default();
        let mut slots = Allocator::new(&none);
        slots.slot(Subject::DroppedAtPort(17, 53)).unwrap();
        let slots = slots.finish([].into_iter(), &[]);
        let sums = Sums::read(&slots, |slots| {
            Ok::<_, ()>(
                slots
                    .iter()
                    .map(|&slot| Counter {
                        packets: u64::from(slot == DropReason::NoRule.counter()) + 1,
                        bytes: 0,
                        connections: 0,
                    })
                    .collect(),
            )
        })
        .unwrap();
        assert_eq!(sums.port((17, 53)).packets, 1);
        assert_eq!(sums.reason(DropReason::NoRule.counter()).packets, 3);
    }
}
