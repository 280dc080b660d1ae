//! Cells: rows of a sparse table, laid over each other so that each fills the others' gaps.
//!
//! Tarjan & Yao, "Storing a Sparse Table", CACM 22(11), 1979: first fit, fullest rows first. A cell carries its row's
//! mark, so a look into a gap, where another row's cell may lie, is told from a hit. The memory is that of the cells
//! that say something, not that of the cross product.

use super::CompileError;

/// Most cells of one image: with 8 bytes each, half of the largest image.
const MAX_CELLS: usize = 1 << 22;

/// A row to be packed: values by column, columns ascending.
pub(super) struct SparseRow {
    /// Mark of the row, unique among all rows and not 0.
    pub(super) mark: u32,
    /// Column and value.
    pub(super) cells: Vec<(u32, u32)>,
}

/// The packed cells.
#[derive(Default)]
pub(super) struct Packer {
    cells: Vec<u64>,
    /// No free cell lies before this one.
    first_free: usize,
}

impl Packer {
    /// Packs `rows`, returns where each starts, in their order.
    pub(super) fn pack(&mut self, rows: &[SparseRow]) -> Result<Vec<u32>, CompileError> {
        let total: usize = rows.iter().map(|row| row.cells.len()).sum();
        if total > MAX_CELLS {
            return Err(CompileError::TooManyCells { limit: MAX_CELLS });
        }
        let mut fullest_first: Vec<usize> = (0..rows.len()).collect();
        fullest_first.sort_by_key(|&index| std::cmp::Reverse(rows[index].cells.len()));
        let mut starts = vec![0; rows.len()];
        for index in fullest_first {
            starts[index] = self.place(&rows[index]);
        }
        Ok(starts)
    }

    /// All cells, with room behind the last row for a look at any of `columns` columns.
    pub(super) fn finish(mut self, columns: u32) -> Vec<u64> {
        let length = self.cells.len() + columns as usize + 1;
        self.cells.resize(length, 0);
        self.cells
    }

    fn place(&mut self, row: &SparseRow) -> u32 {
        let Some(&(first_column, _)) = row.cells.first() else {
            return 0;
        };
        let mut slot = self.first_free.max(first_column as usize);
        let start = loop {
            slot = self.free_from(slot);
            let start = slot - first_column as usize;
            let fits = row
                .cells
                .iter()
                .all(|&(column, _)| self.is_free(start + column as usize));
            if fits {
                break start;
            }
            slot += 1;
        };
        for &(column, value) in &row.cells {
            let at = start + column as usize;
            if at >= self.cells.len() {
                self.cells.resize(at + 1, 0);
            }
            self.cells[at] = u64::from(row.mark) | u64::from(value) << 32;
        }
        self.first_free = self.free_from(self.first_free);
        start as u32
    }

    fn is_free(&self, slot: usize) -> bool {
        self.cells.get(slot).is_none_or(|&cell| cell == 0)
    }

    fn free_from(&self, slot: usize) -> usize {
        let taken = self.cells.iter().skip(slot).take_while(|&&cell| cell != 0);
        slot + taken.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn every_cell_is_found_and_no_gap_is_mistaken(
            rows in prop::collection::vec(prop::collection::btree_map(0u32..50, any::<u32>(), 0..20), 1..40)
        ) {
            let sparse: Vec<SparseRow> = rows.iter().enumerate()
                .map(|(index, cells)| SparseRow {
                    mark: index as u32 + 1,
                    cells: cells.iter().map(|(&column, &value)| (column, value)).collect(),
                })
                .collect();
            let mut packer = Packer::default();
            let starts = packer.pack(&sparse).unwrap();
            let cells = packer.finish(50);
            for (index, row) in rows.iter().enumerate() {
                let found: BTreeMap<u32, u32> = (0..50)
                    .filter_map(|column| {
                        let cell = cells[(starts[index] + column) as usize];
                        (cell as u32 == index as u32 + 1).then_some((column, (cell >> 32) as u32))
                    })
                    .collect();
                prop_assert_eq!(&found, row);
            }
        }
    }
}
