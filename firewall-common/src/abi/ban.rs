//! The table of bans: sources that are refused whatever rules accept, each until a deadline.
//!
//! ```text
//! bucket, 320 bytes: 8 slot words │ 8 entries of half a line
//! slot word:         tag 24 │ deadline 40
//! entry:             address 128 │ what about it 64 │ since when 64
//! ```
//!
//! Before it stands a filter of two bits for each ban, small enough for a cache, which most packets do not get past: a bucket of a
//! large table is far away. There are two of them, and who gives a ban sets its bits in both: so one can be made anew without the
//! bits of bans that are over, and then be the one that counts, while programs go on giving bans.
//!
//! Time is CLOCK_MONOTONIC in units of 2^20 ns, which is a millisecond and a little: a ban ends by itself, whoever runs, and no
//! deadline comes round before 36 years. User space maps the table and changes it with the same code as the programs, which ban by
//! rule. A ban is never given away for another one: where there is no room, the new one is refused.

use zerocopy::{FromBytes, KnownLayout};

use super::flow::Key;
use crate::hash::seed_words;

/// Name of the array of [`Bucket`]s.
pub const MAP_BANS: &str = "BANS";
/// Name of the map that holds the one [`Settings`] record.
pub const MAP_BAN_SETTINGS: &str = "BAN_SETTINGS";
/// Name of the array of two [`Filter`]s.
pub const MAP_BAN_FILTERS: &str = "BAN_FILTERS";
/// Flags of all: `BPF_F_MMAPABLE` (linux/bpf.h).
pub const BAN_MAP_FLAGS: u32 = 1 << 10;

/// Bans in a bucket. Eight words make one cache line.
pub const WAYS: usize = 8;
/// Of these, rules may use so many, the first ones: whoever has them ban thousands leaves room for what people ban.
pub const WAYS_OF_RULES: usize = 6;
/// Buckets that are tried one after the other, at a distance that the hash says. With half of the slots in use, one in fifty is full,
/// and all five once in a hundred million bans.
pub const PROBES: u32 = 5;
/// Of these, rules may use so many. Where rules ban half as many as there are slots, there is no room for less than one in a
/// hundred; with one bucket it would be one in twenty.
pub const PROBES_OF_RULES: u32 = 2;
/// Fewest buckets; the number is a power of two.
pub const MIN_BUCKETS: u32 = 64;
/// Different prefix lengths of one family that bans can have at once: each costs every accepted packet a look-up.
pub const MAX_LENGTHS: u32 = 8;
/// Of these, rules need two: single addresses, and their prefix of IPv6.
pub const LENGTHS_OF_RULES: u32 = 2;

/// A bucket of the table.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Bucket<W> {
    /// A [`SlotWord`] for each entry.
    pub slots: [W; WAYS],
    /// The entries; meaningful where the slot word is neither [`SlotWord::EMPTY`] nor [`SlotWord::BUSY`].
    pub entries: [Entry<W>; WAYS],
}

/// Which prefixes may be banned, two bits each in one word: 128 KiB. Of a hundred thousand bans, four in a hundred others look as if
/// they were.
#[derive(Debug, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Filter<W> {
    /// The bits.
    pub words: [W; FILTER_WORDS],
}

/// Words of a [`Filter`], a power of two.
pub const FILTER_WORDS: usize = 1 << FILTER_BITS;
const FILTER_BITS: u32 = 14;
/// Filters: the one that counts, and one to be made anew.
pub const FILTERS: u32 = 2;

/// Where a hash has its bits in a [`Filter`]: index of the word, and the bits.
#[inline(always)]
pub const fn filter_bits(hash: u64) -> (usize, u64) {
    let word = (hash >> (64 - FILTER_BITS)) as usize & (FILTER_WORDS - 1);
    (word, 1 << (hash & 63) | 1 << (hash >> 6 & 63))
}

