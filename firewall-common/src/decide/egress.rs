//! What leaves: an answer to accepted traffic, an essential, or a flow that this host opens and egress rules allow.

use super::connection::{self, Local};
use super::flow::{self, Recorded};
use super::{BROKEN, Decision, classify, count, essential, fragment, tally, terms};
use crate::abi::counter::{FLOWS_CONTENDED, FLOWS_CREATED, FLOWS_EVICTED};
use crate::abi::image::{Selector, essential as switch, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::parse::{Fragment, Packet, Parsed, parse};
use crate::tables::{Tables, World};

/// Decides a frame that leaves, counts it, and remembers the flow that it opens or goes on with. The kernel does the three parts
/// in three programs.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(frame: &F, world: &W) -> Decision {
    let opens = |packet: &Packet| what_opens(frame, packet, world);
    let fragment = |packet: &Packet| by_first_fragment(frame, packet, world, opens);
    by_ingress_rules(frame, world, fragment, opens)
}

/// The first part: essentials, and what answers traffic that rules accept on ingress. `fragment` decides fragments, `opens` all
/// else, and what opens a TCP connection: who does that from a served port is no server.
#[inline(always)]
pub fn by_ingress_rules<F: Frame + ?Sized, W: World>(
    frame: &F,
    world: &W,
    fragment: impl FnOnce(&Packet) -> Decision,
    opens: impl FnOnce(&Packet) -> Decision,
) -> Decision {
    let parsed = parse(frame);
    if let Ok(Parsed::Ip(packet)) = &parsed {
        if !matches!(packet.fragment, Fragment::Whole) {
            return fragment(packet);
        }
        if packet.transport.opens_connection() {
            return opens(packet);
        }
    }
    let decision = match by_policy(&parsed, world) {
        None => BROKEN,
        Some(Some(decision)) => decision,
        Some(None) => match &parsed {
            Ok(Parsed::Ip(packet)) => return opens(packet),
            _ => BROKEN,
        },
    };
    count(decision, frame.full_len(), world);
    if let Ok(Parsed::Ip(packet)) = &parsed {
        world.compare(packet, decision.outcome(), true);
    }
    world.report(decision.outcome(), true);
    decision
}

/// `None` if the tables are missing or inconsistent, `Some(None)` if there is more to ask.
#[inline(always)]
fn by_policy<W: World>(parsed: &Result<Parsed, DropReason>, world: &W) -> Option<Option<Decision>> {
    let tables = world.tables()?;
    let bits = tables.u32(header::EGRESS + header::ESSENTIALS)?;
    let filtered = bits & switch::FILTERED != 0;
    let packet = match parsed {
        Ok(Parsed::Ip(packet)) => packet,
        _ if !filtered => return Some(Some(Decision::passed(PassReason::EgressDefault))),
        Err(_) => return Some(Some(Decision::dropped(DropReason::EgressMalformed))),
        Ok(Parsed::Arp) => return Some(Some(without_rules(bits & switch::ARP))),
        Ok(Parsed::LinkLayer) => return Some(Some(without_rules(bits & switch::LINK_LAYER))),
    };
    if essential::leaves(packet, bits) {
        return Some(Some(Decision::passed(PassReason::EgressEssential)));
    }
    // What rules accept needs no memory of what it answers: so a flood to a served port fills no table.
    let served = classify::serves(&packet.addresses, &packet.transport, &tables)?;
    Some(served.then_some(Decision::passed(PassReason::EgressReply)))
}

/// The second part. Of a datagram in fragments the first one's decision holds for the others here too: they come behind it from
/// this host and from whoever it forwards for, and of a datagram without its first fragment nothing has to leave.
#[inline(always)]
pub fn by_first_fragment<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    world: &W,
    opens: impl FnOnce(&Packet) -> Decision,
) -> Decision {
    let decision = match packet.fragment {
        Fragment::Later => later_fragment(frame, packet, world),
        Fragment::Whole | Fragment::First if packet.transport.opens_connection() => {
            return opens(packet);
        }
        Fragment::Whole | Fragment::First => match by_policy(&Ok(Parsed::Ip(*packet)), world) {
            Some(None) => return opens(packet),
            Some(Some(decision)) => remembered(frame, packet, decision, world),
            None => None,
        },
    };
    match decision {
        Some(decision) => left(decision, packet, world),
        None => left(BROKEN, packet, world),
    }
}

