//! Address sets become rows of cells: a row for each distinct combination of sets that some address is in, and the trees that
//! lead from an address to its row.

mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};

use firewall_common::abi::image::{AddressTable, Candidate, Entry, column};

use super::cells::{MAX_CELLS, Packer, SparseRow};
use super::lists::list_rows;
use super::outcomes::Outcomes;
use super::services::Services;
use super::{CompileError, RuleNumber, Shadows, layout::Layout};
use crate::list_rows::ListRows;
use crate::rules::model::{AddressSet, Direction, Protocol, Rule, SetId};
use tree::Address;
pub(super) use tree::change;

/// Most pairs of a source and a destination row that rules with both may span, all together.
const MAX_PAIRS: usize = 1 << 22;

/// Which rows the addresses of a rule set have.
pub(super) struct Addresses {
    source: Side,
    destination: Side,
}

/// Source or destination.
#[derive(Default)]
struct Side {
    /// Row of each range, for IPv4 and IPv6: first addresses ascending from 0, with the row up to the next.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u32)>,
    /// Sets that rules name.
    named: BTreeSet<SetId>,
    /// Sets in each row; rows of this side begin at `first_row`.
    members: Vec<Vec<SetId>>,
    first_row: u32,
}

/// Appends tables in which the addresses of one set have entries that begin at 1. Returns the fields of IPv4's and IPv6's, one behind
/// the other.
pub(super) fn members(set: &AddressSet, layout: &mut Layout) -> impl Iterator<Item = u32> {
    let entries = [Entry::row(0, false), Entry::row(1, false)];
    let v4 = inside(&set.v4, |last| last.checked_add(1));
    let v6 = inside(&set.v6, |last| last.checked_add(1));
    fields([
        tree::append(&v4, &entries, layout),
        tree::append(&v6, &entries, layout),
    ])
}

/// First addresses ascending from 0, with 1 inside `ranges` and 0 outside.
fn inside<A: Copy + Default + PartialEq>(
    ranges: &[(A, A)],
    after: impl Fn(A) -> Option<A>,
) -> Vec<(A, u32)> {
    let mut edges = Vec::with_capacity(2 * ranges.len() + 1);
    if ranges
        .first()
        .is_some_and(|&(first, _)| first != A::default())
    {
        edges.push((A::default(), 0));
    }
    for &(first, last) in ranges {
        edges.push((first, 1));
        edges.extend(after(last).map(|next| (next, 0)));
    }
    edges
}

/// Sweeps over the address sets that `rules` name.
pub(super) fn build(rules: &[&Rule], sets: &[AddressSet]) -> Addresses {
    // Row 0 stands for addresses in no set.
    let source = Side::build(rules.iter().filter_map(|rule| rule.from), sets, 1);
    let next = source.first_row + source.members.len() as u32;
    let destination = Side::build(rules.iter().filter_map(|rule| rule.to), sets, next);
    Addresses {
        source,
        destination,
    }
}

