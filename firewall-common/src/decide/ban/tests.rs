//! Bans under a clock set by hand, against a model, and from several threads.

use core::sync::atomic::{AtomicU64, Ordering};
use std::{collections::HashMap, thread, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::abi::ban::FILTER_WORDS;
use crate::abi::flow::Key;
use crate::tables::HostWorld;

const SECOND: u64 = 1_000_000_000;

/// A table in plain memory.
pub(in crate::decide) struct Table {
    settings: Settings<AtomicU64>,
    filters: Vec<Filter<AtomicU64>>,
    buckets: Vec<Bucket<AtomicU64>>,
}

impl Table {
    /// A table of so many buckets, in which prefixes of these lengths are looked for.
    pub(in crate::decide) fn new(buckets: usize, lengths: &[u8]) -> Self {
        let mut word = [0; 8];
        word[..lengths.len()].copy_from_slice(lengths);
        let word = || AtomicU64::new(u64::from_le_bytes(word));
        Self {
            settings: Settings {
                lengths: [word(), word()],
                filter: AtomicU64::new(0),
                mask: buckets as u64 - 1,
                seed: [
                    0x9e37_79b9_7f4a_7c15,
                    0xbf58_476d_1ce4_e5b9,
                    0x94d0_49bb_1331_11eb,
                    0x2545_f491_4f6c_dd1d,
                    0xd6e8_feb8_6659_fd93,
                ],
            },
            filters: filters(),
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
        }
    }

    pub(in crate::decide) fn bans(&self) -> HostBans<'_> {
        HostBans {
            settings: &self.settings,
            filters: &self.filters,
            buckets: &self.buckets,
        }
    }

    pub(in crate::decide) fn give(
        &self,
        prefix: Prefix,
        until_ns: Option<u64>,
        now_ns: u64,
    ) -> Given {
        let ban = Ban {
            prefix,
            deadline: until_ns.map_or(Deadline::NEVER, Deadline::at_ns),
            about: About {
                length: prefix.length,
                by: 0,
                everywhere: false,
            },
        };
        give(&ban, now_ns, &self.bans())
    }

    fn holds(&self, address: [u64; 2], now_ns: u64) -> bool {
        let world = HostWorld::new(&[], |_, _| {})
            .with_bans(self.bans())
            .at_ns(now_ns);
        is_banned(address, Family::V4, &world)
    }
}

fn filters() -> Vec<Filter<AtomicU64>> {
    (0..FILTERS)
        .map(|_| Filter {
            words: [const { AtomicU64::new(0) }; FILTER_WORDS],
        })
        .collect()
}

fn host(number: u32) -> Prefix {
    Prefix::of(Key::mapped(number), 128)
}

#[test]
fn a_ban_holds_until_its_time_and_for_its_prefix() {
    let table = Table::new(64, &[128, 120]);
    let source = Key::mapped(0xcb00_7107);
    let beside = Key::mapped(0xcb00_7108);
    assert!(!table.holds(source, 0));
    assert_eq!(
        table.give(Prefix::of(source, 128), Some(10 * SECOND), 0),
        Given::New
    );
    assert!(table.holds(source, 10 * SECOND - 1) && !table.holds(beside, 0));
    assert!(!table.holds(source, 10 * SECOND + 2_000_000));
    assert_eq!(
        table.give(Prefix::of(source, 120), None, 11 * SECOND),
        Given::New
    );
    assert!(table.holds(source, u64::MAX / 2) && table.holds(beside, u64::MAX / 2));
    assert!(!table.holds(Key::mapped(0xcb00_7207), 11 * SECOND));
    assert!(lift(&Prefix::of(source, 120), 12 * SECOND, &table.bans()));
    assert!(!lift(&Prefix::of(source, 120), 12 * SECOND, &table.bans()));
    assert!(!table.holds(source, 12 * SECOND));
    assert_eq!(
        table.give(Prefix::of(source, 128), Some(20 * SECOND), 13 * SECOND),
        Given::New
    );
    assert_eq!(
        table.give(Prefix::of(source, 128), Some(30 * SECOND), 14 * SECOND),
        Given::Renewed
    );
    assert!(table.holds(source, 29 * SECOND));
    assert_eq!(
        since_ns(&Prefix::of(source, 128), &table.bans()),
        Some(13 * SECOND)
    );
}