/// Counts what was decided of a fragment that leaves.
#[inline(always)]
fn left<W: World>(decision: Decision, packet: &Packet, world: &W) -> Decision {
    count(decision, packet.frame_bytes, world);
    world.report(decision.outcome(), true);
    decision
}

/// A later fragment leaves if the first one did. `None` if the tables are missing or inconsistent.
#[inline(always)]
fn later_fragment<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    world: &W,
) -> Option<Decision> {
    if !is_filtered(&world.tables()?)? {
        return Some(Decision::passed(PassReason::EgressDefault));
    }
    let left = fragment::key(frame, packet).and_then(|key| world.first_fragment(&key));
    Some(if left == Some(true) {
        Decision::passed(PassReason::EgressFragment)
    } else {
        Decision::dropped(DropReason::EgressFragment)
    })
}

/// The last part: egress rules, where there are any, and the flow table.
#[inline(always)]
pub fn what_opens<F: Frame + ?Sized, W: World>(frame: &F, packet: &Packet, world: &W) -> Decision {
    let mut decision = by_egress_rules(packet, world).unwrap_or(BROKEN);
    if !decision.accepts() && !decision.outcome().is_held() && is_open(packet, world) {
        decision = Decision::passed(PassReason::EgressConnection);
    }
    if decision.accepts() {
        record(frame, packet, world);
    }
    if matches!(packet.fragment, Fragment::First) {
        decision = remembered(frame, packet, decision, world).unwrap_or(BROKEN);
    }
    count(decision, packet.frame_bytes, world);
    world.compare(packet, decision.outcome(), true);
    world.report(decision.outcome(), true);
    decision
}

/// The decision on a first fragment, remembered for the later ones where what leaves is filtered. `None` if the tables are
/// missing or inconsistent.
#[inline(always)]
fn remembered<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    decision: Decision,
    world: &W,
) -> Option<Decision> {
    if is_filtered(&world.tables()?)?
        && let Some(key) = fragment::key(frame, packet)
    {
        world.remember_fragment(&key, decision.accepts());
    }
    Some(decision)
}

/// Whether anything that leaves is filtered; `None` if the tables are inconsistent.
#[inline(always)]
fn is_filtered<T: Tables>(tables: &T) -> Option<bool> {
    let bits = tables.u32(header::EGRESS + header::ESSENTIALS)?;
    Some(bits & switch::FILTERED != 0)
}

#[inline(always)]
fn by_egress_rules<W: World>(packet: &Packet, world: &W) -> Option<Decision> {
    let tables = world.tables()?;
    if !is_filtered(&tables)? {
        return Some(Decision::passed(PassReason::EgressDefault));
    }
    let decision = classify::decide(packet, header::EGRESS, &tables, world)?;
    if decision.accepts() && decision.outcome().has_terms() {
        return terms::leaving(packet, decision, world);
    }
    Some(decision)
}

/// Whether the packet belongs to a TCP connection that is open. Rules decide who may open one, which a SYN alone does; a change
/// of the rules cuts none off, or it might be the operator's own.
#[inline(always)]
fn is_open<W: World>(packet: &Packet, world: &W) -> bool {
    let transport = &packet.transport;
    matches!(transport.selector, Some(Selector::Tcp))
        && !transport.opens_connection()
        && world.has_connection(
            &connection::key(&packet.addresses, transport, 0, Local::Source),
            true,
        )
}

#[inline(always)]
fn record<F: Frame + ?Sized, W: World>(frame: &F, packet: &Packet, world: &W) {
    let Some(flow) = connection::flow_packet(frame, packet, Local::Source) else {
        return;
    };
    let slot = match flow::outgoing(&flow, world.flows()) {
        Recorded::Created | Recorded::Renewed => FLOWS_CREATED,
        Recorded::CreatedEvicting => FLOWS_EVICTED,
        Recorded::Contended => FLOWS_CONTENDED,
        Recorded::Refreshed | Recorded::Untracked | Recorded::NoTable => return,
    };
    world.count(slot, tally(packet));
}

#[inline(always)]
const fn without_rules(switch: u32) -> Decision {
    if switch != 0 {
        Decision::passed(PassReason::EgressEssential)
    } else {
        Decision::dropped(DropReason::EgressNoRule)
    }
}
