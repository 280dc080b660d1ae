//! What another version has pinned is taken over, and no packet notices.
//!
//! Maps whose layout has not changed are shared: the flows, bans, token buckets, counters and tables in them are those that the old
//! programs use, and are not copied. New programs are loaded over them and pinned in a folder of their own beside the old one; then
//! each link is given the new program in the place of the old, from one packet to the next and under the same policy, and its pin
//! moves over. Last goes the old folder.
//!
//! Whoever is killed leaves old or new programs in each link, all of them at work. While there are two folders every command of
//! either version refuses to touch the interface, but another upgrade, which ends this one (`Reached`).

mod v3;
mod v4;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use firewall_common::abi::control::Place;
use firewall_common::abi::image::SIZE_CLASSES;
use firewall_common::abi::{ABI_VERSION, MAP_CONTROL, MAP_COUNTERS, SLOTS};

use super::bans::MAP_REASONS;
use super::counters::Counters;
use super::description::Description;
use super::events;
use super::guard::{self, SHARED, pin_map, pin_program, program_at, program_in};
use super::instance::Instance;
use super::interface::{self, Interface};
use super::kept::{Archive, Source};
use super::pins::{self, Hook, Pins, version_name};
use super::{attach, image};

/// How one older version's records are read. What is not here is as it is now.
struct Step {
    /// The ABI version.
    from: u32,
    /// Where the image in force lies.
    in_force: fn(&Pins) -> Result<Place>,
    /// The description that is pinned there.
    description: fn(&Path) -> Result<Description>,
    /// Maps that it did not have, or whose records were others.
    anew: &'static [&'static str],
    /// Whether it kept where generations came from, as it is kept now.
    keeps_sources: bool,
    /// What cannot be taken over, a sentence each.
    losses: fn(&Pins) -> Result<Vec<String>>,
}

/// The versions that can be taken over.
const STEPS: [Step; 2] = [v3::STEP, v4::STEP];

/// Whether what the version called `name` has pinned can be taken over.
pub(super) fn reads(name: &str) -> bool {
    step(name).is_some()
}

fn step(name: &str) -> Option<&'static Step> {
    STEPS.iter().find(|step| version_name(step.from) == name)
}

/// What an upgrade of an interface comes to. Nothing has been touched.
pub struct Plan {
    interface: Interface,
    step: &'static Step,
    old: Pins,
    new: Pins,
    reached: Reached,
    place: Place,
    losses: Vec<String>,
    /// What is in force, and stays so.
    pub description: Description,
}

/// How far an upgrade got that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    /// No new program is at work, whatever is pinned.
    Nothing,
    /// One is, and so all that they need is there.
    Begun,
    /// Both are, and the pins of the links have moved.
    Done,
}

impl Plan {
    /// What an upgrade of `interface` would come to; `None` where no other version guards it in this network namespace.
    ///
    /// # Errors
    ///
    /// A version that cannot be taken over, or pins that guard nothing; the sentence says what to do.
    pub fn of(interface: &Interface) -> Result<Option<Self>> {
        let new = Pins::of(&interface.name);
        let Some(version) = new.other_abi()? else {
            return Ok(None);
        };
        let Some(step) = step(&version) else {
            return Err(new.other_abi_error(&version));
        };
        let old = Pins::of_version(&interface.name, step.from);
        let reached = Reached::of(&old, &new)?;
        let (place, description, guarding) = match reached {
            Reached::Done => {
                let (control, trial, description) = guard::in_force(&new)?;
                (trial.deciding(control), description, &new)
            }
            Reached::Nothing | Reached::Begun => {
                if !pins::exists(&old.link(Hook::Ingress))? {
                    bail!(
                        "{} is left from an interrupted command of {version}, and {} lets everything in: remove the folder, then \
                         apply",
                        old.folder().display(),
                        interface.name,
                    );
                }
                let place = (step.in_force)(&old)?;
                (place, (step.description)(&old.policy(place))?, &old)
            }
        };
        if description.namespace != interface::namespace()? {
            return Ok(None);
        }
        if !guard::is_guarded_by(guarding, interface)? {
            bail!(
                "{} is NOT guarded any more: its interface was removed or made again after the firewall was attached. Remove {}, \
                 and its bans with it, then `firewall apply FILE -i {}` guards it again",
                interface.name,
                old.folder().display(),
                interface.name,
            );
        }
        let losses = match reached {
            Reached::Nothing => (step.losses)(&old)?,
            Reached::Begun | Reached::Done => Vec::new(),
        };
        Ok(Some(Self {
            losses,
            interface: interface.clone(),
            step,
            old,
            new,
            reached,
            place,
            description,
        }))
    }

    /// The ABI version that is there.
    pub fn from(&self) -> u32 {
        self.step.from
    }

    /// The ABI version that will be.
    pub fn to(&self) -> u32 {
        ABI_VERSION
    }

    /// Whether this only ends an upgrade that was interrupted when new programs were at work already.
    pub fn ends_another(&self) -> bool {
        self.reached != Reached::Nothing
    }

    /// What cannot be taken over, a sentence each.
    pub fn losses(&self) -> &[String] {
        &self.losses
    }

    /// Whether the older version kept where generations came from.
    pub fn keeps_sources(&self) -> bool {
        self.step.keeps_sources
    }

