//! Terms: what a rule accepts comes in as far as its limit lets it, and whoever is dropped or limited too often is banned.

use super::connection;
use super::limit::{self, Demand, Key};
use super::{Asked, BROKEN, Decision, ban, finish};
use crate::abi::ban::Prefix;
use crate::abi::flow::Key as FlowKey;
use crate::abi::image::{Selector, header};
use crate::abi::limit::Kind;
use crate::abi::reason::DropReason;
use crate::abi::terms::{BanAfter, Limit, Terms, Unit};
use crate::parse::{Addresses, Fragment, Packet};
use crate::tables::{Tables, World};

/// Decides what arrives for a rule with terms. `refused` goes on with what is over a limit and perhaps answers this host, `cookie`
/// with a SYN that comes at a rate at which they are answered with cookies, `strike` with what counts towards a ban ([`struck`]).
#[inline(always)]
pub fn arriving<W: World>(
    asked: &Asked,
    world: &W,
    refused: impl FnOnce(&Asked) -> Decision,
    cookie: impl FnOnce(&Asked) -> Decision,
    strike: impl FnOnce(&Asked) -> Decision,
) -> Decision {
    let Some(terms) = of(asked.number, header::INGRESS, world) else {
        return finish(asked, BROKEN, world);
    };
    let packet = &asked.packet;
    if !asked.by_rules.accepts() {
        return strike(asked);
    }
    if !within(packet, &terms, world) {
        let held = Decision::held(DropReason::RateLimit, terms.over);
        let held = Asked {
            by_rules: if terms.ban.is_some() {
                held.with_terms()
            } else {
                held
            },
            ..*asked
        };
        // What answers this host is let in, and does not count.
        return if connection::may_answer(&packet.transport, world) {
            refused(&held)
        } else if terms.ban.is_some() {
            strike(&held)
        } else {
            finish(&held, held.by_rules, world)
        };
    }
    if let Some(rate) = &terms.cookies
        && packet.transport.opens_connection()
        && matches!(packet.fragment, Fragment::Whole)
        && !world.take(&Demand::new(
            Key::shared(terms.over, limit::MORE_SYNS),
            rate,
            1,
        ))
    {
        return cookie(asked);
    }
    finish(asked, asked.by_rules, world)
}

/// Counts a packet that is dropped for good towards its source's ban.
#[inline(always)]
pub fn struck<W: World>(asked: &Asked, world: &W) -> Decision {
    if let Some(Terms {
        over,
        ban: Some(ban),
        ..
    }) = of(asked.number, header::INGRESS, world)
    {
        strike(source(&asked.packet), over, &ban, world);
    }
    finish(asked, asked.by_rules, world)
}

/// What an egress rule with terms accepts, held to them. `None` if the tables are missing or inconsistent.
#[inline(always)]
pub fn leaving<W: World>(packet: &Packet, accepted: Decision, world: &W) -> Option<Decision> {
    let terms = of(accepted.number()?, header::EGRESS, world)?;
    Some(if within(packet, &terms, world) {
        accepted
    } else {
        Decision::held(DropReason::EgressRateLimit, terms.over)
    })
}

/// The terms of the rule with this number. `None` if the tables are missing or inconsistent.
#[inline(always)]
fn of<W: World>(number: u32, at: u32, world: &W) -> Option<Terms> {
    let tables = world.tables()?;
    let all = tables.u32(at + header::TERMS)?;
    let line = tables.u32(all.wrapping_add(number))?;
    // Rules of another generation, by the time that a packet came here.
    if all == 0 || line == 0 {
        return None;
    }
    Some(Terms::from_line(tables.line(line)?))
}

/// What a limit says of a packet, where a limit is all that there is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simply {
    /// There is more to be asked.
    Not,
    /// It is within the limit.
    Within,
    /// It is not, and counts in this slot.
    Over(u32),
}

