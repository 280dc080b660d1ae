//! Terms: what a rule accepts comes in as far as its limit lets it, and whoever is dropped or limited too often is banned.

use super::connection;
use super::limit::{self, Key};
use super::{Asked, BROKEN, Decision, ban, finish};
use crate::abi::ban::{About, Deadline, Prefix};
use crate::abi::flow::Key as FlowKey;
use crate::abi::image::{Selector, header};
use crate::abi::limit::Kind;
use crate::abi::reason::DropReason;
use crate::abi::terms::{BanAfter, Limit, Terms, Unit};
use crate::parse::{Addresses, Fragment, Packet};
use crate::tables::{Tables, World};

/// Decides what arrives for a rule with terms. `refused` goes on with what is over a limit and perhaps answers this host, `cookie`
/// with a SYN that comes at a rate at which they are answered with cookies.
#[inline(always)]
pub fn arriving<W: World>(
    asked: &Asked,
    world: &W,
    refused: impl FnOnce(&Asked) -> Decision,
    cookie: impl FnOnce(&Asked) -> Decision,
) -> Decision {
    let Some(terms) = of(asked.by_rules, header::INGRESS, world) else {
        return finish(asked, BROKEN, world);
    };
    let packet = &asked.packet;
    if !asked.by_rules.accepts() {
        strike(packet, &terms, world);
        return finish(asked, asked.by_rules, world);
    }
    if !within(packet, &terms, world) {
        strike(packet, &terms, world);
        let held = Asked {
            by_rules: Decision::held(DropReason::RateLimit, terms.over),
            ..*asked
        };
        return if connection::may_answer(&packet.transport, world) {
            refused(&held)
        } else {
            finish(&held, held.by_rules, world)
        };
    }
    if let Some(rate) = &terms.cookies
        && packet.transport.opens_connection()
        && matches!(packet.fragment, Fragment::Whole)
        && !limit::take(
            &Key::shared(terms.over, limit::MORE_SYNS),
            rate,
            1,
            world.now_ns(true),
            world.limits(),
        )
    {
        return cookie(asked);
    }
    finish(asked, asked.by_rules, world)
}

/// What an egress rule with terms accepts, held to them. `None` if the tables are missing or inconsistent.
#[inline(always)]
pub fn leaving<W: World>(packet: &Packet, accepted: Decision, world: &W) -> Option<Decision> {
    let terms = of(accepted, header::EGRESS, world)?;
    Some(if within(packet, &terms, world) {
        accepted
    } else {
        Decision::held(DropReason::EgressRateLimit, terms.over)
    })
}

/// The terms of the rule that has decided. `None` if the tables are missing or inconsistent.
#[inline(always)]
fn of<W: World>(decision: Decision, at: u32, world: &W) -> Option<Terms> {
    let tables = world.tables()?;
    let all = tables.u32(at + header::TERMS)?;
    let line = tables.u32(all.wrapping_add(decision.number()?))?;
    Some(Terms::from_line(tables.line(line)?))
}

/// Whether the packet is within the rule's limit, if there is one.
#[inline(always)]
fn within<W: World>(packet: &Packet, terms: &Terms, world: &W) -> bool {
    let Some(Limit {
        rate,
        unit,
        per_source,
    }) = &terms.limit
    else {
        return true;
    };
    let precise = rate.tolerance_ns < Terms::COARSE_TOLERANCE_NS;
    let now_ns = world.now_ns(precise);
    let limits = world.limits();
    let (source, is_v4) = source(packet);
    let mut conversation = None;
    let units = match unit {
        Unit::Packets => 1,
        Unit::Bytes => u64::from(packet.frame_bytes),
        Unit::Connections => match packet.transport.selector {
            Some(Selector::Udp) => {
                let key = conversation_key(packet, terms.over);
                if limit::is_known(&key, now_ns, limits) {
                    return true;
                }
                conversation = Some(key);
                1
            }
            _ if packet.transport.opens_connection() => 1,
            _ => return true,
        },
    };
    let taken = match per_source {
        None => limit::take(&Key::shared(terms.over, 0), rate, units, now_ns, limits),
        Some([v4, v6]) => {
            let length = u32::from(if is_v4 { *v4 } else { *v6 });
            let key = Key {
                source: Prefix::of(source, length).address,
                rule: terms.over,
                more: 0,
                kind: Kind::Source,
            };
            limit::take_of_source(&key, rate, units, now_ns, limits)
        }
    };
    if let Some(key) = conversation
        && taken
    {
        limit::know(&key, now_ns, limits);
    }
    taken
}

/// Both ends of a UDP datagram. The destination address is left out: a host that serves several has its limits for all of them.
#[inline(always)]
fn conversation_key(packet: &Packet, rule: u32) -> Key {
    let transport = &packet.transport;
    Key {
        source: source(packet).0,
        rule,
        more: u64::from(transport.source_port) << 16 | u64::from(transport.value),
        kind: Kind::Conversation,
    }
}

/// Counts a packet that was dropped or limited towards its source's ban, and bans it when it is time.
#[inline(always)]
pub(super) fn strike<W: World>(packet: &Packet, terms: &Terms, world: &W) {
    let Some(BanAfter {
        after,
        within_ns,
        for_ns,
    }) = terms.ban
    else {
        return;
    };
    let (source, _) = source(packet);
    let now_ns = world.now_ns(false);
    let key = Key {
        source,
        rule: terms.over,
        more: 0,
        kind: Kind::Strikes,
    };
    if limit::strike(&key, after, within_ns, now_ns, world.limits())
        && ban::may_be_banned(packet, world) == Some(true)
    {
        let ban = ban::Ban {
            prefix: Prefix {
                address: source,
                length: 128,
            },
            deadline: Deadline::at_ns(now_ns.saturating_add(for_ns)),
            about: About {
                length: 128,
                by: terms.over,
                everywhere: false,
            },
        };
        ban::give(&ban, now_ns, world.bans());
    }
}

/// Counts a packet that the rule has refused for good.
#[inline(always)]
pub(super) fn strike_by<W: World>(asked: &Asked, world: &W) {
    if let Some(terms) = of(asked.by_rules, header::INGRESS, world) {
        strike(&asked.packet, &terms, world);
    }
}

/// The packet's source as tables of state have it, and whether it is IPv4.
#[inline(always)]
pub(super) const fn source(packet: &Packet) -> ([u64; 2], bool) {
    match packet.addresses {
        Addresses::V4 { source, .. } => (FlowKey::mapped(source), true),
        Addresses::V6 { source, .. } => (source, false),
    }
}
