//! What a decision may ask of the world: the policy image, and to be counted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::ban::Prefix;
use crate::abi::flow::Key;
#[cfg(not(target_arch = "bpf"))]
use crate::abi::flow::{Bucket, Ports, Settings};
use crate::abi::fragment::FragmentKey;
use crate::abi::image::{Line, Outcome, Record};
use crate::abi::terms::{BanAfter, Terms};
#[cfg(not(target_arch = "bpf"))]
use crate::abi::{ban as ban_abi, limit as limit_abi};
#[cfg(not(target_arch = "bpf"))]
use crate::decide::ban::HostBans;
use crate::decide::ban::{self, Ban, Bans};
use crate::decide::flow::Flows;
#[cfg(not(target_arch = "bpf"))]
use crate::decide::flow::HostFlows;
#[cfg(not(target_arch = "bpf"))]
use crate::decide::limit::HostLimits;
use crate::decide::limit::{self, Demand, Limits};
use crate::decide::terms::{self, Simply};
use crate::parse::{IpHeader, Packet, Transport, transport::TCP_HEADER};

/// Everything outside the packet that a decision depends on or changes.
pub trait World {
    /// The policy image in force.
    type Tables: Tables;
    /// The flow table.
    type Flows: Flows;
    /// The table of bans.
    type Bans: Bans;
    /// The table of token buckets.
    type Limits: Limits;

    /// The active image. Asked once for a packet and only behind the parser, so that one packet is decided by one
    /// generation. `None` where there is none.
    fn tables(&self) -> Option<Self::Tables>;

    /// Adds one packet to the counter in `slot`. Returns how many there are, as far as that fits; 0 if there is no such counter.
    fn count(&self, slot: u32, tally: Tally) -> u32;

    /// Counts a packet that no rule names the port of; `sequence` is another number for each.
    fn knock(&self, transport: &Transport, tally: Tally, sequence: u32);

    /// Asks a candidate policy, if there is one, about a packet that has been decided and counted, and counts where it differs
    /// ([`crate::decide::shadow`]). The kernel does that in a program of its own, and where there is a difference does not come back.
    fn compare(&self, packet: &Packet, outcome: Outcome, is_egress: bool) {
        let _ = (packet, outcome, is_egress);
    }

    /// Tells whoever reads events of a packet that has been decided, counted and compared, if it is one
    /// ([`crate::abi::event::is_event`]). The kernel does that in a program of its own too.
    fn report(&self, outcome: Outcome, is_egress: bool) {
        let _ = (outcome, is_egress);
    }

    /// Monotonic time in ns. To a jiffy is good enough unless it is to be `precise`, which takes longer.
    fn now_ns(&self, precise: bool) -> u64;

    /// Who is banned.
    fn bans(&self) -> &Self::Bans;

    /// Whether the prefix of this length that `address` is in is banned now ([`ban::has`]).
    #[inline(always)]
    fn has_ban(&self, address: [u64; 2], length: u32) -> bool {
        ban::has(
            &Prefix::of(address, length),
            || self.now_ns(false),
            self.bans(),
        )
    }

    /// Counts a packet towards the ban of a prefix by the rule with this counter slot, and returns whether it is time
    /// ([`terms::strike_prefix`]).
    #[inline(always)]
    fn strike(&self, prefix: &Prefix, rule: u32, ban: &BanAfter) -> bool
    where
        Self: Sized,
    {
        terms::strike_prefix(prefix, rule, ban, self)
    }

    /// Bans `prefix` for `for_ns` from now, by the rule with this counter slot ([`ban::give`]).
    #[inline(always)]
    fn give_ban(&self, prefix: &Prefix, rule: u32, for_ns: u64) {
        let now_ns = self.now_ns(false);
        ban::give_by_rule(
            &Ban::by_rule(*prefix, rule, for_ns, now_ns),
            now_ns,
            self.bans(),
        );
    }

