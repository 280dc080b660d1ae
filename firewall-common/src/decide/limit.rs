//! Token buckets: is there one more in it? For everybody under a rule, or for each source.
//!
//! A bucket is the time at which it is full again: a packet puts that off by what it costs, and is over the limit where that would
//! be further away than the burst allows. Nothing is filled up by anybody, and two CPUs never both take the last token.
//!
//! Whoever comes new takes a bucket that says nothing any more, or else one that says least. A bucket whose owner is over his limit
//! is never given away, so no flood of other sources lifts it; if a line holds nothing but such, the newcomers of the rule share one
//! bucket.

use crate::abi::limit::{Bucket, CONVERSATION_NS, Kind, Line, Owner, Settings};
use crate::abi::terms::Rate;
use crate::hash;
use crate::word::Word;

/// The table of buckets.
pub trait Limits {
    /// What the table is made of.
    type Word: Word;

    /// The settings; `None` if there are none.
    fn settings(&self) -> Option<&Settings>;

    /// The line at `index`, which is masked by the settings; `None` if the table is smaller.
    fn line(&self, index: u32) -> Option<&Line<Self::Word>>;
}

/// Whom a bucket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The source, or its prefix; zero for all.
    pub source: [u64; 2],
    /// The rule, by its counter slot.
    pub rule: u32,
    /// What else there is to tell, such as ports.
    pub more: u64,
    /// What it is for.
    pub kind: Kind,
}

impl Key {
    /// The bucket that all share who come under `rule`.
    #[inline(always)]
    pub const fn shared(rule: u32, more: u64) -> Self {
        Self {
            source: [0; 2],
            rule,
            more,
            kind: Kind::Shared,
        }
    }
}

/// CPUs may be this far apart: a bucket that seems this much emptier than it can be was just taken from by another one.
const SKEW_NS: u64 = 1 << 32;

/// How often a word is changed anew that another CPU has changed meanwhile. Who fails is refused: many packets come at once.
const TRIES: u32 = 8;

/// What is asked of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Whose bucket.
    pub key: Key,
    /// What is to be taken, as the time in ns that it needs to come back.
    pub cost_ns: u64,
    /// How much there can be in a bucket, in the same measure.
    pub tolerance_ns: u64,
}

impl Demand {
    /// To take `units` at `rate`.
    #[inline(always)]
    pub const fn new(key: Key, rate: &Rate, units: u64) -> Self {
        Self {
            key,
            cost_ns: rate.cost_ns(units),
            tolerance_ns: rate.tolerance_ns,
        }
    }
}

/// Whether there is so much left in the bucket, which is then taken. Where there is no room for a source's bucket, those of the rule that
/// found none share one.
#[inline(always)]
pub fn take<L: Limits>(demand: &Demand, now_ns: u64, limits: &L) -> bool {
    let mut key = demand.key;
    // The second time round for newcomers without room.
    for _ in 0..2 {
        let Some(Found {
            owner,
            line,
            bucket,
        }) = find(&key, limits)
        else {
            return false;
        };
        if let Some(bucket) = bucket {
            return charge(bucket, owner, demand.cost_ns, demand.tolerance_ns, now_ns);
        }
        if demand.cost_ns > demand.tolerance_ns {
            return false;
        }
        // Who has used up all that there is says as much as who was refused.
        let is_last = demand.cost_ns.wrapping_add(demand.cost_ns) > demand.tolerance_ns;
        let until = now_ns.wrapping_add(demand.cost_ns);
        if claim(line, owner.marked(is_last), until, now_ns) {
            return true;
        }
        if key.kind as u64 != Kind::Source as u64 {
            return false;
        }
        key = Key::shared(key.rule, MORE_NEWCOMERS);
    }
    false
}

/// What tells the bucket of newcomers without room from the rule's own.
const MORE_NEWCOMERS: u64 = 1;
/// What tells the bucket of SYNs.
pub const MORE_SYNS: u64 = 2;

