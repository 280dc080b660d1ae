//! What rules have decided that are in force no more.

use std::collections::BTreeMap;

use firewall_common::abi::counter::Counter;
use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use super::{Slots, add};

/// What a rule does, and to what.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Decides {
    /// Whether it is about what leaves.
    pub is_egress: bool,
    /// Accept, or else drop.
    pub accepts: bool,
}

/// What rules have decided that are in force no more, so that sums over all rules never fall.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Where those counted that went last: programs may have been counting there until just now.
    slots: Vec<(Decides, u32)>,
    /// What those before had counted: packets and bytes.
    counted: Vec<(Decides, u64, u64)>,
}

/// A policy's rules, as [`Gone`] has to know them.
pub struct Deciding<'a> {
    /// By name.
    pub rules: HashMap<&'a str, Decides>,
    /// What they count where.
    pub slots: &'a Slots,
}

impl Deciding<'_> {
    /// In which slots which rules count, in the order of the slots.
    fn counting(&self) -> impl Iterator<Item = (Decides, u32)> {
        self.slots
            .iter()
            .filter_map(|(subject, slot)| Some((*self.rules.get(subject.rule()?)?, slot)))
    }
}

impl Gone {
    /// What is gone when `next` is in force in the place of `before`, where this was gone. `read` reads slots.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn after<E>(
        &self,
        before: &Deciding<'_>,
        next: &Deciding<'_>,
        read: impl FnOnce(&[u32]) -> Result<Vec<Counter>, E>,
    ) -> Result<Self, E> {
        let (now, went) = (next.counting(), before.counting());
        let in_order: Vec<(u32, Decides)> = now.map(|(decides, slot)| (slot, decides)).collect();
        let is_again =
            |&(decides, slot): &(Decides, u32)| in_order.binary_search(&(slot, decides)).is_ok();
        let slots = went.filter(|one| !is_again(one)).collect();
        let old: Vec<(Decides, u32)> = (self.slots.iter().copied())
            .filter(|one| !is_again(one))
            .collect();
        let asked: Vec<u32> = old.iter().map(|&(_, slot)| slot).collect();
        let mut counted: BTreeMap<Decides, (u64, u64)> = BTreeMap::new();
        let read = read(&asked)?;
        let read = old.iter().zip(&read);
        let read = read.map(|(&(decides, _), counter)| (decides, counter.packets, counter.bytes));
        for (decides, packets, bytes) in self.counted.iter().copied().chain(read) {
            let sum = counted.entry(decides).or_default();
            *sum = (sum.0.wrapping_add(packets), sum.1.wrapping_add(bytes));
        }
        let counted = counted.into_iter();
        Ok(Self {
            slots,
            counted: counted
                .map(|(decides, (packets, bytes))| (decides, packets, bytes))
                .collect(),
        })
    }

    /// Slots that are read for it, and so must not count anything else.
    pub fn slots(&self) -> Vec<u32> {
        self.slots.iter().map(|&(_, slot)| slot).collect()
    }

    /// What such rules have decided, `read` being asked for all slots at once.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn sums<E>(
        &self,
        read: impl FnOnce(&[u32]) -> Result<Vec<Counter>, E>,
    ) -> Result<BTreeMap<Decides, Counter>, E> {
        let mut sums: BTreeMap<Decides, Counter> = BTreeMap::new();
        for &(decides, packets, bytes) in &self.counted {
            let counter = Counter {
                packets,
                bytes,
                connections: 0,
            };
            add(sums.entry(decides).or_default(), counter);
        }
        let read = read(&self.slots())?;
        for (&(decides, _), counter) in self.slots.iter().zip(read) {
            add(sums.entry(decides).or_default(), counter);
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use foldhash::HashSet;

    use super::super::{Allocator, Subject};
    use super::*;

    const ACCEPTS: Decides = Decides {
        is_egress: false,
        accepts: true,
    };
    const DROPS: Decides = Decides {
        is_egress: false,
        accepts: false,
    };

    /// Policies one after the other over the same counters, in which each slot in use counts a packet a generation.
    struct Host {
        counters: Vec<u64>,
        rules: Vec<(&'static str, Decides)>,
        slots: Slots,
        gone: Gone,
    }

    impl Host {
        fn new() -> Self {
            Self {
                counters: vec![0; 256],
                rules: Vec::new(),
                slots: Slots::default(),
                gone: Gone::default(),
            }
        }

        fn deciding(&self) -> Deciding<'_> {
            Deciding {
                rules: self.rules.iter().copied().collect(),
                slots: &self.slots,
            }
        }

        fn counter(&self, slot: u32) -> Counter {
            Counter {
                packets: self.counters[slot as usize],
                bytes: 0,
                connections: 0,
            }
        }

        /// As an apply does it.
        fn apply(&mut self, rules: &[(&'static str, Decides, u16)]) {
            let decides: BTreeMap<&str, Decides> = rules
                .iter()
                .map(|&(name, decides, _)| (name, decides))
                .collect();
            let is_another = |name: &str| {
                let before = self.rules.iter().find(|(known, _)| *known == name);
                before.is_some_and(|(_, before)| decides.get(name) != Some(before))
            };
            let before = self.slots.without(is_another, &self.gone.slots());
            let mut slots = Allocator::new(&before);
            for &(name, _, port) in rules {
                slots.slot(Subject::Rule(name)).unwrap();
                slots.slot(Subject::RuleAtPort(name, 6, port)).unwrap();
            }
            let mut ports: Vec<(u8, u16)> = rules.iter().map(|&(_, _, port)| (6, port)).collect();
            ports.sort_unstable();
            let slots = slots.finish(decides.keys().copied(), &ports);
            let next = Host {
                counters: Vec::new(),
                rules: rules
                    .iter()
                    .map(|&(name, decides, _)| (name, decides))
                    .collect(),
                slots,
                gone: Gone::default(),
            };
            let gone = self
                .gone
                .after(&self.deciding(), &next.deciding(), |asked| {
                    Ok::<_, ()>(asked.iter().map(|&slot| self.counter(slot)).collect())
                });
            let old: HashSet<u32> = self.slots.used().collect();
            for slot in next.slots.used().filter(|slot| !old.contains(slot)) {
                self.counters[slot as usize] = 0;
            }
            (self.rules, self.slots, self.gone) = (next.rules, next.slots, gone.unwrap());
        }

        fn count(&mut self) {
            for &(name, _) in &self.rules {
                for (subject, slot) in self.slots.iter() {
                    if subject.rule() == Some(name) {
                        self.counters[slot as usize] += 1;
                    }
                }
            }
        }

        /// All that rules have decided, by what they do.
        fn totals(&self) -> BTreeMap<Decides, u64> {
            let mut totals = BTreeMap::new();
            for (subject, slot) in self.slots.iter() {
                let rule = self
                    .rules
                    .iter()
                    .find(|(name, _)| Some(*name) == subject.rule());
                if let Some((_, decides)) = rule {
                    *totals.entry(*decides).or_default() += self.counters[slot as usize];
                }
            }
            let gone = self
                .gone
                .sums(|asked| Ok::<_, ()>(asked.iter().map(|&slot| self.counter(slot)).collect()));
            for (decides, counter) in gone.unwrap() {
                *totals.entry(decides).or_default() += counter.packets;
            }
            totals
        }

        fn port(&self, port: u16) -> u64 {
            let slots = self
                .slots
                .iter()
                .filter(|(subject, _)| subject.port() == Some((6, port)));
            slots.map(|(_, slot)| self.counters[slot as usize]).sum()
        }
    }

    #[test]
    fn sums_over_rules_are_exact_whatever_rules_come_and_go() {
        let mut host = Host::new();
        let mut expected: BTreeMap<Decides, u64> = BTreeMap::new();
        let mut at_80 = 0;
        for rules in [
            &[("a", ACCEPTS, 80), ("b", DROPS, 23)][..],
            &[("b", DROPS, 23)],
            &[("c", ACCEPTS, 80)],
            &[("c", ACCEPTS, 80), ("a", ACCEPTS, 80)],
            // Another action, under the same name and with the same port.
            &[("c", DROPS, 80), ("a", ACCEPTS, 80)],
            &[("d", ACCEPTS, 80), ("e", DROPS, 80), ("f", ACCEPTS, 81)],
            &[("d", DROPS, 80), ("a", DROPS, 80)],
            &[("a", ACCEPTS, 80)],
        ] {
            if !rules.iter().any(|&(_, _, port)| port == 80) {
                at_80 = 0;
            }
            host.apply(rules);
            host.count();
            for &(_, decides, port) in rules {
                // A slot of its own, and one for its port.
                *expected.entry(decides).or_default() += 2;
                at_80 += u64::from(port == 80);
            }
            assert_eq!(host.totals(), expected, "{rules:?}");
            assert_eq!(host.port(80), at_80, "{rules:?}");
        }
    }

    #[test]
    fn what_comes_back_as_it_was_is_not_counted_twice() {
        let mut host = Host::new();
        host.apply(&[("a", ACCEPTS, 80)]);
        host.count();
        let (rules, slots, gone) = (host.rules.clone(), host.slots.clone(), host.gone.clone());
        host.apply(&[("b", DROPS, 80)]);
        host.count();
        let expected = host.totals();
        // Back, as a rollback does it: the description before, as it was.
        let back = Host {
            counters: Vec::new(),
            rules,
            slots,
            gone,
        };
        let gone = host
            .gone
            .after(&host.deciding(), &back.deciding(), |asked| {
                Ok::<_, ()>(asked.iter().map(|&slot| host.counter(slot)).collect())
            });
        (host.rules, host.slots, host.gone) = (back.rules, back.slots, gone.unwrap());
        assert_eq!(host.totals(), expected);
        host.apply(&[("c", ACCEPTS, 80)]);
        host.apply(&[("d", ACCEPTS, 80)]);
        assert_eq!(host.totals(), expected);
    }
}
