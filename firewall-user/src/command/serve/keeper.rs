//! Looks after interfaces: holds what is pinned, puts back pins that are lost, guards again what was gone and is back, and applies rule
//! files. Where a command has its turn, it waits for its own without holding anybody up.

mod applying;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tracing::{info, warn};

use super::Serve;
use super::good;
use super::health::Health;
use super::policies::Policies;
use super::tally::Tally;
use super::watcher::{Files, Wake};
use crate::command::bans;
use crate::kernel::attach::ModeChoice;
use crate::kernel::guard::{Found, Guard, Returned};
use crate::kernel::held::Look;
use crate::kernel::interface::{self, Interface, Mode};
use crate::kernel::reading::{self, Known};
use crate::lock;
use kept::Kept;

/// How long to wait for a turn. A command that has it may be waiting for what is held here to be let go.
const TURN: Duration = Duration::from_millis(200);
/// How soon to look again where a command has its turn.
const SOON: Duration = Duration::from_millis(10);
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
}