/// Takes from a bucket that is there.
#[inline(always)]
fn charge<W: Word>(
    bucket: &Bucket<W>,
    owner: Owner,
    cost_ns: u64,
    tolerance_ns: u64,
    now_ns: u64,
) -> bool {
    // An earlier policy may have had a lower limit: who is beyond what this one allows has used it up by now, and gets it back at the
    // new rate.
    let latest = now_ns.wrapping_add(tolerance_ns);
    for _ in 0..TRIES {
        let until = bucket.until.load();
        let from = until.min(latest).max(now_ns);
        let new = from.wrapping_add(cost_ns);
        if new > latest {
            if until > latest.wrapping_add(SKEW_NS) {
                bucket.until.swap(until, latest);
            }
            let marked = owner.marked(true).0;
            if bucket.owner.load() != marked {
                bucket.owner.swap(owner.marked(false).0, marked);
            }
            return false;
        }
        if bucket.until.swap(until, new) {
            // Who has used up all that there is says as much as who was refused; whose bucket was full is not over any more.
            let is_over = new.wrapping_add(cost_ns) > latest;
            if is_over || until <= now_ns {
                let (old, marked) = (owner.marked(!is_over).0, owner.marked(is_over).0);
                if bucket.owner.load() == old {
                    bucket.owner.swap(old, marked);
                }
            }
            return true;
        }
    }
    false
}

/// Counts one more towards a ban. Returns whether that makes `after` of them in `within_ns`, by a window that slides: of the one
/// before, as much counts as the last `within_ns` reach into it.
#[inline(always)]
pub fn strike<L: Limits>(key: &Key, after: u64, within_ns: u64, now_ns: u64, limits: &L) -> bool {
    let Some(Found {
        owner,
        line,
        bucket,
    }) = find(key, limits)
    else {
        return false;
    };
    let Some(bucket) = bucket else {
        claim(line, owner, Strikes::first(now_ns, within_ns).0, now_ns);
        return after <= 1;
    };
    for _ in 0..TRIES {
        let before = Strikes(bucket.until.load());
        let (next, reached) = before.one_more(after, within_ns, now_ns);
        if bucket.until.swap(before.0, next.0) {
            return reached;
        }
    }
    false
}

/// What counts towards a ban: `end of the next window 40 │ in the window before 12 │ in this one 12`. As a number it is about the time
/// in ns from which on it means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strikes(u64);

impl Strikes {
    const COUNT_BITS: u32 = 12;
    const MOST: u64 = (1 << Self::COUNT_BITS) - 1;
    const TIME: u64 = !((1 << (2 * Self::COUNT_BITS)) - 1);

    #[inline(always)]
    const fn new(start_ns: u64, within_ns: u64, before: u64, count: u64) -> Self {
        let end = start_ns.wrapping_add(within_ns).wrapping_add(within_ns);
        Self(end & Self::TIME | before << Self::COUNT_BITS | count)
    }

    #[inline(always)]
    const fn first(now_ns: u64, within_ns: u64) -> Self {
        Self::new(now_ns, within_ns, 0, 1)
    }

    #[inline(always)]
    const fn one_more(self, after: u64, within_ns: u64, now_ns: u64) -> (Self, bool) {
        let start = (self.0 & Self::TIME)
            .wrapping_sub(within_ns)
            .wrapping_sub(within_ns);
        // A window of an earlier policy, or from the future of a CPU that is ahead, begins now.
        let since = now_ns.saturating_sub(start);
        let (before, count) = (self.0 >> Self::COUNT_BITS & Self::MOST, self.0 & Self::MOST);
        let (start, before, count) = if since < within_ns {
            (
                start,
                before,
                if count < Self::MOST {
                    count.wrapping_add(1)
                } else {
                    count
                },
            )
        } else if since.wrapping_sub(within_ns) < within_ns {
            (start.wrapping_add(within_ns), count, 1)
        } else {
            (now_ns, 0, 1)
        };
        // In units of 2^20 ns, so that products fit.
        let within = within_ns >> 20;
        let into = now_ns.wrapping_sub(start) >> 20;
        let left = within.saturating_sub(into);
        let counted = count
            .wrapping_mul(within)
            .wrapping_add(before.wrapping_mul(left));
        // Who is banned begins anew, so that a ban that is lifted is not given again at once.
        let reached = counted >= after.wrapping_mul(within);
        let (before, count) = if reached { (0, 0) } else { (before, count) };
        (Self::new(start, within_ns, before, count), reached)
    }
}

