//! Ranges of addresses become the root and the trees that [`firewall_common::decide::address`] follows.

mod change;
mod read;

use std::collections::HashMap;
use std::ops::RangeInclusive;

use firewall_common::abi::image::{AddressTable, Entry, Lanes, Line, node};

use crate::rules::compile::layout::Layout;

pub(in crate::rules::compile) use change::change;

/// Bytes a range that a root and the nodes under it may take: the largest root that keeps to it is taken. Nodes of random
/// IPv4 prefixes are then a quarter full or more, and most trees have one node.
const BYTES_PER_RANGE: usize = 12;

/// An address of either family, as a number.
pub(in crate::rules::compile) trait Address:
    Copy + Ord + Into<u128> + TryFrom<u128>
{
    /// The lowest address.
    const ZERO: Self;
    /// Bits of an address.
    const BITS: u32;
    /// Bits of the last of two keys below the root; 0 if one is enough.
    const LAST_BITS: u32;
    /// Fewest bits that a root looks at, and most.
    const ROOT_BITS: RangeInclusive<u32>;

    /// The address behind this one.
    fn next(self) -> Option<Self>;

    /// Packing of the keys under a root that looks at `root_bits`.
    fn lanes(root_bits: u32) -> Lanes;
}

impl Address for u32 {
    const ZERO: Self = 0;
    const BITS: u32 = 32;
    const LAST_BITS: u32 = 0;
    const ROOT_BITS: RangeInclusive<u32> = node::V4_ROOT_BITS;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn lanes(root_bits: u32) -> Lanes {
        Lanes::of(Self::BITS - root_bits)
    }
}

impl Address for u128 {
    const ZERO: Self = 0;
    const BITS: u32 = 128;
    const LAST_BITS: u32 = node::V6_LAST_BITS;
    const ROOT_BITS: RangeInclusive<u32> = node::V6_ROOT_BITS;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn lanes(_: u32) -> Lanes {
        Lanes::WIDE
    }
}

/// Appends the table of `ranges` (first address and row of each, covering the whole space from 0), which is empty if
/// there are none. `entries` has that of each row.
pub(super) fn append<A: Address>(
    ranges: &[(A, u32)],
    entries: &[Entry],
    layout: &mut Layout,
) -> AddressTable {
    if ranges.is_empty() {
        return AddressTable::default();
    }
    append_with(ranges, entries, root_bits(ranges), layout)
}

/// Bits of the largest root that the ranges are worth.
fn root_bits<A: Address>(ranges: &[(A, u32)]) -> u32 {
    let room = BYTES_PER_RANGE * ranges.len();
    let fits = |bits: &u32| {
        let root = size_of::<Entry>() << bits;
        root <= room && root + size_of::<Line>() * nodes_under(ranges, *bits) <= room
    };
    A::ROOT_BITS
        .rev()
        .find(fits)
        .unwrap_or(*A::ROOT_BITS.start())
}

/// Nodes under a root that looks at `root_bits`, as if none needed a second key.
fn nodes_under<A: Address>(ranges: &[(A, u32)], root_bits: u32) -> usize {
    let fan_out = A::lanes(root_bits).bounds() as usize + 1;
    let root = Key::new(A::BITS - root_bits, root_bits);
    let prefixes = ranges.chunk_by(|a, b| root.of(a.0) == root.of(b.0));
    prefixes
        .map(|inside| {
            let reaches_in = !root.is_lowest(inside[0].0);
            let mut level = inside.len() + usize::from(reaches_in);
            let mut nodes = 0;
            while level > 1 {
                level = level.div_ceil(fan_out);
                nodes += level;
            }
            nodes
        })
        .sum()
}

