//! The flow table as user space has it: made by the first apply of a network namespace, read for lists, given other
//! timeouts. The programs alone write flows.
//!
//! An answer may come back through another interface than the question left by, so all guarded interfaces of a namespace
//! share one table. Each pins it in its own folder: who comes later takes it from one that is guarded already, and it
//! goes with the last that has it. Nothing has to be counted or cleared up, whoever is killed when.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, IterableMap as _, Map, MapData};
use firewall_common::abi::MAP_FRAGMENTS;
use firewall_common::abi::flow::{
    Bucket, BucketWords, FLOW_MAP_FLAGS, FlowRecord, MAP_FLOW_PORTS, MAP_FLOW_SETTINGS, MAP_FLOWS,
    PORT_WORDS, Settings, SlotWord, TICK_MASK, Timeouts, WAYS,
};
use rustix::rand::{GetRandomFlags, getrandom};
use zerocopy::IntoBytes as _;

use super::clock::{self, hz};
use super::interface::{self, Interface};
use super::mapped::{Access, Mapped};
use super::pins::{self, Pins};
use super::record::Record;

/// The maps that make up a table.
pub(super) const MAPS: [&str; 3] = [MAP_FLOWS, MAP_FLOW_SETTINGS, MAP_FLOW_PORTS];

/// What a rule file asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Buckets of the table.
    pub buckets: u32,
    /// How long flows live.
    pub timeouts: Timeouts,
}

impl Wanted {
    /// Slots of the table.
    pub const fn slots(&self) -> u32 {
        self.buckets * WAYS as u32
    }

    /// What the programs must know of a table like this, which is given a seed of its own.
    pub(super) fn settings(&self) -> Result<Settings> {
        Ok(Settings::new(seed()?, self.buckets, hz()?, &self.timeouts))
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fill {
    /// Flows whose timeout has not passed.
    pub used: u32,
    /// Slots.
    pub size: u32,
}

/// A flow whose timeout has not passed.
#[derive(Clone, Copy, Debug)]
pub struct LiveFlow {
    /// What the table has.
    pub record: FlowRecord,
    /// Seconds since its first outgoing packet, to one or two.
    pub age_s: u64,
    /// Seconds since its last outgoing packet, to one or two.
    pub idle_s: u64,
}

/// A table.
pub struct FlowTable {
    buckets: Array<MapData, Record<BucketWords>>,
    settings: Array<MapData, Record<Settings>>,
    ports: Array<MapData, [u64; PORT_WORDS]>,
    /// What is remembered of first fragments, whose later ones may come another way too; absent while nobody has it.
    fragments: Option<MapData>,
}

impl FlowTable {
    /// Makes a new one. It is whole before anybody can find it.
    pub(super) fn create(wanted: &Wanted) -> Result<Self> {
        let table = || -> Result<Self> {
            let buckets = Array::create(wanted.buckets, FLOW_MAP_FLAGS)?;
            let mut settings = Array::create(1, 0)?;
            settings.set(0, Record(wanted.settings()?), 0)?;
            let ports = Array::create(1, 0)?;
            Ok(Self {
                buckets,
                settings,
                ports,
                fragments: None,
            })
        };
        table().with_context(|| {
            let bytes = u64::from(wanted.buckets) * size_of::<BucketWords>() as u64;
            format!("making a flow table of {} MiB", bytes >> 20)
        })
    }

    /// The table of the network namespace, if an interface other than `newcomer` is guarded there.
    pub(super) fn of_namespace(newcomer: &Interface) -> Result<Option<Self>> {
        let pinned = pins::interfaces()?;
        for interface in interface::all()? {
            if interface.name == newcomer.name || !pinned.contains(&interface.name) {
                continue;
            }
            let pins = Pins::of(&interface.name);
            if pins::exists(&pins.map(MAP_FLOWS))? && super::guard::is_guarded(&interface)? {
                return Self::open(&pins).map(Some);
            }
        }
        Ok(None)
    }

    /// The one that is pinned with an interface.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let open = |name: &str| {
            let path = pins.map(name);
            MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
        };
        let [buckets, settings, ports] = MAPS.map(open);
        Ok(Self {
            buckets: Array::try_from(Map::Array(buckets?))?,
            settings: Array::try_from(Map::Array(settings?))?,
            ports: Array::try_from(Map::Array(ports?))?,
            fragments: Some(open(MAP_FRAGMENTS)?),
        })
    }

