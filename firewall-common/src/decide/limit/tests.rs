//! Token buckets under a clock set by hand, against an exact count, under floods, and from several threads.

use core::sync::atomic::{AtomicU64, Ordering};
use std::{thread, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::abi::limit::WAYS;

const SECOND: u64 = 1_000_000_000;

fn lines(count: usize) -> Vec<Line<AtomicU64>> {
    (0..count).map(|_| Line::default()).collect()
}

fn limits(lines: &[Line<AtomicU64>]) -> HostLimits<'_> {
    HostLimits {
        settings: Settings {
            mask: lines.len() as u64 - 1,
            seed: [
                0x9e37_79b9_7f4a_7c15,
                0xbf58_476d_1ce4_e5b9,
                0x94d0_49bb_1331_11eb,
                0x2545_f491_4f6c_dd1d,
                0xd6e8_feb8_6659_fd93,
                0xa076_1d64_78bd_642f,
            ],
        },
        lines,
    }
}

fn take(key: &Key, rate: &Rate, units: u64, now_ns: u64, limits: &HostLimits<'_>) -> bool {
    super::take(&Demand::new(*key, rate, units), now_ns, limits)
}

fn of_source(number: u64) -> Key {
    Key {
        source: [0, number],
        rule: 200,
        more: 0,
        kind: Kind::Source,
    }
}

#[test]
fn a_burst_and_then_the_rate() {
    let lines = lines(64);
    let limits = limits(&lines);
    let rate = Rate::new(200, 1, 400);
    let take = |now| take(&Key::shared(200, 0), &rate, 1, now, &limits);
    let start = 1_000 * SECOND;
    assert_eq!((0..1_000).filter(|_| take(start)).count(), 400);
    // 10,000 a second for ten seconds: 200 a second come in.
    let admitted = (1..=100_000).filter(|packet| take(start + packet * SECOND / 10_000));
    assert_eq!(admitted.count(), 2_000);
    // After a pause of two seconds, the burst again and no more.
    assert_eq!(
        (0..1_000).filter(|_| take(start + 12 * SECOND)).count(),
        400
    );
    assert_eq!(
        (0..1_000).filter(|_| take(start + 3_600 * SECOND)).count(),
        400
    );
}

#[test]
fn a_clock_that_comes_round_gives_no_burst_and_blocks_nobody() {
    let lines = lines(64);
    let limits = limits(&lines);
    let (slow, fast) = (Rate::new(1, 86_400, 10), Rate::new(200, 1, 400));
    let key = Key::shared(200, 0);
    let start = 1_000 * SECOND;
    assert!((0..10).all(|_| take(&key, &slow, 1, start, &limits)));
    // Another policy: what was used up under the slow one is used up, and comes back at the new rate.
    let admitted = (0..400).filter(|_| take(&key, &fast, 1, start + 1, &limits));
    assert_eq!(admitted.count(), 0);
    let admitted = (1..=1_000).filter(|ms| take(&key, &fast, 1, start + ms * 1_000_000, &limits));
    assert!((199..=201).contains(&admitted.count()));
    // CPUs whose clocks are apart.
    assert!(!take(&key, &fast, 400, start + SECOND, &limits));
    assert!(take(&key, &fast, 1, start + 2 * SECOND, &limits));
}

#[test]
fn bytes_are_counted_as_bytes() {
    let lines = lines(64);
    let limits = limits(&lines);
    let rate = Rate::new(1_000_000, 1, 100_000);
    let mut bytes = 0;
    for ms in 0..10_000u64 {
        let frame = 60 + ms % 1_400;
        for _ in 0..5 {
            if take(
                &Key::shared(7, 0),
                &rate,
                frame,
                SECOND + ms * 1_000_000,
                &limits,
            ) {
                bytes += frame;
            }
        }
    }
    assert!((9_900_000..=10_100_000).contains(&bytes), "{bytes}");
}

#[test]
fn sources_have_buckets_of_their_own() {
    let lines = lines(1 << 10);
    let limits = limits(&lines);
    let rate = Rate::new(5, 60, 5);
    for source in 0..500 {
        let key = of_source(source);
        let taken = (0..20).filter(|_| take(&key, &rate, 1, SECOND, &limits));
        assert_eq!(taken.count(), 5, "{source}");
    }
}

#[test]
fn no_flood_lifts_the_limit_of_a_source_that_is_over_it() {
    let lines = lines(1 << 8);
    let limits = limits(&lines);
    let rate = Rate::new(5, 60, 5);
    let now = 1_000 * SECOND;
    let over: Vec<Key> = (0..100).map(of_source).collect();
    for key in &over {
        assert_eq!(
            (0..6).filter(|_| take(key, &rate, 1, now, &limits)).count(),
            5
        );
    }
    // Spoofed sources, ten times as many as the table has room for, some of them often.
    for flood in 0..10 * 4 * lines.len() as u64 {
        take(
            &of_source(1_000_000 + flood),
            &rate,
            1,
            now + flood,
            &limits,
        );
        if flood % 7 == 0 {
            take(
                &of_source(1_000_000 + flood),
                &rate,
                1,
                now + flood,
                &limits,
            );
        }
    }
    for key in &over {
        assert!(!take(key, &rate, 1, now + SECOND, &limits), "{key:?}");
    }
    // In a minute all of them are let in as ever.
    let admitted = over
        .iter()
        .filter(|key| take(key, &rate, 1, now + 61 * SECOND, &limits));
    assert_eq!(admitted.count(), over.len());
}

