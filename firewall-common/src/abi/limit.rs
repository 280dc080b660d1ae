//! The table of token buckets: one cache line has four of them, each a fingerprint of whom it is for and a time.
//!
//! A bucket is kept as the time at which it will be full again (the "theoretical arrival time" of ITU-T I.371): one word, changed by
//! one compare-and-swap, so that all CPUs share it without a lock and nothing ever has to be filled up. Time is CLOCK_MONOTONIC in
//! ns, in 64 bits, which come round after 584 years. A bucket that is full says no more than one that is not there, so forgetting
//! it loses nothing: that is why a table of bounded size can do.
//!
//! What counts towards a rule's ban, and which UDP conversations are known, are kept in the same lines, and also as times: whatever
//! the word is for, it is the time from which on it means nothing.

use zerocopy::{FromBytes, KnownLayout};

use crate::hash::seed_words;

/// Name of the array of [`Line`]s.
pub const MAP_LIMITS: &str = "LIMITS";
/// Name of the map that holds the one [`Settings`] record.
pub const MAP_LIMIT_SETTINGS: &str = "LIMIT_SETTINGS";
/// Flags of [`MAP_LIMITS`]: `BPF_F_MMAPABLE` (linux/bpf.h), so that lines begin on cache lines.
pub const LIMIT_MAP_FLAGS: u32 = 1 << 10;

/// Buckets in a line.
pub const WAYS: usize = 4;
/// Fewest lines; the number is a power of two.
pub const MIN_LINES: u32 = 64;

/// Four token buckets.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C, align(64))]
pub struct Line<W> {
    /// The buckets.
    pub buckets: [Bucket<W>; WAYS],
}

/// A token bucket.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Bucket<W> {
    /// [`Owner`].
    pub owner: W,
    /// When it will be full again, in ns.
    pub until: W,
}

const _: () = assert!(size_of::<Line<u64>>() == 64);

/// Whose a bucket is: `fingerprint 61 │ kind 2 │ over 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub u64);

/// What a bucket is for, and so what it may be given away for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// The limit of one source or prefix.
    Source = 0,
    /// One that all share who come under a rule. It is given away only when it is full.
    Shared = 1,
    /// What counts towards a ban.
    Strikes = 2,
    /// A UDP conversation that is known.
    Conversation = 3,
}

impl Owner {
    /// Nobody's.
    pub const EMPTY: Self = Self(0);
    /// Being changed.
    pub const BUSY: Self = Self(Self::OVER);
    const OVER: u64 = 1;
    const KIND_SHIFT: u32 = 1;
    const NOT_EMPTY: u64 = 1 << 63;

    /// The owner with this hash.
    #[inline(always)]
    pub const fn new(hash: u64, kind: Kind) -> Self {
        Self(hash & !7 | Self::NOT_EMPTY | (kind as u64) << Self::KIND_SHIFT)
    }

    /// Whether it is the same.
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        self.0 & !Self::OVER == other.0 & !Self::OVER
    }

    /// What the bucket is for.
    #[inline(always)]
    pub const fn kind_number(self) -> u64 {
        self.0 >> Self::KIND_SHIFT & 3
    }

    /// Whether something was refused since it was last full.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        self.0 & Self::OVER != 0
    }

    /// The same, marked so or not.
    #[inline(always)]
    pub const fn marked(self, over: bool) -> Self {
        Self(self.0 & !Self::OVER | over as u64)
    }
}

/// Words of a key: address, and what else tells buckets apart.
pub const KEY_WORDS: usize = 4;

/// What the programs must know of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, KnownLayout)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::IntoBytes, zerocopy::Immutable)
)]
#[repr(C)]
pub struct Settings {
    /// Number of lines, less one.
    pub mask: u64,
    /// Secret of the hash.
    pub seed: [u64; seed_words(KEY_WORDS)],
}

const _: () = assert!(size_of::<Settings>() == 56);

/// How long a UDP conversation is known without a packet.
pub const CONVERSATION_NS: u64 = 30_000_000_000;
