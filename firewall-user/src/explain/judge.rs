//! Who decides: the kernel, in a copy of what guards an interface, or a rule file alone.

use std::time::Duration;

use anyhow::{Context as _, Result};
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::{Packet, Parsed};

use super::Cause;
use super::met::{Ground, Met};
use super::simulated::Simulated;
use crate::kernel::replica::{Action, Ran, Replica, SHORTEST};
use crate::rules::model::Direction;

/// Who decides.
#[derive(Debug)]
pub(crate) enum Judge<'a> {
    /// The kernel.
    Kernel(&'a mut Replica),
    /// A host that runs a rule file and nothing else.
    File(Box<Simulated<'a>>),
}

/// What became of a frame.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    /// What it met.
    pub(crate) met: Met<'a>,
    /// What has decided it.
    pub(crate) cause: Cause<'a>,
    /// What was done.
    pub(crate) action: Action,
    /// Whether who decided and the tables, asked beside it, can both be right.
    pub(crate) agrees: bool,
}

impl Judge<'_> {
    /// Decides a frame that comes at this time, which must not go back.
    ///
    /// # Errors
    ///
    /// What the kernel says, or broken tables.
    pub(crate) fn decide<'g>(
        &mut self,
        frame: &[u8],
        direction: Direction,
        at: Duration,
        ground: Ground<'g>,
    ) -> Result<Judged<'g>> {
        let mut met = Met::of(frame, direction, ground)
            .context("the tables of the policy are broken: apply it again")?;
        let likely = met.likely();
        let ran = match self {
            // The kernel runs no program over less; what drops it is the Ethernet header that is cut short.
            Self::Kernel(_) if frame.len() < SHORTEST => Ran {
                action: if met_drops(likely) {
                    Action::Drops
                } else {
                    Action::Passes
                },
                slot: likely,
            },
            Self::Kernel(replica) => match direction {
                Direction::Ingress => replica.arrives(frame, likely)?,
                Direction::Egress => replica.leaves(frame, likely)?,
            },
            Self::File(simulated) => {
                let decision = simulated.decide(frame, direction, at);
                let slot = decision.outcome().counter();
                Ran {
                    action: match (slot, decision.accepts()) {
                        (slot, _) if slot == PassReason::SynCookie.counter() => Action::Answers,
                        (_, true) => Action::Passes,
                        (_, false) => Action::Drops,
                    },
                    slot,
                }
            }
        };
        let cause = Cause::of(ran.slot, ground.policy)
            .with_context(|| format!("counter {} belongs to nothing", ran.slot))?;
        let agrees =
            met.allows(ran.slot, &cause) && cause.accepts() == (ran.action != Action::Drops);
        tell_state(&mut met, &cause);
        Ok(Judged {
            met,
            cause,
            action: ran.action,
            agrees,
        })
    }
}

fn met_drops(slot: u32) -> bool {
    DropReason::ALL
        .iter()
        .any(|reason| reason.counter() == slot)
}

/// Adds to what was met what the state behind the image has said.
fn tell_state(met: &mut Met<'_>, cause: &Cause<'_>) {
    let (accepts, terms) = (met.rules_accept(), met.has_terms());
    match (accepts, cause) {
        (_, Cause::Drop(DropReason::Banned)) => met.add("ban", "the source is banned"),
        (Some(true), Cause::Over(_)) => {
            met.add("limit", "it is more than the rule's limit lets through")
        }
        (Some(true), Cause::Pass(PassReason::SynCookie)) => {
            met.add(
                "syn-cookies",
                "SYNs come faster than the rule says: it is answered with a cookie",
            );
        }
        (Some(true), Cause::Rule(_)) if terms => {
            met.add("limit", "within what the rule's terms let through")
        }
        (Some(_), Cause::Pass(reason)) if !is_of_rules(*reason) => {
            met.add(
                "state",
                format!("{}: {}", reason.label(), reason.sentence()),
            );
        }
        (Some(false), Cause::Drop(reason)) if is_of_state(*reason) => {
            met.add(
                "state",
                format!("{}: {}", reason.label(), reason.sentence()),
            );
        }
        (Some(false), _) => met.add(
            "state",
            "it belongs to no flow and no connection of this host",
        ),
        (None, cause) if is_later_fragment(met) => {
            met.add(
                "fragments",
                format!("{}: {}", cause.label(), cause.sentence()),
            );
        }
        (Some(true) | None, _) => {}
    }
}

const fn is_of_rules(reason: PassReason) -> bool {
    matches!(reason, PassReason::Default | PassReason::EgressDefault)
}

const fn is_of_state(reason: DropReason) -> bool {
    !matches!(reason, DropReason::NoRule | DropReason::EgressNoRule)
}

fn is_later_fragment(met: &Met<'_>) -> bool {
    use firewall_common::parse::Fragment;
    matches!(
        met.parsed,
        Ok(Parsed::Ip(Packet {
            fragment: Fragment::Later,
            ..
        }))
    )
}