    /// Pins it with another interface. Returns the names of the maps that are there now.
    pub(super) fn pin(&self, pins: &Pins) -> Result<Vec<&'static str>> {
        let maps = [self.buckets.map(), self.settings.map(), self.ports.map()];
        let fragments = self.fragments.iter().map(|map| (map, MAP_FRAGMENTS));
        let mut names = Vec::new();
        for (map, name) in maps.into_iter().zip(MAPS).chain(fragments) {
            let pinned = map.pin(pins.map(name));
            pinned.with_context(|| format!("pinning {name} of the network namespace"))?;
            names.push(name);
        }
        Ok(names)
    }

    /// Pins it with an interface that has another one, unless that is this one. Returns whether it was another.
    pub(super) fn replace(&self, pins: &Pins) -> Result<bool> {
        let id =
            |map: &MapData| Ok::<_, anyhow::Error>(map.info().context("asking for a map")?.id());
        if id(self.buckets.map())? == id(Self::open(pins)?.buckets.map())? {
            return Ok(false);
        }
        let maps = [self.buckets.map(), self.settings.map(), self.ports.map()];
        let fragments = self.fragments.iter().map(|map| (map, MAP_FRAGMENTS));
        for (map, name) in maps.into_iter().zip(MAPS).chain(fragments) {
            pins::replace(&pins.map(name), |next| map.pin(next))?;
        }
        Ok(true)
    }

    /// Slots.
    pub fn size(&self) -> u32 {
        self.buckets.len() * WAYS as u32
    }

    /// Gives it other timeouts, for the flows that it has as for those to come. A program that reads the record meanwhile
    /// may see some of the old ones and some of the new, for one packet, which is as if it had come a moment earlier or
    /// later for some of the states.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_timeouts(&mut self, timeouts: &Timeouts) -> Result<()> {
        let Record(old) = self.settings.get(&0, 0)?;
        let new = Settings::new(old.seed, self.buckets.len(), hz()?, timeouts);
        if new != old {
            let set = self.settings.set(0, Record(new), 0);
            set.context("changing the flow table's timeouts")?;
        }
        Ok(())
    }

    /// How full it is; `pins` has the clock.
    pub(super) fn fill(&self, pins: &Pins) -> Result<Fill> {
        let Record(settings) = self.settings.get(&0, 0)?;
        let now = ticks(pins, &settings)?;
        let buckets = self.read()?;
        let slots = buckets.iter().flat_map(|bucket| &bucket.slots);
        let used =
            slots.filter(|slot| is_live(SlotWord(slot.load(Ordering::Relaxed)), &settings, now));
        Ok(Fill {
            used: used.count() as u32,
            size: self.size(),
        })
    }

    /// The flows in it, in no order; `pins` has the clock.
    pub(super) fn live(&self, pins: &Pins) -> Result<Vec<LiveFlow>> {
        let Record(settings) = self.settings.get(&0, 0)?;
        let now = ticks(pins, &settings)?;
        let hz = u64::from(hz()?);
        let seconds = |ticks: u32| (u64::from(ticks) << settings.tick_shift) / hz;
        let mut flows = Vec::new();
        for bucket in self.read()?.iter() {
            // Most buckets of a table with room are empty, and then only their first line is read.
            let mut slots = bucket.slots.iter();
            if slots.all(|slot| slot.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let words = bucket.words();
            let live = words
                .records()
                .filter(|record| is_live(record.slot, &settings, now));
            flows.extend(live.map(|record| LiveFlow {
                record,
                age_s: seconds(record.age(now)),
                idle_s: seconds(record.idle(now)),
            }));
        }
        Ok(flows)
    }

    fn read(&self) -> Result<Mapped<Bucket<AtomicU64>>> {
        Mapped::new(self.buckets.map(), self.buckets.len(), Access::Read)
    }
}

/// The time in ticks of the table with these settings.
fn ticks(pins: &Pins, settings: &Settings) -> Result<u32> {
    Ok((clock::jiffies(pins)? >> settings.tick_shift) as u32 & TICK_MASK)
}

fn is_live(slot: SlotWord, settings: &Settings, now: u32) -> bool {
    slot.tag() >= SlotWord::FIRST_TAG && !settings.expired(slot, now)
}

/// Random words for the hash of a table.
pub(super) fn seed<const WORDS: usize>() -> Result<[u64; WORDS]> {
    let mut seed = [0; WORDS];
    let bytes = seed.as_mut_bytes();
    let all = bytes.len();
    let got = getrandom(bytes, GetRandomFlags::empty()).context("asking for random bytes")?;
    ensure!(got == all, "the kernel has no {all} random bytes");
    Ok(seed)
}
