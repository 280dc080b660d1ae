//! A guarded interface: attach, switch generations, detach. Whatever stops a process in between, either the old or the
//! new policy is in force.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramError, XdpMode};
use aya::util::{KernelVersion, nr_cpus};
use firewall_common::abi::{
    MAP_CONTROL, MAP_COUNTERS, MAP_IMAGES, SLOTS, control::Control, counter::Counter, image::Line,
};

use super::description::Description;
use super::image::{self, Place};
use super::instance::Instance;
use super::interface::{Interface, Mode};
use super::pins::Pins;
use super::record::Record;

/// The oldest kernel that takes the program: XDP programs for frames in several buffers came with it.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 18, 0);

/// Counters for which there is room from the start, whatever the first policy names: 256 KiB a CPU.
const INITIAL_COUNTERS: u32 = 1 << 14;

/// How long the kernel may take to let go of a link; 6 to 20 ms were seen.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is asked whether it has.
const DETACH_POLL: Duration = Duration::from_millis(2);

/// Which mode to attach in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeChoice {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// What is found on an interface.
#[derive(Debug)]
pub enum Found {
    /// Nothing of ours.
    Nothing,
    /// Our pins, but our program is not on the interface: it was removed and made again, or lives elsewhere.
    Stale,
    /// Our program, at work.
    Guard(Guard),
}

/// An interface with our program attached and its state pinned.
#[derive(Debug)]
pub struct Guard {
    pins: Pins,
    /// Mode in which the program is attached.
    pub mode: Mode,
    /// Id of the program.
    pub program_id: u32,
    /// What is in force.
    pub description: Description,
    place: Place,
}

impl Guard {
    /// Looks for our program on `interface`.
    ///
    /// # Errors
    ///
    /// Pins of another version, or pins that cannot be read.
    pub fn find(interface: &Interface) -> Result<Found> {
        let pins = Pins::of(&interface.name);
        pins.refuse_other_abi()?;
        if !exists(&pins.link())? {
            return Ok(Found::Nothing);
        }
        let link: FdLink = PinnedLink::from_pin(pins.link())
            .context("opening the pinned link")?
            .into();
        let program_id = link.info().context("asking for the link")?.program_id();
        let Record(control) = control(&pins)?.get(&0, 0)?;
        let place = Place {
            class: control.class(),
            slot: control.slot(),
        };
        let description = Description::read(&pins.policy(place))?;
        if description.namespace != super::interface::namespace()? {
            bail!(
                "{} belongs to an interface of the same name in another network namespace, which it guards: run \
                 `firewall detach` there, or, if that namespace is gone, remove the folder; then try again",
                pins.folder().display(),
            );
        }
        let Some(&(mode, _)) = interface.xdp.iter().find(|(_, id)| *id == program_id) else {
            return Ok(Found::Stale);
        };
        Ok(Found::Guard(Self {
            pins,
            mode,
            program_id,
            description,
            place,
        }))
    }

    /// Attaches the firewall to an interface that has none, with `image` in force from the first packet.
    ///
    /// # Errors
    ///
    /// A sentence; the machine is then as it was.
    pub fn attach(
        interface: &Interface,
        mode: ModeChoice,
        image: Vec<Line>,
        description: &Description,
    ) -> Result<Self> {
        check(interface)?;
        let pins = Pins::of(&interface.name);
        pins.remove()?;
        pins.create()?;
        let attached = Self::attach_new(interface, mode, image, description, &pins);
        if attached.is_err() {
            pins.remove()?;
        }
        attached?;
        match super::interface::find(&interface.name)?.map(|interface| Self::find(&interface)) {
            Some(Ok(Found::Guard(guard))) => Ok(guard),
            Some(Err(error)) => Err(error),
            _ => bail!(
                "{} disappeared while the firewall was attached to it",
                interface.name
            ),
        }
    }

