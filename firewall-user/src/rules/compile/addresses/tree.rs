//! Ranges of addresses become the root, pages and trees that [`firewall_common::decide::address`] follows.

use std::collections::HashMap;

use firewall_common::abi::image::{Entry, Line, node};
use firewall_common::decide::address::{PAGE_BITS, ROOT_BITS};

use crate::rules::compile::layout::Layout;

const FIRST_BITS: u32 = ROOT_BITS + PAGE_BITS;

/// An address of either family, as a number.
pub(in crate::rules::compile) trait Address: Copy + Ord {
    /// The lowest address.
    const ZERO: Self;

    /// The address behind this one.
    fn next(self) -> Option<Self>;

    /// The first 17 bits.
    fn first_bits(self) -> usize;

    /// Whether all bits behind the first 17 are zero.
    fn starts_prefix(self) -> bool;

    /// The entry for the addresses that share their first 17 bits with `ranges`, which begin there one after the other.
    fn subtree(ranges: &[(Self, u32)], trees: &mut Trees<'_>) -> Entry;
}

/// Appends the table of `ranges` (first address and row of each, covering the whole space from 0) and returns the `u32`
/// index of its root, or 0 if there are none.
pub(super) fn append<A: Address>(ranges: &[(A, u32)], layout: &mut Layout) -> u32 {
    if ranges.is_empty() {
        return 0;
    }
    let mut trees = Trees::new(layout);
    let mut rest = ranges;
    let mut row = 0;
    let mut root = Vec::with_capacity(1 << ROOT_BITS);
    for page in 0..1usize << ROOT_BITS {
        let begins_here = rest
            .first()
            .is_some_and(|(first, _)| first.first_bits() >> PAGE_BITS == page);
        if begins_here {
            let entries = page_entries(page << PAGE_BITS, &mut rest, &mut row, &mut trees);
            root.push(trees.page(&entries).0);
        } else {
            root.push(Entry::row(row).0);
        }
    }
    trees.finish();
    layout.u32s(&root)
}

/// The entries of the page whose first prefix is `prefix`. Takes what begins in it off `rest`; `row` is that of the
/// range that reaches into the page, and then of the one that reaches out of it.
fn page_entries<A: Address>(
    prefix: usize,
    rest: &mut &[(A, u32)],
    row: &mut u32,
    trees: &mut Trees<'_>,
) -> Vec<Entry> {
    // What begins before a prefix and reaches into it is put in front of the ranges that begin inside.
    let mut inside: Vec<(A, u32)> = Vec::new();
    (prefix..prefix + (1 << PAGE_BITS))
        .map(|prefix| {
            let count = rest
                .iter()
                .take_while(|(first, _)| first.first_bits() == prefix)
                .count();
            let (here, behind) = rest.split_at(count);
            *rest = behind;
            inside.clear();
            if here
                .first()
                .is_none_or(|&(first, _)| !first.starts_prefix())
            {
                inside.push((A::ZERO, *row));
            }
            inside.extend_from_slice(here);
            *row = inside[inside.len() - 1].1;
            match inside[..] {
                [(_, row)] => Entry::row(row),
                _ => A::subtree(&inside, trees),
            }
        })
        .collect()
}

impl Address for u32 {
    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn first_bits(self) -> usize {
        (self >> node::NARROW_BITS) as usize
    }

    fn starts_prefix(self) -> bool {
        self & ((1 << node::NARROW_BITS) - 1) == 0
    }

    fn subtree(ranges: &[(Self, u32)], trees: &mut Trees<'_>) -> Entry {
        let mask = (1 << node::NARROW_BITS) - 1;
        let children: Vec<Child> = lasts(ranges, Self::MAX)
            .map(|(_, last, row)| Child {
                last: u64::from(last & mask),
                entry: Entry::row(row),
            })
            .collect();
        Entry::down(trees.tree::<Narrow>(&children))
    }
}

impl Address for u128 {
    const ZERO: Self = 0;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn first_bits(self) -> usize {
        (self >> (128 - FIRST_BITS)) as usize
    }

    fn starts_prefix(self) -> bool {
        self << FIRST_BITS == 0
    }

