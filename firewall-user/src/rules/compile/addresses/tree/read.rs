//! Ranges of addresses out of an image that is there: the opposite of what [`super`] makes.

use firewall_common::abi::image::{Entry, Lanes, Line, node};

use super::{Address, Key, inline_children};

/// Most ranges that are read under one entry of a root. Twice as many as that need to be taken care of are few.
const MAX_RANGES: usize = 1 << 16;
/// More levels than any tree has, of IPv6 with both of its keys.
const MAX_LEVELS: u32 = 2 * node::V6_LEVELS;

/// First addresses and rows of all that is under `entry`, whose addresses begin at `first` and differ in `keys`; `None` if there are
/// too many, or if the tables are inconsistent.
pub(super) fn ranges_under<A: Address>(
    image: &[Line],
    lanes: Lanes,
    entry: Entry,
    first: A,
    keys: &[Key],
) -> Option<Vec<(A, Entry)>> {
    let mut reading = Reading {
        image,
        lanes,
        ranges: Vec::new(),
    };
    reading.entry(entry, first.into(), keys)?;
    let ranges = reading.ranges.into_iter();
    ranges
        .map(|(first, entry)| Some((A::try_from(first).ok()?, entry)))
        .collect()
}

struct Reading<'a> {
    image: &'a [Line],
    lanes: Lanes,
    ranges: Vec<(u128, Entry)>,
}

impl Reading<'_> {
    fn entry(&mut self, entry: Entry, first: u128, keys: &[Key]) -> Option<()> {
        match (entry.next(), keys) {
            (None, _) => match self.ranges.last() {
                Some(&(_, before)) if before == entry => Some(()),
                _ => {
                    self.ranges.push((first, entry));
                    (self.ranges.len() <= MAX_RANGES).then_some(())
                }
            },
            (Some(line), [key, below @ ..]) => self.node(line, first, 0, (*key, below), 0),
            (Some(_), []) => None,
        }
    }

    /// All that is under the node in `line`, whose lowest key is `lowest`.
    fn node(
        &mut self,
        line: u32,
        first: u128,
        lowest: u64,
        keys: (Key, &[Key]),
        level: u32,
    ) -> Option<()> {
        if level > MAX_LEVELS {
            return None;
        }
        let node = *self.image.get(line as usize)?;
        let pointer = node.words[0];
        let is_inline = pointer & node::INLINE != 0;
        let children = match is_inline {
            true => inline_children(self.lanes),
            false => self.lanes.bounds() as usize + 1,
        };
        let lanes = self.lanes;
        let bounds = (0..).map_while(|index| bound(&node, lanes, index));
        let lowest = std::iter::once(lowest).chain(bounds);
        for (child, lowest) in (0..children as u32).zip(lowest) {
            let first_of_child = first | u128::from(lowest) << keys.0.shift;
            if is_inline {
                let at = line.checked_mul(16)? + node::INLINE_ENTRIES + child;
                self.entry(read(self.image, at)?, first_of_child, keys.1)?;
            } else if pointer & node::LEAF != 0 {
                let at = (pointer as u32).checked_add(child)?;
                self.entry(read(self.image, at)?, first_of_child, keys.1)?;
            } else {
                let line = (pointer as u32).checked_add(child)?;
                self.node(line, first, lowest, keys, level + 1)?;
            }
        }
        Some(())
    }
}

/// The lowest key of the child behind the one with this index, if there is one.
fn bound(node: &Line, lanes: Lanes, index: u32) -> Option<u64> {
    let (word, lane) = (1 + index / lanes.count(), index % lanes.count());
    let is_inline = node.words[0] & node::INLINE != 0;
    let words = match is_inline {
        true => 1 + node::INLINE_BOUND_WORDS,
        false => node.words.len(),
    };
    let word = node.words[..words].get(word as usize)?;
    let guard = 1 << (lanes.width() - 1);
    let lane = word >> (lane * lanes.width());
    (lane & guard == 0).then_some(lane & (guard - 1))
}

/// The entry at this `u32` index.
pub(super) fn read(image: &[Line], at: u32) -> Option<Entry> {
    let word = image.get(at as usize / 16)?.words[at as usize % 16 / 2];
    Some(Entry((word >> (32 * (at % 2))) as u32))
}
