//! Events: packets that user space is told of, as they are dropped or, under a rule with `log`, accepted.
//!
//! Of each reason, and of each rule with `log`, a CPU tells so many in a tick and no more ([`Budget`]); all else that a flood brings is
//! counted. Nothing is told while nobody reads: whoever does says for how long, and says so again before that is over, so that one
//! that was killed is forgotten after some seconds. Each reader has a ring buffer of its own, and one that is full loses events and
//! keeps nobody waiting.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::SLOTS;
use super::counter::NAMED_BASE;
use super::image::{Outcome, SIZE_CLASSES};
use super::reason::DropReason;
use crate::word::Word;

/// Name of the array of ring buffers, one for each reader, of [`RING_BYTES`] each.
pub const MAP_EVENTS: &str = "EVENTS";
/// Name of the map that holds the one [`Settings`] record.
pub const MAP_EVENT_SETTINGS: &str = "EVENT_SETTINGS";
/// Name of the per-CPU array of [`BUDGETS`] [`Budget`]s.
pub const MAP_EVENT_BUDGETS: &str = "EVENT_BUDGETS";
/// Flags of the map with the settings: `BPF_F_MMAPABLE` (linux/bpf.h).
pub const EVENT_MAP_FLAGS: u32 = 1 << 10;

/// Readers that there can be at the same time.
pub const READERS: u32 = 4;
/// Bytes of a reader's ring buffer: a power of two, and pages. Two thousand SYNs find room, or 880 long packets.
pub const RING_BYTES: u32 = 1 << 18;
/// Most bytes of a frame that are told.
pub const SNAP: u32 = 256;

/// What is told of a packet. Its frame's first bytes follow, as many as are [`captured`](Self::captured).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Event {
    /// CLOCK_MONOTONIC in ns.
    pub at_ns: u64,
    /// The generation that decides.
    pub generation: u64,
    /// What was decided: an [`Outcome`].
    pub outcome: u32,
    /// Index of the interface.
    pub interface: u32,
    /// Bytes of the frame.
    pub frame_bytes: u32,
    /// Bytes of it that follow, at most [`SNAP`].
    pub captured: u16,
    /// Where the image of that generation lies, a [`super::control::Place`] as its byte.
    pub place: u8,
    /// 1 if the packet leaves.
    pub is_egress: u8,
}

const _: () = assert!(size_of::<Event>() == 32);

/// What the programs must know.
#[derive(Debug, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Settings<W> {
    /// Until when anybody reads, in jiffies.
    pub until: W,
    /// Most events that a [`Budget`] gives in a tick.
    pub most: W,
    /// Bits of jiffies that make a tick.
    pub tick_shift: W,
    /// The readers.
    pub readers: [Reader<W>; READERS as usize],
    /// Number of the generation in each [`super::control::Place`].
    pub generations: [W; PLACES],
}

/// Places that there are.
pub const PLACES: usize = SIZE_CLASSES.len() * SLOTS as usize;

/// A reader.
#[derive(Debug, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Reader<W> {
    /// Until when it reads, in jiffies; 0 where there is none.
    pub until: W,
    /// Most events that it wants of a budget in a tick.
    pub most: W,
}

const _: () = assert!(size_of::<Settings<u64>>() == 8 * (3 + 2 * READERS as usize + PLACES));

impl<W: Word> Settings<W> {
    /// Whether anybody reads at the time `now`, in jiffies.
    #[inline(always)]
    pub fn is_read(&self, now: u64) -> bool {
        self.until.load() > now
    }

    /// Sets what all readers want together, at the time `now`. Whoever changes a reader does this then.
    pub fn sum_up(&self, now: u64) {
        let (mut until, mut most) = (0, 0);
        for reader in &self.readers {
            let its = reader.until.load();
            if its > now {
                until = its.max(until);
                most = reader.most.load().max(most);
            }
        }
        self.most.store(most);
        self.until.store(until);
    }
}

/// How many events a CPU has told in the tick, of a reason or of a rule, and what became of all of them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Budget {
    /// The tick.
    pub tick: u32,
    /// Events in it.
    pub used: u32,
    /// Events that were told.
    pub told: u64,
    /// Packets that there was no budget for.
    pub withheld: u64,
    /// Events that a ring buffer had no room for. Only in the budgets from [`LOST_BASE`] on, one for each reader.
    pub lost: u64,
}

const _: () = assert!(size_of::<Budget>() == 32);

/// Budgets: 73 KiB a CPU.
///
/// | index | of |
/// |---|---|
/// | `0` | all rules with `log` together, [`RULES_AT_ONCE`] times that of one |
/// | `1 .. LOST_BASE` | drops by [`DropReason`] number; rules that drop without `log` share that of [`DropReason::Rule`] |
/// | `LOST_BASE .. RULES_BASE` | no budget: what each reader has lost |
/// | from `RULES_BASE` | rules with `log`, by counter slot; those whose slots are 2,048 apart share one |
pub const BUDGETS: u32 = RULES_BASE + RULES;
/// Budget of all rules with `log`.
pub const ALL_RULES: u32 = 0;
/// First index of what readers have lost.
pub const LOST_BASE: u32 = 192;
/// First budget of a rule.
pub const RULES_BASE: u32 = 256;
/// Budgets of rules, a power of two.
const RULES: u32 = 2048;
/// A rule has a counter slot for each port that it names, and so a budget.
pub const RULES_AT_ONCE: u64 = 8;