/// A ban, apart from its slot word.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Entry<W> {
    /// The first address of its prefix, upper half first, IPv4 as `::ffff:a.b.c.d`.
    pub address: [W; 2],
    /// [`About`].
    pub about: W,
    /// When it was given, in ns of CLOCK_MONOTONIC.
    pub since_ns: W,
}

const _: () = assert!(size_of::<Entry<u64>>() == 32);
const _: () = assert!(size_of::<Bucket<u64>>() == 320);
const _: () = assert!(core::mem::offset_of!(Bucket<u64>, entries) == 64);

/// What the programs must know of the table.
#[derive(Debug, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Settings<W> {
    /// The prefix lengths of IPv4 and IPv6 bans that there are, a byte each from the lowest, 0 behind the last: bits of the
    /// address as the table has it, which for IPv4 is 96 more than of the address itself.
    pub lengths: [W; 2],
    /// Number of the filter that counts.
    pub filter: W,
    /// Number of buckets, less one.
    pub mask: u64,
    /// Secret of the hash.
    pub seed: [u64; seed_words(KEY_WORDS)],
}

/// Words of a key: address and length.
pub const KEY_WORDS: usize = 3;

const _: () = assert!(size_of::<Settings<u64>>() == 72);

/// A prefix that is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Its first address, upper half first, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u64; 2],
    /// Its bits, of 128: for IPv4 96 more than of the address.
    pub length: u8,
}

impl Prefix {
    /// The prefix of this length that `address` is in.
    #[inline(always)]
    pub const fn of(address: [u64; 2], length: u32) -> Self {
        let [upper, lower] = address;
        let address = if length >= 64 {
            // Shifted twice, because no shift is as long as the word.
            let host = u64::MAX >> 1 >> (length.wrapping_sub(65) & 63);
            [upper, if length == 64 { 0 } else { lower & !host }]
        } else {
            [upper & !(u64::MAX >> length), 0]
        };
        Self {
            address,
            length: length as u8,
        }
    }

    /// Whether it is one of IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        Key::is_mapped(self.address) && self.length >= 96
    }
}

/// A slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotWord(pub u64);

impl SlotWord {
    /// A slot that was never used. Slots never become empty again: who finds one among the first [`WAYS_OF_RULES`] of a bucket need
    /// look no further.
    pub const EMPTY: Self = Self(0);
    /// A slot whose entry is being written.
    pub const BUSY: Self = Self(1 << Self::DEADLINE_BITS);
    /// Tags below this are taken by the words above.
    const FIRST_TAG: u32 = 2;
    const DEADLINE_BITS: u32 = 40;
    const DEADLINE: u64 = (1 << Self::DEADLINE_BITS) - 1;

    /// Packs a word.
    #[inline(always)]
    pub const fn new(tag: u32, deadline: Deadline) -> Self {
        Self((tag as u64) << Self::DEADLINE_BITS | deadline.0)
    }

    /// The tag that a hash makes.
    #[inline(always)]
    pub const fn tag_of(hash: u64) -> u32 {
        let tag = (hash >> Self::DEADLINE_BITS) as u32;
        if tag < Self::FIRST_TAG {
            tag.wrapping_add(Self::FIRST_TAG)
        } else {
            tag
        }
    }

    /// Fingerprint of the prefix.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> Self::DEADLINE_BITS) as u32
    }

    /// Whether there is a ban, be it over.
    #[inline(always)]
    pub const fn is_used(self) -> bool {
        self.tag() >= Self::FIRST_TAG
    }

    /// Until when it counts.
    #[inline(always)]
    pub const fn deadline(self) -> Deadline {
        Deadline(self.0 & Self::DEADLINE)
    }
}

/// When a ban ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub(crate) u64);

impl Deadline {
    /// It does not.
    pub const NEVER: Self = Self(SlotWord::DEADLINE);
    /// It has.
    pub const PAST: Self = Self(0);
    /// A unit is 2^20 ns.
    const UNIT_SHIFT: u32 = 20;