#[test]
fn rules_make_no_ban_end_earlier_and_leave_room() {
    let table = Table::new(64, &[128]);
    let by_rule = |number, for_ns, now_ns| {
        give_by_rule(
            &Ban::by_rule(host(number), 7, for_ns, now_ns),
            now_ns,
            &table.bans(),
        )
    };
    let about = |number| {
        let buckets = table.buckets.iter();
        let mut slots = buckets.flat_map(|bucket| bucket.slots.iter().zip(&bucket.entries));
        let (_, entry) = slots
            .find(|(slot, entry)| of(*slot, entry, &host(number)).is_some())
            .unwrap();
        About::from_word(entry.about.load(Ordering::Relaxed))
    };
    let forever = Ban {
        prefix: host(1),
        deadline: Deadline::NEVER,
        about: About {
            length: 128,
            by: 0,
            everywhere: true,
        },
    };
    give(&forever, 0, &table.bans());
    assert_eq!(by_rule(1, SECOND, 0), Given::Renewed);
    assert!(table.holds(Key::mapped(1), 100 * SECOND));
    assert_eq!((about(1).by, about(1).everywhere), (0, true));
    // Longer than what is left is longer.
    table.give(host(2), Some(10 * SECOND), 0);
    assert_eq!(by_rule(2, 20 * SECOND, 0), Given::Renewed);
    assert!(table.holds(Key::mapped(2), 19 * SECOND));
    assert_eq!(about(2).by, 7);
    // However many a rule bans, there is room for a command.
    for number in 1_000..10_000 {
        by_rule(number, 100 * SECOND, 0);
    }
    for number in 0..60 {
        assert_eq!(
            table.give(host(100_000 + number), None, 0),
            Given::New,
            "{number}"
        );
    }
}

#[test]
fn what_has_no_room_is_refused_and_nothing_is_given_away() {
    let table = Table::new(64, &[128]);
    let mut given = 0;
    for number in 0..2_000 {
        match table.give(host(number), Some(10 * SECOND), 0) {
            Given::New => given += 1,
            Given::NoRoom => {}
            Given::Renewed => panic!("{number} twice"),
        }
    }
    assert!((480..=512).contains(&given), "{given} of 512");
    let held = (0..2_000).filter(|&number| table.holds(Key::mapped(number), SECOND));
    assert_eq!(held.count(), given);
    // When they are over there is room again.
    assert_eq!(table.give(host(5_000), None, 11 * SECOND), Given::New);
    assert!(table.holds(Key::mapped(5_000), 12 * SECOND));
}

#[test]
fn half_of_a_table_can_be_used_without_fail() {
    let table = Table::new(1 << 14, &[128]);
    for number in 0..1 << 16 {
        assert_eq!(table.give(host(number), None, 0), Given::New, "{number}");
    }
    assert!((0..1 << 16).all(|number| table.holds(Key::mapped(number), 0)));
    assert!((1 << 16..1 << 18).all(|number| !table.holds(Key::mapped(number), 0)));
}

#[test]
fn rules_use_their_second_bucket_and_what_is_in_it_is_found() {
    const BUCKETS: usize = 1 << 14;
    const BY_RULES: u32 = 1 << 16;
    let table = Table::new(BUCKETS, &[128]);
    let mut in_bucket = std::vec![0; BUCKETS];
    let mut given = Vec::new();
    for number in 0..BY_RULES {
        let first = Place::of(&host(number), &table.settings).bucket(0, &table.settings);
        in_bucket[first as usize] += 1;
        let ban = Ban::by_rule(host(number), 7, 100 * SECOND, 0);
        match give_by_rule(&ban, 0, &table.bans()) {
            Given::New => given.push(number),
            Given::NoRoom => {}
            Given::Renewed => panic!("{number} twice"),
        }
    }
    let beyond_first = in_bucket
        .iter()
        .map(|&bans| WAYS_OF_RULES.max(bans) - WAYS_OF_RULES);
    let refused_by_one: usize = beyond_first.sum();
    let refused = BY_RULES as usize - given.len();
    assert!(
        refused < refused_by_one / 5,
        "{refused}, of one {refused_by_one}"
    );
    // What a command bans finds room and is found, also behind buckets that rules have filled.
    for number in BY_RULES..BY_RULES + 10_000 {
        assert_eq!(table.give(host(number), None, 0), Given::New, "{number}");
        given.push(number);
    }
    for number in given {
        assert!(table.holds(Key::mapped(number), SECOND), "{number}");
    }
}

