//! Addresses that come into an address list, or leave it, in tables that are there: of a million only what is around the one is made anew.
//!
//! That is possible where the addresses get a row that there is already, as those of a list mostly do: it is then known what every row
//! becomes in which the list's sets are not, and all else in the image stays as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use firewall_common::abi::image::{Entry, Line, SIZE_CLASSES, header};
use serde::{Deserialize, Serialize};

use super::addresses::change;
pub use super::layout::Extend;
use crate::list_rows::ListRows;
use crate::rules::addresses::Block;
use crate::rules::model::{Direction, SetId};

/// More rows than this are not looked through for each list, but only what is of no set at all.
const MAX_ROWS: usize = 4096;

/// Whether addresses come into a list or leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Way {
    /// They come in, and have been in none of its sets.
    In,
    /// They leave, and are in none of its sets any more.
    Out,
}

/// Changes the rows of a block of addresses in an image. Says whether that could be done; if not, the image is of no use any more.
pub fn change_list(image: &mut impl Extend, list: &[ListRows], block: Block, way: Way) -> bool {
    let class = |lines: &[Line]| {
        let bytes = size_of_val(lines);
        SIZE_CLASSES.iter().position(|&size| bytes <= size)
    };
    let before = class(image);
    let all_changed = !list.is_empty()
        && list.iter().all(|rows| {
            let by_entry = by_entry(rows, way);
            let changed = match block {
                Block::V4(first, last) => change::<u32>(image, rows.v4, (first, last), &by_entry),
                Block::V6(first, last) => change::<u128>(image, rows.v6, (first, last), &by_entry),
            };
            changed.is_some()
        });
    all_changed && class(image) == before
}

fn by_entry(rows: &ListRows, way: Way) -> HashMap<u32, u32> {
    let rows = rows.rows.iter().copied();
    match way {
        Way::In => rows.collect(),
        Way::Out => rows.map(|(without, with)| (with, without)).collect(),
    }
}

/// The same, only of addresses that are in no set at all without the list.
pub fn alone(rows: &ListRows) -> Option<ListRows> {
    let row = *rows.rows.iter().find(|row| row.0 == rows.nowhere)?;
    Some(ListRows {
        rows: vec![row],
        ..rows.clone()
    })
}

/// Those of a list that is part of `sets`, among the rows of one side, each with the sets that it is of (row 0 of none, which is not
/// among them) and its entry. `None` where the list says nothing on this side.
pub(super) fn list_rows(
    (direction, is_destination): (Direction, bool),
    sets: &BTreeSet<SetId>,
    named: &BTreeSet<SetId>,
    nowhere: Entry,
    rows: &[(&[SetId], Entry)],
) -> Option<ListRows> {
    let list: BTreeSet<SetId> = sets.intersection(named).copied().collect();
    if list.is_empty() {
        return None;
    }
    let none: &[SetId] = &[];
    let all = || std::iter::once((none, nowhere)).chain(rows.iter().copied());
    // Rows in which no cell is have their entry in common, and cannot be told apart.
    let (mut seen, mut shared) = (HashSet::new(), HashSet::new());
    for (_, entry) in all() {
        if !seen.insert(entry.0) {
            shared.insert(entry.0);
        }
    }
    let by_sets: BTreeMap<&[SetId], Entry> = all().collect();
    let looked_through = if rows.len() > MAX_ROWS { 1 } else { usize::MAX };
    let becomes = |(of, entry): (&[SetId], Entry)| {
        let of: BTreeSet<SetId> = of.iter().copied().collect();
        if !of.is_disjoint(&list) {
            return None;
        }
        let with: Vec<SetId> = of.union(&list).copied().collect();
        let with = by_sets.get(&with[..])?;
        let is_told = !shared.contains(&entry.0) && !shared.contains(&with.0);
        is_told.then_some((entry.0, with.0))
    };
    let base = match direction {
        Direction::Ingress => header::INGRESS,
        Direction::Egress => header::EGRESS,
    };
    let line = |table: u32| {
        (base + header::ADDRESS_TABLES) / header::ADDRESS_TABLE_LEN
            + 2 * table
            + u32::from(is_destination)
    };
    Some(ListRows {
        v4: line(0),
        v6: line(1),
        is_destination,
        nowhere: nowhere.0,
        rows: all().take(looked_through).filter_map(becomes).collect(),
    })
}

#[cfg(test)]
mod tests;
