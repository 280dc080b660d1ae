//! Addresses that get other rows in a table that is there. What is under an entry of the root is made anew behind the end of the image;
//! what was there before is not used any more.

use std::collections::HashMap;

use firewall_common::abi::image::{AddressTable, Entry, Line};

use super::read::{ranges_under, read};
use super::{Address, Key, Trees};
use crate::rules::compile::layout::{Extend, Layout};

/// Gives the addresses from `first` to `last` the rows that `change` has for theirs, in the table whose line is `line` of the image.
/// `None` if it has none for one of them, if there is too much under an entry, or if the table is absent; then the image is of no use any
/// more.
pub(in crate::rules::compile) fn change<A: Address>(
    image: &mut impl Extend,
    line: u32,
    (first, last): (A, A),
    change: &HashMap<u32, u32>,
) -> Option<()> {
    let table = AddressTable::from_line(image.get(line as usize)?);
    if table.root == 0 {
        return None;
    }
    let root_bits = A::BITS.min(64).checked_sub(table.root_shift)?;
    let shift = A::BITS - root_bits;
    let keys = [
        Key::new(A::LAST_BITS, shift - A::LAST_BITS),
        Key::new(0, A::LAST_BITS),
    ];
    let (first, last): (u128, u128) = (first.into(), last.into());
    for index in first >> shift..=last >> shift {
        let bottom = index << shift;
        let top = bottom | ((1 << shift) - 1);
        let at = table.root + index as u32;
        let entry = read(image, at)?;
        let changed = (first.max(bottom), last.min(top));
        let ranges = match entry.next() {
            // All of a part that has one row.
            None if changed == (bottom, top) => {
                write(image, at, Entry(*change.get(&entry.0)?))?;
                continue;
            }
            None => vec![(A::try_from(bottom).ok()?, entry)],
            Some(_) => ranges_under(image, table.lanes, entry, A::try_from(bottom).ok()?, &keys)?,
        };
        let ranges = changed_ranges(ranges, changed, top, change)?;
        let entry = match ranges[..] {
            [(_, entry)] => entry,
            _ => append(image, &table, &ranges, &keys)?,
        };
        write(image, at, entry)?;
    }
    Some(())
}

/// `ranges` up to `top`, in which what is from `first` to `last` has other rows.
fn changed_ranges<A: Address>(
    ranges: Vec<(A, Entry)>,
    (first, last): (u128, u128),
    top: u128,
    change: &HashMap<u32, u32>,
) -> Option<Vec<(A, Entry)>> {
    let mut changed: Vec<(A, Entry)> = Vec::with_capacity(ranges.len() + 2);
    let mut push = |from: u128, entry: Entry| {
        if changed.last().is_none_or(|&(_, before)| before != entry) {
            changed.push((A::try_from(from).ok()?, entry));
        }
        Some(())
    };
    let ends = ranges.iter().skip(1).map(|&(next, _)| next.into() - 1);
    for (&(from, entry), to) in ranges.iter().zip(ends.chain([top])) {
        let from = from.into();
        if to < first || from > last {
            push(from, entry)?;
            continue;
        }
        if from < first {
            push(from, entry)?;
        }
        push(from.max(first), Entry(*change.get(&entry.0)?))?;
        if to > last {
            push(last + 1, entry)?;
        }
    }
    Some(changed)
}

/// Appends a tree of these ranges, and returns what leads there; `None` if there is no room for it.
fn append<A: Address>(
    image: &mut impl Extend,
    table: &AddressTable,
    ranges: &[(A, Entry)],
    keys: &[Key],
) -> Option<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let ranges: Vec<(A, u32)> = ranges
        .iter()
        .map(|&(first, entry)| {
            let next = entries.len() as u32;
            let number = *numbers.entry(entry.0).or_insert(next);
            if number == next {
                entries.push(entry);
            }
            (first, number)
        })
        .collect();
    let mut layout = Layout::behind(image);
    let mut trees = Trees::new(&mut layout, table.lanes, &entries);
    let children = trees.children(&ranges, ranges[0].1, keys);
    let entry = Entry::down(trees.tree(&children));
    trees.finish();
    image.extend_by(&layout.finish()).then_some(entry)
}

fn write(image: &mut [Line], at: u32, entry: Entry) -> Option<()> {
    let word = &mut image.get_mut(at as usize / 16)?.words[at as usize % 16 / 2];
    let shift = 32 * (at % 2);
    *word = *word & !(u64::from(u32::MAX) << shift) | u64::from(entry.0) << shift;
    Some(())
}