/// Whether a UDP conversation is known, which then stays known for a while.
#[inline(always)]
pub fn is_known<L: Limits>(key: &Key, now_ns: u64, limits: &L) -> bool {
    let Some(Found {
        bucket: Some(bucket),
        ..
    }) = find(key, limits)
    else {
        return false;
    };
    let until = bucket.until.load();
    if until <= now_ns {
        return false;
    }
    // Once a second is often enough.
    if until < now_ns.wrapping_add(CONVERSATION_NS - 1_000_000_000) {
        bucket.until.store(now_ns.wrapping_add(CONVERSATION_NS));
    }
    true
}

/// Remembers a UDP conversation, if there is room.
#[inline(always)]
pub fn know<L: Limits>(key: &Key, now_ns: u64, limits: &L) {
    if let Some(Found {
        owner,
        line,
        bucket,
    }) = find(key, limits)
    {
        let until = now_ns.wrapping_add(CONVERSATION_NS);
        match bucket {
            Some(bucket) => bucket.until.store(until),
            None => {
                claim(line, owner, until, now_ns);
            }
        }
    }
}

/// Where a bucket is, or would be.
struct Found<'a, W> {
    owner: Owner,
    line: &'a Line<W>,
    bucket: Option<&'a Bucket<W>>,
}

#[inline(always)]
fn find<'a, L: Limits>(key: &Key, limits: &'a L) -> Option<Found<'a, L::Word>> {
    let settings = limits.settings()?;
    let [upper, lower] = key.source;
    let rule = u64::from(key.rule) << 2 | key.kind as u64;
    let hash = hash::keyed([upper, lower, rule, key.more], &settings.seed);
    let line = limits.line((hash >> 40) as u32 & settings.mask as u32)?;
    let owner = Owner::new(hash, key.kind);
    let bucket = line
        .buckets
        .iter()
        .find(|bucket| Owner(bucket.owner.load()).is(owner));
    Some(Found {
        owner,
        line,
        bucket,
    })
}

/// How easily a bucket is given away: the higher, the more. Nobody's, or full, or not at all.
mod ease {
    pub(super) const NEVER: u64 = 0;
    pub(super) const NOT_OVER: u64 = 1;
    pub(super) const CONVERSATION: u64 = 2;
    pub(super) const MEANS_NOTHING: u64 = 3;
}

/// How long a bucket that all share keeps its place without anybody asking for it.
const SHARED_IDLE_NS: u64 = 3_600_000_000_000;

/// Takes a bucket of the line for `owner`. One that all share who come under a rule is had at anybody's cost: there are few of them, and
/// they stay. Returns whether one could be had.
#[inline(always)]
fn claim<W: Word>(line: &Line<W>, owner: Owner, until: u64, now_ns: u64) -> bool {
    let mut best = 0;
    let mut chosen = (0, 0);
    for (way, bucket) in line.buckets.iter().enumerate() {
        let found = Owner(bucket.owner.load());
        let left = bucket.until.load().saturating_sub(now_ns);
        let is_shared = found.kind_number() == Kind::Shared as u64;
        let ease = if found.0 == Owner::BUSY.0 {
            ease::NEVER
        } else if is_shared {
            // Whoever comes under a rule would find no bucket at all.
            let idle = now_ns.saturating_sub(bucket.until.load());
            if idle > SHARED_IDLE_NS {
                ease::MEANS_NOTHING
            } else {
                ease::NEVER
            }
        } else if left == 0 || found.0 == Owner::EMPTY.0 {
            ease::MEANS_NOTHING
        } else if found.kind_number() == Kind::Conversation as u64 {
            ease::CONVERSATION
        } else if found.is_over() && owner.kind_number() != Kind::Shared as u64 {
            ease::NEVER
        } else {
            ease::NOT_OVER
        };
        // The one that is soonest full of those that are given away as easily.
        let rank = ease << 62 | (u64::MAX >> 2).saturating_sub(left);
        if ease != ease::NEVER && rank > best {
            best = rank;
            chosen = (way, found.0);
        }
    }
    if best == 0 {
        return false;
    }
    let (way, found) = chosen;
    let bucket = &line.buckets[way & (crate::abi::limit::WAYS - 1)];
    if !bucket.owner.swap(found, Owner::BUSY.0) {
        return false;
    }
    bucket.until.store(until);
    bucket.owner.swap(Owner::BUSY.0, owner.0);
    true
}

#[cfg(not(target_arch = "bpf"))]
pub use host::HostLimits;

#[cfg(not(target_arch = "bpf"))]
mod host;
#[cfg(test)]
mod tests;
