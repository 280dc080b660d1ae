//! The records of ABI version 3, where they were others than now: it had no trials and kept no sources, so that a byte said which
//! image decides, and a description lacks what tells generations apart that are not in force.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use firewall_common::abi::MAP_CONTROL;
use firewall_common::abi::control::Place;
use firewall_common::abi::image::SIZE_CLASSES;
use serde_json::{Value, json};

use super::{Step, open};
use crate::kernel::description::Description;
use crate::kernel::events;
use crate::kernel::pins::Pins;

/// How version 3 is read.
pub(super) const STEP: Step = Step {
    from: 3,
    in_force,
    description,
    anew: &ANEW,
    keeps_sources: false,
    losses,
};

/// Its control map was another, and it told nobody of packets.
const ANEW: [&str; 1 + events::MAPS.len()] = {
    let [a, b, c] = events::MAPS;
    [MAP_CONTROL, a, b, c]
};

fn losses(_: &Pins) -> Result<Vec<String>> {
    Ok(vec![
        "there is no earlier generation to roll back to: v3 kept none".to_owned(),
    ])
}

/// Slots of each size class.
const SLOTS: u64 = 4;
/// Bytes of an element of a description's map.
const CHUNK: usize = 4096;

/// The control map has one number: `size class * SLOTS + slot`.
fn in_force(pins: &Pins) -> Result<Place> {
    let map = Map::Array(open(&pins.map(MAP_CONTROL))?);
    let control: Array<MapData, u64> = Array::try_from(map)?;
    let active = control.get(&0, 0)?;
    let (class, slot) = (active / SLOTS, active % SLOTS);
    ensure!(
        class < SIZE_CLASSES.len() as u64,
        "{} says that image {active} is in force, and there is none",
        pins.map(MAP_CONTROL).display(),
    );
    Ok(Place::new(class as u32, slot as u32))
}

/// A description is JSON in chunks, behind its length.
fn description(path: &Path) -> Result<Description> {
    let map: Array<MapData, [u8; CHUNK]> = Array::try_from(Map::Array(open(path)?))?;
    let mut bytes = Vec::new();
    for chunk in map.iter() {
        bytes.extend_from_slice(&chunk?);
    }
    let (length, rest) = bytes.split_first_chunk().context("an empty description")?;
    let Some(text) = rest.get(..u64::from_le_bytes(*length) as usize) else {
        bail!("{} is cut short", path.display());
    };
    let read = || Ok::<_, serde_json::Error>(completed(serde_json::from_slice(text)?));
    read()
        .and_then(serde_json::from_value)
        .with_context(|| format!("reading {}", path.display()))
}

/// What a description says since, of a generation that was put in force before.
fn completed(mut description: Value) -> Value {
    // Every generation was in force when it was given its number, and none has been gone back from.
    description["newest"] = description["generation"].clone();
    description["policy"]["is_open"] = json!(false);
    description
}