impl Simply {
    /// As one word: the kernel asks through a function that returns no more.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Not => 0,
            Self::Within => 1,
            Self::Over(slot) => 2 | (slot as u64) << 2,
        }
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        match word & 3 {
            0 => Self::Not,
            1 => Self::Within,
            _ => Self::Over((word >> 2) as u32),
        }
    }
}

/// What the limit of an ingress rule with terms says of a packet of `source`, if it has nothing else that may follow.
#[inline(always)]
pub fn simply<W: World>(source: [u64; 2], number: u32, bytes: u32, world: &W) -> Simply {
    let Some(Terms {
        over,
        limit: Some(limit),
        cookies: None,
        ban: None,
    }) = of(number, header::INGRESS, world)
    else {
        return Simply::Not;
    };
    let units = match limit.unit {
        Unit::Packets => 1,
        Unit::Bytes => u64::from(bytes),
        Unit::Connections => return Simply::Not,
    };
    if world.take(&Demand::new(key(source, over, &limit), &limit.rate, units)) {
        Simply::Within
    } else {
        Simply::Over(over)
    }
}

/// Whose bucket a packet of `source` is for.
#[inline(always)]
fn key(source: [u64; 2], rule: u32, limit: &Limit) -> Key {
    match limit.per_source {
        None => Key::shared(rule, 0),
        Some([v4, v6]) => {
            let length = u32::from(if FlowKey::is_mapped(source) { v4 } else { v6 });
            Key {
                source: Prefix::of(source, length).address,
                rule,
                more: 0,
                kind: Kind::Source,
            }
        }
    }
}

/// Whether the packet is within the rule's limit, if there is one.
#[inline(always)]
fn within<W: World>(packet: &Packet, terms: &Terms, world: &W) -> bool {
    let Some(limit) = &terms.limit else {
        return true;
    };
    let limits = world.limits();
    let mut conversation = None;
    let units = match limit.unit {
        Unit::Packets => 1,
        Unit::Bytes => u64::from(packet.frame_bytes),
        Unit::Connections => match packet.transport.selector {
            Some(Selector::Udp) => {
                let key = conversation_key(packet, terms.over);
                if limit::is_known(&key, world.now_ns(false), limits) {
                    return true;
                }
                conversation = Some(key);
                1
            }
            _ if packet.transport.opens_connection() => 1,
            _ => return true,
        },
    };
    let key = key(source(packet).0, terms.over, limit);
    let taken = world.take(&Demand::new(key, &limit.rate, units));
    if let Some(key) = conversation
        && taken
    {
        limit::know(&key, world.now_ns(false), limits);
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

/// Counts a packet towards its source's ban by the rule with this counter slot: an address of IPv4, of IPv6 a prefix. Nothing counts for
/// those whom no ban cuts.
#[inline(always)]
fn strike<W: World>((source, is_v4): ([u64; 2], bool), rule: u32, terms: &BanAfter, world: &W) {
    if ban::may_be_banned(source, world) == Some(true) {
        let length = if is_v4 { 128 } else { terms.length_v6.into() };
        let prefix = Prefix::of(source, length);
        if world.strike(&prefix, rule, terms) {
            world.give_ban(&prefix, rule, terms.for_ns);
        }
    }
}

/// Counts a packet towards the ban of a prefix by the rule with this counter slot. Returns whether it is time.
#[inline(always)]
pub fn strike_prefix<W: World>(prefix: &Prefix, rule: u32, terms: &BanAfter, world: &W) -> bool {
    let key = Key {
        source: prefix.address,
        rule,
        more: 0,
        kind: Kind::Strikes,
    };
    let now_ns = world.now_ns(false);
    limit::strike(&key, terms.after, terms.within_ns, now_ns, world.limits())
}

/// The packet's source as tables of state have it, and whether it is IPv4.
#[inline(always)]
pub(super) const fn source(packet: &Packet) -> ([u64; 2], bool) {
    match packet.addresses {
        Addresses::V4 { source, .. } => (FlowKey::mapped(source), true),
        Addresses::V6 { source, .. } => (source, false),
    }
}
