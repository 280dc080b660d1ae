//! A guarded interface: attach, switch generations, detach. Whatever stops a process in between, either the old or the
//! new policy is in force.
//!
//! # Both directions
//!
//! What leaves is recorded by a tcx program, and what arrives is let in by an XDP program if it answers that. At no moment
//! may the second be there without the first, or answers are refused:
//!
//! - Attaching, the tcx program comes first. Both links are there before either is pinned, because attaching to a network
//!   card may take seconds and pinning does not. Whoever is killed before the first pin leaves nothing, after the second
//!   a guarded interface. In between are microseconds, and what they leave is the tcx program alone: everything is let in,
//!   and what leaves is under the policy of the file. The folder then has no `link`, and the next apply or detach clears it.
//! - Detaching, the XDP link goes first, and when the kernel has let go of it, all the rest. Whoever is killed in between
//!   leaves the same.
//! - Where there has to be room for more counters, each program is replaced in its link. New or old, both look into the
//!   same policy and the same flow table.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, Map, MapData};
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, Xdp, XdpMode};
use aya::util::KernelVersion;
use aya_obj::programs::XdpAttachType;
use firewall_common::abi::{
    MAP_CONTROL, MAP_COUNTERS, MAP_FRAGMENTS, MAP_IMAGES, SLOTS, control::Control, image::Line,
};

use super::counters::Counters;
use super::description::Description;
use super::flows::{self, Fill, FlowTable, LiveFlow, Wanted};
use super::image::{self, Place};
use super::instance::Instance;
use super::interface::{Interface, Mode};
use super::pins::{self, Hook, Pins};
use super::programs;
use super::record::Record;

/// The oldest kernel that takes the programs: tcx came with it.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(6, 6, 0);

/// Counters for which there is room from the start, whatever the first policy names: 256 KiB a CPU.
const INITIAL_COUNTERS: u32 = 1 << 14;

/// Maps that every instance of the programs on an interface has in common. Those of the flow table, and what is remembered of
/// fragments, are the network namespace's; the others are the interface's own.
const SHARED: [&str; MAP_IMAGES.len() + flows::MAPS.len() + 2] = {
    let [a, b, c, d, e] = MAP_IMAGES;
    let [f, g, h] = flows::MAPS;
    [MAP_CONTROL, a, b, c, d, e, f, g, h, MAP_FRAGMENTS]
};

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
    Guard(Box<Guard>),
}