    /// A tree over the next 55 bits; where ranges meet inside one value of those, a tree over the last 56 below it.
    fn subtree(ranges: &[(Self, u32)], trees: &mut Trees<'_>) -> Entry {
        let upper_mask = (1u64 << node::WIDE_BITS) - 1;
        let lower_mask = (1u64 << node::WIDE_LOW_BITS) - 1;
        let upper = |address: u128| (address >> node::WIDE_LOW_BITS) as u64 & upper_mask;
        let lower = |address: u128| address as u64 & lower_mask;

        let mut children: Vec<Child> = Vec::with_capacity(ranges.len());
        // The ranges so far of an upper value that more than one range has a part of.
        let mut shared: Vec<Child> = Vec::new();
        for (first, last, row) in lasts(ranges, Self::MAX) {
            let entry = Entry::row(row);
            let mut from = first.map(upper);
            if !shared.is_empty() {
                let ends_here = first.map(upper) == Some(upper(last)) && lower(last) != lower_mask;
                let end = if ends_here { lower(last) } else { lower_mask };
                shared.push(Child { last: end, entry });
                if ends_here {
                    continue;
                }
                let value = first.map_or(0, upper);
                let tree = Entry::down(trees.tree::<Wide>(&shared));
                children.push(Child {
                    last: value,
                    entry: tree,
                });
                shared.clear();
                from = value.checked_add(1);
                if value == upper(last) {
                    continue;
                }
            }
            if lower(last) == lower_mask {
                children.push(Child {
                    last: upper(last),
                    entry,
                });
                continue;
            }
            // The last upper value is shared with what follows; those before it, if any, are this range's alone.
            if from.unwrap_or(0) < upper(last) {
                children.push(Child {
                    last: upper(last) - 1,
                    entry,
                });
            }
            shared.push(Child {
                last: lower(last),
                entry,
            });
        }
        Entry::down(trees.tree::<Wide>(&children))
    }
}

/// First address (`None` where the range begins before the prefix), last address and row of each range. The last range
/// ends where the prefix does, for which `end` stands: only its lower bits are looked at.
fn lasts<A: Address + Before>(
    ranges: &[(A, u32)],
    end: A,
) -> impl Iterator<Item = (Option<A>, A, u32)> {
    ranges
        .iter()
        .enumerate()
        .map(move |(index, &(first, row))| {
            let last = ranges
                .get(index + 1)
                .map_or(end, |&(next, _)| next.before());
            ((index > 0).then_some(first), last, row)
        })
}

/// The address before one that is not the lowest.
trait Before {
    fn before(self) -> Self;
}

impl Before for u32 {
    fn before(self) -> Self {
        self - 1
    }
}

impl Before for u128 {
    fn before(self) -> Self {
        self - 1
    }
}

/// A child of a node: the largest key it holds, and what it leads to.
struct Child {
    last: u64,
    entry: Entry,
}

/// Pages and nodes under construction. They begin at a line that is known from the start; the entries that leaves point
/// to follow behind, so leaves learn where when all is there.
pub(in crate::rules::compile) struct Trees<'a> {
    layout: &'a mut Layout,
    first_line: u32,
    lines: Vec<Line>,
    /// Index in `lines` of every leaf.
    leaves: Vec<usize>,
    entries: Vec<u32>,
    /// Runs of entries already there: most trees of a list of addresses have the same few.
    known_runs: HashMap<Vec<u32>, u32>,
    known_pages: HashMap<Vec<u32>, Entry>,
}

impl<'a> Trees<'a> {
    fn new(layout: &'a mut Layout) -> Self {
        let first_line = layout.lines(&[]);
        Self {
            layout,
            first_line,
            lines: Vec::new(),
            leaves: Vec::new(),
            entries: Vec::new(),
            known_runs: HashMap::new(),
            known_pages: HashMap::new(),
        }
    }

    /// The root's entry for a page of entries.
    fn page(&mut self, entries: &[Entry]) -> Entry {
        if entries[0].next().is_none() && entries.iter().all(|entry| *entry == entries[0]) {
            return entries[0];
        }
        let values: Vec<u32> = entries.iter().map(|entry| entry.0).collect();
        if let Some(&page) = self.known_pages.get(&values) {
            return page;
        }
        let page = Entry::down(self.first_line + self.lines.len() as u32);
        self.lines.extend(values.chunks(16).map(|chunk| {
            let mut line = Line::default();
            for (word, pair) in line.words.iter_mut().zip(chunk.chunks(2)) {
                *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
            }
            line
        }));
        self.known_pages.insert(values, page);
        page
    }

    /// A tree that leads each key to the first child whose `last` is not below it. Returns the root's line.
    fn tree<B: Bounds>(&mut self, children: &[Child]) -> u32 {
        let mut level: Vec<(u64, Line)> = children
            .chunks(B::COUNT + 1)
            .map(|chunk| {
                let run: Vec<u32> = chunk.iter().map(|child| child.entry.0).collect();
                let pointer = self.run(run);
                let lasts: Vec<u64> = chunk.iter().map(|child| child.last).collect();
                (
                    lasts[lasts.len() - 1],
                    B::node(node::LEAF | u64::from(pointer), &lasts),
                )
            })
            .collect();
        let mut is_leaf = true;
        while level.len() > 1 {
            let mut first = self.append(&level, is_leaf);
            is_leaf = false;
            level = level
                .chunks(B::COUNT + 1)
                .map(|chunk| {
                    let lasts: Vec<u64> = chunk.iter().map(|(last, _)| *last).collect();
                    let node = B::node(u64::from(first), &lasts);
                    first += chunk.len() as u32;
                    (lasts[lasts.len() - 1], node)
                })
                .collect();
        }
        self.append(&level, is_leaf)
    }

    fn append(&mut self, level: &[(u64, Line)], is_leaf: bool) -> u32 {
        let at = self.lines.len();
        if is_leaf {
            self.leaves.extend(at..at + level.len());
        }
        self.lines.extend(level.iter().map(|(_, line)| *line));
        self.first_line + at as u32
    }