fn append_with<A: Address>(
    ranges: &[(A, u32)],
    entries: &[Entry],
    root_bits: u32,
    layout: &mut Layout,
) -> AddressTable {
    let first_bits = A::BITS - root_bits - A::LAST_BITS;
    let keys = [
        Key::new(A::BITS - root_bits, root_bits),
        Key::new(A::LAST_BITS, first_bits),
        Key::new(0, A::LAST_BITS),
    ];
    let lanes = A::lanes(root_bits);
    let mut trees = Trees::new(layout, lanes, entries);
    let children = trees.children(ranges, 0, &keys);
    trees.finish();

    let mut root = vec![0; 1 << root_bits];
    let ends = children.iter().skip(1).map(|child| child.first as usize);
    let mut at = 0;
    for (child, end) in children.iter().zip(ends.chain([root.len()])) {
        root[at..end].fill(child.entry.0);
        at = end;
    }
    AddressTable {
        root: layout.u32s(&root),
        // Of an IPv6 address, the program shifts the upper half.
        root_shift: A::BITS.min(64) - root_bits,
        key_mask: (1 << first_bits) - 1,
        lanes,
    }
}

/// Bits of an address that are compared together.
#[derive(Clone, Copy)]
struct Key {
    shift: u32,
    bits: u32,
}

impl Key {
    const fn new(shift: u32, bits: u32) -> Self {
        Self { shift, bits }
    }

    const fn last(self) -> u64 {
        (1 << self.bits) - 1
    }

    fn of<A: Address>(self, address: A) -> u64 {
        (address.into() >> self.shift) as u64 & self.last()
    }

    /// Whether all bits below are zero.
    fn is_lowest<A: Address>(self, address: A) -> bool {
        address.into() & ((1 << self.shift) - 1) == 0
    }
}

/// A child of a node: the lowest key it holds, and what it leads to.
struct Child {
    first: u64,
    entry: Entry,
}

/// Nodes under construction. They begin at a line that is known from the start; the entries that leaves point to follow
/// behind, so leaves learn where when all is there.
struct Trees<'a> {
    layout: &'a mut Layout,
    lanes: Lanes,
    /// Entry of each row.
    rows: &'a [Entry],
    first_line: u32,
    lines: Vec<Line>,
    /// Index in `lines` of every leaf whose entries are elsewhere.
    leaves: Vec<usize>,
    entries: Vec<u32>,
    /// Runs of entries already there: most trees of a list of addresses have the same few.
    known_runs: HashMap<Vec<u32>, u32>,
}

impl<'a> Trees<'a> {
    fn new(layout: &'a mut Layout, lanes: Lanes, rows: &'a [Entry]) -> Self {
        let first_line = layout.lines(&[]);
        Self {
            layout,
            lanes,
            rows,
            first_line,
            lines: Vec::new(),
            leaves: Vec::new(),
            entries: Vec::new(),
            known_runs: HashMap::new(),
        }
    }

    /// What the values of the first of `keys` lead to, from 0 on: the rows of `ranges` that begin here, of a range in
    /// `row` that reaches in, and trees over the other keys where rows change inside of a value.
    fn children<A: Address>(
        &mut self,
        ranges: &[(A, u32)],
        mut row: u32,
        keys: &[Key],
    ) -> Vec<Child> {
        let [key, below @ ..] = keys else {
            unreachable!("no two ranges begin at the same address");
        };
        let mut children: Vec<Child> = Vec::with_capacity(ranges.len() + 1);
        let mut push = |first: u64, entry: Entry| {
            // A range that reaches in ends where another begins at once.
            children.pop_if(|last| last.first == first);
            children.push(Child { first, entry });
        };
        push(0, self.rows[row as usize]);
        for inside in ranges.chunk_by(|a, b| key.of(a.0) == key.of(b.0)) {
            let value = key.of(inside[0].0);
            let reaching_in = row;
            row = inside[inside.len() - 1].1;
            if inside.len() == 1 && key.is_lowest(inside[0].0) {
                push(value, self.rows[row as usize]);
                continue;
            }
            let tree = self.children(inside, reaching_in, below);
            push(value, Entry::down(self.tree(&tree)));
            if value < key.last() {
                push(value + 1, self.rows[row as usize]);
            }
        }
        children
    }

