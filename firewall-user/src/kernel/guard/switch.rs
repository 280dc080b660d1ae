//! From one generation to another: forth, back, and on trial.
//!
//! What decides is one word ([`Control`]); all that it needs, tables, description and source, is there before the word is stored, so
//! that whoever is killed leaves the old generation or the new one. Images lie in the places that the word names, those of the generation that
//! decides and of the one before; any other place is free.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::Map;
use firewall_common::abi::control::{Control, Place};
use firewall_common::abi::counter::Counter;
use firewall_common::abi::image::SIZE_CLASSES;
use firewall_common::abi::{MAP_IMAGES, SLOTS};

use super::{Guard, slots};
use crate::counters::{Decides, Gone};
use crate::kernel::clock;
use crate::kernel::control::ControlWord;
use crate::kernel::counters::Counters;
use crate::kernel::description::Description;
use crate::kernel::events;
use crate::kernel::image::{self, Image, Images};
use crate::kernel::kept::{Archive, Kept, Source};
use crate::kernel::pins::{self, Pins};

/// How many images of a size class are not freed when nobody needs them any more after a switch, but give way to the next in their place:
/// freeing one takes the kernel some ten milliseconds, in which it waits for all programs that are running. When its place is taken the
/// kernel keeps it for a program that may have it in hand.
const fn spared(class: u32) -> u32 {
    match SIZE_CLASSES[class as usize] >> 20 {
        0..=2 => SLOTS,
        3..=8 => 1,
        _ => 0,
    }
}

/// A generation to be put in force.
#[derive(Debug)]
pub struct Next<'a> {
    /// Its tables.
    pub image: Image,
    /// What they are.
    pub description: Description,
    /// What they came from.
    pub source: Source<'a>,
}

/// Whether what was put in force last has to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It does not, or has been.
    Over,
    /// It does, in so many seconds.
    Waits(u64),
    /// It has not been in time: what was in force before is so again.
    Lapsed,
}

impl Trial {
    pub(in crate::kernel) fn of(control: Control, pins: &Pins) -> Result<Self> {
        let deadline = control.deadline();
        if deadline == 0 {
            return Ok(Self::Over);
        }
        let left = deadline.saturating_sub(clock::jiffies(pins)?);
        Ok(match left {
            0 => Self::Lapsed,
            left => Self::Waits(left.div_ceil(clock::hz()?.into())),
        })
    }

    /// What decides.
    pub(in crate::kernel) const fn deciding(self, control: Control) -> Place {
        match self {
            Self::Over | Self::Waits(_) => control.active(),
            Self::Lapsed => control.before(),
        }
    }
}

/// What is gone when `next` decides in the place of `before`.
fn gone_after(before: &Description, next: &Description, counters: &Counters) -> Result<Gone> {
    let (old, new) = (before.policy.deciding(), next.policy.deciding());
    let gone = &before.policy.gone;
    gone.after(&old, &new, |slots| counters.read(slots.iter().copied()))
}

/// The description of what decides, with what a generation has counted that lapsed before it: nobody has written that down yet.
pub(in crate::kernel) fn since_lapsed(
    mut deciding: Description,
    trial: Trial,
    control: Control,
    pins: &Pins,
) -> Result<Description> {
    if trial == Trial::Lapsed {
        let lapsed = Description::read(&pins.policy(control.active()))?;
        deciding.policy.gone = gone_after(&lapsed, &deciding, &Counters::open(pins)?)?;
    }
    Ok(deciding)
}

/// The time that is so far ahead, in jiffies.
pub(super) fn deadline(pins: &Pins, ahead: Duration) -> Result<u64> {
    let jiffies = ahead.as_secs().saturating_mul(clock::hz()?.into());
    Ok(clock::jiffies(pins)? + jiffies.max(1))
}

impl Guard {
    /// Switches to `next`: every packet sees wholly the old generation or wholly the new one. If there is to be a `trial`, it lasts
    /// so long, and then the old one decides again unless the new one has been confirmed.
    ///
    /// # Errors
    ///
    /// A sentence; the old generation is then still in force.
    pub fn switch(&mut self, next: Next<'_>, trial: Option<Duration>) -> Result<()> {
        self.refuse_in_shadow("this interface")?;
        self.put_in_force(next, trial)
    }

    /// The same for a generation that was in force before, for good, and whether or not a candidate is asked.
    ///
    /// # Errors
    ///
    /// As [`Self::switch`].
    pub fn go_back(&mut self, next: Next<'_>) -> Result<()> {
        self.put_in_force(next, None)
    }

