//! A candidate policy beside the one in force: put there, looked at, taken away. What is enforced stays the same throughout.
//!
//! The programs at work ask no candidate; for one they are replaced in their links by instances that do, and afterwards by such that
//! do not again. So it costs nothing where there is none.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::Map;
use firewall_common::abi::shadow::Shadow;

use super::Guard;
use crate::kernel::image;
use crate::kernel::kept::CANDIDATE;
use crate::kernel::pins::{self, Hook};
use crate::kernel::shadow::{self, Candidate, Differs, MAPS};

use super::switch::Next;

impl Guard {
    /// Has the programs ask `next` beside the policy in force, instead of any other candidate.
    ///
    /// # Errors
    ///
    /// What the kernel says; what is in force is as it was.
    pub fn cast_shadow(&mut self, next: Next<'_>) -> Result<()> {
        self.drop_shadow()?;
        self.settle()?;
        let Next {
            image,
            description,
            mut source,
        } = next;
        let place = self.free_place(image.class())?;
        let mut images = Map::ArrayOfMaps(self.open(image::map_name(place))?);
        image::install(&mut images, place, image)
            .and_then(|mut installed| installed.wait())
            .context("the kernel did not take the candidate's tables")?;
        description.pin(&self.pins.policy(place))?;
        source.kept.generation = CANDIDATE;
        self.archive().keep(&source)?;
        let names = |is_egress| {
            let rules = description.policy.rules.iter();
            let rules = rules.filter(|rule| rule.is_egress() == is_egress);
            rules.map(|rule| rule.name.clone()).collect()
        };
        let candidate = Candidate::new(
            place,
            names(false),
            names(true),
            description.applied_at_s,
            description.file,
        );
        // Those that a killed command has left would be taken for this one's.
        self.remove_shadow_maps()?;
        candidate.pin(&self.pins.shadow())?;
        self.have_asked(Some(&candidate.record()))
    }

    /// The candidate, if there is one. One without maps is none: the command that began with it was killed before any program was to
    /// ask it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn shadow(&self) -> Result<Option<Candidate>> {
        let path = self.pins.shadow();
        let mut needed = vec![path.clone()];
        needed.extend(MAPS.map(|name| self.pins.map(name)));
        for pin in needed {
            if !pins::exists(&pin)? {
                return Ok(None);
            }
        }
        Candidate::read(&path).map(Some)
    }

    /// Removes the maps of a candidate that no program asks.
    fn remove_shadow_maps(&self) -> Result<()> {
        let mut maps = MAPS.iter().map(|name| self.pins.map(name));
        maps.try_for_each(|map| pins::remove_file(&map))
    }

    /// Where the candidate differs from what is in force, as far as packets have shown.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn differences(&self, candidate: &Candidate) -> Result<Vec<Differs>> {
        shadow::read(&self.pins, candidate)
    }

    /// Puts `next`, made of the candidate, in force, and then has the programs ask none any more: whoever is killed in between leaves the
    /// candidate to be dropped, and none that is lost.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn promote(&mut self, next: Next<'_>, trial: Option<Duration>) -> Result<()> {
        self.put_in_force(next, trial)?;
        self.drop_shadow().map(drop)
    }

    /// Has the programs ask no candidate any more. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn drop_shadow(&mut self) -> Result<bool> {
        if !pins::exists(&self.pins.shadow())? {
            return Ok(false);
        }
        self.have_asked(None)?;
        pins::remove_file(&self.pins.shadow())?;
        self.remove_shadow_maps()?;
        self.archive().forget_candidate()?;
        self.free(false)?;
        Ok(true)
    }

    /// Replaces the programs by instances that ask this candidate, or none.
    fn have_asked(&mut self, shadow: Option<&Shadow>) -> Result<()> {
        self.end_growth()?;
        self.drop_idle_nexts()?;
        let (number, _) = self
            .counters()?
            .used_by(&self.pins.program(Hook::Ingress))?;
        self.renew(number, None, shadow)
    }

    /// Nothing is changed while a candidate is asked, which is asked about what is in force now.
    ///
    /// # Errors
    ///
    /// A sentence that says what to do, where that is so.
    pub fn refuse_in_shadow(&self, name: &str) -> Result<()> {
        if self.shadow()?.is_some() {
            bail!(
                "{name}: a candidate is being asked beside the rules in force: `firewall shadow promote -i {name}` puts it in \
                 force, `firewall shadow drop -i {name}` ends it; then try again"
            );
        }
        Ok(())
    }
}