#[test]
fn who_has_used_up_his_burst_is_remembered_without_being_refused() {
    let lines = lines(64);
    let limits = limits(&lines);
    let rate = Rate::new(1, 86_400, 1);
    let sources = 4 * 4 * lines.len() as u64;
    let admitted =
        (0..sources).filter(|&source| take(&of_source(source), &rate, 1, SECOND, &limits));
    assert!(admitted.count() >= 2 * lines.len());
    let again = (0..sources).filter(|&source| take(&of_source(source), &rate, 1, SECOND, &limits));
    assert_eq!(again.count(), 0);
}

#[test]
fn where_all_are_over_newcomers_share_a_bucket() {
    let lines = lines(1);
    let limits = limits(&lines);
    let rate = Rate::new(5, 60, 5);
    let now = 1_000 * SECOND;
    for source in 0..WAYS as u64 - 1 {
        let key = of_source(source);
        assert_eq!(
            (0..6)
                .filter(|_| take(&key, &rate, 1, now, &limits))
                .count(),
            5
        );
    }
    // The last bucket of the line is the newcomers': it is never a single one's that nobody can displace for long.
    let admitted = (100..200).filter(|&source| take(&of_source(source), &rate, 1, now, &limits));
    let admitted = admitted.count();
    assert!(admitted <= 100, "{admitted}");
    for source in 0..WAYS as u64 - 1 {
        assert!(!take(&of_source(source), &rate, 1, now, &limits));
    }
}

#[test]
fn threads_never_take_more_than_there_is() {
    let lines = lines(64);
    let limits = limits(&lines);
    let rate = Rate::new(10_000, 1, 1_000);
    let clock = AtomicU64::new(SECOND);
    let taken = AtomicU64::new(0);
    let key = Key::shared(200, 0);
    // So that all find the same bucket.
    assert!(take(&key, &rate, 1, SECOND, &limits));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200_000 {
                    let now = clock.fetch_add(5_000, Ordering::Relaxed);
                    if take(&key, &rate, 1, now, &limits) {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    // 800,000 packets in four seconds.
    let taken = taken.load(Ordering::Relaxed);
    assert!((38_500..=41_100).contains(&taken), "{taken} of 41,000");
}

#[test]
fn strikes_come_to_a_ban_within_their_time_only() {
    let lines = lines(64);
    let limits = limits(&lines);
    let key = |number| Key {
        kind: Kind::Strikes,
        ..of_source(number)
    };
    let strike = |number, now| strike(&key(number), 20, 10 * SECOND, now, &limits);
    let start = 1_000 * SECOND;
    let first = (1..=30).find(|packet| strike(0, start + packet * SECOND / 100));
    assert_eq!(first, Some(20));
    // 19 in ten seconds, again and again: one a bit more than half a second.
    assert!((0..1_000).all(|packet| !strike(1, start + packet * 530_000_000)));
    // A little more than two a second is more than 20 in ten.
    let first = (0..1_000).find(|packet| strike(2, start + packet * 460_000_000));
    assert!(first.is_some_and(|packets| packets < 40), "{first:?}");
    // Long ago does not count.
    assert!((0..19).all(|_| !strike(3, start)));
    assert!((0..19).all(|_| !strike(3, start + 21 * SECOND)));
    // What fell into the end of the last ten seconds does.
    assert!((0..19).all(|_| !strike(4, start + 9 * SECOND)));
    assert!((0..19).any(|_| strike(4, start + 12 * SECOND)));
}

#[test]
fn a_conversation_is_known_while_it_goes_on() {
    let lines = lines(64);
    let limits = limits(&lines);
    let key = Key {
        kind: Kind::Conversation,
        more: 53,
        ..of_source(1)
    };
    assert!(!is_known(&key, SECOND, &limits));
    know(&key, SECOND, &limits);
    for seconds in (1..1_000).step_by(20) {
        assert!(is_known(&key, seconds * SECOND, &limits), "{seconds}");
    }
    assert!(!is_known(&key, 1_100 * SECOND, &limits));
    assert!(!is_known(&Key { more: 54, ..key }, 2 * SECOND, &limits));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// In no stretch of time more comes in than the burst and what the rate brings, and of what is asked for at less than the
    /// rate, all.
    #[test]
    fn never_more_than_burst_and_rate(
        amount in 1u64..10_000,
        burst in 1u64..1_000,
        gaps in proptest::collection::vec(0u64..3_000_000, 1..400),
    ) {
        let lines = lines(64);
        let limits = limits(&lines);
        let rate = Rate::new(amount, 1, burst);
        let mut now = SECOND;
        let mut admitted = Vec::new();
        for gap in gaps {
            now += gap;
            if take(&Key::shared(1, 0), &rate, 1, now, &limits) {
                admitted.push(now);
            }
        }
        for (index, first) in admitted.iter().enumerate() {
            for (count, last) in (1u64..).zip(&admitted[index..]) {
                let most = burst as f64 + (last - first) as f64 * amount as f64 / 1e9;
                prop_assert!(count as f64 <= most + 1.0, "{} in {} ns", count, last - first);
            }
        }
        prop_assert!(admitted.len() as u64 >= burst.min(1));
    }
}