    /// Does it. `source` is what the policy in force came from, if the older version did not keep that and it is still known.
    ///
    /// # Errors
    ///
    /// A sentence. The old version goes on as it was, unless new programs are at work already: then another upgrade ends this one.
    pub fn carry_out(self, source: Option<&Source<'_>>) -> Result<()> {
        if self.reached == Reached::Nothing {
            // What an upgrade has left that was killed before a new program was at work.
            self.new.remove_version()?;
            if let Err(error) = self.stage(source) {
                self.new.remove_version()?;
                return Err(error).with_context(|| {
                    format!("v{} guards {} as before", self.from(), self.interface.name)
                });
            }
        }
        for hook in Hook::ALL {
            self.put_to_work(hook).with_context(|| {
                format!(
                    "the upgrade of {} is not finished: run it again",
                    self.interface.name
                )
            })?;
        }
        // With the pins of the old program arrays goes what is in them, and a packet may be on its way through.
        let images = MapData::from_pin(self.new.map(image::map_name(self.place)));
        let mut images = Map::ArrayOfMaps(images.context("opening the pinned tables")?);
        image::wait_for_programs(&mut images, self.place)
            .context("waiting for the old programs to end")?;
        self.old.remove_version()
    }

    /// Pins all that the new programs need in their folder, which has no link yet.
    fn stage(&self, source: Option<&Source<'_>>) -> Result<()> {
        let (old, new) = (&self.old, &self.new);
        let counting = self.counting()?;
        let maps = SHARED.iter().filter(|name| !self.step.anew.contains(name));
        let mut shared: Vec<_> = maps.map(|&name| (name, old.map(name))).collect();
        shared.push((MAP_COUNTERS, old.counters(counting)));
        for (_, path) in &shared {
            open(path)?;
        }
        let mut instance = Instance::load_over(self.interface.hardware_address, 0, shared, None)?;
        if self.step.anew.contains(&MAP_CONTROL) {
            instance.activate(self.place)?;
        }
        new.create()?;
        for name in SHARED {
            pin_map(&mut instance, name, &new.map(name))?;
        }
        pin_again(&old.map(MAP_REASONS), &new.map(MAP_REASONS))?;
        for number in 0..=counting {
            pin_again(&old.counters(number), &new.counters(number))?;
        }
        self.describe()?;
        if self.step.keeps_sources {
            Archive::of(new).take_over(old)?;
        } else if let Some(source) = source {
            Archive::of(new).keep(source)?;
        }
        for hook in Hook::ALL {
            pin_map(&mut instance, hook.next_map(), &new.next(hook, counting))?;
            pin_program(&mut instance, hook, &new.program(hook))?;
        }
        let clock = instance.clock().pin(new.clock());
        clock.context("pinning the clock")
    }

    /// Number of the map that counts: where an apply of the old version was interrupted while it made room for more counters, the
    /// two programs may be of different instances.
    fn counting(&self) -> Result<usize> {
        let counters = Counters::open(&self.old)?;
        let mut counting = 0;
        for hook in Hook::ALL {
            if !pins::exists(&self.old.link(hook))? {
                continue;
            }
            let at_work = program_in(&self.old, hook)?;
            for path in [self.old.program(hook), self.old.program_next(hook)] {
                if pins::exists(&path)? && program_at(&path)?.id() == at_work {
                    counting = counting.max(counters.used_by(&path)?.0);
                }
            }
        }
        Ok(counting)
    }

    /// Pins the descriptions of all images: with theirs gone, nobody would ever free one that does not decide.
    fn describe(&self) -> Result<()> {
        for class in 0..SIZE_CLASSES.len() as u32 {
            for slot in 0..SLOTS {
                let place = Place::new(class, slot);
                let old = self.old.policy(place);
                if pins::exists(&old)? {
                    let description = (self.step.description)(&old)?;
                    description.pin(&self.new.policy(place))?;
                    events::name(&self.new, place, description.generation)?;
                }
            }
        }
        Ok(())
    }

    /// Has the link of `hook` run the new program, and moves its pin.
    fn put_to_work(&self, hook: Hook) -> Result<()> {
        let (from, to) = (self.old.link(hook), self.new.link(hook));
        if pins::exists(&to)? {
            return Ok(());
        }
        let program = self.new.program(hook);
        if hook == Hook::Egress && !self.sees_what_leaves()? {
            let mut program = SchedClassifier::from_pin(&program)
                .with_context(|| format!("opening {}", program.display()))?;
            let link = attach::egress(&mut program, &self.interface)?;
            return link.pin(&to).map(drop).context("pinning a link");
        }
        guard::run_in(guard::link(&self.old, hook)?, hook, &program)
            .context("the kernel did not replace a program by a newer one")?;
        pins::rename(&from, &to)
    }

    /// Whether the program for what leaves is at work, which somebody may have taken off.
    fn sees_what_leaves(&self) -> Result<bool> {
        Ok(guard::egress_at_work(&self.old, &self.interface)?.is_some())
    }
}

impl Reached {
    fn of(old: &Pins, new: &Pins) -> Result<Self> {
        if pins::exists(&new.link(Hook::Ingress))? {
            return Ok(Self::Done);
        }
        for hook in Hook::ALL {
            if pins::exists(&new.link(hook))? {
                return Ok(Self::Begun);
            }
            let program = new.program(hook);
            if pins::exists(&program)?
                && pins::exists(&old.link(hook))?
                && program_at(&program)?.id() == program_in(old, hook)?
            {
                return Ok(Self::Begun);
            }
        }
        Ok(Self::Nothing)
    }
}

fn open(path: &Path) -> Result<MapData> {
    MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))
}

/// Pins the map that is pinned at `from` at `to` too.
pub(super) fn pin_again(from: &Path, to: &Path) -> Result<()> {
    let map = open(from)?;
    map.pin(to)
        .with_context(|| format!("pinning {}", to.display()))
}
