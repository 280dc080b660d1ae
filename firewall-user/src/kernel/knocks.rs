//! Ports that are knocked at although no rule names them, as the programs have counted them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use firewall_common::abi::counter::Counter;
use firewall_common::abi::knock::{MAP_KNOCKS, SETS, Set};

use super::pins::Pins;
use super::record::Record;

/// What came for each such port that has its place, by protocol number and port, over all CPUs.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn read(pins: &Pins) -> Result<BTreeMap<(u8, u16), Counter>> {
    let path = pins.map(MAP_KNOCKS);
    let data = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    let sets: PerCpuArray<MapData, Record<Set>> = PerCpuArray::try_from(Map::PerCpuArray(data))?;
    let mut ports: BTreeMap<(u8, u16), Counter> = BTreeMap::new();
    for index in 0..SETS {
        for Record(set) in sets.get(&index, 0)?.iter() {
            for knocked in &set.ports {
                if let Some(port) = knocked.port() {
                    let sum = ports.entry(port).or_default();
                    *sum = sum.plus(knocked.counter);
                }
            }
        }
    }
    Ok(ports)
}
