//! Room for the counters of a policy that names more than the one before: the programs are replaced in their links by instances
//! of themselves that share every map with them but that of the counters.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::programs::links::FdLink;
use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramInfo, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use firewall_common::abi::MAP_COUNTERS;

use super::{
    Guard, SHARED, highest_slot, link, pin_map, pin_program, program_at, program_in, roomy,
};
use crate::kernel::counters::Counters;
use crate::kernel::description::Description;
use crate::kernel::instance::Instance;
use crate::kernel::pins::{self, Hook};

impl Guard {
    /// Sees to it that the program at work can count everything that `next` names. Returns the counters but for a map
    /// that is new and empty.
    pub(super) fn make_room(&mut self, next: &Description) -> Result<Counters> {
        let program = self.end_growth()?;
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
    fn end_growth(&mut self) -> Result<ProgramInfo> {
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
        let mut instance = Instance::load_over(self.hardware_address, room, shared.into(), None)?;
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
