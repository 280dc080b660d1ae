//! Is a source banned? And the two changes that there are: a ban is given, a ban is lifted.
//!
//! The slot's word is the lock: who gives a ban swaps a free slot's word for [`SlotWord::BUSY`], writes the entry, and then the new
//! word. Who looks compares the whole prefix and then sees that the word is still the same. Programs and user space, which maps the
//! table, do the same.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{Ordering, fence};

use super::{address, terms};
use crate::abi::ban::{
    About, Bucket, Deadline, Entry, FILTERS, Filter, MAX_LENGTHS, PROBES, PROBES_OF_RULES, Prefix,
    Settings, SlotWord, WAYS, WAYS_OF_RULES, filter_bits,
};
use crate::abi::flow::Key;
use crate::abi::image::header;
use crate::hash;
use crate::parse::{Addresses, Packet};
use crate::tables::{Tables, World};
use crate::word::Word;

/// The table of bans.
pub trait Bans {
    /// What the table is made of.
    type Word: Word;

    /// The settings; `None` if there are none.
    fn settings(&self) -> Option<&Settings<Self::Word>>;

    /// The filter at `index`.
    fn filter(&self, index: u32) -> Option<&Filter<Self::Word>>;

    /// The bucket at `index`, which is masked by the settings; `None` if the table is smaller.
    fn bucket(&self, index: u32) -> Option<&Bucket<Self::Word>>;
}

/// Families, as [`Settings::lengths`] has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// Whether a ban holds back what rules accept. What no rule names is not asked for: it is refused without. `None` if the tables are
/// inconsistent.
#[inline(always)]
pub fn holds<T: Tables, W: World>(packet: &Packet, tables: &T, world: &W) -> Option<bool> {
    let family = match packet.addresses {
        Addresses::V4 { .. } => Family::V4,
        Addresses::V6 { .. } => Family::V6,
    };
    if !any(family, world.bans()) {
        return Some(false);
    }
    let (source, _) = terms::source(packet);
    if !is_banned(source, family, world) {
        return Some(false);
    }
    Some(!is_never_banned(source, tables)?)
}

/// The same with the tables that are in force now; not where there are none.
#[inline(always)]
pub fn holds_now<W: World>(packet: &Packet, world: &W) -> bool {
    let holds = match world.tables() {
        Some(tables) => holds(packet, &tables, world),
        None => None,
    };
    holds == Some(true)
}

/// Whether a source may be banned; `None` if the tables are missing or inconsistent.
#[inline(always)]
pub fn may_be_banned<W: World>(source: [u64; 2], world: &W) -> Option<bool> {
    Some(!is_never_banned(source, &world.tables()?)?)
}

/// Whether the source is among those whom no ban cuts; `None` if the tables are inconsistent.
#[inline(always)]
fn is_never_banned<T: Tables>(source: [u64; 2], tables: &T) -> Option<bool> {
    let [v4, v6] = header::NEVER_BANNED.map(|table| header::INGRESS + table);
    let entry = if Key::is_mapped(source) {
        address::find_v4(tables, v4, source[1] as u32)?
    } else {
        address::find_v6(tables, v6, source)?
    };
    Some(entry.is_some_and(|entry| entry.first() != 0))
}

/// Whether there is any ban of this family. Most machines have none, and then no more is asked.
#[inline(always)]
pub fn any<B: Bans>(family: Family, bans: &B) -> bool {
    bans.settings()
        .is_some_and(|settings| settings.lengths[family as usize].load() != 0)
}

/// Whether `address` is banned: one look-up for each prefix length that bans have.
#[inline(always)]
pub fn is_banned<W: World>(address: [u64; 2], family: Family, world: &W) -> bool {
    let Some(settings) = world.bans().settings() else {
        return false;
    };
    let mut lengths = settings.lengths[family as usize].load();
    for _ in 0..MAX_LENGTHS {
        let length = lengths as u32 & 0xff;
        if length == 0 {
            break;
        }
        lengths >>= 8;
        if world.has_ban(address, length) {
            return true;
        }
    }
    false
}