    /// The same, whether or not a candidate is asked.
    pub(super) fn put_in_force(&mut self, next: Next<'_>, trial: Option<Duration>) -> Result<()> {
        self.refuse_in_trial("this interface")?;
        self.settle()?;
        let Next {
            image,
            mut description,
            source,
        } = next;
        description.newest = self.description.newest.max(description.generation);
        let early = image.place();
        let place = match early {
            Some(place) => place,
            None => self.free_place(image.class())?,
        };
        let (mut counters, is_renewed) = self.make_room(&description)?;
        let mut images = Map::ArrayOfMaps(self.open(image::map_name(place))?);
        let mut installed = image::install(&mut images, place, image)
            .context("the kernel did not take the policy's tables")?;
        // Slots that are new may have counted something else before, in any of the maps. Nobody does any more: with an array
        // of maps the kernel waits until every program that was running has ended (`maybe_wait_bpf_programs`,
        // kernel/bpf/syscall.c), so that none has an earlier generation in hand, nor earlier counters.
        let old: Vec<u32> = slots(&self.description).collect();
        let is_new = |slot: &u32| old.binary_search(slot).is_err();
        // With a draft it may still wait, which only matters to slots that are new.
        if slots(&description).any(|slot| is_new(&slot)) {
            installed.wait()?;
        }
        // And it began to before other programs were put to work.
        if is_renewed && early.is_some() {
            image::wait_for_programs(&mut images, place)?;
        }
        counters.clear(slots(&description).filter(is_new))?;
        description.policy.gone = gone_after(&self.description, &description, &counters)?;
        description.pin(&self.pins.policy(place))?;
        self.archive().keep(&source)?;
        if description.policy.bans_by_rule.is_some() {
            self.bans()?.settle(description.policy.bans_by_rule);
        }
        events::name(&self.pins, place, description.generation)?;
        let control = Control::new(place, self.place());
        let control = match trial {
            Some(trial) => control.until(deadline(&self.pins, trial)?),
            None => control,
        };
        self.replace(control)?;
        let before = std::mem::replace(&mut self.description, description);
        self.tidy(before.generation, true);
        Ok(())
    }

    /// Ends the trial of the generation in force: it stays. Returns how many seconds were left.
    ///
    /// # Errors
    ///
    /// Nothing is on trial, or the time is over.
    pub fn confirm(&mut self) -> Result<u64> {
        match self.trial {
            Trial::Over => bail!(
                "generation {} has nothing to be confirmed",
                self.description.generation
            ),
            Trial::Lapsed => {
                let generation = self.description.generation;
                self.settle()?;
                bail!("too late: generation {generation} is in force again; apply anew")
            }
            Trial::Waits(left) => {
                self.replace(Control::new(self.control.active(), self.control.before()))?;
                Ok(left)
            }
        }
    }

    /// Goes back, at once, to the generation whose tables are still there. Returns whether they are those of `generation`; if not,
    /// nothing has been done.
    ///
    /// # Errors
    ///
    /// What the kernel says; then nothing has been done either.
    pub fn flip_to(&mut self, generation: u64) -> Result<bool> {
        self.settle()?;
        let before = self.control.before();
        if before == Place::NONE {
            return Ok(false);
        }
        let mut description = Description::read(&self.pins.policy(before))?;
        if description.generation != generation {
            return Ok(false);
        }
        description.newest = self.description.newest;
        description.policy.gone = gone_after(&self.description, &description, &self.counters()?)?;
        description.pin(&self.pins.policy(before))?;
        self.mark_lapsed_if_waiting()?;
        self.mark(generation, |kept| {
            (kept.lapsed, kept.rolled_back, kept.to_save) = (false, false, None);
        })?;
        self.replace(Control::new(before, self.control.active()))?;
        let before = std::mem::replace(&mut self.description, description);
        self.tidy(before.generation, true);
        Ok(true)
    }