    /// What the limit of the ingress rule with this number says of a packet of `bytes`, if that is all ([`terms::simply`]).
    #[inline(always)]
    fn simply(&self, source: [u64; 2], number: u32, bytes: u32) -> Simply
    where
        Self: Sized,
    {
        terms::simply(source, number, bytes, self)
    }

    /// Whether a token bucket has what is asked of it, which is then taken ([`limit::take`]). Of small buckets the time must be precise.
    #[inline(always)]
    fn take(&self, demand: &Demand) -> bool {
        let now_ns = self.now_ns(demand.tolerance_ns < Terms::COARSE_TOLERANCE_NS);
        limit::take(demand, now_ns, self.limits())
    }

    /// The token buckets of limits.
    fn limits(&self) -> &Self::Limits;

    /// The flows that this host has opened.
    fn flows(&self) -> &Self::Flows;

    /// Whether the host has a TCP connection with these ends: established or later, and if it may be `half_open`, one whose SYN came from the
    /// other end and was answered, and of which no more has come. A listening socket is none, and neither is one that has sent a SYN and
    /// waits, of which there is a flow. Asked only where nothing cheaper has decided.
    fn has_connection(&self, key: &Key, half_open: bool) -> bool;

    /// Whether a TCP segment acknowledges a SYN cookie of this host; `ip` is the header that it came with. Asked last of all.
    fn acknowledges_cookie(&self, ip: IpHeader<'_>, tcp: &[u8; TCP_HEADER]) -> bool;

    /// Whether one more packet of this kind may be let in now.
    fn admits(&self, kind: Limited) -> bool;

    /// Whether the first fragment of this datagram was accepted; `None` if it was not seen, or is forgotten.
    fn first_fragment(&self, key: &FragmentKey) -> Option<bool>;

    /// Remembers for the later fragments of a datagram whether the first one was accepted.
    fn remember_fragment(&self, key: &FragmentKey, accepts: bool);
}

/// What a packet adds to a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of its frame.
    pub bytes: u32,
    /// Whether it opens a TCP connection.
    pub opens: bool,
}

/// What is let in only so many times in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limited {
    /// An ICMP error about a flow or connection of this host with a peer whose errors are in this part of all, below [`ERROR_PARTS`].
    /// Whoever has a connection can make up errors about it, and uses up his own part with them.
    Error(u32),
    /// A later fragment whose first one was not seen.
    EarlyFragment,
    /// An ICMP error about what rules accept, of which nothing is known: anybody can make one up, and has no share in what
    /// is let in of the others.
    ServedError,
}

/// Parts that errors about flows and connections are let in by, a power of two: who floods one keeps out the errors of one in 64 peers.
pub const ERROR_PARTS: u32 = 64;

impl Limited {
    /// Number of budgets.
    pub const COUNT: usize = ERROR_PARTS as usize + 2;

    /// Number of the budget that it is taken from, below [`Self::COUNT`].
    #[inline(always)]
    pub const fn index(self) -> u32 {
        match self {
            Self::Error(part) => part & (ERROR_PARTS - 1),
            Self::EarlyFragment => ERROR_PARTS,
            Self::ServedError => ERROR_PARTS + 1,
        }
    }

    /// Packets that a CPU lets in from one budget in a period of one to ten seconds.
    ///
    /// A part of the errors has to do for the peers in it: one error for each connection tells a path's MTU, and who traces the way
    /// to a peer over 30 hops, once a second, gets 120 of them in the four seconds that a period has at 250 Hz. All parts together let in
    /// 16,384, which at a microsecond each are 1.6% of a CPU where periods are shortest, and take peers in all parts to use up. Early
    /// fragments wait for the rest in memory that the kernel bounds and that honest ones need too.
    #[inline(always)]
    pub const fn in_a_period(self) -> u32 {
        match self {
            Self::Error(_) => 256,
            Self::ServedError => 1_000,
            Self::EarlyFragment => 64,
        }
    }
}

