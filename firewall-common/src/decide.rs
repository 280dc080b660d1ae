//! A packet's whole life: headers, VLANs, essentials, rules, bans, limits, fragments, what answers this host; one counter.

pub mod address;
pub mod ban;
pub mod classify;
pub mod connection;
pub mod cookie;
pub mod egress;
pub mod essential;
pub mod flow;
pub mod fragment;
pub mod limit;
pub mod related;
pub mod shadow;
pub mod terms;
pub mod vlan;

use crate::abi::counter::MAX_SLOTS;
use crate::abi::image::{Outcome, essential as essential_switch, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::parse::{Fragment, Packet, Parsed, parse};
use crate::tables::{Tables, Tally, World};

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    outcome: Outcome,
    cause: Cause,
}

/// Why it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Dropped without a rule.
    Drop(DropReason),
    /// Let through without a rule.
    Pass(PassReason),
    /// Decided by the rule with this number, from 0 in file order.
    Rule(u32),
    /// No rule matched.
    Default,
}

impl Decision {
    /// To drop the packet, without a rule.
    #[inline(always)]
    pub const fn dropped(reason: DropReason) -> Self {
        Self {
            outcome: Outcome::new(false, false, reason.counter()),
            cause: Cause::Drop(reason),
        }
    }

    /// To let the packet through, without a rule.
    #[inline(always)]
    pub const fn passed(reason: PassReason) -> Self {
        Self {
            outcome: Outcome::new(true, false, reason.counter()),
            cause: Cause::Pass(reason),
        }
    }

    /// To drop the packet although rules accept it, counted in `slot`.
    #[inline(always)]
    pub const fn held(reason: DropReason, slot: u32) -> Self {
        Self {
            // Slots from the image are not known to be any, and nothing here may panic.
            outcome: Outcome::new(false, false, slot & (MAX_SLOTS - 1)).held(),
            cause: Cause::Drop(reason),
        }
    }

    /// The same, and what is dropped counts towards a ban.
    #[inline(always)]
    pub const fn with_terms(self) -> Self {
        Self {
            outcome: self.outcome.with_terms(),
            ..self
        }
    }

    /// What the rule with this number does, or the default.
    #[inline(always)]
    pub const fn by_rules(number: u32, outcome: Outcome) -> Self {
        Self {
            outcome,
            cause: if outcome.is_default() {
                Cause::Default
            } else {
                Cause::Rule(number)
            },
        }
    }

    /// Whether the packet goes on, and its counter. It is all that the kernel asks.
    #[inline(always)]
    pub const fn outcome(self) -> Outcome {
        self.outcome
    }

    /// Why.
    #[inline(always)]
    pub const fn cause(self) -> Cause {
        self.cause
    }

    /// Number of the rule that has decided, if one has.
    #[inline(always)]
    pub const fn number(self) -> Option<u32> {
        match self.cause {
            Cause::Rule(number) => Some(number),
            Cause::Drop(_) | Cause::Pass(_) | Cause::Default => None,
        }
    }

    /// Whether the packet goes on to the kernel's stack.
    #[inline(always)]
    pub const fn accepts(self) -> bool {
        self.outcome.accepts()
    }
}

/// Tables that are missing or inconsistent, which the compiler never makes.
const BROKEN: Decision = Decision::dropped(DropReason::BrokenTables);

/// A packet of which more is asked: rules do not accept it, or do so on terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The packet.
    pub packet: Packet,
    /// What rules say of it.
    pub by_rules: Decision,
    /// Number of the rule that has decided, where one has.
    pub number: u32,
    /// What a first fragment's datagram is known by; 0 for a packet in one piece.
    pub identification: u32,
}

impl Asked {
    /// A packet of which rules say this.
    #[inline(always)]
    pub fn new(packet: &Packet, by_rules: Decision, identification: u32) -> Self {
        Self {
            packet: *packet,
            by_rules,
            number: by_rules.number().unwrap_or(0),
            identification,
        }
    }
}

/// Decides a frame that arrived, and counts it. The kernel does each part in a program of its own. A SYN that is answered with a
/// cookie is not answered here.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(frame: &F, world: &W) -> Decision {
    let strike = |asked: &Asked| terms::struck(asked, world);
    let refused = |asked: &Asked| beyond_rules(frame, asked, world, strike);
    let cookie = |asked: &Asked| cookie::answered(asked, world);
    let terms = |asked: &Asked| terms::arriving(asked, world, refused, cookie, strike);
    let fragment = |packet: &Packet| fragment::decide(frame, packet, world, refused, terms);
    by_rules(frame, world, fragment, refused, terms)
}