    /// At this time, or up to a unit later.
    #[inline(always)]
    pub const fn at_ns(ns: u64) -> Self {
        let unit = (ns >> Self::UNIT_SHIFT).wrapping_add(1);
        if unit < SlotWord::DEADLINE {
            Self(unit)
        } else {
            Self::NEVER
        }
    }

    /// Whether it has come at `now_ns`.
    #[inline(always)]
    pub const fn is_over(self, now_ns: u64) -> bool {
        self.0 != SlotWord::DEADLINE && self.0 <= now_ns >> Self::UNIT_SHIFT
    }

    /// The same as 1 or 0, without a branch.
    #[inline(always)]
    pub const fn is_over_as_bit(self, now_ns: u64) -> u32 {
        // [`Self::NEVER`] is later than any time that comes in 36 years.
        ((now_ns >> Self::UNIT_SHIFT).wrapping_sub(self.0) >> 63) as u32 ^ 1
    }

    /// Nanoseconds from `now_ns` on; `None` where it does not end.
    pub const fn left_ns(self, now_ns: u64) -> Option<u64> {
        if self.0 == SlotWord::DEADLINE {
            None
        } else {
            Some((self.0 << Self::UNIT_SHIFT).saturating_sub(now_ns))
        }
    }
}

/// What is known of a ban: `everywhere 1 │ by 32 │ length 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// Bits of the prefix ([`Prefix::length`]).
    pub length: u8,
    /// Counter slot of what goes over the limit of the rule that gave it; 0 if a command did.
    pub by: u32,
    /// Whether it is meant for all interfaces, those to come too.
    pub everywhere: bool,
}

impl About {
    /// From the entry's word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            length: word as u8,
            by: (word >> 8) as u32,
            everywhere: word >> 40 & 1 != 0,
        }
    }

    /// To the entry's word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.length as u64 | (self.by as u64) << 8 | (self.everywhere as u64) << 40
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_is_put_in() {
        let about = About {
            length: 128,
            by: u32::MAX,
            everywhere: true,
        };
        assert_eq!(About::from_word(about.to_word()), about);
        let word = SlotWord::new(0xff_ffff, Deadline::NEVER);
        assert_eq!((word.tag(), word.deadline()), (0xff_ffff, Deadline::NEVER));
        assert!(!SlotWord::EMPTY.is_used() && !SlotWord::BUSY.is_used());
        assert!(SlotWord::new(SlotWord::tag_of(0), Deadline::PAST).is_used());
    }

    #[test]
    fn a_prefix_leaves_the_bits_of_its_length() {
        let all = [u64::MAX; 2];
        for length in 1..=128u32 {
            let expected = u128::MAX << (128 - length);
            let expected = [(expected >> 64) as u64, expected as u64];
            assert_eq!(Prefix::of(all, length).address, expected, "{length}");
        }
        assert!(Prefix::of(Key::mapped(0xc000_0207), 128).is_v4());
        assert!(Prefix::of(Key::mapped(0xc000_0207), 97).is_v4());
        assert!(!Prefix::of([0x2001_0db8 << 32, 0xffff_c000_0207], 128).is_v4());
    }

    #[test]
    fn a_deadline_is_never_early_and_a_unit_late_at_the_most() {
        for ns in [1, 1 << 20, 599_999_999_999, (1 << 20) - 1] {
            let deadline = Deadline::at_ns(ns);
            assert!(!deadline.is_over(ns), "{ns}");
            assert!(deadline.is_over(ns + (1 << 20)), "{ns}");
            assert_eq!(
                (
                    deadline.is_over_as_bit(ns),
                    deadline.is_over_as_bit(ns + (1 << 20))
                ),
                (0, 1)
            );
        }
        assert!(!Deadline::NEVER.is_over(u64::MAX));
        assert!(Deadline::PAST.is_over(0));
        assert_eq!(Deadline::at_ns(u64::MAX), Deadline::NEVER);
    }
}
