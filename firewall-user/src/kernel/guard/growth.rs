//! Room for the counters of a policy that names more than the one before: the programs are replaced in their links by instances
//! of themselves that share every map with them but that of the counters.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use aya::programs::links::FdLink;
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use firewall_common::abi::MAP_COUNTERS;
use firewall_common::abi::shadow::Shadow;

use super::{
    Guard, SHARED, highest_slot, link, pin_map, pin_program, program_at, program_in, roomy,
};
use crate::kernel::counters::Counters;
use crate::kernel::description::Description;
use crate::kernel::instance::{Instance, Renewed};
use crate::kernel::pins::{self, Hook};
use crate::kernel::shadow::MAPS as SHADOW_MAPS;
use crate::kernel::told;

impl Guard {
    /// Sees to it that the programs at work can count everything that `next` names. Returns the counters but for a map
    /// that is new and empty, and whether other programs have been put to work.
    pub(super) fn make_room(&mut self, next: &Description) -> Result<(Counters, bool)> {
        let is_other = self.end_growth()?;
        let counters = self.counters()?;
        let (number, room) = counters.used_by(&self.pins.program(Hook::Ingress))?;
        self.drop_idle_nexts()?;
        // Later maps are of programs that a killed `renew` never put to work. The last goes first: numbers have no gaps.
        for unused in (number + 1..counters.maps()).rev() {
            pins::remove_file(&self.pins.counters(unused))?;
        }
        let is_short = highest_slot(next) >= room;
        if is_short {
            let room = roomy(next).max(2 * room);
            self.renew(number + 1, Some(room), None)?;
        }
        Ok((counters, is_short || is_other))
    }

    /// Removes what programs went on to that are not at work any more. That is done by the next change after [`Self::renew`], not at
    /// once: a packet may be on its way through them.
    pub(super) fn drop_idle_nexts(&self) -> Result<()> {
        for hook in Hook::ALL {
            for (path, _, is_at_work) in self.nexts(hook)? {
                if !is_at_work {
                    pins::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }

    /// The program array that the program at work goes on from.
    pub(super) fn next_at_work(&self, hook: Hook) -> Result<MapData> {
        let mut nexts = self.nexts(hook)?.into_iter();
        let next = nexts.find(|&(_, _, is_at_work)| is_at_work);
        let (_, map, _) = next.context("what the program goes on from is not pinned")?;
        Ok(map)
    }

    /// The program arrays that are pinned, and whether the program at work goes on from them.
    fn nexts(&self, hook: Hook) -> Result<Vec<(PathBuf, MapData, bool)>> {
        let used = told::maps_of(&self.pins.program(hook))?;
        let paths = self.pins.nexts(hook)?.into_iter();
        paths
            .map(|path| {
                let opening = || format!("opening {}", path.display());
                let map = MapData::from_pin(&path).with_context(opening)?;
                let id = map.info().with_context(opening)?.id();
                Ok((path, map, used.contains(&id)))
            })
            .collect()
    }

    /// Ends what a killed [`Self::renew`] has begun, or clears it away if none of its programs is at work. Both programs are
    /// then pinned under their names. Returns whether it was begun: one of the programs may be another now.
    pub(super) fn end_growth(&mut self) -> Result<bool> {
        let mut begun = false;
        for hook in Hook::ALL {
            let next = self.pins.program_next(hook);
            begun |=
                pins::exists(&next)? && program_at(&next)?.id() == program_in(&self.pins, hook)?;
        }
        if begun {
            self.put_next_to_work()?;
        } else {
            for hook in Hook::ALL {
                pins::remove_file(&self.pins.program_next(hook))?;
            }
        }
        let path = self.pins.program(Hook::Ingress);
        if program_at(&path)?.id() != self.program_id {
            bail!(
                "{} is not the program that the link runs: detach and apply again",
                path.display()
            );
        }
        Ok(begun)
    }

    /// Replaces the programs by instances of themselves that have every map in common with them, but for that of the counters
    /// where there is to be a larger one, which is then pinned as number `counters` and has `room` slots. From one packet to the
    /// next, each link runs the one or the other, both under the policy in force; what the old ones have counted stays where it is.
    /// With a candidate they ask that too.
    pub(super) fn renew(
        &mut self,
        counters: usize,
        room: Option<u32>,
        shadow: Option<&Shadow>,
    ) -> Result<()> {
        let shared = SHARED.map(|name| (name, self.pins.map(name)));
        let mut shared = Vec::from(shared);
        if room.is_none() {
            shared.push((MAP_COUNTERS, self.pins.counters(counters)));
        }
        for (_, path) in &shared {
            MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
        }
        let renewed = Renewed {
            hardware_address: self.hardware_address,
            counters: room,
            shadow,
        };
        let mut instance = Instance::renewed(renewed, shared)?;
        // Whatever is at work has its counters pinned, and when one of the programs is, both are.
        if room.is_some() {
            pin_map(&mut instance, MAP_COUNTERS, &self.pins.counters(counters))?;
        }
        if shadow.is_some() {
            for name in SHADOW_MAPS {
                let path = self.pins.map(name);
                pins::remove_file(&path)?;
                pin_map(&mut instance, name, &path)?;
            }
        }
        for hook in Hook::ALL {
            let next = self.pins.free_next(hook)?;
            pin_map(&mut instance, hook.next_map(), &next)?;
            pin_program(&mut instance, hook, &self.pins.program_next(hook))?;
        }
        self.put_next_to_work()
    }

    /// Has each link run the next program, if there is one, and then gives these the names of what is at work: until both are,
    /// one that is has its pin, and [`Self::end_growth`] knows that this was begun.
    fn put_next_to_work(&mut self) -> Result<()> {
        for hook in Hook::ALL {
            let next = self.pins.program_next(hook);
            if !pins::exists(&next)? {
                continue;
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
        }
        for hook in Hook::ALL {
            let next = self.pins.program_next(hook);
            if pins::exists(&next)? {
                pins::rename(&next, &self.pins.program(hook))?;
            }
        }
        Ok(())
    }
}

/// Replaces what `link` runs by the program that is pinned at `path`, from one packet to the next.
pub(in crate::kernel) fn run_in(link: FdLink, hook: Hook, path: &Path) -> Result<()> {
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
