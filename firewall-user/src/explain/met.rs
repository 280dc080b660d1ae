//! What a frame meets, stage by stage, as far as the image tells: headers, VLAN, essentials, rules. What comes behind depends on
//! state, which only who has it can ask; what it may answer is told here.

use firewall_common::abi::image::{Line, Outcome, essential as switch, header};
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::decide::{classify, essential, vlan};
use firewall_common::parse::{Fragment, Packet, Parsed, parse};
use firewall_common::tables::{HostWorld, Tables, World as _};

use super::nearly::nearly;
use super::{Cause, called};
use crate::kernel::description::{DescribedRule, Policy};
use crate::rules::model::{Direction, RuleSet};
use crate::rules::packet::Concrete;

/// One thing that the frame has met, and what that says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Stage {
    /// What it is.
    pub(crate) stage: &'static str,
    /// What it says of the packet.
    pub(crate) says: String,
}

/// Under what a frame is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    /// The tables.
    pub(crate) image: &'a [Line],
    /// What they came from.
    pub(crate) policy: &'a Policy,
    /// The rules themselves, where they are known.
    pub(crate) rule_set: Option<&'a RuleSet>,
}

/// What a frame has met.
#[derive(Debug)]
pub(crate) struct Met<'a> {
    /// In order.
    pub(crate) stages: Vec<Stage>,
    /// What the headers say, where they can be read.
    pub(crate) parsed: Result<Parsed, DropReason>,
    direction: Direction,
    ground: Ground<'a>,
    end: End,
}

/// What the image says in the end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Just this counter, whatever the state.
    Final(u32),
    /// What rules say; state may know more.
    Rules(Outcome),
    /// A later fragment: what its first one got.
    LaterFragment,
}

impl<'a> Met<'a> {
    /// What a frame meets that goes in this direction. `None` if the tables are broken.
    pub(crate) fn of(frame: &[u8], direction: Direction, ground: Ground<'a>) -> Option<Self> {
        let mut met = Self {
            stages: Vec::new(),
            parsed: parse(frame),
            direction,
            ground,
            end: End::LaterFragment,
        };
        met.headers(frame);
        let world = HostWorld::new(ground.image, |_, _| {});
        let tables = world.tables()?;
        met.end = match direction {
            Direction::Ingress => met.arrives(frame, &tables)?,
            Direction::Egress => met.leaves(&tables)?,
        };
        Some(met)
    }

    /// The counter that the frame ends in unless state says otherwise.
    pub(crate) fn likely(&self) -> u32 {
        match self.end {
            End::Final(slot) => slot,
            End::Rules(outcome) => outcome.counter(),
            End::LaterFragment => match self.direction {
                Direction::Ingress => PassReason::Fragment.counter(),
                Direction::Egress => PassReason::EgressFragment.counter(),
            },
        }
    }

    /// Whether rules let the packet in on terms that hold back some.
    pub(crate) fn has_terms(&self) -> bool {
        matches!(self.end, End::Rules(outcome) if outcome.has_terms())
    }

    /// Whether rules accept it; `None` if they were not asked.
    pub(crate) fn rules_accept(&self) -> Option<bool> {
        match self.end {
            End::Rules(outcome) => Some(outcome.accepts()),
            End::Final(_) | End::LaterFragment => None,
        }
    }

