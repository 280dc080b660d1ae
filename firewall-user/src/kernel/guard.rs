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
//! - Detaching, the XDP link goes first, when the kernel has let go of it the other, and then all the rest. Whoever is killed in
//!   between leaves the same.
//! - Where there has to be room for more counters, each program is replaced in its link. New or old, both look into the
//!   same policy and the same flow table.

mod clear;
mod copied;
mod growth;
mod returned;
mod shadow;
mod switch;
mod tables;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, SchedClassifier};
use firewall_common::abi::{
    MAP_CONTROL, MAP_COUNTERS, MAP_FRAGMENTS, MAP_IMAGES,
    ban::{self, MAP_BAN_FILTERS, MAP_BAN_SETTINGS, MAP_BANS},
    control::{Control, Place},
    counter::Counter,
    image::Line,
    knock::MAP_KNOCKS,
    limit::{MAP_LIMIT_SETTINGS, MAP_LIMITS},
};

use super::attach::{self, ModeChoice};
use super::attachment;
use super::bans::{BanTable, LiveBan};
use super::control::ControlWord;
use super::counters::Counters;
use super::description::Description;
use super::events::{self, Reader, Tallies};
use super::flows::{self, Fill, FlowTable, LiveFlow, Wanted};
use super::image;
use super::instance::Instance;
use super::interface::{Interface, Mode};
use super::kept::{Archive, Kept};
use super::knocks;
use super::pins::{self, Hook, Pins};
use super::state::Sizes;
use clear::{clear, wait_until_gone};
pub use clear::{remove_stale, stale_bans};
pub(super) use growth::run_in;
pub use returned::Returned;
pub(super) use switch::since_lapsed;
pub use switch::{Next, Trial};

/// Counters for which there is room from the start, whatever the first policy names: 256 KiB a CPU.
const INITIAL_COUNTERS: u32 = 1 << 14;

/// Maps that every instance of the programs on an interface has in common. Those of the flow table, and what is remembered of
/// fragments, are the network namespace's; the others are the interface's own.
pub(super) const SHARED: [&str; MAP_IMAGES.len() + flows::MAPS.len() + events::MAPS.len() + 8] = {
    let [a, b, c, d, e] = MAP_IMAGES;
    let [f, g, h] = flows::MAPS;
    let [i, j, k] = events::MAPS;
    [
        MAP_CONTROL,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        MAP_FRAGMENTS,
        MAP_BANS,
        MAP_BAN_SETTINGS,
        MAP_BAN_FILTERS,
        MAP_LIMITS,
        MAP_LIMIT_SETTINGS,
        MAP_KNOCKS,
        i,
        j,
        k,
    ]
};

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

/// What an interface begins with.
#[derive(Debug)]
pub struct Start<'a> {
    /// What is in force from the first packet.
    pub next: Next<'a>,
    /// How long, unless that is confirmed.
    pub trial: Option<FirstTrial>,
    /// The flow table, where the network namespace has none.
    pub wanted: &'a Wanted,
    /// How large its own tables are.
    pub sizes: Sizes,
    /// Who is banned from the first packet.
    pub bans: &'a [LiveBan],
}

