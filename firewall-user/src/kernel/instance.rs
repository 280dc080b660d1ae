//! The programs and their maps, loaded but attached to nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, ProgramArray};
use aya::programs::{Program, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use firewall_common::abi::{
    EGRESS_NEXT_EVENT, EGRESS_NEXT_FRAGMENT, EGRESS_NEXT_OPENS, EGRESS_NEXT_SHADOW,
    INGRESS_NEXT_COOKIE, INGRESS_NEXT_EVENT, INGRESS_NEXT_FRAGMENT, INGRESS_NEXT_REFUSED,
    INGRESS_NEXT_SHADOW, INGRESS_NEXT_STRIKE, INGRESS_NEXT_TERMS, MAP_CONTROL, MAP_COUNTERS,
    MAP_EGRESS_NEXT, MAP_INGRESS_NEXT, PROGRAM_CLOCK, PROGRAM_EGRESS, PROGRAM_EGRESS_EVENT,
    PROGRAM_EGRESS_FRAGMENT, PROGRAM_EGRESS_OPENS, PROGRAM_EGRESS_SHADOW, PROGRAM_INGRESS,
    PROGRAM_INGRESS_COOKIE, PROGRAM_INGRESS_EVENT, PROGRAM_INGRESS_FRAGMENT,
    PROGRAM_INGRESS_REFUSED, PROGRAM_INGRESS_SHADOW, PROGRAM_INGRESS_STRIKE, PROGRAM_INGRESS_TERMS,
    ban::MAP_BANS,
    control::{Control, Place},
    counter::{Counter, MAX_SLOTS, MIN_SLOTS},
    flow::{MAP_FLOW_SETTINGS, MAP_FLOWS, Settings},
    limit::MAP_LIMITS,
    shadow::{MAP_SHADOW, MAP_SHADOW_COUNTERS, SHADOW_IS_ON, SHADOW_PLACE, Shadow},
};
use firewall_common::decide::cookie;

use super::bans::BanTable;
use super::control::ControlWord;
use super::counters;
use super::events::{self, Ring};
use super::flows::Wanted;
use super::image::{self, Image};
use super::record::Record;
use super::state::{self, Sizes};

/// The eBPF object, built by this crate's build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/firewall-ebpf"));

/// The programs' constant that says for which hardware address they may answer.
const HARDWARE_ADDRESS: &str = "HARDWARE_ADDRESS";
/// The programs' constant that says whether [`MAP_TEST_CLOCK`] has the time.
const CLOCK_IS_SET: &str = "CLOCK_IS_SET";
const MAP_TEST_CLOCK: &str = "TEST_CLOCK";

/// The loaded programs with their maps.
#[derive(Debug)]
pub struct Instance {
    ebpf: Ebpf,
}

impl Instance {
    /// Loads the maps, with room for `counters` counters, and the programs. The flow table is the smallest, without
    /// settings: no flow is followed.
    ///
    /// # Errors
    ///
    /// What the kernel says; where it rejects a program, with the verifier's log.
    pub fn load(counters: u32) -> Result<Self> {
        Self::load_with_state(counters, Sizes::default())
    }

    /// Like [`Self::load`], but with empty tables of bans and token buckets of these sizes.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_state(counters: u32, sizes: Sizes) -> Result<Self> {
        Self::load_from(EbpfLoader::new(), counters, Some(sizes))
    }

    /// Like [`Self::load`], and the programs ask a candidate.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_shadow(counters: u32, shadow: &Shadow) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        ask(&mut loader, shadow);
        let mut instance = Self::load_from(loader, counters, Some(Sizes::default()))?;
        instance.set_shadow(shadow)?;
        Ok(instance)
    }

    /// Like [`Self::load_with_state`], and the programs take what [`Self::set_test_clock`] has set for the time.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_test_clock(counters: u32, sizes: Sizes) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global(CLOCK_IS_SET, &1u64, true);
        Self::load_from(loader, counters, Some(sizes))
    }

    /// Sets the time of [`Self::load_with_test_clock`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_test_clock(&mut self, now_ns: u64) -> Result<()> {
        let map = self.ebpf.map_mut(MAP_TEST_CLOCK).context("no test clock")?;
        let mut clock: Array<&mut MapData, u64> = Array::try_from(map)?;
        Ok(clock.set(0, now_ns, 0)?)
    }

    /// The table of bans.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn bans(&self) -> Result<BanTable> {
        let [buckets, settings, filters] =
            super::bans::MAPS.map(|name| match self.ebpf.map(name) {
                Some(Map::Array(map)) => Ok(map),
                _ => bail!("no map {name} in the object"),
            });
        BanTable::of([buckets?, settings?, filters?])
    }

    /// Like [`Self::load_with_state`], but with an empty flow table of its own as is `wanted`.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_with_flows(counters: u32, wanted: &Wanted, sizes: Sizes) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(MAP_FLOWS, wanted.buckets);
        let mut instance = Self::load_from(loader, counters, Some(sizes))?;
        let map = instance
            .ebpf
            .map_mut(MAP_FLOW_SETTINGS)
            .context("no map for the flow table's settings")?;
        let mut settings: Array<&mut MapData, Record<Settings>> = Array::try_from(map)?;
        settings.set(0, Record(wanted.settings()?), 0)?;
        Ok(instance)
    }

    /// Like [`Self::load`], but for an interface with this hardware address, with those maps that are pinned at `shared`, by name,
    /// and tables of state of these `sizes` unless they are among them.
    ///
    /// # Errors
    ///
    /// What the kernel says. All of `shared` must be there: aya would make and pin what is not.
    pub(super) fn load_over(
        hardware_address: Option<[u8; 6]>,
        counters: u32,
        shared: Vec<(&'static str, PathBuf)>,
        sizes: Option<Sizes>,
    ) -> Result<Self> {
        let own = hardware_address.map_or(0, cookie::hardware_address);
        Self::load_from(over(&own, shared), counters, sizes)
    }

    /// An instance that goes on where another is at work, over those maps of it that are pinned at `shared`.
    ///
    /// # Errors
    ///
    /// As [`Self::load_over`].
    pub(super) fn renewed(
        renewed: Renewed<'_>,
        shared: Vec<(&'static str, PathBuf)>,
    ) -> Result<Self> {
        let Renewed {
            hardware_address,
            counters,
            shadow,
        } = renewed;
        let own = hardware_address.map_or(0, cookie::hardware_address);
        let mut loader = over(&own, shared);
        if let Some(shadow) = shadow {
            ask(&mut loader, shadow);
        }
        let mut instance = Self::load_from(loader, counters.unwrap_or(MIN_SLOTS), None)?;
        if let Some(shadow) = shadow {
            instance.set_shadow(shadow)?;
        }
        Ok(instance)
    }

    /// Like [`Self::load`], but for an interface with this hardware address, and with empty tables of state of its own of these
    /// sizes.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub(super) fn load_alone(
        hardware_address: Option<[u8; 6]>,
        counters: u32,
        sizes: Sizes,
        flow_buckets: u32,
    ) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(MAP_FLOWS, flow_buckets);
        let own = hardware_address.map_or(0, cookie::hardware_address);
        loader.override_global(HARDWARE_ADDRESS, &own, true);
        Self::load_from(loader, counters, Some(sizes))
    }

    fn load_from(mut loader: EbpfLoader<'_>, counters: u32, sizes: Option<Sizes>) -> Result<Self> {
        if let Some(sizes) = sizes {
            loader
                .map_max_entries(MAP_BANS, sizes.ban_buckets)
                .map_max_entries(MAP_LIMITS, sizes.limit_lines);
        }
        let slots = counters.next_power_of_two().clamp(MIN_SLOTS, MAX_SLOTS);
        let mut ebpf = loader
            .map_max_entries(MAP_COUNTERS, slots)
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)
            .context("the kernel did not take the firewall's maps")?;
        if let Some(sizes) = sizes {
            state::set_up(&mut ebpf, sizes)?;
        }
        load_programs(&mut ebpf)?;
        for (map, index, program) in [
            (
                MAP_INGRESS_NEXT,
                INGRESS_NEXT_REFUSED,
                PROGRAM_INGRESS_REFUSED,
            ),
            (
                MAP_INGRESS_NEXT,
                INGRESS_NEXT_FRAGMENT,
                PROGRAM_INGRESS_FRAGMENT,
            ),
            (MAP_INGRESS_NEXT, INGRESS_NEXT_TERMS, PROGRAM_INGRESS_TERMS),
            (
                MAP_INGRESS_NEXT,
                INGRESS_NEXT_COOKIE,
                PROGRAM_INGRESS_COOKIE,
            ),
            (
                MAP_INGRESS_NEXT,
                INGRESS_NEXT_STRIKE,
                PROGRAM_INGRESS_STRIKE,
            ),
            (
                MAP_INGRESS_NEXT,
                INGRESS_NEXT_SHADOW,
                PROGRAM_INGRESS_SHADOW,
            ),
            (MAP_INGRESS_NEXT, INGRESS_NEXT_EVENT, PROGRAM_INGRESS_EVENT),
            (MAP_EGRESS_NEXT, EGRESS_NEXT_EVENT, PROGRAM_EGRESS_EVENT),
            (MAP_EGRESS_NEXT, EGRESS_NEXT_SHADOW, PROGRAM_EGRESS_SHADOW),
            (MAP_EGRESS_NEXT, EGRESS_NEXT_OPENS, PROGRAM_EGRESS_OPENS),
            (
                MAP_EGRESS_NEXT,
                EGRESS_NEXT_FRAGMENT,
                PROGRAM_EGRESS_FRAGMENT,
            ),
        ] {
            let program = ebpf.program(program).context("loaded, and gone")?;
            let program = program.fd()?.try_clone()?;
            let map = ebpf
                .map_mut(map)
                .with_context(|| format!("no map {map} in the object"))?;
            ProgramArray::try_from(map)?.set(index, &program, 0)?;
        }
        Ok(Self { ebpf })
    }

    /// Puts an image into `place`. It decides nothing until it is [activated](Self::activate).
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn install(&mut self, place: Place, image: impl Into<Image>) -> Result<()> {
        let images = self
            .ebpf
            .map_mut(image::map_name(place))
            .context("no map for images of this size")?;
        image::install(images, place, image.into())
            .and_then(|mut installed| installed.wait())
            .context("the kernel did not take the policy's tables")
    }

    /// Makes the image in `place` decide, from one packet to the next.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn activate(&mut self, place: Place) -> Result<()> {
        self.control()?.store(Control::new(place, Place::NONE));
        Ok(())
    }

    /// Makes the image in `place` decide until `deadline`, in jiffies, and then the one in `before`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn try_out(&mut self, place: Place, before: Place, deadline: u64) -> Result<()> {
        self.control()?
            .store(Control::new(place, before).until(deadline));
        Ok(())
    }

    fn control(&self) -> Result<ControlWord> {
        match self.ebpf.map(MAP_CONTROL) {
            Some(Map::Array(map)) => ControlWord::of(map),
            _ => bail!("no control map in the object"),
        }
    }

    /// Has the programs tell of packets for good, of each reason so many in a tick of some milliseconds, and returns where they do.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn tell(&mut self, most: u64) -> Result<Ring> {
        events::tell(&mut self.ebpf, most)
    }

    fn set_shadow(&mut self, shadow: &Shadow) -> Result<()> {
        let map = self.ebpf.map_mut(MAP_SHADOW);
        let map = map.context("no map for a candidate")?;
        let mut map: Array<&mut MapData, Record<Shadow>> = Array::try_from(map)?;
        Ok(map.set(0, Record(*shadow), 0)?)
    }

    /// The XDP program, to attach or to run on test packets.
    ///
    /// # Panics
    ///
    /// Never: [`Self::load`] has found it.
    pub fn program(&mut self) -> &mut Xdp {
        let program = self
            .ebpf
            .program_mut(PROGRAM_INGRESS)
            .expect("load found it");
        program
            .try_into()
            .expect("load found it to be an XDP program")
    }

    /// The tcx program for what leaves, to attach or to run on test packets.
    ///
    /// # Panics
    ///
    /// Never: [`Self::load`] has found it.
    pub fn egress(&mut self) -> &mut SchedClassifier {
        self.classifier(PROGRAM_EGRESS)
    }

    /// The program that returns the flow table's time.
    pub(super) fn clock(&mut self) -> &mut SchedClassifier {
        self.classifier(PROGRAM_CLOCK)
    }

    fn classifier(&mut self, name: &str) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(name).expect("load found it");
        program
            .try_into()
            .expect("load found it to be a classifier")
    }

    /// The maps and programs as aya has them.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The tags of all programs that packets go through: hashes of their instructions.
    pub(super) fn tags(&self) -> Result<BTreeSet<u64>> {
        let programs = self.ebpf.programs();
        programs
            .filter(|(name, _)| *name != PROGRAM_CLOCK)
            .map(|(name, program)| {
                let info = program.info();
                Ok(info.with_context(|| format!("asking for {name}"))?.tag())
            })
            .collect()
    }

    /// Every counter by slot, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        let map = self
            .ebpf
            .map(MAP_COUNTERS)
            .context("no counters in the object")?;
        let counters = PerCpuArray::try_from(map)?;
        (0..counters.len())
            .map(|slot| counters::total(&counters, slot))
            .collect()
    }
}

