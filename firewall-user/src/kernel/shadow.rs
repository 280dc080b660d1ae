//! A candidate policy beside the one in force, as the programs have counted where it differs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use firewall_common::abi::control::Place;
use firewall_common::abi::counter::Counter;
use firewall_common::abi::shadow::{
    Difference, MAP_SHADOW, MAP_SHADOW_COUNTERS, MAP_SHADOW_SAMPLES, SAMPLES, Sample, Shadow,
};
use serde::{Deserialize, Serialize};

use super::blob;
use super::counters::total;
use super::pins::{self, Pins};
use super::record::Record;

/// The maps that programs with a candidate have.
pub(super) const MAPS: [&str; 3] = [MAP_SHADOW, MAP_SHADOW_COUNTERS, MAP_SHADOW_SAMPLES];

/// A candidate, as it is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    class: u32,
    slot: u32,
    /// Names of its rules for what arrives, in the order of their numbers.
    pub ingress: Vec<String>,
    /// Names of its rules for what leaves.
    pub egress: Vec<String>,
    /// Since when it is asked, in seconds since 1970.
    pub since_s: u64,
    /// The file it came from.
    pub file: String,
}

impl Candidate {
    pub(super) fn new(
        place: Place,
        ingress: Vec<String>,
        egress: Vec<String>,
        since_s: u64,
        file: String,
    ) -> Self {
        Self {
            class: place.class(),
            slot: place.slot(),
            ingress,
            egress,
            since_s,
            file,
        }
    }

    /// Where its image lies.
    pub(super) const fn place(&self) -> Place {
        Place::new(self.class, self.slot)
    }

    /// What the programs have to know of it. The default of each direction is counted behind its rules.
    pub(super) fn record(&self) -> Shadow {
        let place = firewall_common::abi::control::Control::new(self.place(), Place::NONE);
        Shadow {
            place: place.word,
            ingress_rules: self.ingress.len() as u32 + 1,
            egress_rules: self.egress.len() as u32 + 1,
        }
    }

    pub(super) fn pin(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).context("writing down a candidate")?;
        blob::pin(path, &bytes)
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        serde_json::from_slice(&blob::read(path)?)
            .with_context(|| format!("reading {}", path.display()))
    }

    /// What a counter counts: whether it is about what leaves, the rule or else the default, and the difference.
    fn subject(&self, slot: u32) -> (bool, Option<&str>, Difference) {
        let difference = match slot % 2 {
            0 => Difference::Accepts,
            _ => Difference::Refuses,
        };
        let (number, ingress) = (slot as usize / 2, self.ingress.len() + 1);
        let (is_egress, rule) = match number.checked_sub(ingress) {
            None => (false, self.ingress.get(number)),
            Some(number) => (true, self.egress.get(number)),
        };
        (is_egress, rule.map(String::as_str), difference)
    }
}

/// What a rule of the candidate, or its default, would do otherwise.
#[derive(Clone, Debug)]
pub struct Differs {
    /// Whether it is about what leaves.
    pub is_egress: bool,
    /// The rule; `None`: the default, an essential, or that nothing is filtered.
    pub rule: Option<String>,
    /// Accept or refuse.
    pub difference: Difference,
    /// How much.
    pub counter: Counter,
    /// Some of the packets, the latest first.
    pub samples: Vec<Sample>,
}

/// Whether there is a candidate that programs ask: it is pinned before they are loaded, which takes seconds, and their maps come
/// with them.
pub(super) fn is_asked(pins: &Pins) -> Result<bool> {
    let maps = [MAP_SHADOW_COUNTERS, MAP_SHADOW_SAMPLES];
    for path in [pins.shadow()]
        .into_iter()
        .chain(maps.map(|name| pins.map(name)))
    {
        if !pins::exists(&path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a candidate differs.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn read(pins: &Pins, candidate: &Candidate) -> Result<Vec<Differs>> {
    let open = |name: &str| {
        let path = pins.map(name);
        MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
    };
    let counters = PerCpuArray::try_from(Map::PerCpuArray(open(MAP_SHADOW_COUNTERS)?))?;
    let samples: PerCpuArray<MapData, Record<Sample>> =
        PerCpuArray::try_from(Map::PerCpuArray(open(MAP_SHADOW_SAMPLES)?))?;
    let mut by_slot: BTreeMap<u32, Vec<Sample>> = BTreeMap::new();
    for place in 0..SAMPLES {
        for Record(sample) in samples.get(&place, 0)?.iter() {
            if sample.at_ns != 0 {
                by_slot.entry(sample.slot).or_default().push(*sample);
            }
        }
    }
    let mut differs = Vec::new();
    for slot in 0..candidate.record().slots() {
        let counter = total(&counters, slot)?;
        if counter == Counter::default() {
            continue;
        }
        let (is_egress, rule, difference) = candidate.subject(slot);
        let mut samples = by_slot.remove(&slot).unwrap_or_default();
        samples.sort_by_key(|sample| std::cmp::Reverse(sample.at_ns));
        differs.push(Differs {
            is_egress,
            rule: rule.map(str::to_owned),
            difference,
            counter,
            samples,
        });
    }
    Ok(differs)
}