    fn run(&mut self, run: Vec<u32>) -> u32 {
        let next = self.entries.len() as u32;
        let entries = &mut self.entries;
        *self.known_runs.entry(run).or_insert_with_key(|run| {
            entries.extend_from_slice(run);
            next
        })
    }

    fn finish(mut self) {
        let lines_u32 = (size_of::<Line>() / 4) as u32;
        let entries_at = (self.first_line + self.lines.len() as u32) * lines_u32;
        for &leaf in &self.leaves {
            self.lines[leaf].words[0] += u64::from(entries_at);
        }
        let first_line = self.layout.lines(&self.lines);
        debug_assert_eq!(first_line, self.first_line);
        let entries = self.layout.u32s(&self.entries);
        debug_assert_eq!(entries, entries_at);
    }
}

/// How the bounds of a node are packed; the counterpart of `Lanes` in [`firewall_common::decide::address`].
trait Bounds {
    const COUNT: usize;

    /// A node with word 0 and the `last` keys of its children; the last child needs no bound.
    fn node(word: u64, lasts: &[u64]) -> Line;
}

struct Narrow;

impl Bounds for Narrow {
    const COUNT: usize = node::NARROW_BOUNDS;

    fn node(word: u64, lasts: &[u64]) -> Line {
        let mut line = Line {
            words: [u64::MAX; 8],
        };
        line.words[0] = word;
        for (index, last) in lasts[..lasts.len() - 1].iter().enumerate() {
            let shift = 16 * (index % 4);
            let lane = &mut line.words[1 + index / 4];
            *lane = *lane & !(0x7fff << shift) | last << shift;
        }
        line
    }
}

struct Wide;

impl Bounds for Wide {
    const COUNT: usize = node::WIDE_BOUNDS;

    fn node(word: u64, lasts: &[u64]) -> Line {
        // Above every key, and near enough that the difference does not reach the sign.
        let mut line = Line {
            words: [u64::MAX >> 1; 8],
        };
        line.words[0] = word;
        line.words[1..lasts.len()].copy_from_slice(&lasts[..lasts.len() - 1]);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firewall_common::decide::address::{find_v4, find_v6};
    use firewall_common::tables::{HostWorld, World};
    use proptest::prelude::*;

    /// Row of `address` by looking at all ranges.
    fn naive<A: Address>(ranges: &[(A, u32)], address: A) -> u32 {
        ranges
            .iter()
            .rev()
            .find(|(first, _)| *first <= address)
            .expect("ranges start at 0")
            .1
    }

    fn check<A: Address + std::fmt::Debug>(
        ranges: &[(A, u32)],
        probes: &[A],
        find: impl Fn(&<HostWorld<'_, fn(u32, u32)> as World>::Tables, u32, A) -> Option<u32>,
    ) {
        let mut layout = Layout::new();
        layout.u32s(&[7]);
        let root = append(ranges, &mut layout);
        let image = layout.finish();
        let world = HostWorld::new(&image, (|_, _| {}) as fn(u32, u32));
        let tables = world.tables().unwrap();
        let edges = ranges
            .iter()
            .flat_map(|&(first, _)| [Some(first), first.next()])
            .flatten();
        for address in edges.chain(probes.iter().copied()) {
            assert_eq!(
                find(&tables, root, address),
                Some(naive(ranges, address)),
                "{address:?}"
            );
        }
    }

    /// First addresses that share many leading bits, so that trees grow deep.
    fn ranges<A: Address + std::fmt::Debug + 'static>(
        address: impl Strategy<Value = A> + 'static,
    ) -> impl Strategy<Value = Vec<(A, u32)>> {
        prop::collection::btree_map(address, 0u32..6, 1..400).prop_map(|map| {
            std::iter::once((A::ZERO, 5))
                .chain(map.into_iter().filter(|(a, _)| *a != A::ZERO))
                .collect()
        })
    }

    fn v4() -> impl Strategy<Value = u32> {
        prop_oneof![
            any::<u32>(),
            (0u32..3000).prop_map(|low| 0xc000_0200 + low),
            (0u32..300).prop_map(|n| n << 15)
        ]
    }

    fn v6() -> impl Strategy<Value = u128> {
        const BASE: u128 = 0x2001_0db8 << 96;
        prop_oneof![
            any::<u128>(),
            (0u128..500).prop_map(|low| BASE + low),
            (0u128..500).prop_map(|low| BASE + (low << 56)),
            (0u128..500).prop_map(|low| BASE + (low << 54)),
            (0u128..500).prop_map(|low| BASE + (low << 80)),
            (0u128..500).prop_map(|low| (low << 111) - u128::from(low % 2 == 1)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn ipv4_trees_agree_with_a_search(ranges in ranges(v4()), probes in prop::collection::vec(v4(), 50)) {
            check(&ranges, &probes, |tables, root, address| find_v4(tables, root, address));
        }

        #[test]
        fn ipv6_trees_agree_with_a_search(ranges in ranges(v6()), probes in prop::collection::vec(v6(), 50)) {
            check(&ranges, &probes, |tables, root, address| {
                find_v6(tables, root, [(address >> 64) as u64, address as u64])
            });
        }
    }
}
