//! What a candidate policy would make of a packet that the policy in force has decided.
//!
//! It is asked what opens a conversation, or is one of its own. TCP connections that are open go on under any policy, so of TCP, what is
//! let through is compared where a SYN opens a connection; and what answers a flow of this host is let in whatever rules say.
//! ICMP errors are left out: what becomes of them goes by what they quote.

use super::{classify, connection, essential, flow};
use crate::abi::counter::NAMED_BASE;
use crate::abi::image::{Outcome, Selector, essential as switch, header};
use crate::abi::question::{About, Question};
use crate::abi::reason::PassReason;
use crate::abi::shadow::{Difference, Shadow};
use crate::decide::connection::Local;
use crate::parse::Packet;
use crate::tables::{Tables, World};

/// A difference, and the candidate's rule that makes it, by number; the default's is behind the last rule's.
pub type Differs = (Difference, u32);

/// What a `candidate` says otherwise of a packet with this `outcome`. `None` where they do not, or are inconsistent.
#[inline(always)]
pub fn differs<W: World>(
    packet: &Packet,
    outcome: Outcome,
    is_egress: bool,
    candidate: impl Fn(&Question) -> Option<Verdict>,
    world: &W,
) -> Option<Differs> {
    if !is_asked(packet, outcome) {
        return None;
    }
    let verdict = otherwise(&Question::new(packet), outcome, is_egress, candidate)?;
    if verdict.accepts {
        return Some((Difference::Accepts, verdict.number));
    }
    let answers = !is_egress && answers(packet, world);
    (!answers).then_some((Difference::Refuses, verdict.number))
}

/// The first part, of what [`Question::new`] says of a packet that [`is_asked`] about: where the `candidate`'s verdict is another, but for
/// what answers this host. It is all that the kernel asks of most packets, at once; what is decided otherwise goes on in a program of
/// its own.
#[inline(always)]
pub fn otherwise(
    packet: &Question,
    outcome: Outcome,
    is_egress: bool,
    candidate: impl Fn(&Question) -> Option<Verdict>,
) -> Option<Verdict> {
    let verdict = if is_egress {
        leaves(packet, candidate)?
    } else {
        candidate(packet)?
    };
    (verdict.accepts != outcome.accepts()).then_some(verdict)
}

/// Whether a candidate is asked about a packet with this `outcome`.
#[inline(always)]
pub fn is_asked(packet: &Packet, outcome: Outcome) -> bool {
    !outcome.is_held()
        && !packet.transport.is_icmp_error()
        && (!outcome.accepts() || is_by_policy(outcome, packet))
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

/// The candidate's verdict on what leaves.
#[inline(always)]
fn leaves(packet: &Question, candidate: impl Fn(&Question) -> Option<Verdict>) -> Option<Verdict> {
    let answering = candidate(&packet.about(About::Answering))?;
    if answering.accepts {
        return Some(Verdict::WITHOUT_RULE);
    }
    candidate(&packet.about(About::Leaving))
}

/// What a candidate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the packet is let through.
    pub accepts: bool,
    /// Number of the rule that says so.
    pub number: u32,
}

impl Verdict {
    /// Let through by no rule.
    const WITHOUT_RULE: Self = Self {
        accepts: true,
        number: Shadow::NO_RULE,
    };
}

/// What a candidate with these `tables` says. `None` if they are inconsistent.
#[inline(always)]
pub fn answer<T: Tables>(question: &Question, tables: &T) -> Option<Verdict> {
    let packet = question.packet();
    let mut transport = packet.transport;
    let at = match question.asks() {
        About::Arriving => {
            if essential::pass(&packet, tables).is_some() {
                return Some(Verdict::WITHOUT_RULE);
            }
            header::INGRESS
        }
        About::Answering => {
            let bits = tables.u32(header::EGRESS + header::ESSENTIALS)?;
            // Of addresses, essentials that leave are told by the family only.
            if bits & switch::FILTERED == 0 || essential::leaves(&packet, bits) {
                return Some(Verdict::WITHOUT_RULE);
            }
            // A SYN answers nothing.
            if transport.opens_connection() {
                return Some(Verdict {
                    accepts: false,
                    ..Verdict::WITHOUT_RULE
                });
            }
            transport = transport.reversed();
            header::INGRESS
        }
        About::Leaving => header::EGRESS,
    };
    let found = classify::find(&packet.addresses, &transport, at, tables)?;
    Some(Verdict {
        accepts: found.outcome.accepts(),
        number: found.number,
    })
}