/// The first part: headers, essentials, rules. What they accept goes on, and what they refuse does not where nothing can
/// change that. `fragment` decides fragments, `refused` what rules do not accept and perhaps answers this host, `terms` what a rule
/// decides that has terms.
#[inline(always)]
pub fn by_rules<F: Frame + ?Sized, W: World>(
    frame: &F,
    world: &W,
    fragment: impl FnOnce(&Packet) -> Decision,
    refused: impl FnOnce(&Asked) -> Decision,
    terms: impl FnOnce(&Asked) -> Decision,
) -> Decision {
    let parsed = match parse(frame) {
        Ok(parsed) => parsed,
        Err(reason) => return counted(unreadable(reason, world), frame.full_len(), world),
    };
    let bytes = match &parsed {
        Parsed::Ip(packet) => packet.frame_bytes,
        Parsed::Arp | Parsed::LinkLayer => frame.full_len(),
    };
    let Some(tables) = world.tables() else {
        return counted(BROKEN, bytes, world);
    };
    match vlan::may_arrive(frame, &tables) {
        Some(true) => {}
        Some(false) => {
            return counted(Decision::dropped(DropReason::VlanNotListed), bytes, world);
        }
        None => return counted(BROKEN, bytes, world),
    }
    if let Parsed::Ip(packet) = &parsed
        && !matches!(packet.fragment, Fragment::Whole)
    {
        return if is_open(&tables) {
            counted(Decision::passed(PassReason::Open), bytes, world)
        } else {
            fragment(packet)
        };
    }
    let decision = by_policy(&parsed, &tables, world).unwrap_or(BROKEN);
    match parsed {
        Parsed::Ip(packet) => {
            if !decision.accepts() && connection::may_answer(&packet.transport, world) {
                refused(&Asked::new(&packet, decision, 0))
            } else if decision.outcome().has_terms() {
                terms(&Asked::new(&packet, decision, 0))
            } else {
                conclude(&packet, decision, world)
            }
        }
        Parsed::Arp | Parsed::LinkLayer => counted(decision, bytes, world),
    }
}

/// The decision on a frame that cannot be read.
#[inline(always)]
fn unreadable<W: World>(reason: DropReason, world: &W) -> Decision {
    match world.tables() {
        Some(tables) if is_open(&tables) => Decision::passed(PassReason::Open),
        _ => Decision::dropped(reason),
    }
}

/// Whether no policy is in force and everything is let in.
#[inline(always)]
fn is_open<T: Tables>(tables: &T) -> bool {
    let bits = tables.u32(header::INGRESS + header::ESSENTIALS);
    bits.is_some_and(|bits| bits & essential_switch::OPEN != 0)
}

/// The policy's decision on a well-formed packet; `None` if the tables are inconsistent.
#[inline(always)]
fn by_policy<T: Tables, W: World>(parsed: &Parsed, tables: &T, world: &W) -> Option<Decision> {
    match parsed {
        Parsed::Arp => essential::arp(tables),
        Parsed::LinkLayer => essential::link_layer(tables),
        Parsed::Ip(packet) => match essential::pass(packet, tables) {
            Some(reason) => Some(Decision::passed(reason)),
            None => classify::decide(packet, header::INGRESS, tables, world),
        },
    }
}

/// The last part: what no rule accepts may be an error about a packet of ours, or answer a flow of ours. `strike` decides what does not,
/// and counts towards a ban.
#[inline(always)]
pub fn beyond_rules<F: Frame + ?Sized, W: World>(
    frame: &F,
    asked: &Asked,
    world: &W,
    strike: impl FnOnce(&Asked) -> Decision,
) -> Decision {
    let packet = &asked.packet;
    let decision = if packet.transport.is_icmp_error() {
        related::decide(frame, packet, asked.by_rules, world).unwrap_or(BROKEN)
    } else {
        connection::decide(frame, packet, asked.by_rules, world)
    };
    let outcome = decision.outcome();
    if outcome.has_terms() && !outcome.accepts() {
        return strike(asked);
    }
    finish(asked, decision, world)
}

/// Counts what was decided, and remembers it where other fragments will follow.
#[inline(always)]
fn finish<W: World>(asked: &Asked, decision: Decision, world: &W) -> Decision {
    let Asked {
        packet,
        identification,
        ..
    } = asked;
    if matches!(packet.fragment, Fragment::First) {
        fragment::remember(packet, *identification, decision, world);
    }
    conclude(packet, decision, world)
}

/// Counts what was decided of a packet.
#[inline(always)]
fn conclude<W: World>(packet: &Packet, decision: Decision, world: &W) -> Decision {
    let outcome = decision.outcome();
    let sequence = world.count(outcome.counter(), tally(packet));
    if outcome.is_default() && !outcome.accepts() && !outcome.says_port() {
        world.knock(&packet.transport, tally(packet), sequence);
    }
    world.compare(packet, outcome, false);
    world.report(outcome, false);
    decision
}

/// What a packet adds to a counter.
#[inline(always)]
const fn tally(packet: &Packet) -> Tally {
    Tally {
        bytes: packet.frame_bytes,
        opens: packet.transport.opens_connection(),
    }
}

/// Counts what was decided of a frame that arrived, of which there is no more to be said.
#[inline(always)]
fn counted<W: World>(decision: Decision, bytes: u32, world: &W) -> Decision {
    count(decision, bytes, world);
    world.report(decision.outcome(), false);
    decision
}

#[inline(always)]
fn count<W: World>(decision: Decision, bytes: u32, world: &W) {
    let tally = Tally {
        bytes,
        opens: false,
    };
    world.count(decision.outcome().counter(), tally);
}
