//! The table of bans as user space has it: mapped, and changed by the code that the programs change it with.
//!
//! Why somebody was banned is kept beside it, in a map that the programs do not know.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData, MapError};
use firewall_common::abi::ban::{
    About, Bucket, Deadline, Entry, FILTERS, Filter, LENGTHS_OF_RULES, MAP_BAN_FILTERS,
    MAP_BAN_SETTINGS, MAP_BANS, MAX_LENGTHS, Prefix, Settings, SlotWord,
};
use firewall_common::abi::flow::Key;
use firewall_common::decide::ban::{self, Ban, Family, Given, HostBans};
use rustix::time::{ClockId, clock_gettime};

use super::mapped::{Access, Mapped};
use super::pins::Pins;

/// The maps that make up a table, by the names that the object has for them.
pub(super) const MAPS: [&str; 3] = [MAP_BANS, MAP_BAN_SETTINGS, MAP_BAN_FILTERS];
/// Name of the map from prefix to reason.
pub(super) const MAP_REASONS: &str = "BAN_REASONS";
/// `BPF_F_NO_PREALLOC` (linux/bpf.h): most bans have no reason, and most tables few bans.
const REASON_MAP_FLAGS: u32 = 1;

/// Longest reason in bytes.
pub const MAX_REASON: usize = 112;
/// Address, upper half first, and length, as bytes.
type ReasonKey = [u64; 3];
/// Since when the ban is, which tells a reason of an earlier one; then length and text.
type Reason = [u8; 8 + 8 + MAX_REASON];

/// Different prefix lengths that bans of people may have, besides single addresses: of the others one may be of rules.
const MOST_LENGTHS: usize = (MAX_LENGTHS - LENGTHS_OF_RULES) as usize;

/// Bits that a prefix of which there are no more lengths may be split by: into 256 at the most.
const MAX_SPLIT_BITS: u8 = 8;

/// A ban that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveBan {
    /// Who is banned.
    pub prefix: Prefix,
    /// Nanoseconds until it ends; `None` if it does not.
    pub left_ns: Option<u64>,
    /// Nanoseconds since it was given.
    pub age_ns: u64,
    /// Who gave it.
    pub about: About,
    /// Why.
    pub reason: Option<String>,
}

/// What became of a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Banned now.
    New,
    /// Banned already; the time is the new one.
    Renewed,
}

/// The table of bans of an interface.
#[derive(Debug)]
pub struct BanTable {
    buckets: Mapped<Bucket<AtomicU64>>,
    settings: Mapped<Settings<AtomicU64>>,
    filters: Mapped<Filter<AtomicU64>>,
    reasons: Option<HashMap<MapData, ReasonKey, Reason>>,
}

