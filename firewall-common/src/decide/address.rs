//! Address to row of cells: the array structure that answers in a few reads, however many prefixes there are.
//!
//! The first bits are looked up directly, in a root that the compiler makes larger the more ranges there are. Below, a
//! tree of one-line nodes holds the bounds of the ranges: up to 28 a node for IPv4, seven for IPv6, counted without a
//! branch. Most IPv4 roots are large enough for one node below them to know the row.

use crate::abi::image::{AddressTable, Entry, Lanes, Line, header, node};
use crate::tables::Tables;

/// The row of an IPv4 address, by the table whose line in the header begins at `u32` index `table`; `Some(None)` if it is
/// absent, `None` if it is inconsistent.
#[inline(always)]
pub fn find_v4<T: Tables>(tables: &T, table: u32, address: u32) -> Option<Option<Entry>> {
    let table = self::table(tables, table)?;
    if table.root == 0 {
        return Some(None);
    }
    let address = u64::from(address);
    let entry = direct(tables, &table, address)?;
    let key = address & table.key_mask;
    let entry =
        descend::<{ node::V4_LEVELS }, { Lanes::COUNT_BITS }, T>(tables, entry, table.lanes, key)?;
    Some(Some(entry))
}

/// The row of an IPv6 address, as [`find_v4`].
#[inline(always)]
pub fn find_v6<T: Tables>(tables: &T, table: u32, address: [u64; 2]) -> Option<Option<Entry>> {
    const LAST: u32 = node::V6_LAST_BITS;
    let table = self::table(tables, table)?;
    if table.root == 0 {
        return Some(None);
    }
    let [upper, lower] = address;
    let entry = direct(tables, &table, upper)?;
    let first = (upper << (64 - LAST) | lower >> LAST) & table.key_mask;
    let entry = descend_wide(tables, entry, first)?;
    let last = lower & ((1 << LAST) - 1);
    let entry = descend_wide(tables, entry, last)?;
    Some(Some(entry))
}

#[inline(always)]
fn table<T: Tables>(tables: &T, table: u32) -> Option<AddressTable> {
    let line = tables.line(table / header::ADDRESS_TABLE_LEN)?;
    Some(AddressTable::from_line(line))
}

/// The root's entry for the first bits of `address`.
#[inline(always)]
fn direct<T: Tables>(tables: &T, table: &AddressTable, address: u64) -> Option<Entry> {
    let index = address.wrapping_shr(table.root_shift) as u32;
    tables.u32(table.root.wrapping_add(index)).map(Entry)
}

/// With constant lanes the compiler leaves less to do than with the same ones from the table; the only lane's guard can be
/// shifted down to be counted as it is.
#[inline(always)]
fn descend_wide<T: Tables>(tables: &T, entry: Entry, key: u64) -> Option<Entry> {
    const LANES: Lanes = Lanes::WIDE;
    descend::<{ node::V6_LEVELS }, { LANES.highest }, T>(tables, entry, LANES, key)
}

/// `u32`s in a line.
const LINE_U32S: u32 = size_of::<Line>() as u32 / 4;

/// Follows the tree under `entry`, if there is one, to the entry of the range that holds `key`. Guards are added up
/// `LOWER` bits below their place.
#[inline(always)]
fn descend<const LEVELS: u32, const LOWER: u32, T: Tables>(
    tables: &T,
    entry: Entry,
    lanes: Lanes,
    key: u64,
) -> Option<Entry> {
    let Some(mut line) = entry.next() else {
        return Some(entry);
    };
    let keys = key.wrapping_mul(lanes.repeat) | lanes.guards;
    let counted = lanes.guards >> LOWER;
    let sum_shift = lanes.highest.wrapping_sub(LOWER);
    for _ in 0..LEVELS {
        let node = tables.line(line)?;
        let [pointer, bounds @ ..] = &node.words;
        let (first, others) = bounds.split_at(node::INLINE_BOUND_WORDS);
        // Seven at most in each lane; LOWER bits are free above the highest for the sum over all lanes.
        let count = |not_above: u64, bounds: &[u64]| {
            let mut not_above = not_above;
            for bound in bounds {
                not_above += keys.wrapping_sub(*bound) >> LOWER & counted;
            }
            not_above
        };
        let child = |not_above: u64| {
            let sum = not_above.wrapping_mul(lanes.repeat).wrapping_shr(sum_shift);
            sum as u32
        };
        let not_above = count(0, first);
        if pointer & node::INLINE != 0 {
            let entries = line.wrapping_mul(LINE_U32S) | node::INLINE_ENTRIES;
            let child = child(not_above) & (node::INLINE_CHILDREN as u32 - 1);
            return tables.u32(entries | child).map(Entry);
        }
        let child = child(count(not_above, others));
        let child = (*pointer as u32).wrapping_add(child);
        if pointer & node::LEAF != 0 {
            return tables.u32(child).map(Entry);
        }
        line = child;
    }
    None
}