impl Addresses {
    /// Packs the cells of all rows. Returns where each begins: row 0, sources, destinations.
    pub(super) fn entries(
        &self,
        rules: &[&Rule],
        services: &Services,
        outcomes: &mut Outcomes<'_, '_>,
        packer: &mut Packer,
        shadows: &mut Shadows,
    ) -> Result<Vec<Entry>, CompileError> {
        let mut by_from: HashMap<SetId, Vec<RuleNumber>> = HashMap::new();
        let mut by_to: HashMap<SetId, Vec<RuleNumber>> = HashMap::new();
        let mut pairs: BTreeMap<(u32, u32), Vec<RuleNumber>> = BTreeMap::new();
        let mut paired = 0;
        for (number, rule) in rules.iter().enumerate() {
            let number = number as RuleNumber;
            match (rule.from, rule.to) {
                (Some(from), None) => by_from.entry(from).or_default().push(number),
                (None, Some(to)) => by_to.entry(to).or_default().push(number),
                (Some(from), Some(to)) => {
                    for source in self.source.rows_of(from) {
                        for destination in self.destination.rows_of(to) {
                            pairs.entry((source, destination)).or_default().push(number);
                            paired += 1;
                            if paired > MAX_PAIRS {
                                return Err(CompileError::TooManyCells { limit: MAX_PAIRS });
                            }
                        }
                    }
                }
                (None, None) => {}
            }
        }
        let mut rows = Rows {
            rules,
            services,
            outcomes,
            shadows,
            sparse: vec![SparseRow::new()],
            cells: 0,
        };
        rows.side(&self.source, &by_from)?;
        rows.side(&self.destination, &by_to)?;
        let own = rows.sparse.len();

        // Pairs of rows in which the same rules match share a row. A destination's column is its row's number.
        let mut pair_rows: HashMap<Vec<RuleNumber>, usize> = HashMap::new();
        let mut pair_cells: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
        for ((source, destination), matching) in pairs {
            let next = rows.sparse.len();
            let row = *pair_rows.entry(matching.clone()).or_insert(next);
            if row == next {
                rows.add(&matching)?;
            }
            let cells = pair_cells.entry(source).or_default();
            cells.push((destination, row));
            rows.sparse[destination as usize]
                .insert(column::PAIR, Candidate::of_value(destination));
            // Where its pairs begin is known when they are packed.
            rows.sparse[source as usize].insert(column::PAIR, Candidate::of_value(0));
        }
        let sparse = rows.sparse;
        let starts = packer.pack(&sparse, services.columns)?;
        let entry = |row: usize| Entry::row(starts[row], sparse[row].contains_key(&column::PAIR));

        let of_pairs: Vec<SparseRow> = pair_cells
            .values()
            .map(|cells| {
                let cell = |&(destination, row): &(u32, usize)| {
                    (destination, Candidate::of_value(entry(row).0))
                };
                cells.iter().map(cell).collect()
            })
            .collect();
        let pairs_at = packer.pack(&of_pairs, own as u32)?;
        for (&source, at) in pair_cells.keys().zip(pairs_at) {
            let start = starts[source as usize];
            packer.set(start, column::PAIR, Candidate::of_value(at));
        }
        Ok((0..own).map(entry).collect())
    }

    /// Appends the address tables, whose rows have these `entries`, and returns their fields in the order of the header.
    pub(super) fn tables(
        &self,
        entries: &[Entry],
        layout: &mut Layout,
    ) -> impl Iterator<Item = u32> + use<> {
        let tables = [
            tree::append(&self.source.v4, entries, layout),
            tree::append(&self.destination.v4, entries, layout),
            tree::append(&self.source.v6, entries, layout),
            tree::append(&self.destination.v6, entries, layout),
        ];
        fields(tables)
    }

    /// What becomes of the rows of addresses that come into a list which is part of `sets`, the rows having these `entries`.
    pub(super) fn of_list(
        &self,
        direction: Direction,
        sets: &BTreeSet<SetId>,
        entries: &[Entry],
    ) -> impl Iterator<Item = ListRows> {
        let sides = [(false, &self.source), (true, &self.destination)];
        sides.into_iter().filter_map(move |(is_destination, side)| {
            let own = &entries[side.first_row as usize..];
            let rows: Vec<(&[SetId], Entry)> = (side.members.iter())
                .map(|sets| &sets[..])
                .zip(own.iter().copied())
                .collect();
            let place = (direction, is_destination);
            list_rows(place, sets, &side.named, entries[0], &rows)
        })
    }
}

/// Tables as the header has them.
fn fields<const N: usize>(tables: [AddressTable; N]) -> impl Iterator<Item = u32> {
    tables
        .into_iter()
        .flat_map(|table| table.to_line().words)
        .flat_map(|word| [word as u32, (word >> 32) as u32])
}

impl Side {
    fn build(named: impl Iterator<Item = SetId>, sets: &[AddressSet], first_row: u32) -> Self {
        let named: BTreeSet<SetId> = named.collect();
        let mut members = Members {
            known: HashMap::from([(0, 0)]),
            rows: Vec::new(),
            first_row,
        };
        let v4 = sweep(&named, |set| &sets[set.0].v4, &mut members);
        let v6 = sweep(&named, |set| &sets[set.0].v6, &mut members);
        Self {
            v4,
            v6,
            named,
            members: members.rows,
            first_row,
        }
    }

    fn rows_of(&self, set: SetId) -> impl Iterator<Item = u32> {
        self.members
            .iter()
            .zip(self.first_row..)
            .filter(move |(sets, _)| sets.binary_search(&set).is_ok())
            .map(|(_, row)| row)
    }
}

/// Rows by the combination of sets they stand for. A combination is known by the exclusive or of its sets' fingerprints,
/// which costs the same however many sets there are.
struct Members {
    known: HashMap<u128, u32>,
    rows: Vec<Vec<SetId>>,
    first_row: u32,
}