#[test]
fn a_filter_made_anew_loses_no_ban_that_is_given_meanwhile() {
    let table = Table::new(1 << 13, &[128]);
    thread::scope(|scope| {
        let giver = scope.spawn(|| {
            for number in 0..20_000 {
                assert_eq!(table.give(host(number), None, 0), Given::New);
                assert!(table.holds(Key::mapped(number), 0), "{number}");
            }
        });
        while !giver.is_finished() {
            let used = table
                .buckets
                .iter()
                .flat_map(|bucket| bucket.slots.iter().zip(&bucket.entries));
            let prefixes = used
                .filter(|(slot, _)| SlotWord(slot.load(Ordering::SeqCst)).is_used())
                .map(|(_, entry)| Prefix {
                    address: [0, 1].map(|half: usize| entry.address[half].load(Ordering::SeqCst)),
                    length: 128,
                });
            filter_anew(prefixes, &table.bans());
        }
    });
    assert!((0..20_000).all(|number| table.holds(Key::mapped(number), 0)));
}

#[test]
fn few_get_past_the_filter_who_are_not_banned() {
    let table = Table::new(1 << 15, &[128]);
    for number in 0..100_000 {
        table.give(host(number), None, 0);
    }
    let filter = &table.filters[0];
    let past = (1 << 20..(1 << 20) + 100_000).filter(|&number| {
        let (word, bits) = filter_bits(hash_of(&host(number), &table.settings));
        filter.words[word].load(Ordering::Relaxed) & bits == bits
    });
    let past = past.count();
    assert!(past < 5_000, "{past} of 100,000");
}

#[test]
fn threads_that_ban_at_once_lose_no_ban() {
    let table = Table::new(1 << 12, &[128]);
    let renewed = AtomicU64::new(0);
    thread::scope(|scope| {
        for first in 0..4 {
            let (table, renewed) = (&table, &renewed);
            scope.spawn(move || {
                // Each two share half of what they ban.
                for number in first * 2_000..first * 2_000 + 4_000 {
                    // A slot that another thread takes at this moment is tried again with the next packet.
                    while match table.give(host(number), None, 0) {
                        Given::New => false,
                        Given::Renewed => renewed.fetch_add(1, Ordering::Relaxed) == u64::MAX,
                        Given::NoRoom => true,
                    } {}
                }
            });
        }
    });
    assert!((0..10_000).all(|number| table.holds(Key::mapped(number), 0)));
    for number in 0..10_000 {
        assert!(lift(&host(number), 0, &table.bans()));
        assert!(
            !table.holds(Key::mapped(number), 0),
            "{number} was there twice"
        );
    }
}

proptest! {
    #[test]
    fn a_table_with_room_is_a_map_from_prefix_to_deadline(
        steps in proptest::collection::vec((0u32..40, 0usize..3, 0u64..20, 0u8..4), 1..200)
    ) {
        const LENGTHS: [u8; 3] = [128, 126, 124];
        let table = Table::new(64, &LENGTHS);
        let mut model: HashMap<Prefix, u64> = HashMap::new();
        let mut now = 0;
        for (number, length, seconds, action) in steps {
            now += SECOND;
            let prefix = Prefix::of(Key::mapped(number), LENGTHS[length].into());
            let live = model.get(&prefix).is_some_and(|&until| until > now);
            match action {
                0 => {
                    prop_assert_eq!(lift(&prefix, now, &table.bans()), live);
                    model.remove(&prefix);
                }
                1 => {
                    let until = now + seconds * SECOND + SECOND / 2;
                    let given = table.give(prefix, Some(until), now);
                    prop_assert_eq!(given, if live { Given::Renewed } else { Given::New });
                    model.insert(prefix, until);
                }
                _ => {
                    let address = Key::mapped(number);
                    let expected = LENGTHS.iter().any(|&length| {
                        let until = model.get(&Prefix::of(address, length.into()));
                        until.is_some_and(|&until| until > now)
                    });
                    prop_assert_eq!(table.holds(address, now), expected);
                }
            }
        }
    }
}