    fn attach_new(
        interface: &Interface,
        mode: ModeChoice,
        image: Vec<Line>,
        description: &Description,
        pins: &Pins,
    ) -> Result<()> {
        let place = Place {
            class: image::class_of(&image),
            slot: 0,
        };
        let counters = 2 * highest_slot(description);
        let mut instance = Instance::load(counters.max(INITIAL_COUNTERS))?;
        instance.install(place, image)?;
        instance.activate(place)?;
        for name in MAP_IMAGES.iter().chain(&[MAP_CONTROL, MAP_COUNTERS]) {
            let map = instance
                .ebpf()
                .map(name)
                .with_context(|| format!("no map {name}"))?;
            map.pin(pins.map(name))
                .with_context(|| format!("pinning {name}"))?;
        }
        description.pin(&pins.policy(place))?;
        instance
            .program()
            .pin(pins.program())
            .context("pinning the program")?;

        let link = attach_program(&mut instance, interface, mode)?;
        // From here the interface is guarded; from the next line also if this process ends.
        link.pin(pins.link()).context("pinning the link")?;
        Ok(())
    }

    /// Switches to a new generation: every packet sees wholly the old or wholly the new one.
    ///
    /// # Errors
    ///
    /// A sentence; the old generation is then still in force.
    pub fn switch(&mut self, image: Vec<Line>, description: Description) -> Result<()> {
        let class = image::class_of(&image);
        // The slot of the generation before is reused, so that at most two of a class are in memory.
        let slot = match self.place {
            place if place.class == class => (place.slot + 1) % 2,
            _ => 0,
        };
        const { assert!(SLOTS >= 2) }
        let place = Place { class, slot };
        self.clear_new_counters(&description)?;
        let mut images = Map::ArrayOfMaps(self.open(image::map_name(place))?);
        image::install(&mut images, place, image)
            .context("the kernel did not take the policy's tables")?;
        description.pin(&self.pins.policy(place))?;

        let mut control = control(&self.pins)?;
        control
            .set(0, Record(Control::new(place.class, place.slot)), 0)
            .context("switching generations")?;
        let before = std::mem::replace(&mut self.place, place);
        self.description = description;
        if before.class != place.class {
            self.free(before)?;
        }
        Ok(())
    }

    /// Takes the firewall off the interface and removes all its state. The kernel lets go of a pinned link some
    /// milliseconds after its file is gone; this returns when it has.
    ///
    /// # Errors
    ///
    /// What cannot be removed, or a link that something else still holds.
    pub fn detach(self, name: &str) -> Result<()> {
        self.pins.remove()?;
        let deadline = Instant::now() + DETACH_TIMEOUT;
        while super::interface::find(name)?
            .is_some_and(|found| found.xdp.iter().any(|&(_, id)| id == self.program_id))
        {
            if Instant::now() > deadline {
                bail!(
                    "{name} is still guarded: another process holds the link; `bpftool link` shows it"
                );
            }
            std::thread::sleep(DETACH_POLL);
        }
        Ok(())
    }

    /// The counters in `slots`, in their order, summed over the CPUs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn counters(&self, slots: impl Iterator<Item = u32>) -> Result<Vec<Counter>> {
        let map: PerCpuArray<MapData, Record<Counter>> =
            PerCpuArray::try_from(Map::PerCpuArray(self.open(MAP_COUNTERS)?))?;
        slots
            .map(|slot| super::instance::total(&map, slot))
            .collect()
    }

    /// Slots that are new in `next` may have counted something else before.
    fn clear_new_counters(&self, next: &Description) -> Result<()> {
        let mut map: PerCpuArray<MapData, Record<Counter>> =
            PerCpuArray::try_from(Map::PerCpuArray(self.open(MAP_COUNTERS)?))?;
        let needed = highest_slot(next);
        if needed >= map.len() {
            bail!(
                "the policy counts {} rules and ports more than the {} for which the firewall was attached: detach and \
                 apply again, which opens the interface for a moment",
                needed + 1 - map.len(),
                map.len(),
            );
        }
        let zero = || -> Result<PerCpuValues<Record<Counter>>> {
            let cpus = nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
            Ok(PerCpuValues::try_from(vec![Record::default(); cpus])?)
        };
        let old: std::collections::HashSet<u32> = slots(&self.description).collect();
        for slot in slots(next).filter(|slot| !old.contains(slot)) {
            map.set(slot, zero()?, 0).context("clearing a counter")?;
        }
        Ok(())
    }

    /// Frees the memory of an image that decides nothing any more.
    fn free(&self, place: Place) -> Result<()> {
        // aya has no removal for arrays of maps; the system call is that of a hash map of u32 to u32.
        let data = self.open(image::map_name(place))?;
        let mut images: aya::maps::HashMap<MapData, u32, u32> =
            aya::maps::HashMap::try_from(Map::HashMap(data))?;
        for slot in 0..SLOTS {
            match images.remove(&slot) {
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(aya::maps::MapError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).context("freeing the policy before"),
            }
            let path = self.pins.policy(Place { slot, ..place });
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.pins.map(name))
            .with_context(|| format!("opening the pinned map {name}"))
    }
}