const _: () = assert!(NAMED_BASE <= LOST_BASE && LOST_BASE + READERS <= RULES_BASE);

impl Budget {
    /// Index of the budget for a packet with this outcome.
    #[inline(always)]
    pub const fn index(outcome: Outcome, is_egress: bool) -> u32 {
        let slot = outcome.counter();
        if slot < NAMED_BASE {
            slot
        } else if outcome.is_held() {
            DropReason::RateLimit.number()
        } else if outcome.logs() {
            RULES_BASE + (slot & (RULES - 1))
        } else if !outcome.is_default() {
            DropReason::Rule.number()
        } else if is_egress {
            DropReason::EgressNoRule.number()
        } else {
            DropReason::NoRule.number()
        }
    }

    /// Takes one event, if there are fewer than `most` in this tick, and counts what becomes of it.
    #[inline(always)]
    pub const fn take(&mut self, tick: u32, most: u64) -> bool {
        if self.tick != tick {
            self.tick = tick;
            self.used = 0;
        }
        if self.used as u64 >= most {
            self.withheld = self.withheld.wrapping_add(1);
            return false;
        }
        self.used = self.used.wrapping_add(1);
        self.told = self.told.wrapping_add(1);
        true
    }
}

/// Whether a packet with this outcome is to be told of: all that is dropped, and what a rule with `log` accepts.
#[inline(always)]
pub const fn is_event(outcome: Outcome) -> bool {
    !outcome.accepts() || outcome.logs()
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;
    use crate::abi::counter::MAX_SLOTS;
    use crate::decide::Decision;

    #[test]
    fn a_budget_gives_so_many_in_a_tick_and_counts_the_rest() {
        let mut budget = Budget::default();
        let mut given = 0;
        for packet in 0..1_000 {
            given += u32::from(budget.take(packet / 100, 4));
        }
        assert_eq!(given, 40);
        assert_eq!((budget.told, budget.withheld, budget.used), (40, 960, 4));
        // Ticks come round after a year or so, and then go on.
        assert!(budget.take(u32::MAX, 4) && budget.take(0, 4));
        assert!(!budget.take(0, 1) && !budget.take(1, 0));
    }

    #[test]
    fn what_is_dropped_has_the_budget_of_its_reason_and_a_rule_with_log_its_own() {
        let rule = Outcome::new(false, false, 1_000);
        let logging = Outcome::new(false, true, 1_000);
        let drops = Budget::index(rule, false);
        assert_eq!(drops, DropReason::Rule.number());
        let own = Budget::index(logging, false);
        assert!((RULES_BASE..BUDGETS).contains(&own));
        assert_eq!(own, Budget::index(Outcome::new(true, true, 1_000), true));
        assert_ne!(own, Budget::index(Outcome::new(true, true, 1_001), true));
        assert!(Budget::index(Outcome::new(false, true, MAX_SLOTS - 1), false) < BUDGETS);
        // At a port that a rule names the default has a slot for each, and one budget for all.
        for (is_egress, reason) in [
            (false, DropReason::NoRule),
            (true, DropReason::EgressNoRule),
        ] {
            let at_port = Outcome::new(false, false, 1_000).by_default();
            assert_eq!(Budget::index(at_port, is_egress), reason.number());
        }
        let over = Decision::held(DropReason::RateLimit, 1_000).outcome();
        assert_eq!(Budget::index(over, false), DropReason::RateLimit.number());
        for &reason in DropReason::ALL {
            let outcome = Decision::dropped(reason).outcome();
            assert_eq!(Budget::index(outcome, false), reason.number());
            assert!(is_event(outcome) && reason.number() < LOST_BASE);
        }
    }

    #[test]
    fn what_is_let_in_is_told_of_only_under_a_rule_with_log() {
        assert!(is_event(Outcome::new(true, true, 1_000)));
        assert!(!is_event(Outcome::new(true, false, 1_000)));
    }

    #[test]
    fn the_programs_see_the_reader_that_stays_longest_and_the_one_that_wants_most() {
        let settings = Settings {
            until: AtomicU64::new(0),
            most: AtomicU64::new(0),
            tick_shift: AtomicU64::new(0),
            readers: [(0, 0), (20, 3), (10, 5), (30, 1)].map(|(until, most)| Reader {
                until: AtomicU64::new(until),
                most: AtomicU64::new(most),
            }),
            generations: [0; PLACES].map(AtomicU64::new),
        };
        for (now, until, most) in [(5, 30, 5), (10, 30, 3), (25, 30, 1), (30, 0, 0)] {
            settings.sum_up(now);
            let seen = (Word::load(&settings.until), Word::load(&settings.most));
            assert_eq!(seen, (until, most));
            assert_eq!(settings.is_read(now), until != 0);
        }
        settings.sum_up(5);
        assert!(settings.is_read(29) && !settings.is_read(30));
    }
}
