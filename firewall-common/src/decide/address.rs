//! Address to row: the array structure that answers in a few reads, however many prefixes there are.
//!
//! The first 17 bits are looked up directly, 8 in a root and 9 in a page that equal neighbours share. Below, a tree of
//! one-line nodes holds the bounds of the ranges: 28 sixteen-bit bounds a node for IPv4, seven 64-bit ones for IPv6,
//! counted without a branch. A million random IPv4 prefixes need one node each lookup.

use crate::abi::image::{Entry, Line, node};
use crate::tables::Tables;

/// Bits that the root looks at.
pub const ROOT_BITS: u32 = 8;
/// Bits that a page looks at.
pub const PAGE_BITS: u32 = 9;

const PAGE_MASK: u32 = (1 << PAGE_BITS) - 1;
const LINE_U32: u32 = (size_of::<Line>() / 4) as u32;

/// The row of an IPv4 address, by the table whose root is at `u32` index `root`.
#[inline(always)]
pub fn find_v4<T: Tables>(tables: &T, root: u32, address: u32) -> Option<u32> {
    let entry = direct(tables, root, address >> node::NARROW_BITS)?;
    let Some(tree) = entry.next() else {
        return Some(entry.0);
    };
    let key = address & ((1 << node::NARROW_BITS) - 1);
    let entry = descend::<Narrow, T>(tables, tree, u64::from(key))?;
    Some(entry.0)
}

/// The row of an IPv6 address, by the table whose root is at `u32` index `root`.
#[inline(always)]
pub fn find_v6<T: Tables>(tables: &T, root: u32, address: [u64; 2]) -> Option<u32> {
    let [upper, lower] = address;
    let first_bits = ROOT_BITS + PAGE_BITS;
    let entry = direct(tables, root, (upper >> (64 - first_bits)) as u32)?;
    let Some(tree) = entry.next() else {
        return Some(entry.0);
    };
    let key = (upper << first_bits >> (64 - node::WIDE_BITS)) | lower >> node::WIDE_LOW_BITS;
    let entry = descend::<Wide, T>(tables, tree, key)?;
    let Some(tree) = entry.next() else {
        return Some(entry.0);
    };
    let key = lower & ((1 << node::WIDE_LOW_BITS) - 1);
    let entry = descend::<Wide, T>(tables, tree, key)?;
    Some(entry.0)
}

/// The entry for the first 17 bits.
#[inline(always)]
fn direct<T: Tables>(tables: &T, root: u32, first_bits: u32) -> Option<Entry> {
    let entry = Entry(tables.u32(root.wrapping_add(first_bits >> PAGE_BITS))?);
    match entry.next() {
        None => Some(entry),
        Some(page) => {
            let index = page
                .wrapping_mul(LINE_U32)
                .wrapping_add(first_bits & PAGE_MASK);
            tables.u32(index).map(Entry)
        }
    }
}

/// Follows a tree from its root node at line `line` to the entry whose range holds `key`.
#[inline(always)]
fn descend<L: Lanes, T: Tables>(tables: &T, mut line: u32, key: u64) -> Option<Entry> {
    for _ in 0..L::LEVELS {
        let node = tables.line(line)?;
        let child = (node.words[0] as u32).wrapping_add(L::below(node, key));
        if node.words[0] & node::LEAF != 0 {
            return tables.u32(child).map(Entry);
        }
        line = child;
    }
    None
}

/// How a node's bounds are packed.
trait Lanes {
    /// Levels that a tree can have.
    const LEVELS: u32;

    /// Number of bounds below `key`.
    fn below(node: &Line, key: u64) -> u32;
}

/// 28 bounds of 15 bits, each under a set guard bit: subtracting the key clears the guard where the bound is below it.
struct Narrow;

impl Lanes for Narrow {
    const LEVELS: u32 = node::NARROW_LEVELS;

    #[inline(always)]
    fn below(line: &Line, key: u64) -> u32 {
        let keys = key.wrapping_mul(node::LANES);
        let mut not_below = 0;
        for word in &line.words[1..] {
            not_below += (word.wrapping_sub(keys) & node::GUARDS) >> 15;
        }
        // The lanes of `not_below` sum up in the highest lane of the product.
        let not_below = not_below.wrapping_mul(node::LANES) >> 48;
        node::NARROW_BOUNDS as u32 - not_below as u32
    }
}

/// 7 bounds of at most 56 bits: the difference to the key borrows into the sign where the bound is below it.
struct Wide;

impl Lanes for Wide {
    const LEVELS: u32 = node::WIDE_LEVELS;

    #[inline(always)]
    fn below(line: &Line, key: u64) -> u32 {
        let mut below = 0;
        for bound in &line.words[1..] {
            below += bound.wrapping_sub(key) >> 63;
        }
        below as u32
    }
}
