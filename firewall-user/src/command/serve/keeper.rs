//! Looks after interfaces: holds what is pinned, puts back pins that are lost, guards again what was gone and is back, and applies rule
//! files. Where a command has its turn, it waits for its own without holding anybody up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use tracing::{error, info, warn};

use super::Serve;
use super::good;
use super::health::Health;
use super::policies::Policies;
use super::tally::Tally;
use super::watcher::{Files, Wake};
use crate::command::apply::Order;
use crate::command::bans;
use crate::kernel::attach::ModeChoice;
use crate::kernel::guard::{Found, Guard, Returned, Trial};
use crate::kernel::held::{Held, Links, Look};
use crate::kernel::interface::{self, Interface, Mode};
use crate::kernel::pins::Hook;
use crate::kernel::reading::{self, Known};
use crate::lock;
use crate::output::{Format, Output, width};
use crate::rules::{Loaded, Report};

/// How long to wait for a turn. A command that has it may be waiting for what is held here to be let go.
const TURN: Duration = Duration::from_millis(200);
/// How soon to look again where a command has its turn.
const SOON: Duration = Duration::from_millis(10);
/// How often it is tried to guard an interface whose rule file could not be applied.
const RETRY: Duration = Duration::from_secs(60);
/// How long to wait for a turn when the service is told to end.
const ENDING: Duration = Duration::from_secs(60);
/// How often bans are saved.
const SAVING: Duration = Duration::from_secs(60);

/// When to look again, and what may give cause to do so earlier.
#[derive(Debug)]
pub(super) struct Next {
    /// Within this time; `None`: as usual.
    pub(super) within: Option<Duration>,
    /// Whether there is something to be done for which a command's turn has to end.
    pub(super) waits: bool,
    /// Folders in which something may change.
    pub(super) folders: BTreeSet<PathBuf>,
}

/// Whoever looks after the interfaces.
#[derive(Debug)]
pub(super) struct Keeper {
    /// These; without any, all that are guarded.
    named: Vec<String>,
    mode: ModeChoice,
    watches: bool,
    trial: Option<Duration>,
    policies: Policies,
    /// Whether nobody has looked yet.
    is_first: bool,
    is_to_reload: bool,
    saved_at: Instant,
    kept: BTreeMap<String, Kept>,
    known: Known,
    tally: Arc<Tally>,
    health: Arc<Health>,
    wake: Arc<Wake>,
    /// What was told last, by what it is about: a problem that stays is told once.
    told: BTreeMap<String, String>,
}

/// An interface that is looked after.
#[derive(Debug)]
struct Kept {
    held: Held,
    /// What guards it while its pins are those from before it went.
    returned: Option<Returned>,
    /// In which mode the program ran, and for which hardware address, when it was seen last.
    mode: Option<Mode>,
    hardware_address: Option<[u8; 6]>,
    /// Index of the interface that a command has taken the firewall off: it is not guarded again by itself.
    released: bool,
    /// Whether it was guarded when it was looked at last.
    was_guarded: bool,
    /// The generation that was kept last, for the next start of the machine.
    good: Option<u64>,
}

/// How it stands with an interface.
#[derive(Debug)]
enum State {
    /// It is guarded, or nobody wants it to be.
    Well,
    /// A command has its turn: there is more to be done.
    Waits,
}

impl Keeper {
    pub(super) fn new(
        serve: &Serve,
        tally: Arc<Tally>,
        health: Arc<Health>,
        wake: Arc<Wake>,
    ) -> Self {
        Self {
            named: serve.interface.clone(),
            mode: serve.mode,
            watches: serve.watch,
            trial: (serve.confirm).map(|seconds| Duration::from_secs(seconds.into())),
            policies: Policies::new(serve.rules_dir.clone(), serve.guard.clone()),
            is_first: true,
            is_to_reload: false,
            saved_at: Instant::now(),
            kept: BTreeMap::new(),
            known: Known::default(),
            tally,
            health,
            wake,
            told: BTreeMap::new(),
        }
    }

    /// Rule files are to be applied at the next look, changed or not.
    pub(super) fn reload(&mut self) {
        self.is_to_reload = true;
    }

