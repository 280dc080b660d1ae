//! What a candidate policy would make of a packet that the policy in force has decided.
//!
//! It is asked what opens a conversation, or is one of its own. TCP connections that are open go on under any policy, so of TCP, what is
//! let through is compared where a SYN opens a connection; and what answers a flow of this host is let in whatever rules say.
//! ICMP errors are left out: what becomes of them goes by what they quote.

use super::{classify, connection, essential, flow};
use crate::abi::counter::NAMED_BASE;
use crate::abi::image::{Outcome, Selector, essential as switch, header};
use crate::abi::reason::PassReason;
use crate::abi::shadow::{Difference, Shadow};
use crate::decide::connection::Local;
use crate::parse::Packet;
use crate::tables::{Tables, World};

/// A difference, and the candidate's rule that makes it, by number; the default's is behind the last rule's.
pub type Differs = (Difference, u32);

/// What a `candidate` says otherwise of a packet with this `outcome`. `None` where they do not, or are inconsistent.
#[inline(always)]
pub fn differs<C: Candidate, W: World>(
    packet: &Packet,
    outcome: Outcome,
    is_egress: bool,
    candidate: &C,
    world: &W,
) -> Option<Differs> {
    if outcome.is_held()
        || packet.transport.is_icmp_error()
        || (outcome.accepts() && !is_by_policy(outcome, packet))
    {
        return None;
    }
    let (accepts, number) = if is_egress {
        leaves(packet, candidate)?
    } else {
        arrives(packet, candidate)?
    };
    if accepts == outcome.accepts() {
        return None;
    }
    if accepts {
        return Some((Difference::Accepts, number));
    }
    let answers = !is_egress && answers(packet, world);
    (!answers).then_some((Difference::Refuses, number))
}

/// Whether it was rules, a default or an essential that let the packet through, and rules will be asked about the next one like it.
#[inline(always)]
fn is_by_policy(outcome: Outcome, packet: &Packet) -> bool {
    const BY_STATE: [PassReason; 10] = [
        PassReason::Answer,
        PassReason::Connection,
        PassReason::Cookie,
        PassReason::SynCookie,
        PassReason::PathMtu,
        PassReason::Fragment,
        PassReason::FragmentEarly,
        PassReason::Open,
        PassReason::EgressFragment,
        PassReason::EgressConnection,
    ];
    let is_tcp = matches!(packet.transport.selector, Some(Selector::Tcp));
    if is_tcp && !packet.transport.opens_connection() {
        return false;
    }
    let slot = outcome.counter();
    slot >= NAMED_BASE || !BY_STATE.iter().any(|reason| reason.counter() == slot)
}

/// Whether it answers a flow of this host: of UDP and the like, for TCP was looked at before, and errors and echoes are no matter of rules.
#[inline(always)]
fn answers<W: World>(packet: &Packet, world: &W) -> bool {
    match packet.transport.selector {
        Some(Selector::Udp | Selector::Sctp) | None => {
            let key = connection::key(&packet.addresses, &packet.transport, 0, Local::Destination);
            flow::quoted(&key, 0, world.flows())
        }
        Some(Selector::Tcp | Selector::Icmp | Selector::Icmpv6) => false,
    }
}

/// The candidate's verdict on what arrives, and the number of the rule.
#[inline(always)]
fn arrives<C: Candidate>(packet: &Packet, candidate: &C) -> Option<(bool, u32)> {
    if essential::pass(packet, &candidate.tables()?).is_some() {
        return Some((true, Shadow::NO_RULE));
    }
    candidate.find(packet, header::INGRESS, false)
}

/// The candidate's verdict on what leaves.
#[inline(always)]
fn leaves<C: Candidate>(packet: &Packet, candidate: &C) -> Option<(bool, u32)> {
    let bits = candidate
        .tables()?
        .u32(header::EGRESS + header::ESSENTIALS)?;
    if bits & switch::FILTERED == 0 || essential::leaves(packet, bits) || serves(packet, candidate)?
    {
        return Some((true, Shadow::NO_RULE));
    }
    candidate.find(packet, header::EGRESS, false)
}

/// Whether it answers what the candidate lets in. A SYN answers nothing.
#[inline(always)]
fn serves<C: Candidate>(packet: &Packet, candidate: &C) -> Option<bool> {
    if packet.transport.opens_connection() {
        return Some(false);
    }
    let (accepts, _) = candidate.find(packet, header::INGRESS, true)?;
    Some(accepts)
}

/// A policy that is only asked.
pub trait Candidate {
    /// Its image.
    type Tables: Tables;

    /// Its image; `None` where there is none.
    fn tables(&self) -> Option<Self::Tables>;

    /// Whether its rules of the direction with the header `at` accept the packet, or what the packet answers, and the number of the one
    /// that says so ([`find`]). `None` if the tables are inconsistent.
    fn find(&self, packet: &Packet, at: u32, answered: bool) -> Option<(bool, u32)>;
}

/// What [`Candidate::find`] says by these tables.
#[inline(always)]
pub fn find<T: Tables>(
    packet: &Packet,
    at: u32,
    answered: bool,
    tables: &T,
) -> Option<(bool, u32)> {
    let (addresses, transport) = if answered {
        (packet.addresses.reversed(), packet.transport.reversed())
    } else {
        (packet.addresses, packet.transport)
    };
    let found = classify::find(&addresses, &transport, at, tables)?;
    Some((found.outcome.accepts(), found.number))
}