/// What is another in an instance that goes on where one is at work.
#[derive(Debug)]
pub(super) struct Renewed<'a> {
    pub(super) hardware_address: Option<[u8; 6]>,
    /// Room for counters, where there is to be another map of them.
    pub(super) counters: Option<u32>,
    /// The candidate that it asks.
    pub(super) shadow: Option<&'a Shadow>,
}

/// Has the programs ask a candidate.
fn ask<'a>(loader: &mut EbpfLoader<'a>, shadow: &'a Shadow) {
    loader
        .override_global(SHADOW_IS_ON, &1u64, true)
        .override_global(SHADOW_PLACE, &shadow.place, true)
        .map_max_entries(MAP_SHADOW_COUNTERS, shadow.slots());
}

/// A loader for an interface with this hardware address as a number, over the maps that are pinned at `shared`.
fn over<'a>(own: &'a u64, shared: Vec<(&'static str, PathBuf)>) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for (name, path) in shared {
        loader.map_pin_path(name, path);
    }
    loader.override_global(HARDWARE_ADDRESS, own, true);
    loader
}

/// The programs of the object.
const PROGRAMS: [&str; 14] = [
    PROGRAM_INGRESS,
    PROGRAM_INGRESS_FRAGMENT,
    PROGRAM_INGRESS_REFUSED,
    PROGRAM_INGRESS_TERMS,
    PROGRAM_INGRESS_COOKIE,
    PROGRAM_INGRESS_STRIKE,
    PROGRAM_INGRESS_SHADOW,
    PROGRAM_INGRESS_EVENT,
    PROGRAM_EGRESS_SHADOW,
    PROGRAM_EGRESS_EVENT,
    PROGRAM_EGRESS,
    PROGRAM_EGRESS_OPENS,
    PROGRAM_EGRESS_FRAGMENT,
    PROGRAM_CLOCK,
];

/// Loads all programs, at the same time: each keeps the verifier busy for the better part of a second.
fn load_programs(ebpf: &mut Ebpf) -> Result<()> {
    for name in PROGRAMS {
        ebpf.program(name)
            .with_context(|| format!("no program {name} in the object"))?;
    }
    thread::scope(|scope| {
        let loading: Vec<_> = ebpf
            .programs_mut()
            .map(|(name, program)| scope.spawn(move || load_program(name, program)))
            .collect();
        loading.into_iter().try_for_each(|one| match one.join() {
            Ok(loaded) => loaded,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn load_program(name: &str, program: &mut Program) -> Result<()> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => bail!("{name} is a program of another kind"),
    }
    .with_context(|| format!("the kernel did not take the program {name}"))
}