/// Removes pins whose program is on no interface.
///
/// # Errors
///
/// What cannot be removed.
pub fn remove_stale(name: &str) -> Result<()> {
    Pins::of(name).remove()
}

fn control(pins: &Pins) -> Result<Array<MapData, Record<Control>>> {
    let data =
        MapData::from_pin(pins.map(MAP_CONTROL)).context("opening the pinned control map")?;
    Ok(Array::try_from(Map::Array(data))?)
}

/// What an interface without our program must be, before anything is touched.
///
/// # Errors
///
/// A sentence that says why it cannot be guarded.
pub fn check(interface: &Interface) -> Result<()> {
    if interface.is_loopback {
        bail!(
            "{} is the loopback interface: what it carries never was on a network",
            interface.name
        );
    }
    let kernel = KernelVersion::current().context("asking for the kernel's version")?;
    if kernel < OLDEST_KERNEL {
        bail!(
            "this kernel is too old: Linux 5.18 or later is needed, for XDP on frames in several buffers"
        );
    }
    if let Some((mode, id)) = interface.xdp.first() {
        bail!(
            "{} already has an XDP program that is not this firewall's (id {id}, {} mode): `bpftool prog show id {id}` \
             tells what it is; remove it first",
            interface.name,
            mode.as_str(),
        );
    }
    Ok(())
}

fn attach_program(
    instance: &mut Instance,
    interface: &Interface,
    mode: ModeChoice,
) -> Result<FdLink> {
    let program = instance.program();
    let attempts: &[XdpMode] = match mode {
        ModeChoice::Auto => &[XdpMode::Driver, XdpMode::Skb],
        ModeChoice::Native => &[XdpMode::Driver],
        ModeChoice::Generic => &[XdpMode::Skb],
    };
    let mut refused = None;
    for &attempt in attempts {
        match program.attach_to_if_index(interface.index, attempt) {
            Ok(id) => {
                let link = program.take_link(id)?;
                return FdLink::try_from(link).context("this kernel has no BPF links for XDP");
            }
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.expect("at least one attempt was made");
    let why = match (&error, mode) {
        (ProgramError::SyscallError(call), _) if call.io_error.raw_os_error() == Some(16) => {
            "somebody else has just attached an XDP program"
        }
        (_, ModeChoice::Native) => {
            "the driver does not take it in native mode; `--mode generic` works with any driver"
        }
        _ => "the kernel refused it",
    };
    Err(error).with_context(|| {
        format!(
            "the firewall cannot be attached to {}: {why}",
            interface.name
        )
    })
}

/// Slots that a description names.
fn slots(description: &Description) -> impl Iterator<Item = u32> {
    let policy = &description.policy;
    policy
        .rules
        .iter()
        .map(|rule| rule.slot)
        .chain(policy.ports.iter().map(|&(_, _, slot)| slot))
}

fn highest_slot(description: &Description) -> u32 {
    slots(description).max().unwrap_or(0)
}

fn exists(path: &std::path::Path) -> Result<bool> {
    path.try_exists()
        .with_context(|| format!("looking for {}", path.display()))
}
