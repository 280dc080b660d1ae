//! The program and its maps, loaded but attached to nothing.

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use firewall_common::abi::{
    MAP_CONTROL, MAP_COUNTERS, PROGRAM_INGRESS,
    control::Control,
    counter::{Counter, MAX_SLOTS, MIN_SLOTS},
    image::Line,
};

use super::image::{self, Place};
use super::record::Record;

/// The eBPF object, built by this crate's build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/firewall-ebpf"));

/// A loaded program with its maps.
#[derive(Debug)]
pub struct Instance {
    ebpf: Ebpf,
}

impl Instance {
    /// Loads the maps, with room for `counters` counters, and the program.
    ///
    /// # Errors
    ///
    /// What the kernel says; where it rejects the program, with the verifier's log.
    pub fn load(counters: u32) -> Result<Self> {
        let slots = counters.next_power_of_two().clamp(MIN_SLOTS, MAX_SLOTS);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_COUNTERS, slots)
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)
            .context("the kernel did not take the firewall's maps")?;
        let program: &mut Xdp = ebpf
            .program_mut(PROGRAM_INGRESS)
            .context("no program in the object")?
            .try_into()?;
        program
            .load()
            .context("the kernel did not take the firewall's program")?;
        Ok(Self { ebpf })
    }

    /// Puts an image into `place`. It decides nothing until it is [activated](Self::activate).
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn install(&mut self, place: Place, image: Vec<Line>) -> Result<()> {
        let images = self
            .ebpf
            .map_mut(image::map_name(place))
            .context("no map for images of this size")?;
        image::install(images, place, image).context("the kernel did not take the policy's tables")
    }

    /// Makes the image in `place` decide, from one packet to the next.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn activate(&mut self, place: Place) -> Result<()> {
        let map = self
            .ebpf
            .map_mut(MAP_CONTROL)
            .context("no control map in the object")?;
        let mut control: Array<&mut MapData, Record<Control>> = Array::try_from(map)?;
        Ok(control.set(0, Record(Control::new(place.class, place.slot)), 0)?)
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

    /// The maps and programs as aya has them.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
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
            .map(|slot| total(&counters, slot))
            .collect()
    }
}

/// The counter in `slot`, summed over the CPUs.
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
        .fold(Counter::default(), |sum, Record(one)| Counter {
            packets: sum.packets.wrapping_add(one.packets),
            bytes: sum.bytes.wrapping_add(one.bytes),
        }))
}