    /// Looks after everything once.
    pub(super) fn look(&mut self) -> Next {
        let mut problems = BTreeMap::new();
        let mut waits = false;
        let within = match self.look_at_all(&mut problems, &mut waits) {
            Ok(within) => within,
            Err(error) => {
                problems.insert("all".to_owned(), format!("{error:#}"));
                None
            }
        };
        for (name, problem) in &problems {
            if self.told.get(name) != Some(problem) {
                warn!("{name}: {problem}");
            }
        }
        for name in self
            .told
            .keys()
            .filter(|name| !problems.contains_key(*name))
        {
            info!("{name}: well again");
        }
        if let Err(error) = self.save_in_time() {
            warn!("bans were not saved: {error:#}");
        }
        self.told = problems.clone();
        self.health.set(problems);
        let held = self.kept.values().map(|kept| kept.held.folder());
        let mut folders: BTreeSet<PathBuf> = held.collect();
        if self.watches {
            folders.extend(self.policies.folders());
        }
        Next {
            within,
            waits,
            folders,
        }
    }

    /// What is to be done before the service ends.
    pub(super) fn end(&mut self) -> Result<()> {
        let Some(_turn) = lock::exclusive_within(ENDING)? else {
            bail!("bans were not saved: a command has its turn");
        };
        self.save()
    }

    /// Saves that if it is time to.
    fn save_in_time(&mut self) -> Result<()> {
        if self.saved_at.elapsed() >= SAVING
            && let Some(_turn) = lock::exclusive_within(TURN)?
        {
            self.save()?;
        }
        Ok(())
    }

    /// Saves what is to outlive the machine's going down: bans, and what is in force by the interfaces' rule files.
    fn save(&mut self) -> Result<()> {
        self.saved_at = Instant::now();
        for (name, kept) in &mut self.kept {
            if let Some(file) = self.policies.get_mut(name)
                && let Err(error) = good::keep(name, &file.path, &mut kept.good)
            {
                warn!("{name}: what is in force was not kept for the next start: {error:#}");
            }
        }
        let mut all = BTreeMap::new();
        // Also of what has come to be guarded since it was looked at last.
        for name in self.kept.keys() {
            // Of one whose pins are gone, what is saved stays.
            if let Ok(bans) = reading::bans(name) {
                all.insert(name.clone(), bans);
            }
        }
        bans::saved::save(all)
    }

    fn look_at_all(
        &mut self,
        problems: &mut BTreeMap<String, String>,
        waits: &mut bool,
    ) -> Result<Option<Duration>> {
        let mut within = self.look_at_files()?;
        let all = interface::all()?;
        for name in self.names()? {
            let has_file = self.policies.names().any(|file| *file == name);
            self.tally.of(&name, |one| one.has_file |= has_file);
            match self.look_after(&name, &all) {
                Ok(State::Well) => {}
                Ok(State::Waits) => {
                    within = Some(SOON);
                    *waits = true;
                }
                Err(error) => {
                    problems.insert(name, format!("{error:#}"));
                }
            }
        }
        Ok(within)
    }

    /// Whom to look after.
    fn names(&mut self) -> Result<BTreeSet<String>> {
        let mut names: BTreeSet<String> = self.named.iter().cloned().collect();
        if self.named.is_empty() {
            names.extend(reading::interfaces(&mut self.known)?);
            // What has lost its pins is not found by them.
            names.extend(self.kept.keys().cloned());
        }
        names.extend(self.policies.names().cloned());
        Ok(names)
    }

    /// Finds rule files, and which of them are to be applied.
    fn look_at_files(&mut self) -> Result<Option<Duration>> {
        if std::mem::take(&mut self.is_first) {
            self.policies.find()?;
            self.policies.all_only_unguarded();
        }
        if std::mem::take(&mut self.is_to_reload) {
            self.policies.find()?;
            self.policies.all_due();
            return Ok(None);
        }
        if !self.watches {
            return Ok(None);
        }
        match self.wake.files() {
            Files::Same => Ok(None),
            Files::Changing(left) => Ok(Some(left)),
            Files::Changed => {
                self.policies.find()?;
                self.policies.changed_due();
                Ok(None)
            }
        }
    }

    fn look_after(&mut self, name: &str, all: &[Interface]) -> Result<State> {
        let kept = self
            .kept
            .entry(name.to_owned())
            .or_insert_with(|| Kept::new(name));
        let look = kept.held.look()?;
        if look == Look::Lost
            && let State::Waits = kept.put_back(name, &self.tally)?
        {
            return Ok(State::Waits);
        }
        let Some(interface) = all.iter().find(|interface| interface.name == name) else {
            if look == Look::Nothing && !self.is_wanted(name) {
                self.kept.remove(name);
                return Ok(State::Well);
            }
            bail!("there is no such interface now");
        };
        match &kept.returned {
            Some(returned) if returned.index() == interface.index => {
                return self.settle_in(interface);
            }
            // It went again before it was our turn.
            _ => kept.returned = None,
        }
        if kept.is_on(interface)? {
            return self.apply_if_due(name, interface, true);
        }
        match Guard::find(interface)? {
            Found::Guard(guard) => self.complete(guard, interface),
            Found::Stale => self.attach_again(interface),
            Found::Nothing => self.guard(name, interface),
        }
    }
}

