//! Packet to rule, at a cost that does not depend on the number of rules.
//!
//! Each table knows the first rule that it can name by itself; the smallest number wins, which is what "first match"
//! means. A service knows the first rule without addresses, a row the first rule without service, and a cell the first
//! rule that names both.

use super::{Decision, address};
use crate::abi::image::{Outcome, Row, Selector, Service, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::parse::{Addresses, Packet, Transport};
use crate::tables::{Tables, World};

/// The rules' verdict; `None` if the tables are inconsistent.
#[inline(always)]
pub fn decide<T: Tables, W: World>(packet: &Packet, tables: &T, world: &W) -> Option<Decision> {
    let service = service(&packet.transport, tables)?;
    if service.hits != 0 {
        world.count(service.hits, packet.frame_bytes);
    }
    let mut rule = service.rule;
    if service.kind & Service::FINAL == 0 {
        rule = rule.min(by_addresses(&packet.addresses, service.class, tables)?);
    }
    let outcome = Outcome(tables.u32(tables.u32(header::RULES)?.wrapping_add(rule))?);
    if rule == tables.u32(header::RULE_COUNT)? {
        return Some(if outcome.accepts() {
            Decision::Pass(PassReason::Default)
        } else {
            Decision::Drop(DropReason::NoRule)
        });
    }
    Some(Decision::Rule {
        number: rule,
        outcome,
    })
}

/// What is known of the packet's protocol, port or ICMP type, and TCP flags.
#[inline(always)]
fn service<T: Tables>(transport: &Transport, tables: &T) -> Option<Service> {
    let number = match transport.selector {
        Some(selector) => by_selector(selector, transport.value, tables)?,
        None => {
            let protocols = tables.u32(header::PROTOCOLS)?;
            tables.u32(protocols.wrapping_add(u32::from(transport.protocol)))?
        }
    };
    let services = tables.u32(header::SERVICES)?;
    let service = Service::from_record(tables.record(services.wrapping_add(number))?);
    if service.kind & Service::BY_FLAGS == 0 {
        return Some(service);
    }
    let classes = tables.u32(header::FLAGS_CLASSES)?;
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
fn by_selector<T: Tables>(selector: Selector, value: u16, tables: &T) -> Option<u32> {
    let at = header::SELECTORS + 2 * selector as u32;
    let pages = tables.u32(at)?;
    let first = tables.u32(at + 1)?;
    if pages == 0 {
        return Some(first);
    }
    let page = tables.u32(pages.wrapping_add(u32::from(value >> 8)))?;
    let service = tables.u16(page.wrapping_add(u32::from(value & 0xff)))?;
    Some(first.wrapping_add(u32::from(service)))
}

/// The first rule among those that name an address.
#[inline(always)]
fn by_addresses<T: Tables>(addresses: &Addresses, class: u32, tables: &T) -> Option<u32> {
    let (source, destination) = match *addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            let roots = header::ADDRESS_ROOTS;
            (
                match tables.u32(roots)? {
                    0 => 0,
                    root => address::find_v4(tables, root, source)?,
                },
                match tables.u32(roots + 1)? {
                    0 => 0,
                    root => address::find_v4(tables, root, destination)?,
                },
            )
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            let roots = header::ADDRESS_ROOTS + 2;
            (
                match tables.u32(roots)? {
                    0 => 0,
                    root => address::find_v6(tables, root, source)?,
                },
                match tables.u32(roots + 1)? {
                    0 => 0,
                    root => address::find_v6(tables, root, destination)?,
                },
            )
        }
    };
    let mut rule = u32::MAX;
    let from = row(source, tables)?;
    if source != 0 {
        rule = rule.min(in_row(source, &from, class, tables)?);
    }
    if destination != 0 {
        let to = row(destination, tables)?;
        rule = rule.min(in_row(destination, &to, class, tables)?);
        if from.pair != 0 {
            let cell = from.pair_cells.wrapping_add(to.pair);
            if let Some(pair) = cell_value(from.pair, cell, tables)? {
                rule = rule.min(in_row(pair, &row(pair, tables)?, class, tables)?);
            }
        }
    }
    Some(rule)
}

#[inline(always)]
fn row<T: Tables>(number: u32, tables: &T) -> Option<Row> {
    let rows = tables.u32(header::ROWS)?;
    Some(Row::from_record(tables.record(rows.wrapping_add(number))?))
}

/// The first rule that row and service class name, together or the row alone.
#[inline(always)]
fn in_row<T: Tables>(number: u32, row: &Row, class: u32, tables: &T) -> Option<u32> {
    let cell = row.cells.wrapping_add(class);
    Some(match cell_value(number, cell, tables)? {
        Some(rule) => rule.min(row.rule),
        None => row.rule,
    })
}

/// The value of a cell, if it belongs to the row that is marked `mark`: rows overlap each other's gaps.
#[inline(always)]
fn cell_value<T: Tables>(mark: u32, cell: u32, tables: &T) -> Option<Option<u32>> {
    let cells = tables.u32(header::CELLS)?;
    let value = tables.u64(cells.wrapping_add(cell))?;
    Some((value as u32 == mark).then_some((value >> 32) as u32))
}
