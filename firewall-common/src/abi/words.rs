//! Parts of a parsed packet as plain numbers, for records and for functions that take nothing else.

use super::image::{SELECTORS, Selector};
use crate::parse::Addresses;

/// What [`of_selector`] says of a packet without one; three bits hold it. The compiler has the same number for it, so that nothing is done.
const NO_SELECTOR: u8 = SELECTORS as u8;

/// Source and destination, upper halves first, and whether they are IPv6.
#[inline(always)]
pub(super) const fn of_addresses(addresses: Addresses) -> ([[u64; 2]; 2], bool) {
    match addresses {
        Addresses::V4 {
            source,
            destination,
        } => ([[0, source as u64], [0, destination as u64]], false),
        Addresses::V6 {
            source,
            destination,
        } => ([source, destination], true),
    }
}

/// The addresses that these numbers stand for.
#[inline(always)]
pub(super) const fn to_addresses(words: [[u64; 2]; 2], ipv6: bool) -> Addresses {
    let [source, destination] = words;
    if ipv6 {
        Addresses::V6 {
            source,
            destination,
        }
    } else {
        Addresses::V4 {
            source: source[1] as u32,
            destination: destination[1] as u32,
        }
    }
}

/// A number of three bits.
#[inline(always)]
pub(super) const fn of_selector(selector: Option<Selector>) -> u8 {
    match selector {
        Some(selector) => selector as u8,
        None => NO_SELECTOR,
    }
}

/// The selector that a number stands for.
#[inline(always)]
pub(super) const fn to_selector(number: u8) -> Option<Selector> {
    match number {
        0 => Some(Selector::Tcp),
        1 => Some(Selector::Udp),
        2 => Some(Selector::Sctp),
        3 => Some(Selector::Icmp),
        4 => Some(Selector::Icmpv6),
        _ => None,
    }
}