impl Keeper {
    /// Whether the interface is to be guarded, or it was told to look after it.
    fn is_wanted(&self, name: &str) -> bool {
        let mut files = self.policies.names();
        files.any(|file| file == name) || self.named.iter().any(|named| named == name)
    }
}

impl Kept {
    fn new(name: &str) -> Self {
        Self {
            held: Held::of(name),
            returned: None,
            mode: None,
            hardware_address: None,
            released: false,
            was_guarded: false,
            good: None,
        }
    }

    /// Whether both programs are on `interface`.
    fn is_on(&mut self, interface: &Interface) -> Result<bool> {
        let at_work = self.held.at_work(&Links::read()?)?;
        let program = |hook: Hook| {
            let (program, index) = at_work.get(hook.name())?;
            (*index == interface.index).then_some(*program)
        };
        let (Some(ingress), Some(_)) = (program(Hook::Ingress), program(Hook::Egress)) else {
            return Ok(false);
        };
        let mut programs = interface.xdp.iter();
        if let Some((mode, _)) = programs.find(|(_, id)| *id == ingress) {
            self.mode = Some(*mode);
        }
        self.hardware_address = interface.hardware_address;
        self.was_guarded = true;
        self.released = false;
        Ok(true)
    }

    /// Pins again what has lost its pins, unless somebody is taking the firewall off.
    fn put_back(&mut self, name: &str, tally: &Tally) -> Result<State> {
        if lock::is_being_detached(name)? {
            info!("{name}: the firewall is taken off");
            self.held.let_go();
            self.returned = None;
            self.released = true;
            return Ok(State::Waits);
        }
        let Some(_turn) = lock::exclusive_within(TURN)? else {
            return Ok(State::Waits);
        };
        // A command may just have had its turn.
        if self.held.look()? == Look::Lost {
            let names = self.held.put_back()?;
            tally.of(name, |one| one.repinned += 1);
            warn!(
                "{name}: pins were lost, and are put back: {}; it was guarded all the time",
                names.join(", ")
            );
            self.held.look()?;
        }
        Ok(State::Well)
    }
}

impl Keeper {
    /// One of the programs is not on the interface.
    fn complete(&mut self, mut guard: Box<Guard>, interface: &Interface) -> Result<State> {
        let name = &interface.name;
        let Some(_turn) = lock::exclusive_within(TURN)? else {
            return Ok(State::Waits);
        };
        if guard.complete(interface)? {
            warn!("{name}: the program for what leaves had been taken off; it is there again");
        }
        if let Some(kept) = self.kept.get_mut(name) {
            kept.held.look()?;
            kept.mode = Some(guard.mode);
            kept.hardware_address = guard.hardware_address();
            kept.was_guarded = true;
            kept.released = false;
        }
        self.apply_if_due(name, interface, true)
    }

    /// The interface was gone, and is back. It is guarded at once; its pins are set right when it is our turn.
    fn attach_again(&mut self, interface: &Interface) -> Result<State> {
        let name = &interface.name;
        let began = Instant::now();
        let kept = self
            .kept
            .entry(name.clone())
            .or_insert_with(|| Kept::new(name));
        let mode = match kept.mode {
            Some(Mode::Generic) => ModeChoice::Generic,
            _ => ModeChoice::Auto,
        };
        kept.returned = Some(Returned::attach(interface, mode)?);
        self.tally.of(name, |one| one.reattachments += 1);
        warn!(
            "{name}: it was gone and is back; guarded again, in {} ms",
            began.elapsed().as_millis(),
        );
        self.settle_in(interface)
    }

    /// Pins what guards an interface that is back.
    fn settle_in(&mut self, interface: &Interface) -> Result<State> {
        let name = &interface.name;
        let Some(_turn) = lock::exclusive_within(TURN)? else {
            return Ok(State::Waits);
        };
        let Some(kept) = self.kept.get_mut(name) else {
            return Ok(State::Well);
        };
        let before = kept.hardware_address;
        if let Some(returned) = kept.returned.take() {
            let mut guard = returned.pin(interface)?;
            kept.held.look()?;
            kept.mode = Some(guard.mode);
            kept.hardware_address = guard.hardware_address();
            guard.settle_in(interface, before)?;
            kept.held.look()?;
        }
        Ok(State::Well)
    }

