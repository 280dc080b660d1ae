//! An interface's counters, in one map or several. Where a policy needs more than there is room for, the program goes on
//! in a larger map, and the one before keeps what it has counted: a slot's count is the sum over all of them. Nothing is
//! copied from one to the next, so that no packet is counted twice or not at all.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use firewall_common::abi::counter::Counter;

use super::pins::{self, Pins};
use super::record::Record;
use super::told;

/// Every pinned map of counters, the oldest first. At least doubling each time, there are seven at most.
pub struct Counters {
    maps: Vec<CounterMap>,
}

struct CounterMap {
    id: u32,
    slots: PerCpuArray<MapData, Record<Counter>>,
}

impl Counters {
    /// Opens what is pinned.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let mut maps = Vec::new();
        loop {
            let path = pins.counters(maps.len());
            if !pins::exists(&path)? {
                return Ok(Self { maps });
            }
            let data =
                MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
            maps.push(CounterMap {
                id: data.info().context("asking for a map of counters")?.id(),
                slots: PerCpuArray::try_from(Map::PerCpuArray(data))?,
            });
        }
    }

    /// The counters in `slots`, in their order, summed over maps and CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn read(&self, slots: impl IntoIterator<Item = u32>) -> Result<Vec<Counter>> {
        slots.into_iter().map(|slot| self.total(slot)).collect()
    }

    fn total(&self, slot: u32) -> Result<Counter> {
        // A map that is too small for the slot has never counted it.
        self.maps
            .iter()
            .filter(|map| slot < map.slots.len())
            .try_fold(Counter::default(), |sum, map| {
                Ok(sum.plus(total(&map.slots, slot)?))
            })
    }

    /// Sets the counters in `slots` to zero in every map. None of them may be in the policy in force.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(super) fn clear(&mut self, slots: impl IntoIterator<Item = u32>) -> Result<()> {
        let cpus = nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        for slot in slots {
            for map in &mut self.maps {
                if slot < map.slots.len() {
                    let zero = PerCpuValues::try_from(vec![Record::default(); cpus])?;
                    map.slots.set(slot, zero, 0).context("clearing a counter")?;
                }
            }
        }
        Ok(())
    }

    /// Which of the maps the program pinned at `path` counts in: its number, and how many slots it has.
    ///
    /// # Errors
    ///
    /// None of them.
    pub(super) fn used_by(&self, path: &Path) -> Result<(usize, u32)> {
        let used = told::maps_of(path)?;
        self.maps
            .iter()
            .enumerate()
            .find(|(_, map)| used.contains(&map.id))
            .map(|(number, map)| (number, map.slots.len()))
            .with_context(|| format!("{} counts in none of the pinned maps", path.display()))
    }

    /// How many maps there are.
    pub(super) fn maps(&self) -> usize {
        self.maps.len()
    }
}

/// The counter in `slot` of one map, summed over the CPUs.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn total<T: std::borrow::Borrow<MapData>>(
    counters: &PerCpuArray<T, Record<Counter>>,
    slot: u32,
) -> Result<Counter> {
    let values = counters.get(&slot, 0)?;
    Ok(values
        .iter()
        .fold(Counter::default(), |sum, Record(one)| sum.plus(*one)))
}
