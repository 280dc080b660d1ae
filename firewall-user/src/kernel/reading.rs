//! Everything that is counted on an interface, read from its pins alone: no lock is taken, so nobody waits for whoever reads, and
//! whoever reads waits for nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use firewall_common::abi::control::Control;
use firewall_common::abi::counter::Counter;

use super::attachment;
use super::bans::{BanTable, LiveBan};
use super::control::ControlWord;
use super::counters::Counters;
use super::description::Description;
use super::events::Tallies;
use super::flows::{Fill, FlowTable};
use super::guard::{Trial, link, program_at, since_lapsed};
use super::interface::{self, Interface, Mode};
use super::pins::{self, Hook, Pins};
use super::shadow::{self, Candidate, Differs};
use crate::counters::{Decides, Sums};

/// How often it is tried again where generations are switched meanwhile.
const TRIES: usize = 8;

/// What is read of an interface.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Its name.
    pub interface: String,
    /// What is in force.
    pub description: Arc<Description>,
    /// Whether it has to be confirmed.
    pub trial: Trial,
    /// What was counted.
    pub sums: Sums,
    /// What rules have decided that are in force no more.
    pub gone: BTreeMap<Decides, Counter>,
    /// How full the flow table is.
    pub flows: Fill,
    /// Bans that have not ended.
    pub bans: usize,
    /// Room for bans.
    pub ban_table: usize,
    /// In which mode the program for what arrives is attached, if it is.
    pub ingress: Option<Mode>,
    /// Whether the program for what leaves is attached.
    pub egress: bool,
    /// What became of packets that were to be told of.
    pub events: Tallies,
    /// Where a candidate differs, if there is one.
    pub candidate: Option<Vec<Differs>>,
    /// How often programs ran, and how long, if the kernel keeps that.
    pub runs: Vec<Runs>,
}

/// What the kernel knows of a program's runs, those that it went on to included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// Where it is.
    pub hook: Hook,
    /// The kernel's number of it: another one begins to count anew.
    pub program: u32,
    /// How often it ran.
    pub count: u64,
    /// How long altogether.
    pub time: Duration,
}

/// What is in force, by which it can be told whether that is another now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    control: Control,
    /// Number of the map that has the description.
    description: u32,
    trial_is_over: bool,
}

/// Descriptions as they were read last, by interface: those of ten thousand rules take longer to read than the counters.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, (Version, Arc<Description>)>);

/// Names of the interfaces that have pins which belong to this network namespace.
///
/// # Errors
///
/// The BPF file system is out of reach.
pub fn interfaces(known: &mut Known) -> Result<Vec<String>> {
    let here = interface::namespace()?;
    let mut names = pins::interfaces()?;
    names.retain(|name| {
        let pins = Pins::of(name);
        let found = version(&pins).and_then(|version| known.description(name, &pins, &version));
        found.is_ok_and(|found| found.namespace == here)
    });
    known.0.retain(|name, _| names.contains(name));
    Ok(names)
}

/// Reads what is pinned for the interface called `name`; `all` are those that there are.
///
/// # Errors
///
/// There are no pins, or what the kernel says.
pub fn read(name: &str, all: &[Interface], known: &mut Known) -> Result<Reading> {
    let pins = Pins::of(name);
    let mut tries = 1;
    loop {
        let before = version(&pins);
        let read = before.as_ref().ok().map(|version| {
            let description = known.description(name, &pins, version)?;
            of_version(name, &pins, all, version, description)
        });
        let is_same = match (&before, version(&pins)) {
            (Ok(before), Ok(after)) => *before == after,
            _ => false,
        };
        // What is read while generations are switched may be of neither, and fail for that.
        match (before, read) {
            (Ok(_), Some(Ok(reading))) if is_same => return Ok(reading),
            (Ok(_), Some(Err(error))) if is_same || tries == TRIES => return Err(error),
            (Err(error), _) if tries == TRIES => return Err(error),
            _ if tries == TRIES => bail!("generations of {name} are switched too fast to be read"),
            _ => tries += 1,
        }
    }
}

/// The bans of the interface called `name` that have not ended.
///
/// # Errors
///
/// There are no pins, or what the kernel says.
pub fn bans(name: &str) -> Result<Vec<LiveBan>> {
    Ok(BanTable::open(&Pins::of(name))?.live())
}

fn version(pins: &Pins) -> Result<Version> {
    let control = ControlWord::open(pins)?.load();
    let trial = Trial::of(control, pins)?;
    let path = pins.policy(trial.deciding(control));
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Version {
        control,
        description: map.info().context("asking for a description")?.id(),
        trial_is_over: trial == Trial::Lapsed,
    })
}

impl Known {
    fn description(
        &mut self,
        name: &str,
        pins: &Pins,
        version: &Version,
    ) -> Result<Arc<Description>> {
        if let Some((known, description)) = self.0.get(name)
            && known == version
        {
            return Ok(description.clone());
        }
        let control = version.control;
        let trial = Trial::of(control, pins)?;
        let description = Description::read(&pins.policy(trial.deciding(control)))?;
        let description = Arc::new(since_lapsed(description, trial, control, pins)?);
        let entry = (*version, description.clone());
        self.0.insert(name.to_owned(), entry);
        Ok(description)
    }
}

fn of_version(
    name: &str,
    pins: &Pins,
    all: &[Interface],
    version: &Version,
    description: Arc<Description>,
) -> Result<Reading> {
    let counters = Counters::open(pins)?;
    let sums = Sums::read(&description.policy.slots, |slots| {
        counters.read(slots.iter().copied())
    })?;
    let trial = Trial::of(version.control, pins)?;
    let gone = (description.policy.gone).sums(|slots| counters.read(slots.iter().copied()))?;
    let bans = BanTable::open(pins)?;
    let candidate = match shadow::is_asked(pins)? {
        true => Some(shadow::read(pins, &Candidate::read(&pins.shadow())?)?),
        false => None,
    };
    let program = link(pins, Hook::Ingress)?
        .info()
        .context("asking for a link")?;
    let attached = |interface: &Interface| {
        let mut programs = interface.xdp.iter();
        let found = programs.find(|&&(_, id)| id == program.program_id());
        found.map(|&(mode, _)| mode)
    };
    let egress = match pins::exists(&pins.link(Hook::Egress))? {
        true => attachment::interface_of(&link(pins, Hook::Egress)?)?,
        false => None,
    };
    Ok(Reading {
        interface: name.to_owned(),
        trial,
        gone,
        sums,
        flows: FlowTable::open(pins)?.fill(pins)?,
        bans: bans.count(),
        ban_table: bans.size(),
        // It may have another name now, and is guarded all the same.
        ingress: all.iter().find_map(attached),
        egress: egress.is_some(),
        events: Tallies::read(pins)?,
        candidate,
        runs: runs(pins)?,
        description,
    })
}

/// What the kernel knows of the programs' runs: nothing unless somebody has had it keep that, by `kernel.bpf_stats_enabled` or as
/// bpftool does while it measures.
fn runs(pins: &Pins) -> Result<Vec<Runs>> {
    let runs = Hook::ALL.map(|hook| {
        let program = program_at(&pins.program(hook))?;
        Ok(Runs {
            hook,
            program: program.id(),
            count: program.run_count(),
            time: program.run_time(),
        })
    });
    let runs = runs.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(runs.into_iter().filter(|run| run.count > 0).collect())
}