    /// A tree that leads each key to the last child whose `first` is not above it. Returns its topmost node's line.
    fn tree(&mut self, children: &[Child]) -> u32 {
        let fan_out = self.lanes.bounds() as usize + 1;
        let mut level: Vec<(u64, Line)> = children
            .chunks(fan_out)
            .enumerate()
            .map(|(index, chunk)| {
                let entries: Vec<u32> = chunk.iter().map(|child| child.entry.0).collect();
                let firsts = chunk.iter().map(|child| child.first);
                let node = if chunk.len() <= inline_children(self.lanes) {
                    let mut node = pack(self.lanes, node::INLINE, firsts);
                    let words = node.words.iter_mut().skip(1 + node::INLINE_BOUND_WORDS);
                    for (word, pair) in words.zip(entries.chunks(2)) {
                        let second = pair.get(1).copied().unwrap_or(0);
                        *word = u64::from(pair[0]) | u64::from(second) << 32;
                    }
                    node
                } else {
                    let pointer = self.run(entries);
                    self.leaves.push(self.lines.len() + index);
                    pack(self.lanes, node::LEAF | u64::from(pointer), firsts)
                };
                (chunk[0].first, node)
            })
            .collect();
        while level.len() > 1 {
            let mut pointer = self.append(&level);
            level = level
                .chunks(fan_out)
                .map(|chunk| {
                    let firsts = chunk.iter().map(|(first, _)| *first);
                    let node = pack(self.lanes, u64::from(pointer), firsts);
                    pointer += chunk.len() as u32;
                    (chunk[0].0, node)
                })
                .collect();
        }
        self.append(&level)
    }