/// Whether this very prefix is banned. The time is asked for behind the filter.
#[inline(always)]
pub fn has<B: Bans>(prefix: &Prefix, now_ns: impl Fn() -> u64, bans: &B) -> bool {
    let Some(settings) = bans.settings() else {
        return false;
    };
    let hash = hash_of(prefix, settings);
    let (word, bits) = filter_bits(hash);
    let may_be = bans
        .filter(settings.filter.load() as u32)
        .is_none_or(|filter| filter.words[word].load() & bits == bits);
    if !may_be {
        return false;
    }
    let now_ns = now_ns();
    let place = Place::at(hash);
    for probe in 0..PROBES {
        let Some(bucket) = bans.bucket(place.bucket(probe, settings)) else {
            return false;
        };
        // Without a branch for each slot: nearly always none of them is it.
        let mut tagged = 0u32;
        // Of the slots that rules may use: who found none of these free went on to the next bucket.
        let mut empty = 0;
        for (way, slot) in bucket.slots.iter().enumerate() {
            let word = SlotWord(slot.load());
            tagged |= is_zero(u64::from(word.tag() ^ place.tag)) << way;
            if way < WAYS_OF_RULES {
                empty |= is_zero(word.0);
            }
        }
        if tagged != 0 {
            for (way, slot) in bucket.slots.iter().enumerate() {
                if tagged >> way & 1 != 0
                    && let Some(word) = of(slot, &bucket.entries[way], prefix)
                    && !word.deadline().is_over(now_ns)
                {
                    return true;
                }
            }
        }
        if empty != 0 {
            return false;
        }
    }
    false
}

/// 1 for 0, else 0.
#[inline(always)]
const fn is_zero(value: u64) -> u32 {
    // Both have the highest bit set only where the value is 0.
    ((!value & value.wrapping_sub(1)) >> 63) as u32
}

/// The word of `slot`, if its entry is of `prefix`.
#[inline(always)]
fn of<W: Word>(slot: &W, entry: &Entry<W>, prefix: &Prefix) -> Option<SlotWord> {
    let before = SlotWord(slot.load());
    W::barrier();
    let same = (entry.address[0].load() ^ prefix.address[0])
        | (entry.address[1].load() ^ prefix.address[1])
        | (entry.about.load() ^ u64::from(prefix.length)) & 0xff
        == 0;
    W::barrier();
    (same && slot.load() == before.0 && before.is_used()).then_some(before)
}

/// A ban to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom.
    pub prefix: Prefix,
    /// Until when.
    pub deadline: Deadline,
    /// Who gives it; the length is the prefix's.
    pub about: About,
}

impl Ban {
    /// The ban of a prefix for `for_ns` from `now_ns`, by the rule with this counter slot.
    #[inline(always)]
    pub const fn by_rule(prefix: Prefix, rule: u32, for_ns: u64, now_ns: u64) -> Self {
        Self {
            prefix,
            deadline: Deadline::at_ns(now_ns.saturating_add(for_ns)),
            about: About {
                length: prefix.length,
                by: rule,
                everywhere: false,
            },
        }
    }
}

/// What became of a ban that was to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Given {
    /// It is there.
    New,
    /// It was there, and ends later or earlier now.
    Renewed,
    /// There is no room.
    NoRoom,
}

/// Gives a ban. The prefix's length must be among [`Settings::lengths`], or nobody looks for it.
#[inline(always)]
pub fn give<B: Bans>(ban: &Ban, now_ns: u64, bans: &B) -> Given {
    give_within::<PROBES, B>(ban, now_ns, bans)
}

/// The same for rules, which try [`PROBES_OF_RULES`] buckets: of a ban that is in another one there are then two, and the longer counts.
#[inline(always)]
pub fn give_by_rule<B: Bans>(ban: &Ban, now_ns: u64, bans: &B) -> Given {
    give_within::<PROBES_OF_RULES, B>(ban, now_ns, bans)
}

