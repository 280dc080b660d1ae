//! What a rule asks beyond what it matches: how much of it comes in, who is banned for it, when SYNs are answered with cookies.

use firewall_common::abi::{ban, limit};

use super::AddressSet;

/// The terms of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How much it lets in. Only of rules that accept.
    pub limit: Option<Limit>,
    /// Who is banned for what it drops or limits. Only of rules that drop, or that accept with a limit; only ingress.
    pub ban: Option<BanAfter>,
    /// From which rate of SYNs on they are answered with cookies. Only of ingress rules that accept TCP.
    pub syn_cookies: Option<Rate>,
}

impl Terms {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Buckets that all share who come under the rule, which are never given away while they are used: its limit's, or that of newcomers
    /// who find no room for one of their own; and that of SYNs.
    pub fn shared_buckets(&self) -> u32 {
        u32::from(self.limit.is_some()) + u32::from(self.syn_cookies.is_some())
    }
}

/// So many in such a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub amount: u64,
    /// In how many seconds: 1, 60, 3,600 or 86,400.
    pub per_s: u32,
}

impl Rate {
    /// Most that there can be in a second: what is above is no limit to any network card.
    pub const MAX_A_SECOND: u64 = 100_000_000_000;

    /// How many make the time `burst` seconds long, rounded up.
    pub const fn in_seconds(self, seconds: u32) -> u64 {
        let all = self.amount as u128 * seconds as u128;
        all.div_ceil(self.per_s as u128) as u64
    }
}

/// A token bucket: filled at `rate`, to `burst` at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What comes in for good.
    pub rate: Rate,
    /// What comes in at once after a pause.
    pub burst: u64,
    /// Who shares a bucket.
    pub per: Per,
    /// What is counted.
    pub unit: Unit,
}

impl Limit {
    /// Longest time in which a bucket may fill, in seconds: ten years.
    pub const MAX_FILL_S: u64 = 10 * 365 * 86_400;
    /// Least burst in bytes: a full frame, or nothing of that size would ever come in.
    pub const MIN_BURST_BYTES: u64 = 1514;
    /// Least burst in bytes where a file says none: segments that are one packet until the network card cuts them (GSO), or that were put
    /// together when they came in (GRO), have up to 64 KiB, and a header of Ethernet with two VLAN tags before it.
    pub const MIN_USUAL_BURST_BYTES: u64 = (64 << 10) + 22;
}

/// Who shares a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Everybody.
    Rule,
    /// A source address.
    Source,
    /// The source addresses of a prefix ([`Limits::prefix_v4`], [`Limits::prefix_v6`]).
    SourcePrefix,
}

/// What a bucket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Packets.
    Packets,
    /// Bytes of frames.
    Bytes,
    /// TCP SYNs, and UDP datagrams that are the first of their source and destination. Only of rules for TCP or UDP.
    Connections,
}

/// Ban a source for what a rule drops or limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanAfter {
    /// After so many packets, 1 to [`Self::MAX_AFTER`].
    pub after: u32,
    /// Within so many seconds.
    pub within_s: u32,
    /// For so many seconds.
    pub for_s: u32,
}

impl BanAfter {
    /// Most packets that are counted.
    pub const MAX_AFTER: u32 = 4_000;
    /// Longest time in which they are counted: a day.
    pub const MAX_WITHIN_S: u32 = 86_400;
    /// Longest ban that a rule gives: a year.
    pub const MAX_FOR_S: u32 = 365 * 86_400;
}

/// `[limits]`: what is remembered for limits and bans of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sources that can be followed at once.
    pub size: u32,
    /// Bits of an IPv4 address that make a source's prefix, 1 to 32.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that make a source's prefix, 1 to 128.
    pub prefix_v6: u8,
}

impl Limits {
    /// Fewest sources that a file may ask for.
    pub const MIN_SIZE: u32 = 1 << 10;
    /// Most sources that a file may ask for.
    pub const MAX_SIZE: u32 = 4 << 20;

    /// Lines of the table that follows `size` sources: a power of two, with room for at least twice as many.
    pub const fn lines(&self) -> u32 {
        (2 * self.size)
            .div_ceil(limit::WAYS as u32)
            .next_power_of_two()
    }

    /// Most lines that may be expected to be [overfull](Self::overfull): one on a million hosts, as each has a hash of its own.
    pub const MAX_OVERFULL: f64 = 1e-6;

    /// How many lines are to be expected that more buckets of rules fall into than one has room for, of `shared` of them
    /// ([`Terms::shared_buckets`]): one without a place lets nothing in. It is the number of choices of one more than there is room
    /// for, times the chance that all of a choice meet, and so a little too high.
    pub fn overfull(&self, shared: u32) -> f64 {
        let choices: f64 = (0..=limit::WAYS as u32)
            .map(|taken| f64::from(shared.saturating_sub(taken)) / f64::from(taken + 1))
            .product();
        choices / f64::from(self.lines()).powi(limit::WAYS as i32)
    }

    /// The least `size` above this one with which no line is to be expected to be overfull, of those that are a power of two. `None` if
    /// there can be none so large.
    pub fn size_for(&self, shared: u32) -> Option<u32> {
        let sizes = (0..).map(|shift| self.size.next_power_of_two() << shift);
        sizes
            .take_while(|&size| size <= Self::MAX_SIZE)
            .find(|&size| Self { size, ..*self }.overfull(shared) <= Self::MAX_OVERFULL)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            size: 65_536,
            prefix_v4: 24,
            prefix_v6: 64,
        }
    }
}

/// `[bans]`: how many there can be, and who is never cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bans {
    /// Bans that there can be at once.
    pub size: u32,
    /// `never-ban`: whom no ban cuts.
    pub never: AddressSet,
}

impl Bans {
    /// Fewest bans that a file may ask for.
    pub const MIN_SIZE: u32 = 1 << 10;
    /// Most bans that a file may ask for.
    pub const MAX_SIZE: u32 = 4 << 20;

    /// Buckets of the table that holds `size` bans: a power of two, with room for at least twice as many.
    pub const fn buckets(&self) -> u32 {
        (2 * self.size)
            .div_ceil(ban::WAYS as u32)
            .next_power_of_two()
    }
}

impl Default for Bans {
    fn default() -> Self {
        Self {
            size: 65_536,
            never: AddressSet::default(),
        }
    }
}
