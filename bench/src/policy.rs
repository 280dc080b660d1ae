//! A policy on its way from a rule file into the kernel, each stage timed; and whether it does what is expected.

use std::{cell::RefCell, collections::BTreeMap, path::Path, time::Instant};

use anyhow::{Result, anyhow, ensure};
use aya::programs::ProgramFd;
use firewall_common::{abi::control::Place, decide::decide, tables::HostWorld};
use firewall_user::{
    counters::Slots,
    kernel::{flows::Wanted, image, instance::Instance, state::Sizes},
    rules::{
        self,
        compile::{Compiled, compile},
    },
};

use crate::{frame::Frames, harness::Harness, hook::Hook};

/// Milliseconds of each stage.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Reading and checking the rule file and the files it names.
    pub(crate) read: f64,
    /// Compiling it into tables.
    pub(crate) compile: f64,
    /// Making maps and loading the programs, which only the first apply does.
    pub(crate) load: f64,
    /// Putting the tables into the kernel.
    pub(crate) install: f64,
    /// Switching over.
    pub(crate) activate: f64,
}

impl Times {
    /// All that an apply to a guarded interface takes.
    pub(crate) fn apply(self) -> f64 {
        self.read + self.compile + self.install + self.activate
    }
}

/// A policy in force in a program that is attached to nothing.
#[derive(Debug)]
pub(crate) struct Policy {
    /// The program and its maps.
    pub(crate) instance: Instance,
    /// The tables.
    pub(crate) compiled: Compiled,
    /// The flow table, as the rule file has it.
    pub(crate) wanted: Wanted,
    /// Where they are.
    pub(crate) place: Place,
    /// How long it took.
    pub(crate) times: Times,
}

impl Policy {
    /// Reads, compiles and loads the rule file at `path`.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or what the kernel says.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let (loaded, read) = timed(|| rules::load(path));
        let loaded = loaded.map_err(|report| anyhow!(report.render(false, 100)))?;
        let (compiled, compile) = timed(|| compile(&loaded.rule_set, &Slots::default()));
        let compiled = compiled?;
        let counters = compiled.slots.used().max().map_or(0, |last| last + 1);
        let flows = loaded.rule_set.flows;
        let wanted = Wanted {
            buckets: flows.buckets(),
            timeouts: flows.timeouts,
        };
        let sizes = Sizes {
            ban_buckets: loaded.rule_set.bans.buckets(),
            limit_lines: loaded.rule_set.limits.lines(),
        };
        let (instance, load) = timed(|| Instance::load_with_flows(counters, &wanted, sizes));
        let mut instance = instance?;
        let place = Place::new(image::class_of(&compiled.image), 0);
        let copy = compiled.image.clone();
        let (installed, install) = timed(|| instance.install(place, copy));
        installed?;
        let (activated, activate) = timed(|| instance.activate(place));
        activated?;
        Ok(Self {
            instance,
            compiled,
            wanted,
            place,
            times: Times {
                read,
                compile,
                load,
                install,
                activate,
            },
        })
    }

    /// The program at `hook`, to be measured.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn program_at(&mut self, hook: Hook) -> Result<ProgramFd> {
        let program = match hook {
            Hook::Ingress | Hook::Syn(_) => self.instance.program().fd()?,
            Hook::Egress => self.instance.egress().fd()?,
        };
        Ok(program.try_clone()?)
    }

    /// Makes `harness` measure this policy on `frames`, after making sure that it accepts all of them or drops all of them,
    /// and that the program in the kernel counts them where the same code on the host does.
    ///
    /// # Errors
    ///
    /// If it decides otherwise.
    pub(crate) fn prepare(
        &mut self,
        harness: &mut Harness,
        frames: &Frames,
        accept: bool,
    ) -> Result<()> {
        let counts = RefCell::new(BTreeMap::<u32, u64>::new());
        let world = HostWorld::new(&self.compiled.image, |slot, _| {
            *counts.borrow_mut().entry(slot).or_default() += 1
        });
        for frame in frames.iter() {
            let decision = decide(frame.as_slice(), &world);
            ensure!(
                decision.accepts() == accept,
                "the firewall decides {decision:?} on {frame:02x?}"
            );
        }
        // `nanoseconds` repeats what it likes; one pass is compared.
        harness.send(frames)?;
        harness.measure(&self.program_at(Hook::Ingress)?)?;
        let before = self.instance.counters()?;
        harness.once()?;
        let after = self.instance.counters()?;
        let total = |counters: &[_]| -> u64 {
            counters
                .iter()
                .map(|counter: &firewall_common::abi::counter::Counter| counter.packets)
                .sum()
        };
        let expected: u64 = counts.borrow().values().sum();
        let counted = total(&after) - total(&before);
        // The run goes one packet beyond the frames, which the clock does not see.
        ensure!(
            counted >= expected && counted <= expected + 2,
            "the host counts {expected}, the kernel {counted}"
        );
        for (&slot, &expected) in counts.borrow().iter() {
            let counted = after[slot as usize].packets - before[slot as usize].packets;
            ensure!(
                counted == expected || counted == expected + 1,
                "counter {slot}: the host counts {expected}, the kernel {counted}"
            );
        }
        Ok(())
    }
}

/// What `action` returns, and the milliseconds it took.
pub(crate) fn timed<T>(action: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = action();
    (result, start.elapsed().as_secs_f64() * 1e3)
}