#[inline(always)]
fn give_within<const TRIES: u32, B: Bans>(ban: &Ban, now_ns: u64, bans: &B) -> Given {
    let Some(settings) = bans.settings() else {
        return Given::NoRoom;
    };
    let hash = hash_of(&ban.prefix, settings);
    let given = put::<TRIES, B>(ban, &Place::at(hash), settings, now_ns, bans);
    // Behind the table: who makes a filter anew meanwhile finds the ban in the one or leaves the bits in the other.
    if !matches!(given, Given::NoRoom) {
        for index in 0..FILTERS {
            if let Some(filter) = bans.filter(index) {
                mark(hash, filter);
            }
        }
    }
    given
}

/// Has a filter let through what has this hash.
#[inline(always)]
fn mark<W: Word>(hash: u64, filter: &Filter<W>) {
    let (word, bits) = filter_bits(hash);
    if filter.words[word].load() & bits != bits {
        filter.words[word].set(bits);
    }
}

/// Makes the filter anew that does not count, of `prefixes`, and then has it count. Nobody else may be doing so.
#[cfg(not(target_arch = "bpf"))]
pub fn filter_anew<B: Bans>(prefixes: impl Iterator<Item = Prefix>, bans: &B) {
    let Some(settings) = bans.settings() else {
        return;
    };
    let spare = (settings.filter.load() as u32 + 1) % FILTERS;
    let Some(filter) = bans.filter(spare) else {
        return;
    };
    for word in &filter.words {
        word.store(0);
    }
    // A program that has written a ban before it is looked for below sets its bits behind this.
    fence(Ordering::SeqCst);
    for prefix in prefixes {
        mark(hash_of(&prefix, settings), filter);
    }
    settings.filter.store(spare.into());
}

/// Writes a ban into the table.
#[inline(always)]
fn put<const TRIES: u32, B: Bans>(
    ban: &Ban,
    place: &Place,
    settings: &Settings<B::Word>,
    now_ns: u64,
    bans: &B,
) -> Given {
    let word = SlotWord::new(place.tag, ban.deadline);
    let by_rule = ban.about.by != 0;
    // The first place that could be taken: bucket's index and way, found while the prefix itself is looked for.
    let mut free = None;
    for probe in 0..TRIES {
        let index = place.bucket(probe, settings);
        let Some(bucket) = bans.bucket(index) else {
            return Given::NoRoom;
        };
        let mut empty = false;
        for (way, (slot, entry)) in bucket.slots.iter().zip(&bucket.entries).enumerate() {
            let found = SlotWord(slot.load());
            if found.tag() == place.tag
                && let Some(before) = of(slot, entry, &ban.prefix)
                && let Some(given) = renew(ban, before, word, slot, entry, now_ns)
            {
                return given;
            }
            let is_of_rules = way < WAYS_OF_RULES;
            // Where one of these was never used, neither a rule nor a command has gone further.
            empty |= is_of_rules && found.0 == SlotWord::EMPTY.0;
            // Rules leave room for commands, whoever they ban.
            if free.is_none() && (!by_rule || is_of_rules) && can_be_had(found, now_ns) {
                free = Some((index, way, found));
            }
        }
        if empty {
            break;
        }
    }
    let Some((index, way, found)) = free else {
        return Given::NoRoom;
    };
    let Some(bucket) = bans.bucket(index) else {
        return Given::NoRoom;
    };
    let (slot, entry) = (
        &bucket.slots[way & (WAYS - 1)],
        &bucket.entries[way & (WAYS - 1)],
    );
    if !slot.swap(found.0, SlotWord::BUSY.0) {
        // Another CPU is giving one at this moment, perhaps this; the next packet tries again.
        return Given::NoRoom;
    }
    entry.address[0].store(ban.prefix.address[0]);
    entry.address[1].store(ban.prefix.address[1]);
    entry.about.store(ban.about.to_word());
    entry.since_ns.store(now_ns);
    slot.swap(SlotWord::BUSY.0, word.0);
    Given::New
}