    /// The generation whose tables are still there beside those in force.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn before(&self) -> Result<Option<Description>> {
        let place = match self.trial {
            Trial::Lapsed => self.control.active(),
            Trial::Over | Trial::Waits(_) => self.control.before(),
        };
        if place == Place::NONE {
            return Ok(None);
        }
        Description::read(&self.pins.policy(place)).map(Some)
    }

    /// The highest number that a generation of this interface ever had.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn newest(&self) -> Result<u64> {
        let lapsed = match self.trial {
            Trial::Lapsed => self.before()?.map(|lapsed| lapsed.generation),
            Trial::Over | Trial::Waits(_) => None,
        };
        Ok(self.description.newest.max(lapsed.unwrap_or(0)))
    }

    /// Where generations came from.
    pub fn archive(&self) -> Archive {
        Archive::of(&self.pins)
    }

    /// What rules have decided that are in force no more.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn gone(&self) -> Result<BTreeMap<Decides, Counter>> {
        let counters = self.counters()?;
        let gone = &self.description.policy.gone;
        gone.sums(|slots| counters.read(slots.iter().copied()))
    }

    /// Nothing is changed while something waits to be confirmed: it would be unclear what a confirmation is of.
    ///
    /// # Errors
    ///
    /// A sentence that says what to do, where that is so.
    pub fn refuse_in_trial(&self, name: &str) -> Result<()> {
        if let Trial::Waits(left) = self.trial {
            bail!(
                "{name}: generation {} waits {left} s more to be confirmed: `firewall confirm` keeps it, `firewall rollback` goes back; \
                 then try again",
                self.description.generation,
            );
        }
        Ok(())
    }

    /// Writes down what the programs have done by themselves: after a trial that nobody confirmed, the generation before is the one
    /// in force, with nothing before it.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.trial != Trial::Lapsed {
            return Ok(());
        }
        let lapsed = Description::read(&self.pins.policy(self.control.active()))?;
        self.mark_lapsed(lapsed.generation)?;
        self.description.newest = self.description.newest.max(lapsed.generation);
        self.description.pin(&self.pins.policy(self.place()))?;
        self.replace(Control::new(self.control.before(), Place::NONE))?;
        // What has just been decided by is another matter: its place may be taken at once.
        self.tidy(lapsed.generation, false);
        Ok(())
    }

    fn mark_lapsed_if_waiting(&self) -> Result<()> {
        match self.trial {
            Trial::Waits(_) => self.mark_lapsed(self.description.generation),
            Trial::Over | Trial::Lapsed => Ok(()),
        }
    }

    fn mark_lapsed(&self, generation: u64) -> Result<()> {
        self.mark(generation, |kept| kept.lapsed = true)
    }

    /// Writes down that somebody went back from these `generations`: whoever goes back once more does not want them either.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn mark_rolled_back(&self, mut generations: RangeInclusive<u64>) -> Result<()> {
        generations.try_for_each(|generation| self.mark(generation, |kept| kept.rolled_back = true))
    }

    /// Writes down that what the generation in force had to be saved of is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn mark_saved(&self) -> Result<()> {
        self.mark(self.description.generation, |kept| kept.to_save = None)
    }

    /// Changes what is written down of a generation, if it is kept.
    pub(super) fn mark(&self, generation: u64, change: impl FnOnce(&mut Kept)) -> Result<()> {
        let archive = self.archive();
        if let Some(mut kept) = archive.read(generation)? {
            change(&mut kept);
            archive.keep_again(&kept)?;
        }
        Ok(())
    }

    /// Stores the word that says what decides.
    fn replace(&mut self, control: Control) -> Result<()> {
        let replaced = ControlWord::open(&self.pins)?.replace(self.control, control);
        ensure!(
            replaced,
            "somebody else has just switched generations; try again"
        );
        self.control = control;
        self.trial = Trial::of(control, &self.pins)?;
        Ok(())
    }

    /// Where the generation that decides lies.
    pub(super) const fn place(&self) -> Place {
        self.trial.deciding(self.control)
    }

    /// A place of size class `class` that nothing is in which is needed.
    pub(super) fn free_place(&self, class: u32) -> Result<Place> {
        let needed = self.needed()?;
        let places = (0..SLOTS).map(|slot| Place::new(class, slot));
        let mut free: Vec<Place> = places.filter(|place| !needed.contains(place)).collect();
        // What is idle there is freed by being replaced.
        let is_idle = |place: &Place| pins::exists(&self.pins.policy(*place)).is_ok_and(|is| is);
        free.sort_by_key(|place| !is_idle(place));
        let place = free.first().copied();
        place.context("there is no room for another generation")
    }

    /// The places of what is in force, of what was so before, and of a candidate.
    fn needed(&self) -> Result<Vec<Place>> {
        let shadow = self.shadow()?.map(|candidate| candidate.place());
        let in_force = [self.control.active(), self.control.before()];
        Ok(in_force.into_iter().chain(shadow).collect())
    }

    /// Gives up what is not needed any more, but for small images if it `spares` them. Where that fails it costs memory, and no packet sees it.
    /// Beside the generation in force, the one `before` is needed.
    fn tidy(&self, before: u64, spares: bool) {
        let newest = self.description.newest;
        let archived = (self.archive()).tidy(newest, &[self.description.generation, before]);
        if let Err(error) = self.free(spares).and(archived) {
            eprintln!("note: what was in force before is still in memory: {error:#}");
        }
    }

    /// Frees the memory of images that nobody needs and are not spared, and of what a killed command has left that was not to become one.
    pub(super) fn free(&self, spares: bool) -> Result<()> {
        let needed = self.needed()?;
        for (class, name) in (0..).zip(MAP_IMAGES) {
            let images = Images::of(self.open(name)?)?;
            let mut spared = if spares { spared(class) } else { 0 };
            for slot in 0..SLOTS {
                let place = Place::new(class, slot);
                if needed.contains(&place) {
                    continue;
                }
                let is_there = images.id(slot)?.is_some();
                let description = self.pins.policy(place);
                let is_described = pins::exists(&description)?;
                if is_there && is_described && spared > 0 {
                    spared -= 1;
                    continue;
                }
                if is_there {
                    images.remove(slot)?;
                }
                if is_described {
                    pins::remove_file(&description)?;
                }
            }
        }
        Ok(())
    }
}