/// The trial of an interface's first generation.
#[derive(Debug)]
pub struct FirstTrial {
    /// How long it lasts.
    pub lasts: Duration,
    /// Tables that let everything in, which are in force after it.
    pub open: Vec<Line>,
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
    /// Whether what was put in force last has to be confirmed.
    pub trial: Trial,
    control: Control,
    hardware_address: Option<[u8; 6]>,
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
        let (control, trial, description) = in_force(&pins)?;
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
        let description = since_lapsed(description, trial, control, &pins)?;
        Ok(Found::Guard(Box::new(Self {
            pins,
            mode,
            program_id,
            egress_id,
            description,
            control,
            trial,
            hardware_address: interface.hardware_address,
        })))
    }

    /// Attaches the firewall to an interface that has none. The flow table is that of the network namespace or, if there is none, a new
    /// one as is wanted.
    ///
    /// # Errors
    ///
    /// A sentence; the machine is then as it was.
    pub fn attach(interface: &Interface, mode: ModeChoice, start: Start<'_>) -> Result<Box<Self>> {
        attach::check(interface)?;
        let pins = Pins::of(&interface.name);
        clear(&pins, &interface.name)?;
        pins.create()?;
        let attached = Self::attach_new(interface, mode, start, &pins);
        if attached.is_err() {
            clear(&pins, &interface.name)?;
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
        start: Start<'_>,
        pins: &Pins,
    ) -> Result<()> {
        let Start {
            next,
            trial,
            wanted,
            sizes,
            bans,
        } = start;
        let Next {
            image,
            description,
            source,
        } = next;
        let place = Place::new(image.class(), 0);
        let table = match FlowTable::of_namespace(interface)? {
            Some(table) => table,
            None => FlowTable::create(wanted)?,
        };
        let of_namespace = table.pin(pins)?;
        let mut instance = Instance::load_over(
            interface.hardware_address,
            roomy(&description).max(INITIAL_COUNTERS),
            of_namespace
                .iter()
                .map(|&name| (name, pins.map(name)))
                .collect(),
            Some(sizes),
        )?;
        instance.install(place, image)?;
        instance.activate(place)?;
        let trial = match trial {
            None => None,
            Some(FirstTrial { lasts, open }) => {
                let place = Place::new(image::class_of(&open), place.slot() + 1);
                instance.install(place, open)?;
                Some((place, lasts))
            }
        };
        for name in SHARED.iter().filter(|name| !of_namespace.contains(name)) {
            pin_map(&mut instance, name, &pins.map(name))?;
        }
        BanTable::pin_reasons(pins, sizes.ban_buckets * ban::WAYS as u32)?;
        give(bans, description.policy.bans_by_rule, pins)?;
        pin_map(&mut instance, MAP_COUNTERS, &pins.counters(0))?;
        description.pin(&pins.policy(place))?;
        events::name(pins, place, description.generation)?;
        Archive::of(pins).keep(&source)?;
        for hook in Hook::ALL {
            pin_map(&mut instance, hook.next_map(), &pins.next(hook, 0))?;
            pin_program(&mut instance, hook, &pins.program(hook))?;
        }
        let clock = instance.clock().pin(pins.clock());
        clock.context("pinning the clock")?;
        if let Some((open, lasts)) = trial {
            description.opened().pin(&pins.policy(open))?;
            let control = Control::new(place, open).until(switch::deadline(pins, lasts)?);
            ControlWord::open(pins)?.store(control);
        }

        let egress = attach::egress(instance.egress(), interface)?;
        let ingress = attach::ingress(instance.program(), interface, mode)?;
        // From here the interface is guarded; when both links are pinned, also if this process ends.
        for (hook, link) in [(Hook::Egress, egress), (Hook::Ingress, ingress)] {
            link.pin(pins.link(hook)).context("pinning a link")?;
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
        clear(&self.pins, name)
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
        let link = attach::egress(&mut program, interface)?;
        pins::replace(&self.pins.link(Hook::Egress), |next| {
            link.pin(next).map(drop)
        })?;
        self.egress_id = egress_at_work(&self.pins, interface)?;
        Ok(true)
    }

    /// Hardware address of the interface.
    pub const fn hardware_address(&self) -> Option<[u8; 6]> {
        self.hardware_address
    }

    /// The flow table, to be given other settings.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flow_table(&self) -> Result<FlowTable> {
        FlowTable::open(&self.pins)
    }

    /// How large the tables are that the interface has of its own.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn state_sizes(&self) -> Result<Sizes> {
        let entries = |name| {
            let info = self.open(name)?.info();
            Ok::<_, anyhow::Error>(info.context("asking for a table")?.max_entries())
        };
        Ok(Sizes {
            ban_buckets: entries(MAP_BANS)?,
            limit_lines: entries(MAP_LIMITS)?,
        })
    }

    /// The bans of the interface.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn bans(&self) -> Result<BanTable> {
        BanTable::open(&self.pins)
    }

    /// What came for ports that no rule names, by protocol number and port: those knocked at most.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn knocks(&self) -> Result<BTreeMap<(u8, u16), Counter>> {
        knocks::read(&self.pins)
    }

    /// How full the flow table is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flow_fill(&self) -> Result<Fill> {
        self.flow_table()?.fill(&self.pins)
    }

    /// The flows of the network namespace, in no order.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn flows(&self) -> Result<Vec<LiveFlow>> {
        self.flow_table()?.live(&self.pins)
    }

    /// Begins to read of packets: of each reason, and of each rule with `log`, so many a second and CPU.
    ///
    /// # Errors
    ///
    /// What the kernel says, or that others read already, as many as can.
    pub fn listen(&self, a_second: u32) -> Result<Reader> {
        Reader::open(&self.pins, a_second)
    }

    /// What became of all packets that readers were to be told of, since the interface is guarded.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn events(&self) -> Result<Tallies> {
        Tallies::read(&self.pins)
    }

    /// Records that the policy in force is now kept in the file that `kept` names, with its address lists. Nothing else changes.
    ///
    /// # Errors
    ///
    /// What the kernel says; the old file is then still recorded.
    pub fn record_file(&mut self, kept: &Kept) -> Result<()> {
        let description = Description {
            file: kept.file.clone(),
            ..self.description.clone()
        };
        // What is edited live is saved where this says.
        self.mark(description.generation, |was| {
            was.file.clone_from(&kept.file);
            for list in &mut was.lists {
                if let Some(now) = kept.lists.iter().find(|now| now.name == list.name) {
                    list.path.clone_from(&now.path);
                }
            }
        })?;
        description.pin(&self.pins.policy(self.place()))?;
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

    fn open(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.pins.map(name))
            .with_context(|| format!("opening the pinned map {name}"))
    }
}