/// An interface with our program attached and its state pinned.
#[derive(Debug)]
pub struct Guard {
    pins: Pins,
    /// Mode in which the program is attached.
    pub mode: Mode,
    /// Id of the XDP program.
    pub program_id: u32,
    /// Id of the tcx program, unless somebody has taken it off.
    pub egress_id: Option<u32>,
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
        if !pins::exists(&pins.link(Hook::Ingress))? {
            return Ok(Found::Nothing);
        }
        let program_id = program_in(&pins, Hook::Ingress)?;
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
        let runs_here = |interface: &Interface| {
            let mut programs = interface.xdp.iter();
            programs.find(|(_, id)| *id == program_id).copied()
        };
        let Some((mode, _)) = runs_here(interface) else {
            let all = super::interface::all()?;
            if let Some(renamed) = all.iter().find(|other| runs_here(other).is_some()) {
                bail!(
                    "what was guarded as {} is now called {}, and guarded still: rename it back; or remove {}, which opens \
                     it, and apply under the new name",
                    interface.name,
                    renamed.name,
                    pins.folder().display(),
                );
            }
            return Ok(Found::Stale);
        };
        let egress_id = egress_at_work(&pins, interface)?;
        Ok(Found::Guard(Box::new(Self {
            pins,
            mode,
            program_id,
            egress_id,
            description,
            place,
        })))
    }

    /// Attaches the firewall to an interface that has none, with `image` in force from the first packet. The flow table is
    /// that of the network namespace or, if there is none, a new one as is `wanted`.
    ///
    /// # Errors
    ///
    /// A sentence; the machine is then as it was.
    pub fn attach(
        interface: &Interface,
        mode: ModeChoice,
        image: Vec<Line>,
        description: &Description,
        wanted: &Wanted,
    ) -> Result<Box<Self>> {
        check(interface)?;
        let pins = Pins::of(&interface.name);
        pins.remove()?;
        pins.create()?;
        let attached = Self::attach_new(interface, mode, image, description, wanted, &pins);
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
        wanted: &Wanted,
        pins: &Pins,
    ) -> Result<()> {
        let place = Place {
            class: image::class_of(&image),
            slot: 0,
        };
        let table = match FlowTable::of_namespace(interface)? {
            Some(table) => table,
            None => FlowTable::create(wanted)?,
        };
        let of_namespace = table.pin(pins)?;
        let mut instance = Instance::load_over(
            roomy(description).max(INITIAL_COUNTERS),
            of_namespace
                .iter()
                .map(|&name| (name, pins.map(name)))
                .collect(),
        )?;
        instance.install(place, image)?;
        instance.activate(place)?;
        for name in SHARED.iter().filter(|name| !of_namespace.contains(name)) {
            pin_map(&mut instance, name, &pins.map(name))?;
        }
        pin_map(&mut instance, MAP_COUNTERS, &pins.counters(0))?;
        description.pin(&pins.policy(place))?;
        for hook in Hook::ALL {
            pin_map(&mut instance, hook.next_map(), &pins.next(hook, 0))?;
            pin_program(&mut instance, hook, &pins.program(hook))?;
        }
        let clock = instance.clock().pin(pins.clock());
        clock.context("pinning the clock")?;

        let egress = attach_egress(instance.egress(), interface)?;
        let ingress = attach_ingress(&mut instance, interface, mode)?;
        // From here the interface is guarded; when both links are pinned, also if this process ends.
        for (hook, link) in [(Hook::Egress, egress), (Hook::Ingress, ingress)] {
            link.pin(pins.link(hook)).context("pinning a link")?;
        }
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
        let mut counters = self.make_room(&description)?;
        let mut images = Map::ArrayOfMaps(self.open(image::map_name(place))?);
        image::install(&mut images, place, image)
            .context("the kernel did not take the policy's tables")?;
        // Slots that are new may have counted something else before, in any of the maps. Nobody does any more: with an array
        // of maps the kernel has just waited until every program that was running has ended (`maybe_wait_bpf_programs`,
        // kernel/bpf/syscall.c), so that none has an earlier generation in hand, nor earlier counters.
        let old: HashSet<u32> = slots(&self.description).collect();
        counters.clear(slots(&description).filter(|slot| !old.contains(slot)))?;
        description.pin(&self.pins.policy(place))?;

        let mut control = control(&self.pins)?;
        control
            .set(0, Record(Control::new(place.class, place.slot)), 0)
            .context("switching generations")?;
        let before = std::mem::replace(&mut self.place, place);
        self.description = description;
        if before.class != place.class
            && let Err(error) = self.free(before)
        {
            // It costs memory until the next apply, and no packet sees it.
            eprintln!("note: the policy before is still in memory: {error:#}");
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
        pins::remove_file(&self.pins.link(Hook::Ingress))?;
        let refuses = |found: &Interface| {
            let mut programs = found.xdp.iter();
            Ok(programs.any(|&(_, id)| id == self.program_id))
        };
        let released = wait_until_gone(name, refuses)?;
        if !released {
            // What leaves goes on being recorded, for the sake of answers.
            bail!(
                "{name} is still guarded: another process holds the link; `bpftool link` shows it"
            );
        }
        let records = |found: &Interface| {
            let programs = programs::tcx(found, TcAttachType::Egress)?;
            let mut programs = programs.iter();
            Ok(programs.any(|program| Some(program.id()) == self.egress_id))
        };
        // Only then what it goes on with: the kernel empties a program array that nobody holds at once.
        pins::remove_file(&self.pins.link(Hook::Egress))?;
        let released = wait_until_gone(name, records)?;
        self.pins.remove()?;
        if !released {
            bail!(
                "{name} lets everything in, but another process holds the link of the program for what leaves; `bpftool \
                 link` shows it"
            );
        }
        Ok(())
    }

    /// Attaches the program for what leaves again if somebody has taken it off. Returns whether that was so.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn complete(&mut self, interface: &Interface) -> Result<bool> {
        if self.egress_id.is_some() {
            return Ok(false);
        }
        let path = self.pins.program(Hook::Egress);
        let mut program = SchedClassifier::from_pin(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        let link = attach_egress(&mut program, interface)?;
        pins::replace(&self.pins.link(Hook::Egress), |next| {
            link.pin(next).map(drop)
        })?;
        self.egress_id = egress_at_work(&self.pins, interface)?;
        Ok(true)
    }

    /// The flow table, to be given other settings.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flow_table(&self) -> Result<FlowTable> {
        FlowTable::open(&self.pins)
    }

    /// How full the flow table is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flow_fill(&self) -> Result<Fill> {
        self.flow_table()?.fill(flows::now(&self.pins)?)
    }

    /// The flows of the network namespace, in no order.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flows(&self) -> Result<Vec<LiveFlow>> {
        self.flow_table()?.live(flows::now(&self.pins)?)
    }

    /// Records that the policy in force is now kept in `file`. Nothing else changes.
    ///
    /// # Errors
    ///
    /// What the kernel says; the old file is then still recorded.
    pub fn record_file(&mut self, file: String) -> Result<()> {
        let description = Description {
            file,
            ..self.description.clone()
        };
        description.pin(&self.pins.policy(self.place))?;
        self.description = description;
        Ok(())
    }

    /// The counters, to be read at leisure.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn counters(&self) -> Result<Counters> {
        Counters::open(&self.pins)
    }

    /// Sees to it that the program at work can count everything that `next` names. Returns the counters but for a map
    /// that is new and empty.
    fn make_room(&mut self, next: &Description) -> Result<Counters> {
        let program = self.settle()?;
        let counters = self.counters()?;
        let (number, room) = counters.used_by(&program)?;
        self.drop_earlier_nexts(number)?;
        // Later maps are of programs that a killed `grow` never put to work. The last goes first: numbers have no gaps.
        for unused in (number + 1..counters.maps()).rev() {
            for hook in Hook::ALL {
                pins::remove_file(&self.pins.next(hook, unused))?;
            }
            pins::remove_file(&self.pins.counters(unused))?;
        }
        if highest_slot(next) >= room {
            self.grow(number + 1, roomy(next).max(2 * room))?;
        }
        Ok(counters)
    }

    /// Removes what programs went on to that counted in a map before that with this number. That is done by the next switch
    /// after [`Self::grow`], not at once: a packet may be on its way through them.
    fn drop_earlier_nexts(&self, number: usize) -> Result<()> {
        for before in 0..number {
            for hook in Hook::ALL {
                pins::remove_file(&self.pins.next(hook, before))?;
            }
        }
        Ok(())
    }

    /// Ends what a killed [`Self::grow`] has begun, or clears it away if none of its programs is at work. Returns the XDP
    /// program, which like the other is pinned under its name.
    fn settle(&mut self) -> Result<ProgramInfo> {
        let mut begun = false;
        for hook in Hook::ALL {
            let next = self.pins.program_next(hook);
            begun |=
                pins::exists(&next)? && program_at(&next)?.id() == program_in(&self.pins, hook)?;
        }
        for hook in Hook::ALL {
            if begun {
                self.put_next_to_work(hook)?;
            } else {
                pins::remove_file(&self.pins.program_next(hook))?;
            }
        }
        let path = self.pins.program(Hook::Ingress);
        let program = program_at(&path)?;
        if program.id() != self.program_id {
            bail!(
                "{} is not the program that the link runs: detach and apply again",
                path.display()
            );
        }
        Ok(program)
    }

    /// Replaces the programs by instances of themselves that have every map in common with them but that of the counters,
    /// which is pinned as number `number` and has `room` slots. From one packet to the next, each link runs the one or the
    /// other, both under the policy in force; what the old ones have counted stays where it is.
    fn grow(&mut self, number: usize, room: u32) -> Result<()> {
        for name in SHARED {
            self.open(name)?;
        }
        let shared = SHARED.map(|name| (name, self.pins.map(name)));
        let mut instance = Instance::load_over(room, shared.into())?;
        // Whatever is at work has its counters pinned, and when one of the programs is, both are.
        pin_map(&mut instance, MAP_COUNTERS, &self.pins.counters(number))?;
        for hook in Hook::ALL {
            pin_map(
                &mut instance,
                hook.next_map(),
                &self.pins.next(hook, number),
            )?;
            pin_program(&mut instance, hook, &self.pins.program_next(hook))?;
        }
        for hook in Hook::ALL {
            self.put_next_to_work(hook)?;
        }
        Ok(())
    }

    /// Has the link run the next program, if there is one, and gives that the name of what is at work.
    fn put_next_to_work(&mut self, hook: Hook) -> Result<()> {
        let next = self.pins.program_next(hook);
        if !pins::exists(&next)? {
            return Ok(());
        }
        let id = program_at(&next)?.id();
        if program_in(&self.pins, hook)? != id {
            run_in(link(&self.pins, hook)?, hook, &next)
                .context("the kernel did not replace a program by one with more counters")?;
        }
        match hook {
            Hook::Ingress => self.program_id = id,
            Hook::Egress => self.egress_id = Some(id),
        }
        pins::rename(&next, &self.pins.program(hook))
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
            pins::remove_file(&self.pins.policy(Place { slot, ..place }))?;
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
/// What cannot be removed; and nothing is, if the program is on the interface all the same: another process holds its link.
pub fn remove_stale(name: &str) -> Result<()> {
    let pins = Pins::of(name);
    let program = pins.program(Hook::Ingress);
    if pins::exists(&program)?
        && let Some(interface) = super::interface::find(name)?
    {
        let id = program_at(&program)?.id();
        if interface.xdp.iter().any(|&(_, at_work)| at_work == id) {
            bail!(
                "{name} is still guarded: another process holds the link; `bpftool link` shows it"
            );
        }
    }
    pins.remove()
}

/// Whether the program that is pinned for `interface` is on it.
pub(super) fn is_guarded(interface: &Interface) -> Result<bool> {
    let pins = Pins::of(&interface.name);
    if !pins::exists(&pins.link(Hook::Ingress))? {
        return Ok(false);
    }
    let program = program_in(&pins, Hook::Ingress)?;
    Ok(interface.xdp.iter().any(|&(_, id)| id == program))
}

/// The tcx program whose link is pinned, if it is on the interface.
fn egress_at_work(pins: &Pins, interface: &Interface) -> Result<Option<u32>> {
    if !pins::exists(&pins.link(Hook::Egress))? {
        return Ok(None);
    }
    let pinned = program_in(pins, Hook::Egress)?;
    let programs = programs::tcx(interface, TcAttachType::Egress)
        .context("asking for the programs that see what leaves")?;
    let at_work = programs.iter().any(|program| program.id() == pinned);
    Ok(at_work.then_some(pinned))
}

/// Whether the kernel lets go within [`DETACH_TIMEOUT`] of what `is_there` finds on the interface called `name`.
fn wait_until_gone(name: &str, is_there: impl Fn(&Interface) -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + DETACH_TIMEOUT;
    while let Some(found) = super::interface::find(name)? {
        if !is_there(&found)? {
            break;
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(DETACH_POLL);
    }
    Ok(true)
}

fn link(pins: &Pins, hook: Hook) -> Result<FdLink> {
    let path = pins.link(hook);
    let link =
        PinnedLink::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(link.into())
}

/// Id of the program that a pinned link runs.
fn program_in(pins: &Pins, hook: Hook) -> Result<u32> {
    let info = link(pins, hook)?.info().context("asking for a link")?;
    Ok(info.program_id())
}

/// The program that is pinned at `path`.
fn program_at(path: &Path) -> Result<ProgramInfo> {
    ProgramInfo::from_pin(path).with_context(|| format!("opening {}", path.display()))
}

/// Replaces what `link` runs by the program that is pinned at `path`, from one packet to the next.
fn run_in(link: FdLink, hook: Hook, path: &Path) -> Result<()> {
    match hook {
        Hook::Ingress => {
            let mut program = Xdp::from_pin(path, XdpAttachType::Interface)?;
            program.attach_to_link(XdpLink::try_from(link)?)?;
        }
        Hook::Egress => {
            let mut program = SchedClassifier::from_pin(path)?;
            program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
        }
    }
    Ok(())
}

fn pin_program(instance: &mut Instance, hook: Hook, path: &Path) -> Result<()> {
    let pinned = match hook {
        Hook::Ingress => instance.program().pin(path),
        Hook::Egress => instance.egress().pin(path),
    };
    pinned.with_context(|| format!("pinning {}", path.display()))
}

fn pin_map(instance: &mut Instance, name: &str, path: &Path) -> Result<()> {
    let map = instance.ebpf().map(name);
    map.with_context(|| format!("no map {name}"))?
        .pin(path)
        .with_context(|| format!("pinning {}", path.display()))
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
    if !interface.is_ethernet {
        bail!(
            "{} carries no Ethernet frames (it is a tunnel, say), and those are what the firewall reads: guard the interface \
             that its packets come through",
            interface.name
        );
    }
    let kernel = KernelVersion::current().context("asking for the kernel's version")?;
    if kernel < OLDEST_KERNEL {
        bail!(
            "this kernel is too old: Linux 6.6 or later is needed, for tcx, which shows what leaves the host"
        );
    }
    if is_realtime() {
        bail!(
            "this kernel is a real-time one (PREEMPT_RT), where a packet may be interrupted by another between two programs \
             that have to follow each other: it is not supported"
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

/// Whether the kernel is a real-time one, which says so in its version (init/Makefile; `UTS_VERSION`).
fn is_realtime() -> bool {
    let uname = rustix::system::uname();
    let version = uname.version().to_string_lossy();
    version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

/// Attaches the program for what leaves, before all others: of those behind it none can let a packet out unseen.
fn attach_egress(program: &mut SchedClassifier, interface: &Interface) -> Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = program
        .attach_with_options(&interface.name, TcAttachType::Egress, options)
        .with_context(|| {
            format!(
                "the kernel refused to show the firewall what leaves through {}",
                interface.name
            )
        })?;
    FdLink::try_from(program.take_link(attached)?).context("this kernel has no BPF links for tcx")
}

fn attach_ingress(
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
    description.policy.slots.used()
}

fn highest_slot(description: &Description) -> u32 {
    slots(description).max().unwrap_or(0)
}

/// Counters to make room for with a policy: as many again find place beside it when it is replaced.
fn roomy(description: &Description) -> u32 {
    2 * (highest_slot(description) + 1)
}