    /// Whether a frame that has met this can have ended in `slot`, for that cause.
    pub(crate) fn allows(&self, slot: u32, cause: &Cause<'_>) -> bool {
        match (self.end, self.direction) {
            (End::Final(only), _) => slot == only,
            (End::Rules(outcome), _) if slot == outcome.counter() => true,
            (End::Rules(outcome), Direction::Egress) => match cause {
                Cause::Over(_) => outcome.accepts() && outcome.has_terms(),
                Cause::Pass(reason) => {
                    !outcome.accepts() && *reason == PassReason::EgressConnection
                }
                Cause::Drop(_) | Cause::Rule(_) => false,
            },
            (End::Rules(outcome), Direction::Ingress) => {
                let is_held = outcome.accepts() && outcome.has_terms();
                match cause {
                    Cause::Over(_) => is_held,
                    Cause::Pass(PassReason::SynCookie) => is_held,
                    Cause::Drop(DropReason::Banned) => true,
                    // A ban or a limit holds back what rules accept, and then it may be an answer still.
                    Cause::Pass(reason) => is_beyond_rules_in(*reason),
                    Cause::Drop(reason) => is_beyond_rules_out(*reason),
                    Cause::Rule(_) => false,
                }
            }
            (End::LaterFragment, Direction::Ingress) => matches!(
                cause,
                Cause::Pass(PassReason::Fragment | PassReason::FragmentEarly)
                    | Cause::Drop(
                        DropReason::Banned | DropReason::FragmentDenied | DropReason::FragmentLater
                    )
            ),
            (End::LaterFragment, Direction::Egress) => matches!(
                cause,
                Cause::Pass(PassReason::EgressFragment) | Cause::Drop(DropReason::EgressFragment)
            ),
        }
    }

    /// Adds what is known of the state that the frame has met behind the image.
    pub(crate) fn add(&mut self, stage: &'static str, says: impl Into<String>) {
        let says = says.into();
        self.stages.push(Stage { stage, says });
    }

    fn headers(&mut self, frame: &[u8]) {
        let says = match &self.parsed {
            Ok(Parsed::Ip(packet)) => {
                let piece = match packet.fragment {
                    Fragment::Whole => "",
                    Fragment::First => ", a first fragment",
                    Fragment::Later => ", a later fragment",
                };
                let packet = Concrete::of(packet, Direction::Ingress);
                format!("{packet}, {} bytes{piece}", frame.len())
            }
            Ok(Parsed::Arp) => "ARP".to_owned(),
            Ok(Parsed::LinkLayer) => "LLDP, LACP or STP".to_owned(),
            Err(reason) => format!("{}: {}", reason.label(), reason.sentence()),
        };
        self.add("headers", says);
    }

    fn arrives<T: Tables>(&mut self, frame: &[u8], tables: &T) -> Option<End> {
        let parsed = match self.parsed {
            Ok(parsed) => parsed,
            Err(reason) => return Some(End::Final(reason.counter())),
        };
        let is_listed = vlan::may_arrive(frame, tables)?;
        if !is_listed {
            self.add("vlan", "the file does not list it");
            return Some(End::Final(DropReason::VlanNotListed.counter()));
        }
        if self.ground.policy.lists_vlans {
            self.add("vlan", "the file lists it");
        }
        let packet = match parsed {
            Parsed::Ip(packet) => packet,
            Parsed::Arp | Parsed::LinkLayer => {
                let decision = match parsed {
                    Parsed::Arp => essential::arp(tables)?,
                    _ => essential::link_layer(tables)?,
                };
                let says = if decision.accepts() {
                    "let in"
                } else {
                    "switched off in the file"
                };
                self.add("essentials", says);
                return Some(End::Final(decision.outcome().counter()));
            }
        };
        if packet.fragment == Fragment::Later {
            return Some(End::LaterFragment);
        }
        if let Some(reason) = essential::pass(&packet, tables) {
            self.add("essentials", reason.label());
            return Some(End::Final(reason.counter()));
        }
        self.add("essentials", "none is about it");
        let found = classify::find(
            &packet.addresses,
            &packet.transport,
            header::INGRESS,
            tables,
        )?;
        self.rules(&packet, Direction::Ingress, found.number, found.outcome);
        Some(End::Rules(found.outcome))
    }

