//! A packet's whole life: headers, essentials, rules, one counter.

pub mod address;
pub mod classify;
pub mod essential;

use crate::abi::image::Outcome;
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::parse::{Parsed, parse};
use crate::tables::World;

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Dropped without a rule.
    Drop(DropReason),
    /// Let through without a rule.
    Pass(PassReason),
    /// Decided by the rule with this number, from 0 in file order.
    Rule {
        /// Number of the rule.
        number: u32,
        /// What it does.
        outcome: Outcome,
    },
}

impl Decision {
    /// Whether the packet goes on to the kernel's stack.
    #[inline(always)]
    pub const fn accepts(self) -> bool {
        match self {
            Self::Drop(_) => false,
            Self::Pass(_) => true,
            Self::Rule { outcome, .. } => outcome.accepts(),
        }
    }

    /// The counter that the packet goes to.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        match self {
            Self::Drop(reason) => reason.counter(),
            Self::Pass(reason) => reason.counter(),
            Self::Rule { outcome, .. } => outcome.counter(),
        }
    }
}

/// Decides a frame that arrived, and counts it.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(frame: &F, world: &W) -> Decision {
    let (decision, bytes) = match parse(frame) {
        Err(reason) => (Decision::Drop(reason), frame.full_len()),
        Ok(parsed) => {
            let bytes = match &parsed {
                Parsed::Ip(packet) => packet.frame_bytes,
                Parsed::Arp | Parsed::LinkLayer => frame.full_len(),
            };
            let decision = by_policy(&parsed, world);
            (
                decision.unwrap_or(Decision::Drop(DropReason::BrokenTables)),
                bytes,
            )
        }
    };
    world.count(decision.counter(), bytes);
    decision
}

/// The policy's decision on a well-formed packet; `None` if the tables are missing or inconsistent.
#[inline(always)]
fn by_policy<W: World>(parsed: &Parsed, world: &W) -> Option<Decision> {
    let tables = world.tables()?;
    match parsed {
        Parsed::Arp => essential::arp(&tables),
        Parsed::LinkLayer => essential::link_layer(&tables),
        Parsed::Ip(packet) => match essential::pass(packet, &tables) {
            Some(reason) => Some(Decision::Pass(reason)),
            None => classify::decide(packet, &tables, world),
        },
    }
}