impl BanTable {
    /// The one that is pinned with an interface.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let open = |name: &str| {
            let path = pins.map(name);
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
        };
        let [buckets, settings, filters] = MAPS.map(open);
        let reasons = HashMap::try_from(Map::HashMap(open(MAP_REASONS)?))?;
        let mut table = Self::of([&buckets?, &settings?, &filters?])?;
        table.reasons = Some(reasons);
        Ok(table)
    }

    /// The one in these [`MAPS`], without reasons.
    pub(super) fn of([buckets, settings, filters]: [&MapData; 3]) -> Result<Self> {
        let count = buckets
            .info()
            .context("asking for the table of bans")?
            .max_entries();
        Ok(Self {
            buckets: Mapped::new(buckets, count, Access::Write)?,
            settings: Mapped::new(settings, 1, Access::Write)?,
            filters: Mapped::new(filters, FILTERS, Access::Write)?,
            reasons: None,
        })
    }

    /// Makes and pins the map of reasons, with room for `size`.
    pub(super) fn pin_reasons(pins: &Pins, size: u32) -> Result<()> {
        let reasons: HashMap<MapData, ReasonKey, Reason> =
            HashMap::create(size, REASON_MAP_FLAGS).context("making the map of reasons")?;
        let path = pins.map(MAP_REASONS);
        reasons
            .pin(&path)
            .with_context(|| format!("pinning {}", path.display()))
    }

    /// Room for bans.
    pub fn size(&self) -> usize {
        self.buckets.len() * firewall_common::abi::ban::WAYS
    }

    fn host(&self) -> HostBans<'_> {
        HostBans {
            settings: &self.settings[0],
            filters: &self.filters,
            buckets: &self.buckets,
        }
    }

    /// Bans `prefix` for `for_ns` from now, or for good. Nobody else may be changing the table but the programs.
    ///
    /// # Errors
    ///
    /// There is no room for it, or no more prefix lengths can be looked for.
    pub fn give(
        &mut self,
        prefix: Prefix,
        for_ns: Option<u64>,
        everywhere: bool,
        reason: Option<&str>,
    ) -> Result<Outcome> {
        let now_ns = now_ns();
        let deadline = match for_ns {
            Some(for_ns) => Deadline::at_ns(now_ns.saturating_add(for_ns)),
            None => Deadline::NEVER,
        };
        let mut outcome = Outcome::Renewed;
        for piece in self.pieces(prefix)? {
            let about = About {
                length: piece.length,
                by: 0,
                everywhere,
            };
            let ban = Ban {
                prefix: piece,
                deadline,
                about,
            };
            match ban::give(&ban, now_ns, &self.host()) {
                Given::New => outcome = Outcome::New,
                Given::Renewed => {}
                Given::NoRoom => bail!(
                    "there is no room for another ban; lift some, or ask for more with `size` under [bans], which takes effect \
                     when the interface is detached and guarded again"
                ),
            }
            self.remember(&piece, reason)?;
        }
        Ok(outcome)
    }

    /// Lifts every ban inside `prefix`, or of those the ones that were given for `reason`. Returns what was lifted.
    ///
    /// # Errors
    ///
    /// What the kernel says of reasons.
    pub fn lift(&mut self, prefix: &Prefix, reason: Option<&str>) -> Result<Vec<Prefix>> {
        let now_ns = now_ns();
        let inside: Vec<Prefix> = self
            .entries()
            .filter(|(_, found, _)| contains(prefix, found))
            .filter(|(_, found, entry)| {
                let since_ns = entry.since_ns.load(Ordering::Relaxed);
                reason.is_none() || self.reason(found, since_ns).as_deref() == reason
            })
            .map(|(_, found, _)| found)
            .collect();
        let mut lifted = Vec::new();
        for found in inside {
            if ban::lift(&found, now_ns, &self.host()) {
                lifted.push(found);
            }
            if let Some(reasons) = &mut self.reasons {
                ignore_missing(reasons.remove(&reason_key(&found)))?;
            }
        }
        Ok(lifted)
    }

    /// How long just this prefix is still banned, if it is: nanoseconds, `None` for good.
    pub fn left_ns(&self, prefix: &Prefix) -> Option<Option<u64>> {
        let now_ns = now_ns();
        let mut live = self
            .entries()
            .filter(|(word, ..)| !word.deadline().is_over(now_ns));
        let (word, ..) = live.find(|(_, found, _)| found == prefix)?;
        Some(word.deadline().left_ns(now_ns))
    }

    /// How many bans have not ended.
    pub fn count(&self) -> usize {
        let now_ns = now_ns();
        let live = self
            .entries()
            .filter(|(word, ..)| !word.deadline().is_over(now_ns));
        live.count()
    }

    /// The bans that have not ended, widest and lowest first.
    pub fn live(&self) -> Vec<LiveBan> {
        let now_ns = now_ns();
        let mut bans: Vec<LiveBan> = self
            .entries()
            .filter(|(word, ..)| !word.deadline().is_over(now_ns))
            .map(|(word, prefix, entry)| {
                let since_ns = entry.since_ns.load(Ordering::Relaxed);
                LiveBan {
                    prefix,
                    left_ns: word.deadline().left_ns(now_ns),
                    age_ns: now_ns.saturating_sub(since_ns),
                    about: About::from_word(entry.about.load(Ordering::Relaxed)),
                    reason: self.reason(&prefix, since_ns),
                }
            })
            .collect();
        bans.sort_by_key(|ban| (!ban.prefix.is_v4(), ban.prefix.address, ban.prefix.length));
        // Two CPUs that ban at once may both have done so.
        bans.dedup_by_key(|ban| ban.prefix);
        bans
    }

    /// Looks from now on for just those prefix lengths that bans have, and where rules ban, for single addresses of IPv4 and prefixes
    /// of IPv6 of `by_rule` bits; and lets no others past the filter.
    pub fn settle(&self, by_rule: Option<u8>) {
        let now_ns = now_ns();
        let mut lengths: [BTreeSet<u8>; 2] = Default::default();
        for (word, prefix, _) in self.entries() {
            if !word.deadline().is_over(now_ns) {
                lengths[family(&prefix) as usize].insert(prefix.length);
            }
        }
        if let Some(length_v6) = by_rule {
            let [v4, v6] = &mut lengths;
            v4.insert(128);
            v6.insert(length_v6);
        }
        for (word, lengths) in self.settings[0].lengths.iter().zip(lengths) {
            word.store(packed(&lengths), Ordering::Release);
        }
        let live = self
            .entries()
            .filter(|(word, ..)| !word.deadline().is_over(now_ns));
        ban::filter_anew(live.map(|(_, prefix, _)| prefix), &self.host());
    }

    /// Every slot in use, its ban over or not.
    fn entries(&self) -> impl Iterator<Item = (SlotWord, Prefix, &Entry<AtomicU64>)> {
        let buckets = self.buckets.iter();
        buckets
            .flat_map(|bucket| bucket.slots.iter().zip(&bucket.entries))
            .map(|(slot, entry)| (SlotWord(slot.load(Ordering::Acquire)), entry))
            .filter(|(word, _)| word.is_used())
            .map(|(word, entry)| {
                let [upper, lower] = &entry.address;
                let about = About::from_word(entry.about.load(Ordering::Relaxed));
                let prefix = Prefix {
                    address: [upper.load(Ordering::Relaxed), lower.load(Ordering::Relaxed)],
                    length: about.length,
                };
                (word, prefix, entry)
            })
    }

    /// The prefix, or where there are too many lengths already the longer ones that it consists of. They are looked for from now on.
    fn pieces(&self, prefix: Prefix) -> Result<Vec<Prefix>> {
        let word = &self.settings[0].lengths[family(&prefix) as usize];
        let mut lengths = unpacked(word.load(Ordering::Acquire));
        if lengths.contains(&prefix.length) {
            return Ok(vec![prefix]);
        }
        // Those of rules are there when they are needed.
        let is_single = prefix.length == 128;
        let others = lengths.iter().filter(|&&length| length != 128).count();
        if is_single || others < MOST_LENGTHS {
            lengths.insert(prefix.length);
            word.store(packed(&lengths), Ordering::Release);
            return Ok(vec![prefix]);
        }
        let longer = lengths.range(prefix.length..).next().copied();
        match longer {
            Some(length) if length - prefix.length <= MAX_SPLIT_BITS => {
                let address = whole(prefix.address);
                let step = 128 - length;
                let count = 1u128 << (length - prefix.length);
                Ok((0..count)
                    .map(|index| Prefix {
                        address: halves(address | index.checked_shl(step.into()).unwrap_or(0)),
                        length,
                    })
                    .collect())
            }
            _ => bail!(
                "bans have {MOST_LENGTHS} different prefix lengths already, each of which every packet is looked up by; use one of \
                 them: {}",
                lengths
                    .iter()
                    .map(|length| format!("/{}", shown_length(&prefix, *length)))
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
        }
    }

    fn remember(&mut self, prefix: &Prefix, text: Option<&str>) -> Result<()> {
        let since = ban::since_ns(prefix, &self.host());
        let key = reason_key(prefix);
        let (Some(text), Some(since)) = (text, since) else {
            return match &mut self.reasons {
                Some(reasons) if text.is_none() => ignore_missing(reasons.remove(&key)),
                _ => Ok(()),
            };
        };
        let mut reason: Reason = [0; size_of::<Reason>()];
        reason[..8].copy_from_slice(&since.to_le_bytes());
        reason[8] = text.len() as u8;
        reason[16..16 + text.len()].copy_from_slice(text.as_bytes());
        let Some(reasons) = &mut self.reasons else {
            return Ok(());
        };
        if reasons.insert(key, reason, 0).is_ok() {
            return Ok(());
        }
        self.forget_reasons()?;
        let reasons = self.reasons.as_mut().context("no map of reasons")?;
        reasons
            .insert(key, reason, 0)
            .context("keeping the reason of a ban")
    }

    /// Removes the reasons of bans that there are no more.
    fn forget_reasons(&mut self) -> Result<()> {
        let live: BTreeSet<ReasonKey> = self
            .live()
            .iter()
            .map(|ban| reason_key(&ban.prefix))
            .collect();
        let Some(reasons) = &mut self.reasons else {
            return Ok(());
        };
        let gone: Vec<ReasonKey> = reasons
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !live.contains(key))
            .collect();
        gone.iter()
            .try_for_each(|key| ignore_missing(reasons.remove(key)))
    }

    fn reason(&self, prefix: &Prefix, since_ns: u64) -> Option<String> {
        let reason = self.reasons.as_ref()?.get(&reason_key(prefix), 0).ok()?;
        let (since, rest) = reason.split_first_chunk()?;
        if u64::from_le_bytes(*since) != since_ns {
            return None;
        }
        let text = rest[8..].get(..usize::from(rest[0]))?;
        String::from_utf8(text.to_vec()).ok()
    }
}

