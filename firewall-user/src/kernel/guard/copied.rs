//! What guards an interface, copied: the same programs under the same image, with copies of the tables that packets change.
//!
//! Every map is one of the copy's own but that of the image, which nobody writes. What is copied while packets come may have half of
//! what one of them has changed; a slot of a table is told by one word of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::loaded_programs;
use firewall_common::abi::MAP_FRAGMENTS;
use firewall_common::abi::ban::{MAP_BAN_FILTERS, MAP_BAN_SETTINGS, MAP_BANS};
use firewall_common::abi::flow::{self, MAP_FLOW_PORTS, MAP_FLOW_SETTINGS, MAP_FLOWS, PORT_WORDS};
use firewall_common::abi::fragment::FragmentKey;
use firewall_common::abi::limit::{self, MAP_LIMIT_SETTINGS, MAP_LIMITS};

use super::{Guard, INITIAL_COUNTERS, program_at, roomy};
use crate::kernel::image::{self, Tables};
use crate::kernel::instance::Instance;
use crate::kernel::interface::Interface;
use crate::kernel::mapped::{Access, Mapped};
use crate::kernel::pins::Hook;
use crate::kernel::record::{Abi, Record};
use crate::kernel::replica::Replica;

/// Tables of words that programs change, of which most are zero.
const TABLES: [&str; 5] = [
    MAP_FLOWS,
    MAP_BANS,
    MAP_BAN_FILTERS,
    MAP_BAN_SETTINGS,
    MAP_LIMITS,
];

impl Guard {
    /// A copy of what guards `interface`, as it is now, and the image that decides there. It takes as much memory as the tables of
    /// state.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn replica(&self, interface: &Interface) -> Result<(Replica, Tables)> {
        let flows = self.open(MAP_FLOWS)?;
        let mut instance = Instance::load_alone(
            self.hardware_address,
            roomy(&self.description).max(INITIAL_COUNTERS),
            self.state_sizes()?,
            flows
                .info()
                .context("asking for the flow table")?
                .max_entries(),
        )?;
        let same_programs = self.tags()? == instance.tags()?;

        let place = self.place();
        let map_of = |name: &str| format!("copying the map {name}");
        let tables = Tables::of(&self.image(place)?, place.class())?;
        let images = map_mut(&mut instance, image::map_name(place))?;
        let shared = image::share(images, place, self.image(place)?);
        shared.context("sharing the policy's tables")?;
        instance.activate(place)?;

        for name in TABLES {
            let to = map_mut(&mut instance, name)?;
            copy_words(&self.open(name)?, to).with_context(|| map_of(name))?;
        }
        self.copy_record::<flow::Settings>(MAP_FLOW_SETTINGS, &mut instance)?;
        self.copy_record::<limit::Settings>(MAP_LIMIT_SETTINGS, &mut instance)?;
        self.copy_ports(&mut instance)?;
        self.copy_fragments(&mut instance)
            .with_context(|| map_of(MAP_FRAGMENTS))?;
        let policy = &self.description.policy;
        let replica = Replica::new(instance, same_programs, interface.index, policy);
        Ok((replica, tables))
    }

    /// The tags of all programs that packets go through here: hashes of their instructions.
    fn tags(&self) -> Result<BTreeSet<u64>> {
        let mut tags = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for hook in Hook::ALL {
            tags.insert(program_at(&self.pins.program(hook))?.tag());
            let data = self.next_at_work(hook)?;
            // The system call is that of an array of u32: each is the id of a program.
            let next: Array<MapData, u32> = Array::try_from(Map::Array(data))?;
            for index in 0..next.len() {
                ids.insert(next.get(&index, 0).context("asking for a program")?);
            }
        }
        // One may go while they are listed; none of ours does.
        for program in loaded_programs().flatten() {
            if ids.remove(&program.id()) {
                tags.insert(program.tag());
            }
        }
        if !ids.is_empty() {
            bail!("a program that others go on to is not there");
        }
        Ok(tags)
    }

    fn copy_record<T: Abi>(&self, name: &str, to: &mut Instance) -> Result<()> {
        let from: Array<MapData, Record<T>> = Array::try_from(Map::Array(self.open(name)?))?;
        let mut to: Array<&mut MapData, Record<T>> = Array::try_from(map_mut(to, name)?)?;
        Ok(to.set(0, from.get(&0, 0)?, 0)?)
    }

    fn copy_ports(&self, to: &mut Instance) -> Result<()> {
        let from: Array<MapData, [u64; PORT_WORDS]> =
            Array::try_from(Map::Array(self.open(MAP_FLOW_PORTS)?))?;
        let mut to: Array<&mut MapData, [u64; PORT_WORDS]> =
            Array::try_from(map_mut(to, MAP_FLOW_PORTS)?)?;
        Ok(to.set(0, from.get(&0, 0)?, 0)?)
    }

    fn copy_fragments(&self, to: &mut Instance) -> Result<()> {
        type Key = [u8; size_of::<FragmentKey>()];
        let from: HashMap<MapData, Key, u64> =
            HashMap::try_from(Map::LruHashMap(self.open(MAP_FRAGMENTS)?))?;
        let mut to: HashMap<&mut MapData, Key, u64> =
            HashMap::try_from(map_mut(to, MAP_FRAGMENTS)?)?;
        // One that goes meanwhile is forgotten a moment earlier.
        for (key, value) in from.iter().flatten() {
            to.insert(key, value, 0)?;
        }
        Ok(())
    }
}

/// Copies what is not zero of a table that can be mapped.
fn copy_words(from: &MapData, to: &Map) -> Result<()> {
    let Map::Array(to) = to else {
        bail!("it is a map of another kind");
    };
    let (from, to) = (words(from, Access::Read)?, words(to, Access::Write)?);
    for (from, to) in from.iter().zip(to.iter()) {
        let word = from.load(Ordering::Relaxed);
        if word != 0 || to.load(Ordering::Relaxed) != 0 {
            to.store(word, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn words(map: &MapData, access: Access) -> Result<Mapped<AtomicU64>> {
    let info = map.info()?;
    let words = info.max_entries() * info.value_size().div_ceil(size_of::<u64>() as u32);
    Mapped::new(map, words, access)
}

fn map_mut<'i>(instance: &'i mut Instance, name: &str) -> Result<&'i mut Map> {
    let map = instance.ebpf().map_mut(name);
    map.with_context(|| format!("no map {name}"))
}
