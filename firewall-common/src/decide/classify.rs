//! Packet to rule, at a cost that does not depend on the number of rules.
//!
//! Each table knows the first rule that it can name by itself, and the smallest number wins, which is what "first match"
//! means. A service knows the first rule without addresses; a row of cells, which stands for an address or a pair of them,
//! the first rule without service, and in the service's column the first one that names both.

use super::terms::{self, Simply};
use super::{Decision, address, ban, tally};
use crate::abi::image::{Candidate, Entry, Outcome, Page, Selector, Service, column, header};
use crate::abi::reason::DropReason;
use crate::parse::{Addresses, Packet, Transport};
use crate::tables::{Tables, World};

/// What the rules of one direction say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Number of the rule, or of the default.
    pub number: u32,
    /// What it does.
    pub outcome: Outcome,
    /// Counter slot of the port's hits by outcomes that do not say the port; 0 of a port that no rule names.
    pub hits: u32,
}

/// The rules' verdict, which a ban of the source may hold back, counting the hits of a named port; `at` is the header of the packet's direction. `None` if the
/// tables are inconsistent.
#[inline(always)]
pub fn decide<T: Tables, W: World>(
    packet: &Packet,
    at: u32,
    tables: &T,
    world: &W,
) -> Option<Decision> {
    let Match {
        number,
        outcome,
        hits,
    } = find(&packet.addresses, &packet.transport, at, tables)?;
    let decision = if at != header::INGRESS || !outcome.accepts() {
        Decision::by_rules(number, outcome)
    } else if ban::holds(packet, tables, world)? {
        Decision::held(DropReason::Banned, DropReason::Banned.counter())
    } else if outcome.has_terms() {
        match world.simply(terms::source(packet).0, number, packet.frame_bytes) {
            Simply::Not => Decision::by_rules(number, outcome),
            Simply::Within => Decision::by_rules(number, outcome.without_terms()),
            Simply::Over(slot) => Decision::held(DropReason::RateLimit, slot),
        }
    } else {
        Decision::by_rules(number, outcome)
    };
    if hits != 0 && !decision.outcome().says_port() {
        world.count(hits, tally(packet));
    }
    Some(decision)
}

/// The first rule that matches, or the default.
#[inline(always)]
pub fn find<T: Tables>(
    addresses: &Addresses,
    transport: &Transport,
    at: u32,
    tables: &T,
) -> Option<Match> {
    let service = service(transport, at, tables)?;
    let mut first = service.candidate;
    if !service.class.is_final() {
        first = first.min(by_addresses(addresses, service.class.0, at, tables)?);
    }
    let outcome = first.outcome();
    Some(Match {
        number: first.number(),
        outcome,
        hits: service.hits,
    })
}

/// Whether rules for what arrives accept what a packet with these addresses would answer. `None` if the tables are
/// inconsistent.
#[inline(always)]
pub fn serves<T: Tables>(addresses: &Addresses, transport: &Transport, tables: &T) -> Option<bool> {
    let answered = find(
        &addresses.reversed(),
        &transport.reversed(),
        header::INGRESS,
        tables,
    )?;
    Some(answered.outcome.accepts())
}

/// What is known of the packet's protocol, port or ICMP type, and TCP flags.
#[inline(always)]
fn service<T: Tables>(transport: &Transport, at: u32, tables: &T) -> Option<Service> {
    let number = match transport.selector {
        Some(selector) => by_selector(selector, transport.value, at, tables)?,
        None => tables.u32(at + header::PROTOCOLS + u32::from(transport.protocol))?,
    };
    let service = Service::from_record(tables.record(number)?);
    let Some(run) = service.class.run() else {
        return Some(service);
    };
    let classes = tables.u32(at + header::FLAGS_CLASSES)?;
    let class = tables.u16(classes.wrapping_add(u32::from(transport.tcp_flags)))?;
    let variant = Service::from_record(tables.record(run.wrapping_add(u32::from(class)))?);
    Some(Service {
        hits: service.hits,
        ..variant
    })
}

/// Index of the service of a port or ICMP type: a page for the upper eight bits, a byte of it for the lower.
#[inline(always)]
fn by_selector<T: Tables>(selector: Selector, value: u16, at: u32, tables: &T) -> Option<u32> {
    let upper = (selector as u32) << 8 | u32::from(value >> 8);
    let page = Page(tables.u64((at + header::PAGES) / 2 + upper)?);
    let service = tables.u8(page.bytes().wrapping_add(u32::from(value & 0xff)))?;
    Some(page.services().wrapping_add(u32::from(service)))
}

/// The first rule among those that name an address.
#[inline(always)]
fn by_addresses<T: Tables>(
    addresses: &Addresses,
    class: u32,
    at: u32,
    tables: &T,
) -> Option<Candidate> {
    let [v4_source, v4_destination, v6_source, v6_destination] =
        [0, 1, 2, 3].map(|table| at + header::ADDRESS_TABLES + table * header::ADDRESS_TABLE_LEN);
    let (source, destination) = match *addresses {
        Addresses::V4 {
            source,
            destination,
        } => (
            address::find_v4(tables, v4_source, source)?,
            address::find_v4(tables, v4_destination, destination)?,
        ),
        Addresses::V6 {
            source,
            destination,
        } => (
            address::find_v6(tables, v6_source, source)?,
            address::find_v6(tables, v6_destination, destination)?,
        ),
    };
    let mut first = Candidate::NONE;
    for entry in [source, destination].into_iter().flatten() {
        first = first.min(in_row(entry, class, tables)?);
    }
    if let (Some(source), Some(destination)) = (source, destination)
        && source.may_pair(destination)
        && let Some(pair) = pair(source, destination, tables)?
    {
        first = first.min(in_row(pair, class, tables)?);
    }
    Some(first)
}

/// The row of a source and a destination that rules name together, if there are such rules.
#[inline(always)]
fn pair<T: Tables>(source: Entry, destination: Entry, tables: &T) -> Option<Option<Entry>> {
    let info = |entry: Entry| cell(entry.first(), column::PAIR, tables);
    let (pairs, column) = (info(source)?.value(), info(destination)?.value());
    let pair = cell(pairs, column, tables)?;
    Some((pair != Candidate::NONE).then(|| Entry(pair.value())))
}

/// The first rule that the row and the service's class name, together or the row alone.
#[inline(always)]
fn in_row<T: Tables>(row: Entry, class: u32, tables: &T) -> Option<Candidate> {
    let first = row.first();
    let both = cell(first, class, tables)?;
    Some(both.min(cell(first, column::ALWAYS, tables)?))
}

/// The cell in this column of the row that begins at `first`; [`Candidate::NONE`] where another row's lies.
#[inline(always)]
fn cell<T: Tables>(first: u32, column: u32, tables: &T) -> Option<Candidate> {
    let cell = Candidate(tables.u64(first.wrapping_add(column))?);
    Some(if cell.is_in(column) {
        cell
    } else {
        Candidate::NONE
    })
}