/// CLOCK_MONOTONIC, which the programs go by.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether `inner` is the same prefix or one inside.
pub fn contains(outer: &Prefix, inner: &Prefix) -> bool {
    outer.is_v4() == inner.is_v4()
        && outer.length <= inner.length
        && Prefix::of(inner.address, outer.length.into()).address == outer.address
}

/// The length that people write.
pub fn shown_length(prefix: &Prefix, length: u8) -> u8 {
    if Key::is_mapped(prefix.address) && length >= 96 {
        length - 96
    } else {
        length
    }
}

fn family(prefix: &Prefix) -> Family {
    if prefix.is_v4() {
        Family::V4
    } else {
        Family::V6
    }
}

/// Longest first: single addresses are what is banned most.
fn packed(lengths: &BTreeSet<u8>) -> u64 {
    let longest = lengths.iter().rev().take(MAX_LENGTHS as usize);
    (0..)
        .step_by(8)
        .zip(longest)
        .fold(0, |word, (shift, &length)| {
            word | u64::from(length) << shift
        })
}

fn unpacked(word: u64) -> BTreeSet<u8> {
    let bytes = word.to_le_bytes();
    bytes.into_iter().filter(|&length| length != 0).collect()
}

const fn whole([upper, lower]: [u64; 2]) -> u128 {
    (upper as u128) << 64 | lower as u128
}

const fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

const fn reason_key(prefix: &Prefix) -> ReasonKey {
    let [upper, lower] = prefix.address;
    [upper, lower, prefix.length as u64]
}

fn ignore_missing(removed: Result<(), MapError>) -> Result<()> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(error) => Err(error).context("removing the reason of a ban"),
    }
}