/// A fingerprint of 128 bits that no one can choose sets to collide in: it is keyed at random for each process.
struct Fingerprints(std::hash::RandomState, std::hash::RandomState);

impl Fingerprints {
    fn of(&self, set: SetId) -> u128 {
        use std::hash::BuildHasher as _;
        u128::from(self.0.hash_one(set)) << 64 | u128::from(self.1.hash_one(set))
    }
}

/// Cuts the address space where membership in any of the `named` sets changes.
fn sweep<'a, A: Address + 'a>(
    named: &BTreeSet<SetId>,
    ranges: impl Fn(SetId) -> &'a Vec<(A, A)>,
    members: &mut Members,
) -> Vec<(A, u32)> {
    let fingerprints = Fingerprints(Default::default(), Default::default());
    let total = named.iter().map(|&set| ranges(set).len()).sum::<usize>();
    let mut edges: Vec<(A, SetId, bool)> = Vec::with_capacity(2 * total);
    for &set in named {
        for &(first, last) in ranges(set) {
            edges.push((first, set, true));
            if let Some(behind) = last.next() {
                edges.push((behind, set, false));
            }
        }
    }
    if edges.is_empty() {
        return Vec::new();
    }
    // Stable, because each set's edges are sorted runs already, which it then only has to merge.
    edges.sort_by_key(|&(address, ..)| address);

    let mut active: BTreeSet<SetId> = BTreeSet::new();
    let mut fingerprint = 0u128;
    let mut cuts: Vec<(A, u32)> = Vec::with_capacity(edges.len() + 1);
    cuts.push((A::ZERO, 0));
    for group in edges.chunk_by(|a, b| a.0 == b.0) {
        for &(_, set, begins) in group {
            fingerprint ^= fingerprints.of(set);
            if begins {
                active.insert(set);
            } else {
                active.remove(&set);
            }
        }
        let row = *members.known.entry(fingerprint).or_insert_with(|| {
            members.rows.push(active.iter().copied().collect());
            members.first_row + members.rows.len() as u32 - 1
        });
        let address = group[0].0;
        match cuts.last_mut() {
            Some(last) if last.0 == address => last.1 = row,
            Some(last) if last.1 == row => {}
            _ => cuts.push((address, row)),
        }
    }
    cuts
}

/// Rows under construction, row 0 first.
struct Rows<'a, 'b, 'c> {
    rules: &'a [&'a Rule],
    services: &'a Services,
    outcomes: &'a mut Outcomes<'b, 'c>,
    shadows: &'a mut Shadows,
    sparse: Vec<SparseRow>,
    /// Cells of all of them.
    cells: usize,
}

impl Rows<'_, '_, '_> {
    fn side(
        &mut self,
        side: &Side,
        rules_of: &HashMap<SetId, Vec<RuleNumber>>,
    ) -> Result<(), CompileError> {
        for sets in &side.members {
            let mut matching: Vec<RuleNumber> = sets
                .iter()
                .filter_map(|set| rules_of.get(set))
                .flatten()
                .copied()
                .collect();
            matching.sort_unstable();
            self.add(&matching)?;
        }
        Ok(())
    }

    /// Adds the row in which `matching` rules (ascending) match.
    fn add(&mut self, matching: &[RuleNumber]) -> Result<(), CompileError> {
        let mut row = SparseRow::new();
        let is_any = |rule: RuleNumber| self.rules[rule as usize].protocol == Protocol::Any;
        let always = matching.iter().copied().find(|&rule| is_any(rule));
        if let Some(rule) = always {
            row.insert(column::ALWAYS, self.outcomes.candidate(rule)?);
            self.shadows.won(rule);
        }
        for &rule in matching {
            match always {
                Some(winner) if rule > winner => {
                    self.shadows.lost(rule, winner);
                    continue;
                }
                Some(winner) if rule == winner => continue,
                _ => {}
            }
            for &column in &self.services.columns_of_rule[rule as usize] {
                match row.entry(column) {
                    btree_map::Entry::Vacant(vacant) => {
                        vacant.insert(self.outcomes.candidate(rule)?);
                        self.shadows.won(rule);
                        self.cells += 1;
                        if self.cells > MAX_CELLS {
                            return Err(CompileError::TooManyCells { limit: MAX_CELLS });
                        }
                    }
                    btree_map::Entry::Occupied(winner) => {
                        self.shadows.lost(rule, winner.get().number());
                    }
                }
            }
        }
        self.sparse.push(row);
        Ok(())
    }
}
