//! A copy of what guards an interface, to be asked what it does with a frame: the kernel runs the same programs over it, under the
//! same policy, and whatever a packet changes is the copy's.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions};
use firewall_common::abi::MAP_COUNTERS;
use firewall_common::abi::counter::Counter;
use firewall_common::abi::reason::{DropReason, PassReason};

use super::counters;
use super::description::Policy;
use super::instance::Instance;
use super::record::Record;
use crate::counters::Subject;

/// Shortest frame that the kernel runs a program over: an Ethernet header.
pub const SHORTEST: usize = 14;

/// What the program did with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    Passes,
    /// It ends here.
    Drops,
    /// It was answered in this host's place.
    Answers,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program did.
    pub action: Action,
    /// The counter of the decision.
    pub slot: u32,
}

/// The copy.
#[derive(Debug)]
pub struct Replica {
    instance: Instance,
    /// Whether its programs are, instruction by instruction, those that are at work.
    pub same_programs: bool,
    interface: u32,
    /// Packets in each slot that counts decisions, when it was last read.
    counted: HashMap<u32, u64>,
}

impl Replica {
    pub(super) fn new(
        instance: Instance,
        same_programs: bool,
        interface: u32,
        policy: &Policy,
    ) -> Self {
        let drops = DropReason::ALL.iter().map(|reason| reason.counter());
        let passes = PassReason::ALL.iter().map(|reason| reason.counter());
        // Those of ports count what others decide.
        let named = policy.slots.iter();
        let named = named.filter(|(subject, _)| !matches!(subject, Subject::Port(..)));
        let slots = drops.chain(passes).chain(named.map(|(_, slot)| slot));
        Self {
            instance,
            same_programs,
            interface,
            counted: slots.map(|slot| (slot, 0)).collect(),
        }
    }

    /// What becomes of a frame that arrives. `likely` is the counter that is looked at first.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn arrives(&mut self, frame: &[u8], likely: u32) -> Result<Ran> {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.interface.to_ne_bytes());
        let ran = self.instance.program().test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ..TestRunOptions::new()
        });
        // XDP_DROP, XDP_PASS and XDP_TX of linux/bpf.h.
        let action = match ran
            .context("running the program over a frame")?
            .return_value
        {
            1 => Action::Drops,
            2 => Action::Passes,
            3 => Action::Answers,
            action => bail!("the program ended with XDP action {action}"),
        };
        self.ran(action, likely)
    }

    /// The same of a frame that leaves.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn leaves(&mut self, frame: &[u8], likely: u32) -> Result<Ran> {
        let ran = self.instance.egress().test_run(TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        });
        // TCX_NEXT and TCX_DROP of linux/bpf.h.
        let action = match ran
            .context("running the program over a frame")?
            .return_value as i32
        {
            -1 => Action::Passes,
            2 => Action::Drops,
            action => bail!("the program ended with tcx action {action}"),
        };
        self.ran(action, likely)
    }

    /// Finds the counter that the frame was counted in: a decision is counted once.
    fn ran(&mut self, action: Action, likely: u32) -> Result<Ran> {
        let map = self.instance.ebpf().map(MAP_COUNTERS);
        let counters: PerCpuArray<&MapData, Record<Counter>> =
            PerCpuArray::try_from(map.context("no counters in the object")?)?;
        if let Some(packets) = self.counted.get_mut(&likely)
            && has_moved(&counters, likely, packets)?
        {
            return Ok(Ran {
                action,
                slot: likely,
            });
        }
        for (&slot, packets) in &mut self.counted {
            if has_moved(&counters, slot, packets)? {
                return Ok(Ran { action, slot });
            }
        }
        bail!("the program has counted the frame nowhere")
    }
}

/// Whether the counter in `slot` is another than it was, which is then known.
fn has_moved(
    counters: &PerCpuArray<&MapData, Record<Counter>>,
    slot: u32,
    packets: &mut u64,
) -> Result<bool> {
    let now = counters::total(counters, slot)?.packets;
    let has_moved = now != *packets;
    *packets = now;
    Ok(has_moved)
}