    fn append(&mut self, level: &[(u64, Line)]) -> u32 {
        let at = self.lines.len() as u32;
        self.lines.extend(level.iter().map(|(_, line)| *line));
        self.first_line + at
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

/// Most children that a line has room for beside their bounds.
fn inline_children(lanes: Lanes) -> usize {
    let bounds = node::INLINE_BOUND_WORDS * lanes.count() as usize;
    node::INLINE_CHILDREN.min(bounds + 1)
}

/// A node with word 0 and the lowest keys of its children; the first child needs no bound.
fn pack(lanes: Lanes, word: u64, firsts: impl Iterator<Item = u64>) -> Line {
    let mut line = Line {
        words: [lanes.guards; 8],
    };
    line.words[0] = word;
    let guard = 1 << (lanes.width() - 1);
    for (index, first) in (0..).zip(firsts.skip(1)) {
        let (word, lane) = (1 + index / lanes.count(), index % lanes.count());
        line.words[word as usize] ^= (guard | first) << (lane * lanes.width());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use firewall_common::abi::image::header;
    use firewall_common::decide::address::{find_v4, find_v6};
    use firewall_common::tables::{HostTables, HostWorld, World};
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::fmt::Debug;

    const TABLE: u32 = header::ADDRESS_TABLES + header::ADDRESS_TABLE_LEN;

    trait Find: Address + Debug {
        fn find(tables: &HostTables<'_>, address: Self) -> Option<Option<Entry>>;
    }

    impl Find for u32 {
        fn find(tables: &HostTables<'_>, address: Self) -> Option<Option<Entry>> {
            find_v4(tables, TABLE, address)
        }
    }

    impl Find for u128 {
        fn find(tables: &HostTables<'_>, address: Self) -> Option<Option<Entry>> {
            find_v6(tables, TABLE, [(address >> 64) as u64, address as u64])
        }
    }

    /// Where the rows of these tests begin.
    const ROWS: [Entry; 6] = [
        Entry::row(70, false),
        Entry::row(1, false),
        Entry::row(2, true),
        Entry::row(3, false),
        Entry::row((1 << 30) - 1, true),
        Entry::row(5, false),
    ];

    fn image<A: Address>(ranges: &[(A, u32)], root_bits: u32) -> Vec<Line> {
        let mut layout = Layout::new();
        layout.u32s(&[7]);
        let table = append_with(ranges, &ROWS, root_bits, &mut layout);
        let mut image = layout.finish();
        image[(TABLE / header::ADDRESS_TABLE_LEN) as usize] = table.to_line();
        image
    }

    fn expect<A: Find>(image: &[Line], rows: impl Iterator<Item = (A, u32)>) {
        let tables = HostWorld::new(image, |_, _| {}).tables().unwrap();
        for (address, row) in rows {
            let entry = ROWS[row as usize];
            assert_eq!(A::find(&tables, address), Some(Some(entry)), "{address:?}");
        }
    }

    /// Row of `address` by looking at all ranges.
    fn naive<A: Address>(ranges: &[(A, u32)], address: A) -> u32 {
        ranges
            .iter()
            .rev()
            .find(|(first, _)| *first <= address)
            .expect("ranges start at 0")
            .1
    }

    fn check<A: Find>(ranges: &[(A, u32)], probes: &[A], root_bits: u32) {
        let edges = ranges
            .iter()
            .flat_map(|&(first, _)| [Some(first), first.next()])
            .flatten();
        let probes = edges.chain(probes.iter().copied());
        let rows = probes.map(|address| (address, naive(ranges, address)));
        expect(&image(ranges, root_bits), rows);
    }

    /// First addresses that share many leading bits, so that trees grow deep.
    fn ranges<A: Address + Debug + 'static>(
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
            (0u32..300).prop_map(|n| n << 15),
            (0u32..300).prop_map(|n| (n << 20) - n % 2),
        ]
    }

    fn v6() -> impl Strategy<Value = u128> {
        const BASE: u128 = 0x2001_0db8 << 96;
        prop_oneof![
            any::<u128>(),
            (0u128..500).prop_map(|low| BASE + low),
            (0u128..500).prop_map(|low| BASE + (low << 61)),
            (0u128..500).prop_map(|low| BASE + (low << 63) - low % 2),
            (0u128..500).prop_map(|low| BASE + (low << 80)),
            (0u128..500).prop_map(|low| (low << 108) - low % 2),
            (0u128..256).prop_map(|low| (low << 120) - low % 2),
        ]
    }

    /// Each row becomes the next one from `first` to `last`, twice.
    fn check_change<A: Find>(ranges: &[(A, u32)], probes: &[A], (a, b): (A, A), root_bits: u32) {
        let rows = ROWS.iter().map(|row| row.0);
        let next_row = rows.clone().zip(rows.cycle().skip(1)).collect();
        let (first, last) = (a.min(b), a.max(b));
        let mut image = image(ranges, root_bits);
        let line = TABLE / header::ADDRESS_TABLE_LEN;
        for _ in 0..2 {
            change(&mut image, line, (first, last), &next_row).unwrap();
        }
        let edges = ranges
            .iter()
            .flat_map(|&(first, _)| [Some(first), first.next()])
            .chain([Some(first), Some(last), first.next(), last.next()])
            .flatten();
        let probes = edges.chain(probes.iter().copied());
        let changed = |address: A| match first <= address && address <= last {
            true => (naive(ranges, address) + 2) % ROWS.len() as u32,
            false => naive(ranges, address),
        };
        expect(&image, probes.map(|address| (address, changed(address))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn changed_ipv4_trees_agree_with_a_search(
            ranges in ranges(v4()),
            probes in prop::collection::vec(v4(), 50),
            changed in (v4(), v4()),
            root_bits in u32::ROOT_BITS,
        ) {
            check_change(&ranges, &probes, changed, root_bits);
        }

        #[test]
        fn changed_ipv6_trees_agree_with_a_search(
            ranges in ranges(v6()),
            probes in prop::collection::vec(v6(), 50),
            changed in (v6(), v6()),
            root_bits in u128::ROOT_BITS,
        ) {
            check_change(&ranges, &probes, changed, root_bits);
        }

        #[test]
        fn ipv4_trees_agree_with_a_search(
            ranges in ranges(v4()),
            probes in prop::collection::vec(v4(), 50),
            root_bits in u32::ROOT_BITS,
        ) {
            check(&ranges, &probes, root_bits);
        }

        #[test]
        fn ipv6_trees_agree_with_a_search(
            ranges in ranges(v6()),
            probes in prop::collection::vec(v6(), 50),
            root_bits in u128::ROOT_BITS,
        ) {
            check(&ranges, &probes, root_bits);
        }
    }

    #[test]
    fn absent_tables_have_no_row() {
        let image = Layout::new().finish();
        let tables = HostWorld::new(&image, |_, _| {}).tables().unwrap();
        assert_eq!(u32::find(&tables, 7), Some(None));
        assert_eq!(u128::find(&tables, 7), Some(None));
    }

    /// `count` ranges of 2^`shift` addresses from `first` on, in rows 1 and 2 by turns.
    fn alternating<A: Find + TryFrom<u128, Error: Debug>>(
        first: u128,
        shift: u32,
        count: u128,
        root_bits: u32,
    ) {
        let address = |index: u128| A::try_from(first + (index << shift)).unwrap();
        let row = |index: u128| 1 + (index % 2) as u32;
        let mut ranges = vec![(A::ZERO, 0)];
        ranges.extend((0..count).map(|index| (address(index), row(index))));
        ranges.push((address(count), 0));
        let last = |index| A::try_from(address(index + 1).into() - 1).unwrap();
        let inside = (0..count).flat_map(|i| [(address(i), row(i)), (last(i), row(i))]);
        let outside = [(A::try_from(first - 1).unwrap(), 0), (address(count), 0)];
        expect(&image(&ranges, root_bits), inside.chain(outside));
    }

    #[test]
    fn ipv4_trees_can_be_as_deep_as_they_get() {
        alternating::<u32>(0xc000_0000, 0, 1 << 12, 12);
        // Every address below one entry of the root.
        alternating::<u32>(0xc000_0000, 0, 1 << 20, 12);
        alternating::<u32>(0xc000_8000, 0, 1 << 15, 17);
    }

    #[test]
    fn ipv6_trees_can_be_as_deep_as_a_million_ranges_make_them() {
        const BASE: u128 = 0x2001_0db8 << 96;
        for root_bits in [8, 20] {
            alternating::<u128>(BASE, 0, 1 << 12, root_bits);
            alternating::<u128>(BASE, 62, 1 << 12, root_bits);
        }
        alternating::<u128>(BASE, 0, 1 << 20, 12);
        alternating::<u128>(BASE, 64, 1 << 20, 12);
    }

    /// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    struct Random(u64);

    impl Random {
        fn word(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = self.0;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        }

        fn wide(&mut self) -> u128 {
            u128::from(self.word()) << 64 | u128::from(self.word())
        }
    }

    /// Ranges of `count` prefixes, as `sweep` makes them of one set.
    fn one_set<A: Find + TryFrom<u128, Error: Debug>>(
        count: usize,
        mut prefix: impl FnMut(&mut Random) -> (u128, u32),
    ) -> Vec<(A, u32)> {
        let mut random = Random(1);
        let mut prefixes: Vec<(u128, u128)> = (0..count)
            .map(|_| {
                let (address, length) = prefix(&mut random);
                let host = u128::MAX.checked_shr(128 - A::BITS + length).unwrap_or(0);
                (address & !host, address | host)
            })
            .collect();
        // Of prefixes that begin together the longest range first, which holds the others.
        prefixes.sort_unstable_by_key(|&(first, last)| (first, Reverse(last)));
        let mut ranges = vec![(A::ZERO, 0)];
        let mut end = 0;
        for (first, last) in prefixes.into_iter().filter(|&(first, _)| first > 0) {
            if first < end {
                continue;
            }
            if first == end {
                ranges.pop();
            } else {
                ranges.push((A::try_from(first).unwrap(), 1));
            }
            end = last + 1;
            ranges.push((A::try_from(end).unwrap(), 0));
        }
        ranges
    }

    /// As in lists of threats: 80 % /32, 15 % /24, 5 % /16 to /31.
    fn threat(random: &mut Random) -> (u128, u32) {
        let address = u128::from(random.word() % 0xe000_0000);
        let length = match random.word() % 100 {
            0..80 => 32,
            80..95 => 24,
            _ => 16 + (random.word() % 16) as u32,
        };
        (address, length)
    }

    /// /32 to /64 anywhere in 2000::/3, one in ten a host.
    fn spread(random: &mut Random) -> (u128, u32) {
        let length = match random.word() % 10 {
            0 => 128,
            _ => 32 + (random.word() % 33) as u32,
        };
        (random.wide() >> 3 | 1 << 125, length)
    }

    /// Inside 300 /32s of six /12s: 10 % /128, 30 % /64, 15 % /56, 45 % /48.
    fn clustered(random: &mut Random) -> (u128, u32) {
        const REGISTRIES: [u128; 6] = [0x200, 0x240, 0x260, 0x280, 0x2a0, 0x2c0];
        let home = random.word() % 300;
        let registry = REGISTRIES[(home % 6) as usize];
        let holder = u128::from(Random(home).word() >> 44);
        let address = registry << 116 | holder << 96 | random.wide() >> 32;
        let length = match random.word() % 100 {
            0..10 => 128,
            10..40 => 64,
            40..55 => 56,
            _ => 48,
        };
        (address, length)
    }

    /// Bytes of the table of `ranges`, of which some addresses are looked up.
    fn bytes<A: Find>(name: &str, ranges: &[(A, u32)]) -> usize {
        let root_bits = root_bits(ranges);
        let image = image(ranges, root_bits);
        let some = ranges.iter().step_by(1 + ranges.len() / 1_000);
        expect(&image, some.copied());
        let bytes = size_of_val(&image[header::BOTH as usize / 16..]);
        println!(
            "{name}: {} ranges, root of {root_bits} bits, {} KiB",
            ranges.len(),
            bytes / 1024
        );
        bytes
    }

    const KIB: usize = 1 << 10;

    #[test]
    fn memory_follows_the_number_of_prefixes() {
        for (count, v4_kib, spread_kib, clustered_kib) in [
            (10, 18, 2, 2),
            (1_000, 80, 36, 36),
            (10_000, 256, 360, 360),
            (100_000, 2_100, 3_500, 3_600),
        ] {
            let v4 = bytes("threat list", &one_set::<u32>(count, threat));
            assert!(v4 <= v4_kib * KIB, "{v4} for {count}");
            let v6 = bytes("spread", &one_set::<u128>(count, spread));
            assert!(v6 <= spread_kib * KIB, "{v6} for {count}");
            let v6 = bytes("clustered", &one_set::<u128>(count, clustered));
            assert!(v6 <= clustered_kib * KIB, "{v6} for {count}");
        }
    }

    #[test]
    fn a_million_prefixes_fit_their_size_class() {
        let v4 = bytes("threat list", &one_set::<u32>(1_000_000, threat));
        assert!(v4 <= 8_192 * KIB, "{v4}");
        let v6 = bytes("spread", &one_set::<u128>(1_000_000, spread));
        assert!(v6 <= 32_768 * KIB, "{v6}");
        let v6 = bytes("clustered", &one_set::<u128>(1_000_000, clustered));
        assert!(v6 <= 32_768 * KIB, "{v6}");
    }
}