    /// The interface is not guarded.
    fn guard(&mut self, name: &str, interface: &Interface) -> Result<State> {
        let Some(kept) = self.kept.get_mut(name) else {
            return Ok(State::Well);
        };
        if std::mem::take(&mut kept.was_guarded) {
            kept.released = true;
        }
        let file = self.policies.get_mut(name);
        if kept.released && !file.is_some_and(|file| file.is_due) {
            if !self.is_wanted(name) {
                self.kept.remove(name);
                return Ok(State::Well);
            }
            bail!("not guarded: a command took the firewall off");
        }
        if self.policies.get_mut(name).is_none() {
            bail!("not guarded");
        }
        self.apply_if_due(name, interface, false)
    }

    /// Applies the interface's rule file if it is to be.
    fn apply_if_due(
        &mut self,
        name: &str,
        interface: &Interface,
        mut is_guarded: bool,
    ) -> Result<State> {
        let Some(file) = self.policies.get_mut(name) else {
            return Ok(State::Well);
        };
        let wants = match is_guarded {
            true => file.is_due && !file.only_unguarded,
            // Whatever kept it from being guarded may be over.
            false => file.is_due || file.failed_at.is_some_and(|at| at.elapsed() > RETRY),
        };
        if !wants {
            if is_guarded {
                file.is_due = false;
                return Ok(State::Well);
            }
            bail!("not guarded: {} could not be applied", file.path.display());
        }
        let Some(_turn) = lock::exclusive_within(TURN)? else {
            return Ok(State::Waits);
        };
        if is_guarded && is_on_trial(interface)? {
            return Ok(State::Well);
        }
        file.is_due = false;
        file.only_unguarded = false;
        let order = Order {
            file: &file.path.clone(),
            mode: self.mode,
            // Nobody may be there to confirm what is in force first.
            trial: self.trial.filter(|_| is_guarded),
            shadow: false,
        };
        let output = Output::new(Format::Text);
        let applied = match file.load() {
            Ok(loaded) => order.carry_out(&loaded, interface, &output),
            Err(report) => bail_with(&report),
        };
        match applied {
            Ok(done) => {
                info!("{done}");
                file.failed_at = None;
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                self.tally.of(name, |one| {
                    one.reloaded_at_s = Some(now.unwrap_or_default().as_secs());
                });
            }
            Err(wrong) => {
                // Better what was in force before the machine went down than nothing.
                let instead = match is_guarded {
                    true => Ok(Some("what is in force stays so".to_owned())),
                    false => good::load(name, &file.path).and_then(|loaded| {
                        let put = |loaded: Loaded| order.carry_out(&loaded, interface, &output);
                        let done = loaded.map(put).transpose()?;
                        Ok(done.map(|done| format!("what was in force last is so again ({done})")))
                    }),
                };
                is_guarded |= matches!(instead, Ok(Some(_)));
                let stays = match instead {
                    Ok(Some(what)) => what,
                    Ok(None) => "it is NOT guarded".to_owned(),
                    Err(error) => format!(
                        "it is NOT guarded, and what was in force last cannot be either ({error:#})"
                    ),
                };
                error!(
                    "{name}: {} is not applied, {stays}: {wrong:#}",
                    file.path.display()
                );
                file.failed_at = Some(Instant::now());
                self.tally.of(name, |one| one.reload_failures += 1);
            }
        }
        if let Some(kept) = self.kept.get_mut(name) {
            kept.held.look()?;
            if let Err(error) = good::keep(name, &file.path, &mut kept.good) {
                warn!("{name}: what is in force was not kept for the next start: {error:#}");
            }
        }
        match file.failed_at {
            Some(_) if !is_guarded => {
                bail!("not guarded: {} could not be applied", file.path.display())
            }
            _ => Ok(State::Well),
        }
    }
}

/// While something waits to be confirmed nothing else is put in force.
fn is_on_trial(interface: &Interface) -> Result<bool> {
    Ok(match Guard::find(interface)? {
        Found::Guard(guard) => matches!(guard.trial, Trial::Waits(_)),
        Found::Nothing | Found::Stale => false,
    })
}

/// All that is wrong with a rule file, as it is shown to whoever types a command.
fn bail_with(report: &Report) -> Result<String> {
    bail!("\n{}", report.render(false, width()))
}