/// Since when this very prefix is banned, in ns, whether or not that is over.
#[cfg(not(target_arch = "bpf"))]
pub fn since_ns<B: Bans>(prefix: &Prefix, bans: &B) -> Option<u64> {
    let settings = bans.settings()?;
    let place = Place::of(prefix, settings);
    (0..PROBES)
        .filter_map(|probe| bans.bucket(place.bucket(probe, settings)))
        .flat_map(|bucket| bucket.slots.iter().zip(&bucket.entries))
        .find(|(slot, entry)| of(*slot, entry, prefix).is_some())
        .map(|(_, entry)| entry.since_ns.load())
}

/// Whether a slot is nobody's, or its ban over.
#[inline(always)]
const fn can_be_had(word: SlotWord, now_ns: u64) -> bool {
    word.0 == SlotWord::EMPTY.0 || word.is_used() && word.deadline().is_over(now_ns)
}

/// Gives a ban that is there another time. `None` if it was changed meanwhile.
#[inline(always)]
fn renew<W: Word>(
    ban: &Ban,
    before: SlotWord,
    word: SlotWord,
    slot: &W,
    entry: &Entry<W>,
    now_ns: u64,
) -> Option<Given> {
    let is_over = before.deadline().is_over(now_ns);
    // No rule makes a ban end earlier, or be meant for fewer interfaces.
    let by_rule = ban.about.by != 0;
    if by_rule && !is_over && before.deadline().0 >= ban.deadline.0 {
        return Some(Given::Renewed);
    }
    let known = About::from_word(entry.about.load());
    let about = About {
        everywhere: ban.about.everywhere || by_rule && !is_over && known.everywhere,
        ..ban.about
    };
    if !slot.swap(before.0, word.0) {
        return None;
    }
    entry.about.store(about.to_word());
    Some(if is_over {
        entry.since_ns.store(now_ns);
        Given::New
    } else {
        Given::Renewed
    })
}

/// Lifts the ban of this very prefix. Returns whether there was one at `now_ns`.
#[cfg(not(target_arch = "bpf"))]
pub fn lift<B: Bans>(prefix: &Prefix, now_ns: u64, bans: &B) -> bool {
    let mut lifted = false;
    let Some(settings) = bans.settings() else {
        return false;
    };
    let place = Place::of(prefix, settings);
    // Two CPUs that give one at once may both have done so.
    for probe in 0..PROBES {
        let Some(bucket) = bans.bucket(place.bucket(probe, settings)) else {
            return lifted;
        };
        for (slot, entry) in bucket.slots.iter().zip(&bucket.entries) {
            while let Some(word) = of(slot, entry, prefix).filter(|word| word.tag() == place.tag) {
                if word.deadline() == Deadline::PAST {
                    break;
                }
                if slot.swap(word.0, SlotWord::new(place.tag, Deadline::PAST).0) {
                    lifted |= !word.deadline().is_over(now_ns);
                }
            }
        }
    }
    lifted
}

#[inline(always)]
fn hash_of<W>(prefix: &Prefix, settings: &Settings<W>) -> u64 {
    let [upper, lower] = prefix.address;
    hash::keyed([upper, lower, u64::from(prefix.length)], &settings.seed)
}

/// Where a prefix belongs.
struct Place {
    index: u32,
    step: u32,
    tag: u32,
}

impl Place {
    #[cfg(not(target_arch = "bpf"))]
    fn of<W>(prefix: &Prefix, settings: &Settings<W>) -> Self {
        Self::at(hash_of(prefix, settings))
    }

    #[inline(always)]
    const fn at(hash: u64) -> Self {
        Self {
            index: hash as u32,
            step: (hash >> 16) as u32 | 1,
            tag: SlotWord::tag_of(hash),
        }
    }

    /// The bucket that is tried after `probe` others.
    #[inline(always)]
    fn bucket<W>(&self, probe: u32, settings: &Settings<W>) -> u32 {
        self.index.wrapping_add(probe.wrapping_mul(self.step)) & settings.mask as u32
    }
}

#[cfg(not(target_arch = "bpf"))]
pub use host::HostBans;

#[cfg(not(target_arch = "bpf"))]
mod host;
#[cfg(test)]
pub(super) mod tests;
