//! Fragments: what is decided of the first one holds for the others, which do not say what they carry.
//!
//! A later fragment that comes before its first one, as happens where the network changes the order, is let in: without its
//! first fragment nothing is reassembled, and no first fragment comes in that rules refuse. What it costs is memory for
//! reassembly, which the kernel bounds (`net.ipv4.ipfrag_high_thresh`, `net.ipv6.ip6frag_high_thresh`) and of which honest
//! datagrams need some too, so few are let in in a period ([`Limited::in_a_period`]). Fragments that overlap are a matter of the kernel, which drops the
//! whole datagram (RFC 5722; Linux does the same for IPv4); of those that would rewrite what rules have looked at, the parser drops
//! the ones that it can tell by themselves ([`DropReason::FragmentOverlap`]).

use super::{Asked, BROKEN, Decision, ban, by_policy, counted, finish};
use crate::abi::fragment::FragmentKey;
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::parse::{self, Fragment, Packet, Parsed};
use crate::tables::{Limited, World};

/// The second part of a decision: rules have their say on a first fragment, and it has its on the later ones. `refused`
/// decides first fragments that rules do not accept, `terms` those that they accept on terms.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    world: &W,
    refused: impl FnOnce(&Asked) -> Decision,
    terms: impl FnOnce(&Asked) -> Decision,
) -> Decision {
    let Some(identification) = parse::identification(frame) else {
        return counted(
            Decision::dropped(DropReason::FragmentLater),
            packet.frame_bytes,
            world,
        );
    };
    match packet.fragment {
        Fragment::Later => later(packet, identification, world),
        Fragment::Whole | Fragment::First => {
            let by_rules = by_rules(packet, world).unwrap_or(BROKEN);
            let asked = Asked::new(packet, by_rules, identification);
            first(&asked, world, refused, terms)
        }
    }
}

/// What essentials and rules say of a packet; `None` if the tables are missing or inconsistent.
#[inline(always)]
fn by_rules<W: World>(packet: &Packet, world: &W) -> Option<Decision> {
    by_policy(&Parsed::Ip(*packet), &world.tables()?, world)
}

/// The verdict on a first fragment of which rules have said `by_rules`.
#[inline(always)]
fn first<W: World>(
    asked: &Asked,
    world: &W,
    refused: impl FnOnce(&Asked) -> Decision,
    terms: impl FnOnce(&Asked) -> Decision,
) -> Decision {
    if !asked.by_rules.accepts() {
        refused(asked)
    } else if asked.by_rules.outcome().has_terms() {
        terms(asked)
    } else {
        finish(asked, asked.by_rules, world)
    }
}

/// The verdict on a later fragment. What of a banned source was accepted is what answers this host, and comes in whole.
#[inline(always)]
fn later<W: World>(packet: &Packet, identification: u32, world: &W) -> Decision {
    let decision = match world.first_fragment(&FragmentKey::new(packet, identification)) {
        Some(true) => Decision::passed(PassReason::Fragment),
        Some(false) | None if ban::holds_now(packet, world) => {
            Decision::dropped(DropReason::Banned)
        }
        Some(false) => Decision::dropped(DropReason::FragmentDenied),
        None if world.admits(Limited::EarlyFragment) => Decision::passed(PassReason::FragmentEarly),
        None => Decision::dropped(DropReason::FragmentLater),
    };
    counted(decision, packet.frame_bytes, world)
}

/// What is known to be of the same datagram as the fragment `packet`, read from its `frame`.
#[inline(always)]
pub fn key<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Option<FragmentKey> {
    let identification = parse::identification(frame)?;
    Some(FragmentKey::new(packet, identification))
}

/// Remembers what was decided of a first fragment.
#[inline(always)]
pub fn remember<W: World>(packet: &Packet, identification: u32, decision: Decision, world: &W) {
    let key = FragmentKey::new(packet, identification);
    world.remember_fragment(&key, decision.accepts());
}

#[cfg(test)]
mod tests;
