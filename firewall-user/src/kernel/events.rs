//! Events: packets that the programs tell of, and what they have told, withheld and lost.
//!
//! A reader has a ring buffer of its own in one of the places there are, and says every second that it still reads. The place of one
//! that was killed is free after [`LEASE_S`].

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use aya::Ebpf;
use aya::maps::{ArrayOfMaps, HashMap, Map, MapData, MapInfo, PerCpuArray, RingBuf};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;
use firewall_common::abi::control::Place;
use firewall_common::abi::event::{
    BUDGETS, Budget, Event, LOST_BASE, MAP_EVENT_BUDGETS, MAP_EVENT_SETTINGS, MAP_EVENTS, READERS,
    RING_BYTES, Settings,
};
use zerocopy::FromBytes as _;

use super::clock;
use super::description::Description;
use super::mapped::{Access, Mapped};
use super::pins::{self, Pins};
use super::record::Record;

/// The maps of events, by the names that the object has for them.
pub(super) const MAPS: [&str; 3] = [MAP_EVENTS, MAP_EVENT_SETTINGS, MAP_EVENT_BUDGETS];

/// Seconds for which a reader is told of packets without saying again that it reads.
pub const LEASE_S: u64 = 3;
/// Ticks in a second that a budget is for, at least: so that what is told is spread over the second.
const TICKS_A_SECOND: u64 = 4;

/// A packet that was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What is told.
    pub event: Event,
    /// Its frame's first bytes.
    pub frame: Vec<u8>,
}

/// What became of all packets that were to be told of, by number of the budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tallies(Vec<Budget>);

/// Packets that a reader was not told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// There was no budget for them.
    pub withheld: u64,
    /// There was no room in its ring buffer.
    pub lost: u64,
}

/// Where the programs put what they tell a reader.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    fn new() -> Result<Self> {
        let ring = aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, RING_BYTES, 0);
        let made = MapData::create(ring, "events", None).context("making a ring buffer")?;
        Ok(Self(RingBuf::try_from(Map::RingBuf(made))?))
    }
}

/// The packets that are there. When there are none there may be some later.
impl Iterator for Ring {
    type Item = Told;

    fn next(&mut self) -> Option<Told> {
        let item = self.0.next()?;
        let (event, frame) = Event::read_from_prefix(&item).ok()?;
        let frame = frame.get(..event.captured.into())?.to_vec();
        Some(Told { event, frame })
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring")
    }
}

/// Has programs that are attached to nothing tell of packets for good, so many of each reason in a tick of some milliseconds.
pub(super) fn tell(ebpf: &mut Ebpf, most: u64) -> Result<Ring> {
    let ring = Ring::new()?;
    let rings = ebpf.map_mut(MAP_EVENTS).context("no map for events")?;
    let mut rings: ArrayOfMaps<&mut MapData, RingBuf<MapData>> = ArrayOfMaps::try_from(rings)?;
    rings.set(0, &ring.0, 0)?;
    let Some(Map::Array(settings)) = ebpf.map(MAP_EVENT_SETTINGS) else {
        bail!("no map for the settings of events");
    };
    let settings: Mapped<Settings<AtomicU64>> = Mapped::new(settings, 1, Access::Write)?;
    let settings = &settings[0];
    settings.tick_shift.store(1, Ordering::Relaxed);
    settings.readers[0].most.store(most, Ordering::Relaxed);
    settings.readers[0].until.store(u64::MAX, Ordering::Relaxed);
    settings.sum_up(0);
    Ok(ring)
}

/// Somebody who reads of the packets of an interface.
pub struct Reader {
    pins: Pins,
    settings: Mapped<Settings<AtomicU64>>,
    budgets: PerCpuArray<MapData, Record<Budget>>,
    rings: MapData,
    ring: Ring,
    number: usize,
    /// Until when it has said that it reads, in jiffies.
    until: u64,
    most: u64,
    before: Tallies,
}

impl Reader {
    /// Begins to read of packets: of each reason, and of each rule with `log`, so many a second and CPU.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that others read already, as many as can.
    pub(super) fn open(pins: &Pins, a_second: u32) -> Result<Self> {
        let settings = settings(pins)?;
        let budgets = budgets(pins)?;
        let (now, hz) = (clock::jiffies(pins)?, u64::from(clock::hz()?));
        let shift = u64::from((hz / TICKS_A_SECOND).max(1).ilog2());
        settings[0].tick_shift.store(shift, Ordering::Relaxed);
        let (number, until) = claim(&settings[0], now, hz)?;
        let mut reader = Self {
            before: Tallies::of(&budgets)?,
            pins: pins.clone(),
            settings,
            budgets,
            rings: open(&pins.map(MAP_EVENTS))?,
            ring: Ring::new()?,
            number,
            until,
            most: (u64::from(a_second) << shift).div_ceil(hz).max(1),
        };
        reader.begin(now)?;
        Ok(reader)
    }

    /// Says that it still reads. Returns `false` where the interface is not guarded any more, or anew, and this is of before.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that it was so late that others have its place.
    pub fn renew(&mut self) -> Result<bool> {
        let path = self.pins.map(MAP_EVENTS);
        if !pins::exists(&path)? || id(&open(&path)?)? != id(&self.rings)? {
            return Ok(false);
        }
        let (now, hz) = (clock::jiffies(&self.pins)?, u64::from(clock::hz()?));
        let until = now + LEASE_S * hz;
        let settings = &self.settings[0];
        if replace(&settings.readers[self.number].until, self.until, until) {
            self.until = until;
            settings.sum_up(now);
        } else {
            (self.number, self.until) = claim(settings, now, hz)?;
            self.before = Tallies::of(&self.budgets)?;
            self.begin(now)?;
        }
        Ok(true)
    }