    fn leaves<T: Tables>(&mut self, tables: &T) -> Option<End> {
        let bits = tables.u32(header::EGRESS + header::ESSENTIALS)?;
        let is_filtered = bits & switch::FILTERED != 0;
        let unfiltered = End::Final(PassReason::EgressDefault.counter());
        let packet = match self.parsed {
            Ok(Parsed::Ip(packet)) => packet,
            _ if !is_filtered => return Some(unfiltered),
            Err(_) => return Some(End::Final(DropReason::EgressMalformed.counter())),
            Ok(Parsed::Arp | Parsed::LinkLayer) => {
                let bit = if self.parsed == Ok(Parsed::Arp) {
                    switch::ARP
                } else {
                    switch::LINK_LAYER
                };
                let is_on = bits & bit != 0;
                self.add(
                    "essentials",
                    if is_on {
                        "let out"
                    } else {
                        "switched off in the file"
                    },
                );
                return Some(End::Final(if is_on {
                    PassReason::EgressEssential.counter()
                } else {
                    DropReason::EgressNoRule.counter()
                }));
            }
        };
        if packet.fragment == Fragment::Later {
            return Some(if is_filtered {
                End::LaterFragment
            } else {
                unfiltered
            });
        }
        if !packet.transport.opens_connection() {
            if essential::leaves(&packet, bits) {
                self.add("essentials", "let out");
                return Some(End::Final(PassReason::EgressEssential.counter()));
            }
            self.add("essentials", "none is about it");
            let (addresses, transport) = (packet.addresses.reversed(), packet.transport.reversed());
            let answered = classify::find(&addresses, &transport, header::INGRESS, tables)?;
            if answered.outcome.accepts() {
                let by = self.by(Direction::Ingress, answered.number, answered.outcome);
                self.add("answers", format!("what {by} lets in"));
                return Some(End::Final(PassReason::EgressReply.counter()));
            }
            self.add("answers", "nothing that rules let in");
        }
        if !is_filtered {
            self.add("rules", "the file has none for what leaves");
            return Some(unfiltered);
        }
        let found = classify::find(&packet.addresses, &packet.transport, header::EGRESS, tables)?;
        self.rules(&packet, Direction::Egress, found.number, found.outcome);
        Some(End::Rules(found.outcome))
    }

    fn rules(&mut self, packet: &Packet, direction: Direction, number: u32, outcome: Outcome) {
        let rule = self.rule(direction, number);
        let decided = rule.filter(|_| !outcome.is_default());
        let does = if outcome.accepts() {
            "accepts"
        } else {
            "drops"
        };
        let says = match decided {
            Some(rule) => format!("{} {does} it: {}", called(rule), rule.matches),
            None => format!("no rule matches, the default {does} it"),
        };
        self.add("rules", says);
        // Of what a rule accepts nobody asks which rule would not.
        if (decided.is_none() || !outcome.accepts())
            && let Some(rule_set) = self.ground.rule_set
            && let Some(says) = nearly(rule_set, direction, packet, outcome.accepts())
        {
            self.add("nearly", says);
        }
    }

    /// What decides, in a sentence.
    fn by(&self, direction: Direction, number: u32, outcome: Outcome) -> String {
        match self.rule(direction, number) {
            Some(rule) if !outcome.is_default() => called(rule),
            _ => "the default".to_owned(),
        }
    }

    /// The rule that the tables of this direction number so.
    fn rule(&self, direction: Direction, number: u32) -> Option<&'a DescribedRule> {
        let is_egress = direction == Direction::Egress;
        let rules = self.ground.policy.rules.iter();
        let mut rules = rules.filter(|rule| rule.is_egress() == is_egress);
        rules.nth(number as usize)
    }
}

/// Reasons to let in what rules refuse.
const fn is_beyond_rules_in(reason: PassReason) -> bool {
    matches!(
        reason,
        PassReason::Answer | PassReason::Connection | PassReason::Cookie | PassReason::PathMtu
    )
}

/// Reasons to drop it other than that rules refuse it.
const fn is_beyond_rules_out(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::TcpOutOfWindow
            | DropReason::FlowState
            | DropReason::FlowExpired
            | DropReason::IcmpUnrelated
            | DropReason::IcmpMalformed
            | DropReason::IcmpRate
    )
}