/// Read access to a policy image.
///
/// Every read is bounds-checked against the image. `None` means that the image is inconsistent, and the decision then is
/// to drop ([`crate::abi::reason::DropReason::BrokenTables`]).
pub trait Tables {
    /// The byte at `index`, from the start of the image.
    fn u8(&self, index: u32) -> Option<u8>;

    /// The `u16` at `index`, in `u16` units.
    fn u16(&self, index: u32) -> Option<u16>;

    /// The `u32` at `index`, in `u32` units.
    fn u32(&self, index: u32) -> Option<u32>;

    /// The `u64` at `index`, in `u64` units.
    fn u64(&self, index: u32) -> Option<u64>;

    /// The record at `index`, in 16-byte units.
    fn record(&self, index: u32) -> Option<&Record>;

    /// The line at `index`, in 64-byte units.
    fn line(&self, index: u32) -> Option<&Line>;
}

/// A world in plain memory: an image, a function that is told what to count, and a flow table and a memory of first
/// fragments if the caller has them. It has no connections, and without a memory of fragments sets no limit.
#[cfg(not(target_arch = "bpf"))]
#[derive(Debug)]
pub struct HostWorld<'a, C> {
    image: &'a [Line],
    count: C,
    flows: MaybeFlows<'a>,
    fragments: Option<&'a dyn Fragments>,
    bans: MaybeBans<'a>,
    limits: MaybeLimits<'a>,
    now_ns: u64,
}

/// A memory of first fragments, and its limits.
#[cfg(not(target_arch = "bpf"))]
pub trait Fragments: core::fmt::Debug {
    /// As [`World::first_fragment`].
    fn first(&self, key: &FragmentKey) -> Option<bool>;

    /// As [`World::remember_fragment`].
    fn remember(&self, key: &FragmentKey, accepts: bool);

    /// As [`World::admits`].
    fn admits(&self, _: Limited) -> bool {
        true
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<'a, C: Fn(u32, Tally)> HostWorld<'a, C> {
    /// Decides by `image`, calls `count` with slot and bytes, follows no flows.
    pub const fn new(image: &'a [Line], count: C) -> Self {
        Self {
            image,
            count,
            flows: MaybeFlows(None),
            fragments: None,
            bans: MaybeBans(None),
            limits: MaybeLimits(None),
            now_ns: 0,
        }
    }

    /// The same, following flows.
    pub fn with_flows(self, flows: &'a HostFlows<'a>) -> Self {
        Self {
            flows: MaybeFlows(Some(flows)),
            ..self
        }
    }

    /// The same, asking who is banned.
    pub fn with_bans(self, bans: HostBans<'a>) -> Self {
        Self {
            bans: MaybeBans(Some(bans)),
            ..self
        }
    }

    /// The same, keeping limits.
    pub fn with_limits(self, limits: &'a HostLimits<'a>) -> Self {
        Self {
            limits: MaybeLimits(Some(limits)),
            ..self
        }
    }

    /// The same, at this time.
    pub fn at_ns(self, now_ns: u64) -> Self {
        Self { now_ns, ..self }
    }

    /// The same, remembering first fragments.
    pub fn with_fragments(self, fragments: &'a dyn Fragments) -> Self {
        Self {
            fragments: Some(fragments),
            ..self
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl<'a, C: Fn(u32, Tally)> World for HostWorld<'a, C> {
    type Tables = HostTables<'a>;
    type Flows = MaybeFlows<'a>;
    type Bans = MaybeBans<'a>;
    type Limits = MaybeLimits<'a>;

    fn tables(&self) -> Option<HostTables<'a>> {
        Some(HostTables(self.image))
    }

    fn count(&self, slot: u32, tally: Tally) -> u32 {
        (self.count)(slot, tally);
        0
    }

    fn knock(&self, _: &Transport, _: Tally, _: u32) {}

    fn now_ns(&self, _: bool) -> u64 {
        self.now_ns
    }

    fn bans(&self) -> &MaybeBans<'a> {
        &self.bans
    }

    fn limits(&self) -> &MaybeLimits<'a> {
        &self.limits
    }

    fn flows(&self) -> &MaybeFlows<'a> {
        &self.flows
    }

    fn has_connection(&self, _: &Key, _: bool) -> bool {
        false
    }

    fn acknowledges_cookie(&self, _: IpHeader<'_>, _: &[u8; TCP_HEADER]) -> bool {
        false
    }

    fn admits(&self, kind: Limited) -> bool {
        self.fragments
            .is_none_or(|fragments| fragments.admits(kind))
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<bool> {
        self.fragments?.first(key)
    }

    fn remember_fragment(&self, key: &FragmentKey, accepts: bool) {
        if let Some(fragments) = self.fragments {
            fragments.remember(key, accepts);
        }
    }
}

/// A flow table, or none.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug)]
pub struct MaybeFlows<'a>(pub Option<&'a HostFlows<'a>>);

#[cfg(not(target_arch = "bpf"))]
impl Flows for MaybeFlows<'_> {
    type Word = core::sync::atomic::AtomicU64;

    fn settings(&self) -> Option<&Settings> {
        self.0?.settings()
    }

    fn ports(&self) -> Option<&Ports<Self::Word>> {
        self.0?.ports()
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<Self::Word>> {
        self.0?.bucket(index)
    }

    fn now(&self) -> u32 {
        self.0.map_or(0, Flows::now)
    }
}

/// A table of bans, or none.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug)]
pub struct MaybeBans<'a>(pub Option<HostBans<'a>>);

#[cfg(not(target_arch = "bpf"))]
impl Bans for MaybeBans<'_> {
    type Word = core::sync::atomic::AtomicU64;

