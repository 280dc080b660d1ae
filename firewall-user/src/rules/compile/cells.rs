//! Cells: rows of a sparse table, laid over each other so that each fills the others' gaps.
//!
//! Tarjan & Yao, "Storing a Sparse Table", CACM 22(11), 1979: first fit, fullest rows first. A cell says its column, and no
//! two rows begin at the same cell, so a look into a gap, where another row's cell may lie, is told from a hit. The memory
//! is that of the cells that say something, not that of the cross product.

use std::collections::BTreeMap;

use firewall_common::abi::image::{Candidate, column};
use foldhash::HashMap;

use super::CompileError;

/// Most cells of one image: with 8 bytes each, a quarter of the largest image.
pub(super) const MAX_CELLS: usize = 1 << 22;

/// A row to be packed, by column.
pub(super) type SparseRow = BTreeMap<u32, Candidate>;

/// The packed cells.
pub(super) struct Packer {
    /// Index of the first cell in the image.
    first: u32,
    cells: Vec<Candidate>,
    /// Which of them are taken.
    taken: Bits,
    /// Where rows begin.
    starts: Bits,
    /// No free cell lies before this one.
    first_free: usize,
    /// Where the search for rows of one cell goes on, by column: what was no place for one is none for the next.
    resume: HashMap<u32, usize>,
    /// Columns behind the start of a row that may be looked at.
    columns: u32,
}

impl Packer {
    /// For cells that begin at index (`u64`) `first` of the image. The first of them begins the row that has no cells,
    /// which no other row may share.
    pub(super) fn new(first: u32) -> Self {
        let mut starts = Bits::default();
        starts.set(0);
        Self {
            first,
            cells: Vec::new(),
            taken: Bits::default(),
            starts,
            first_free: 0,
            resume: HashMap::default(),
            columns: 0,
        }
    }

    /// Packs `rows`, whose columns are below `columns`, and returns the index at which each begins, in their order.
    pub(super) fn pack(
        &mut self,
        rows: &[SparseRow],
        columns: u32,
    ) -> Result<Vec<u32>, CompileError> {
        let total: usize = rows.iter().map(BTreeMap::len).sum();
        if self.cells.len() + total > MAX_CELLS || columns > column::NONE {
            return Err(CompileError::TooManyCells { limit: MAX_CELLS });
        }
        self.columns = self.columns.max(columns);
        let mut fullest_first: Vec<usize> = (0..rows.len()).collect();
        fullest_first.sort_by_key(|&index| std::cmp::Reverse(rows[index].len()));
        let mut starts = vec![0; rows.len()];
        for index in fullest_first {
            starts[index] = self.first + self.place(&rows[index]) as u32;
        }
        Ok(starts)
    }

    /// Changes the cell in this column of the row that begins at index `start`.
    pub(super) fn set(&mut self, start: u32, column: u32, candidate: Candidate) {
        let cell = &mut self.cells[(start - self.first + column) as usize];
        debug_assert!(cell.is_in(column), "a cell of another row");
        *cell = candidate.in_column(column);
    }

    /// All cells, with room behind the last row for a look at any column.
    pub(super) fn finish(mut self) -> Vec<u64> {
        let length = self.cells.len() + self.columns as usize + 1;
        self.cells.resize(length, Candidate::NONE);
        self.cells.into_iter().map(|cell| cell.0).collect()
    }

    fn place(&mut self, row: &SparseRow) -> usize {
        let Some((&column, _)) = row.first_key_value() else {
            return 0;
        };
        let first_column = column as usize;
        let resume = self.resume.get(&column).filter(|_| row.len() == 1);
        let resume = resume.copied().unwrap_or(0);
        let mut slot = self.first_free.max(first_column).max(resume);
        let start = loop {
            // A slot is no place where it is taken or a row begins where this one would, which is seen of 64 at once.
            let no_place = self.taken.from(slot) | self.starts.from(slot - first_column);
            if no_place == u64::MAX {
                slot += 64;
                continue;
            }
            slot += no_place.trailing_ones() as usize;
            let start = slot - first_column;
            let mut columns = row.keys();
            if columns.all(|&column| !self.taken.has(start + column as usize)) {
                break start;
            }
            slot += 1;
        };
        self.starts.set(start);
        if row.len() == 1 {
            self.resume.insert(column, slot);
        }
        for (&column, candidate) in row {
            let at = start + column as usize;
            if at >= self.cells.len() {
                self.cells.resize(at + 1, Candidate::NONE);
            }
            self.cells[at] = candidate.in_column(column);
            self.taken.set(at);
        }
        self.first_free = self.taken.clear_from(self.first_free);
        start
    }
}

/// A set of indices, as a bit each.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (index % 64);
    }

    fn has(&self, index: usize) -> bool {
        let word = self.0.get(index / 64).copied().unwrap_or(0);
        word >> (index % 64) & 1 != 0
    }

    /// The bits of 64 indices from `index` on.
    fn from(&self, index: usize) -> u64 {
        let word = |at: usize| self.0.get(at).copied().unwrap_or(0);
        let (at, shift) = (index / 64, index % 64);
        match shift {
            0 => word(at),
            _ => word(at) >> shift | word(at + 1) << (64 - shift),
        }
    }

    /// The first index from `index` on that is not in it.
    fn clear_from(&self, mut index: usize) -> usize {
        while self.from(index) == u64::MAX {
            index += 64;
        }
        index + self.from(index).trailing_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: u32 = 1_000;

    #[test]
    fn what_is_not_in_a_set_is_found() {
        let mut bits = Bits::default();
        assert_eq!(bits.clear_from(77), 77);
        (3..200).for_each(|index| bits.set(index));
        for (from, clear) in [
            (0, 0),
            (2, 2),
            (3, 200),
            (63, 200),
            (64, 200),
            (199, 200),
            (200, 200),
            (300, 300),
        ] {
            assert_eq!(bits.clear_from(from), clear, "{from}");
            assert!(!bits.has(clear));
        }
        (200..256).for_each(|index| bits.set(index));
        assert_eq!(
            (bits.clear_from(3), bits.clear_from(255), bits.has(255)),
            (256, 256, true)
        );
    }

    proptest! {
        #[test]
        fn every_cell_is_found_and_no_gap_is_mistaken(
            rows in prop::collection::vec(prop::collection::btree_map(0u32..50, any::<u32>(), 0..20), 1..40)
        ) {
            let rows: Vec<SparseRow> = rows.into_iter()
                .map(|row| row.into_iter().map(|(column, value)| (column, Candidate::of_value(value))).collect())
                .collect();
            let mut packer = Packer::new(FIRST);
            let (some, others) = rows.split_at(rows.len() / 2);
            let mut starts = packer.pack(some, 50).unwrap();
            starts.extend(packer.pack(others, 50).unwrap());
            starts.extend(packer.pack(&[SparseRow::new()], 50).unwrap());
            let cells = packer.finish();
            let found = |start: u32| -> SparseRow {
                (0..50)
                    .map(|column| (column, Candidate(cells[(start - FIRST + column) as usize])))
                    .filter(|(column, cell)| cell.is_in(*column))
                    .map(|(column, cell)| (column, Candidate::of_value(cell.value())))
                    .collect()
            };
            let empty = SparseRow::new();
            for (row, start) in rows.iter().chain([&empty]).zip(starts) {
                prop_assert_eq!(&found(start), row);
            }
        }
    }
}