/// Gives bans that were given elsewhere before the first packet can come in.
fn give(bans: &[LiveBan], by_rule: Option<u8>, pins: &Pins) -> Result<()> {
    let mut table = BanTable::open(pins)?;
    table.settle(by_rule);
    for ban in bans {
        let given = table.give(
            ban.prefix,
            ban.left_ns,
            ban.about.everywhere,
            ban.reason.as_deref(),
        );
        if let Err(error) = given {
            eprintln!("warning: a ban was not taken over: {error:#}");
        }
    }
    Ok(())
}

/// Whether the program that is pinned for `interface` is on it.
pub(super) fn is_guarded(interface: &Interface) -> Result<bool> {
    is_guarded_by(&Pins::of(&interface.name), interface)
}

/// Whether the program with these pins, of any ABI version, is on `interface`.
pub(super) fn is_guarded_by(pins: &Pins, interface: &Interface) -> Result<bool> {
    if !pins::exists(&pins.link(Hook::Ingress))? {
        return Ok(false);
    }
    let program = program_in(pins, Hook::Ingress)?;
    Ok(interface.xdp.iter().any(|&(_, id)| id == program))
}

/// What is in force by the pins of an interface.
pub(super) fn in_force(pins: &Pins) -> Result<(Control, Trial, Description)> {
    let control = ControlWord::open(pins)?.load();
    let trial = Trial::of(control, pins)?;
    let description = Description::read(&pins.policy(trial.deciding(control)))?;
    Ok((control, trial, description))
}

/// The tcx program whose link is pinned, if it is on the interface.
pub(super) fn egress_at_work(pins: &Pins, interface: &Interface) -> Result<Option<u32>> {
    if !pins::exists(&pins.link(Hook::Egress))? {
        return Ok(None);
    }
    let link = link(pins, Hook::Egress)?;
    let program = link.info().context("asking for a link")?.program_id();
    let at_work = attachment::interface_of(&link)? == Some(interface.index);
    Ok(at_work.then_some(program))
}

pub(super) fn link(pins: &Pins, hook: Hook) -> Result<FdLink> {
    let path = pins.link(hook);
    let link =
        PinnedLink::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(link.into())
}

/// Id of the program that a pinned link runs.
pub(super) fn program_in(pins: &Pins, hook: Hook) -> Result<u32> {
    let info = link(pins, hook)?.info().context("asking for a link")?;
    Ok(info.program_id())
}

/// The program that is pinned at `path`.
pub(super) fn program_at(path: &Path) -> Result<ProgramInfo> {
    ProgramInfo::from_pin(path).with_context(|| format!("opening {}", path.display()))
}

pub(super) fn pin_program(instance: &mut Instance, hook: Hook, path: &Path) -> Result<()> {
    let pinned = match hook {
        Hook::Ingress => instance.program().pin(path),
        Hook::Egress => instance.egress().pin(path),
    };
    pinned.with_context(|| format!("pinning {}", path.display()))
}

pub(super) fn pin_map(instance: &mut Instance, name: &str, path: &Path) -> Result<()> {
    let map = instance.ebpf().map(name);
    map.with_context(|| format!("no map {name}"))?
        .pin(path)
        .with_context(|| format!("pinning {}", path.display()))
}

/// Slots that a description names, in order.
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