    fn settings(&self) -> Option<&ban_abi::Settings<Self::Word>> {
        self.0.as_ref()?.settings()
    }

    fn filter(&self, index: u32) -> Option<&ban_abi::Filter<Self::Word>> {
        self.0.as_ref()?.filter(index)
    }

    fn bucket(&self, index: u32) -> Option<&ban_abi::Bucket<Self::Word>> {
        self.0.as_ref()?.bucket(index)
    }
}

/// A table of token buckets, or none: then whatever has a limit is over it.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Copy, Debug)]
pub struct MaybeLimits<'a>(pub Option<&'a HostLimits<'a>>);

#[cfg(not(target_arch = "bpf"))]
impl Limits for MaybeLimits<'_> {
    type Word = core::sync::atomic::AtomicU64;

    fn settings(&self) -> Option<&limit_abi::Settings> {
        self.0?.settings()
    }

    fn line(&self, index: u32) -> Option<&limit_abi::Line<Self::Word>> {
        self.0?.line(index)
    }
}

/// An image in plain memory.
#[derive(Clone, Copy, Debug)]
pub struct HostTables<'a>(&'a [Line]);

impl<'a> HostTables<'a> {
    fn get<T: FromBytes + Immutable + KnownLayout>(&self, index: u32) -> Option<&'a T> {
        let size = size_of::<T>();
        let bytes = self.0.as_bytes();
        let start = (index as usize).checked_mul(size)?;
        let bytes = bytes.get(start..start.checked_add(size)?)?;
        T::ref_from_bytes(bytes).ok()
    }
}

impl Tables for HostTables<'_> {
    fn u8(&self, index: u32) -> Option<u8> {
        self.get(index).copied()
    }

    fn u16(&self, index: u32) -> Option<u16> {
        self.get(index).copied()
    }

    fn u32(&self, index: u32) -> Option<u32> {
        self.get(index).copied()
    }

    fn u64(&self, index: u32) -> Option<u64> {
        self.get(index).copied()
    }

    fn record(&self, index: u32) -> Option<&Record> {
        self.get(index)
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.0.get(index as usize)
    }
}
