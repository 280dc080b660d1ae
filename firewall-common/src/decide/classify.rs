//! Packet to rule, at a cost that does not depend on the number of rules.
//!
//! Each table knows the first rule that it can name by itself; the smallest number wins, which is what "first match"
//! means. A service knows the first rule without addresses, a row the first rule without service, and a cell the first
//! rule that names both.

use super::{Decision, address};
use crate::abi::image::{Outcome, Row, Selector, Service, header};
use crate::parse::{Addresses, Packet, Transport};
use crate::tables::{Tables, World};

/// What the rules of one direction say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Number of the rule, or of the default.
    pub number: u32,
    /// What it does.
    pub outcome: Outcome,
    /// Counter slot of the port's hits, where `outcome` does not say the port; else 0.
    pub hits: u32,
}

/// The rules' verdict, counting the hits of a named port; `at` is the header of the packet's direction. `None` if the
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
    if hits != 0 {
        world.count(hits, packet.frame_bytes);
    }
    Some(if number == tables.u32(at + header::RULE_COUNT)? {
        Decision::Default { outcome }
    } else {
        Decision::Rule { number, outcome }
    })
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
    let (mut number, mut outcome) = (service.rule, service.outcome);
    if !outcome.is_final() {
        let by_addresses = by_addresses(addresses, service.class, at, tables)?;
        if by_addresses < number {
            number = by_addresses;
            outcome = Outcome(tables.u32(tables.u32(at + header::RULES)?.wrapping_add(number))?);
        }
    }
    let hits = if outcome.says_port() { 0 } else { service.hits };
    Some(Match {
        number,
        outcome,
        hits,
    })
}

/// What is known of the packet's protocol, port or ICMP type, and TCP flags.
#[inline(always)]
fn service<T: Tables>(transport: &Transport, at: u32, tables: &T) -> Option<Service> {
    let number = match transport.selector {
        Some(selector) => by_selector(selector, transport.value, at, tables)?,
        None => {
            let protocols = tables.u32(at + header::PROTOCOLS)?;
            tables.u32(protocols.wrapping_add(u32::from(transport.protocol)))?
        }
    };
    let services = tables.u32(at + header::SERVICES)?;
    let service = Service::from_record(tables.record(services.wrapping_add(number))?);
    if !service.outcome.by_flags() {
        return Some(service);
    }
    let classes = tables.u32(at + header::FLAGS_CLASSES)?;
    let class = tables.u16(classes.wrapping_add(u32::from(transport.tcp_flags)))?;
    let number = service.class.wrapping_add(u32::from(class));
    let variant = Service::from_record(tables.record(services.wrapping_add(number))?);
    Some(Service {
        hits: service.hits,
        ..variant
    })
}

/// Number of the service of a port or ICMP type: a page for the upper eight bits, an entry for the lower.
#[inline(always)]
fn by_selector<T: Tables>(selector: Selector, value: u16, at: u32, tables: &T) -> Option<u32> {
    let selector = selector as u32;
    let first = tables.u32(at + header::FIRST_SERVICES + selector)?;
    let page = tables.u32(at + header::PAGES + (selector << 8 | u32::from(value >> 8)))?;
    let service = tables.u16(page.wrapping_add(u32::from(value & 0xff)))?;
    Some(first.wrapping_add(u32::from(service)))
}

/// The first rule among those that name an address.
#[inline(always)]
fn by_addresses<T: Tables>(addresses: &Addresses, class: u32, at: u32, tables: &T) -> Option<u32> {
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
    let mut rule = u32::MAX;
    let mut from = None;
    if source != 0 {
        let row = row(source, at, tables)?;
        rule = in_row(source, &row, class, at, tables)?;
        from = (row.pair != 0).then_some(row);
    }
    if destination != 0 {
        let to = row(destination, at, tables)?;
        rule = rule.min(in_row(destination, &to, class, at, tables)?);
        if let Some(from) = from {
            let cell = from.pair_cells.wrapping_add(to.pair);
            if let Some(pair) = cell_value(from.pair, cell, at, tables)? {
                rule = rule.min(in_row(pair, &row(pair, at, tables)?, class, at, tables)?);
            }
        }
    }
    Some(rule)
}

#[inline(always)]
fn row<T: Tables>(number: u32, at: u32, tables: &T) -> Option<Row> {
    let rows = tables.u32(at + header::ROWS)?;
    Some(Row::from_record(tables.record(rows.wrapping_add(number))?))
}

/// The first rule that row and service class name, together or the row alone.
#[inline(always)]
fn in_row<T: Tables>(number: u32, row: &Row, class: u32, at: u32, tables: &T) -> Option<u32> {
    let cell = row.cells.wrapping_add(class);
    Some(match cell_value(number, cell, at, tables)? {
        Some(rule) => rule.min(row.rule),
        None => row.rule,
    })
}

/// The value of a cell, if it belongs to the row that is marked `mark`: rows overlap each other's gaps.
#[inline(always)]
fn cell_value<T: Tables>(mark: u32, cell: u32, at: u32, tables: &T) -> Option<Option<u32>> {
    let cells = tables.u32(at + header::CELLS)?;
    let value = tables.u64(cells.wrapping_add(cell))?;
    Some((value as u32 == mark).then_some((value >> 32) as u32))
}
