//! A shadow: a candidate policy that is asked about every packet beside the one in force, and counts where they differ.
//!
//! The programs know these maps always, and use them only where the loader has said so in a constant.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the map that holds the one [`Shadow`] record.
pub const MAP_SHADOW: &str = "SHADOW";
/// Name of the per-CPU array of [`super::counter::Counter`], indexed by [`Shadow::slot`].
pub const MAP_SHADOW_COUNTERS: &str = "SHADOW_COUNTERS";
/// Name of the per-CPU array of [`SAMPLES`] [`Sample`]s.
pub const MAP_SHADOW_SAMPLES: &str = "SHADOW_SAMPLES";
/// Name of the programs' constant that says whether there is a candidate.
pub const SHADOW_IS_ON: &str = "SHADOW_IS_ON";
/// Name of the programs' constant that says where its image lies: [`Shadow::place`].
pub const SHADOW_PLACE: &str = "SHADOW_PLACE";

/// Packets of which one CPU remembers that the two policies differ about.
pub const SAMPLES: u32 = 64;

/// The candidate.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Shadow {
    /// Where its image lies: the word of a [`super::control::Control`] in which it is active.
    pub place: u64,
    /// Rules for what arrives, the default among them. Counters of those for what leaves come behind theirs.
    pub ingress_rules: u32,
    /// Rules for what leaves, the default among them.
    pub egress_rules: u32,
}

/// How the candidate differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Difference {
    /// It would let through what is refused.
    Accepts = 0,
    /// It would refuse what is let through.
    Refuses = 1,
}

impl Shadow {
    /// No rule: an essential, or nothing is filtered. It is counted as the default's.
    pub const NO_RULE: u32 = u32::MAX;

    /// Counters that there are.
    pub const fn slots(&self) -> u32 {
        2 * (self.ingress_rules + self.egress_rules)
    }

    /// Counter of what the candidate's rule with this number would do otherwise.
    #[inline(always)]
    pub const fn slot(&self, is_egress: bool, number: u32, difference: Difference) -> u32 {
        let (before, rules) = if is_egress {
            (self.ingress_rules, self.egress_rules)
        } else {
            (0, self.ingress_rules)
        };
        let last = rules.wrapping_sub(1);
        let number = if number < last { number } else { last };
        (before + number)
            .wrapping_mul(2)
            .wrapping_add(difference as u32)
    }
}

/// A packet that the two policies differ about.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Sample {
    /// CLOCK_MONOTONIC in ns, to a jiffy; 0 where there is no sample.
    pub at_ns: u64,
    /// Source address, upper half first; of IPv4 the mapped one.
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
    /// Counter of what would be done otherwise, by [`Shadow::slot`].
    pub slot: u32,
    /// Counter slot by which the policy in force has decided.
    pub decided: u32,
    /// Source port, and destination port or ICMP type and code.
    pub ports: [u16; 2],
    /// TCP flags, and the protocol.
    pub flags_protocol: u32,
}

impl Sample {
    /// Where a CPU puts the sample of the `count`-th packet in a slot: the first, second, fourth and so on are remembered, each somewhere
    /// else, because powers of two leave different remainders of 61 as long as counts are below 2^60.
    #[inline(always)]
    pub const fn place(slot: u32, count: u32) -> Option<u32> {
        if count & count.wrapping_sub(1) == 0 {
            Some((slot + count % 61) % SAMPLES)
        } else {
            None
        }
    }
}

const _: () = assert!(size_of::<Sample>() == 56 && size_of::<Shadow>() == 16);
