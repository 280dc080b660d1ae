//! One piece of memory for all tables: each is appended where its unit is aligned, and named by its index.

use std::ops::DerefMut;

use firewall_common::abi::image::{Line, Record, header};

/// An image behind which lines can be put.
pub trait Extend: DerefMut<Target = [Line]> {
    /// Puts lines behind the others. Says whether there was room for them.
    fn extend_by(&mut self, lines: &[Line]) -> bool;
}

impl Extend for Vec<Line> {
    fn extend_by(&mut self, lines: &[Line]) -> bool {
        self.extend_from_slice(lines);
        true
    }
}

/// An image under construction. `u32` indices are enough: the largest image has 2^27 bytes.
pub(super) struct Layout {
    words: Vec<u64>,
    /// Words of the image before these.
    before: usize,
}

impl Layout {
    /// An image with room for both headers, which are zero.
    pub(super) fn new() -> Self {
        Self {
            words: vec![0; header::BOTH as usize / 2],
            before: 0,
        }
    }

    /// What comes behind the lines of an image that is there.
    pub(super) fn behind(image: &[Line]) -> Self {
        Self {
            words: Vec::new(),
            before: size_of_val(image) / size_of::<u64>(),
        }
    }

    /// Appends `bytes`, returns their index.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> u32 {
        self.append(bytes.chunks(8).map(|chunk| {
            let lanes = chunk.iter().enumerate();
            lanes.fold(0, |word, (lane, &value)| {
                word | u64::from(value) << (8 * lane)
            })
        })) * 8
    }

    /// Appends `values`, returns their `u16` index.
    pub(super) fn u16s(&mut self, values: &[u16]) -> u32 {
        self.append(values.chunks(4).map(|chunk| {
            let lanes = chunk.iter().enumerate();
            lanes.fold(0, |word, (lane, &value)| {
                word | u64::from(value) << (16 * lane)
            })
        })) * 4
    }

    /// Appends `values`, returns their `u32` index.
    pub(super) fn u32s(&mut self, values: &[u32]) -> u32 {
        self.append(values.chunks(2).map(|chunk| {
            let lanes = chunk.iter().enumerate();
            lanes.fold(0, |word, (lane, &value)| {
                word | u64::from(value) << (32 * lane)
            })
        })) * 2
    }

    /// The index that the next `u64` gets.
    pub(super) fn next_u64(&self) -> u32 {
        (self.before + self.words.len()) as u32
    }

    /// The index that the next record gets.
    pub(super) fn next_record(&mut self) -> u32 {
        self.align(2);
        self.next_u64() / 2
    }

    /// Appends `values`, returns their `u64` index.
    pub(super) fn u64s(&mut self, values: &[u64]) -> u32 {
        self.append(values.iter().copied())
    }

    /// Appends `records`, returns their index in 16-byte units.
    pub(super) fn records(&mut self, records: &[Record]) -> u32 {
        self.align(2);
        self.append(records.iter().flat_map(|record| {
            let [a, b, c, d] = record.fields.map(u64::from);
            [a | b << 32, c | d << 32]
        })) / 2
    }

    /// Appends `lines`, returns their index in 64-byte units.
    pub(super) fn lines(&mut self, lines: &[Line]) -> u32 {
        self.align(8);
        self.append(lines.iter().flat_map(|line| line.words)) / 8
    }

    /// Fills in the header that begins at `u32` index `at`.
    pub(super) fn set_header(&mut self, at: u32, fields: &[u32; header::LEN as usize]) {
        let words = &mut self.words[at as usize / 2..];
        for (word, pair) in words.iter_mut().zip(fields.chunks(2)) {
            *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
    }

    /// The image, or what comes behind it, which begins at a line and so is aligned like it.
    pub(super) fn finish(mut self) -> Vec<Line> {
        self.align(8);
        self.words
            .chunks_exact(8)
            .map(|words| Line {
                words: words.try_into().expect("chunks of 8"),
            })
            .collect()
    }

    /// Appends words, returns the index of the first.
    fn append(&mut self, words: impl Iterator<Item = u64>) -> u32 {
        let index = self.next_u64();
        self.words.extend(words);
        index
    }

    fn align(&mut self, words: usize) {
        let length = self.words.len().next_multiple_of(words);
        self.words.resize(length, 0);
    }
}