    /// What this was not told of since it began to read, of the budgets that are `asked` about.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn missed(&self, asked: impl Fn(u32) -> bool) -> Result<Missed> {
        let (now, before) = (Tallies::of(&self.budgets)?, &self.before);
        let asked = |index: &u32| asked(*index);
        let withheld = |tallies: &Tallies| {
            let budgets = (0..).zip(&tallies.0);
            let budgets = budgets.filter(|(index, _)| asked(index));
            budgets.map(|(_, budget)| budget.withheld).sum::<u64>()
        };
        Ok(Missed {
            withheld: withheld(&now).saturating_sub(withheld(before)),
            lost: (now.lost(self.number)).saturating_sub(before.lost(self.number)),
        })
    }

    /// The description of the generation that has decided, if its tables are still in memory.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn description(&self, event: &Event) -> Result<Option<Description>> {
        let Some(place) = Place::of_byte(event.place) else {
            return Ok(None);
        };
        let path = self.pins.policy(place);
        if !pins::exists(&path)? {
            return Ok(None);
        }
        let description = Description::read(&path)?;
        Ok((description.generation == event.generation).then_some(description))
    }

    /// Has the programs write into its ring buffer.
    fn begin(&mut self, now: u64) -> Result<()> {
        let mut rings: ArrayOfMaps<MapData, RingBuf<MapData>> =
            ArrayOfMaps::try_from(Map::ArrayOfMaps(open(&self.pins.map(MAP_EVENTS))?))?;
        let installed = rings.set(self.number as u32, &self.ring.0, 0);
        installed.context("the kernel did not take a ring buffer")?;
        let settings = &self.settings[0];
        settings.readers[self.number]
            .most
            .store(self.most, Ordering::Relaxed);
        settings.sum_up(now);
        Ok(())
    }

    /// Gives up its place, if it still has it.
    fn end(&self) -> Result<()> {
        let settings = &self.settings[0];
        if !replace(&settings.readers[self.number].until, self.until, 0) {
            return Ok(());
        }
        settings.sum_up(clock::jiffies(&self.pins)?);
        // aya has no removal for arrays of maps; the system call is that of a hash map of u32 to u32.
        let rings = open(&self.pins.map(MAP_EVENTS))?;
        let mut rings: HashMap<MapData, u32, u32> = HashMap::try_from(Map::HashMap(rings))?;
        Ok(rings.remove(&(self.number as u32))?)
    }
}

impl Iterator for Reader {
    type Item = Told;

    fn next(&mut self) -> Option<Told> {
        self.ring.next()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Where it cannot be done, or the interface is not guarded any more, the programs stop by themselves.
        let _ = self.end();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader {} of {:?}", self.number, self.pins)
    }
}

impl Tallies {
    /// Those of an interface.
    pub(super) fn read(pins: &Pins) -> Result<Self> {
        Self::of(&budgets(pins)?)
    }

    fn of(budgets: &PerCpuArray<MapData, Record<Budget>>) -> Result<Self> {
        let sum = |index| {
            let mut sum = Budget::default();
            for Record(budget) in budgets.get(&index, 0)?.iter() {
                sum.told += budget.told;
                sum.withheld += budget.withheld;
                sum.lost += budget.lost;
            }
            Ok::<_, anyhow::Error>(sum)
        };
        (0..BUDGETS).map(sum).collect::<Result<_>>().map(Self)
    }

    /// Packets that readers were told of.
    pub fn told(&self) -> u64 {
        self.0.iter().map(|budget| budget.told).sum()
    }

    /// Packets that there was no budget for.
    pub fn withheld(&self) -> u64 {
        self.0.iter().map(|budget| budget.withheld).sum()
    }

    /// Events that readers had no room for.
    pub fn lost_by_all(&self) -> u64 {
        (0..READERS as usize).map(|reader| self.lost(reader)).sum()
    }

    fn lost(&self, reader: usize) -> u64 {
        self.0[LOST_BASE as usize + reader].lost
    }
}

/// Writes down which generation is in a place, for events that it decides.
pub(super) fn name(pins: &Pins, place: Place, generation: u64) -> Result<()> {
    let settings = settings(pins)?;
    settings[0].generations[usize::from(place.byte())].store(generation, Ordering::Release);
    Ok(())
}

/// Takes a place that nobody has. Returns its number, and until when it is taken.
fn claim(settings: &Settings<AtomicU64>, now: u64, hz: u64) -> Result<(usize, u64)> {
    let until = now + LEASE_S * hz;
    for (number, reader) in settings.readers.iter().enumerate() {
        let its = reader.until.load(Ordering::Acquire);
        if its <= now && replace(&reader.until, its, until) {
            return Ok((number, until));
        }
    }
    bail!(
        "{READERS} of `firewall watch`, `capture` and `top` read already, as many as can: end one"
    )
}

/// Puts `new` in the place of `old`. Returns whether it was still there.
fn replace(word: &AtomicU64, old: u64, new: u64) -> bool {
    let replaced = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire);
    replaced.is_ok()
}

fn settings(pins: &Pins) -> Result<Mapped<Settings<AtomicU64>>> {
    Mapped::new(&open(&pins.map(MAP_EVENT_SETTINGS))?, 1, Access::Write)
}

fn budgets(pins: &Pins) -> Result<PerCpuArray<MapData, Record<Budget>>> {
    let budgets = open(&pins.map(MAP_EVENT_BUDGETS))?;
    Ok(PerCpuArray::try_from(Map::PerCpuArray(budgets))?)
}

fn open(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))
}

fn id(map: &MapData) -> Result<u32> {
    let info: MapInfo = map.info().context("asking for a map")?;
    Ok(info.id())
}
