//! Bans under a clock set by hand, against a model, and from several threads.

use core::sync::atomic::{AtomicU64, Ordering};
use std::{collections::HashMap, thread, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::tables::HostWorld;

const SECOND: u64 = 1_000_000_000;

struct Table {
    settings: Settings<AtomicU64>,
    buckets: Vec<Bucket<AtomicU64>>,
}

impl Table {
    /// A table of so many buckets, in which prefixes of these lengths are looked for.
    fn new(buckets: usize, lengths: &[u8]) -> Self {
        let mut word = [0; 8];
        word[..lengths.len()].copy_from_slice(lengths);
        let word = || AtomicU64::new(u64::from_le_bytes(word));
        Self {
            settings: Settings {
                lengths: [word(), word()],
                mask: buckets as u64 - 1,
                seed: [
                    0x9e37_79b9_7f4a_7c15,
                    0xbf58_476d_1ce4_e5b9,
                    0x94d0_49bb_1331_11eb,
                    0x2545_f491_4f6c_dd1d,
                    0xd6e8_feb8_6659_fd93,
                ],
            },
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
        }
    }

    fn bans(&self) -> HostBans<'_> {
        HostBans {
            settings: &self.settings,
            buckets: &self.buckets,
        }
    }

    fn give(&self, prefix: Prefix, until_ns: Option<u64>, now_ns: u64) -> Given {
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
