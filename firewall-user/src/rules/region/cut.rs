//! A part of a region about to be cut in one dimension: which rules will be in every class, and which name sets.

use std::collections::HashMap;

use super::division::{Division, Extents, Node};
use super::sweep::{Member, Sweep};

/// A way to cut a node.
pub(super) struct Cut<'n> {
    pub(super) dimension: usize,
    extents: &'n Extents,
    members: Vec<Member<'n>>,
    /// Entries of each list by member, ascending.
    of_member: [Vec<Vec<usize>>; 2],
    /// Entries of each list that are in every class.
    everywhere: [Vec<usize>; 2],
    /// Whether one of those is marked.
    marked_everywhere: bool,
}

impl<'n> Cut<'n> {
    pub(super) fn new(division: &'n Division<'n>, node: &'n Node, dimension: usize) -> Self {
        let mut cut = Self {
            dimension,
            extents: &node.extents,
            members: Vec::new(),
            of_member: Default::default(),
            everywhere: Default::default(),
            marked_everywhere: false,
        };
        let mut known: HashMap<usize, usize> = HashMap::new();
        for list in [0, 1] {
            for &rule in &node.lists[list] {
                let entry = &division.lists[list].entries[rule];
                let Some(set) = entry.cuts[dimension] else {
                    cut.everywhere[list].push(rule);
                    cut.marked_everywhere |= entry.marked;
                    continue;
                };
                let member = *known.entry(set).or_insert_with(|| {
                    cut.members.push(Member {
                        extent: &division.sets[dimension][set],
                        rules: 0,
                        marked: false,
                    });
                    cut.of_member[0].push(Vec::new());
                    cut.of_member[1].push(Vec::new());
                    cut.members.len() - 1
                });
                cut.members[member].rules += 1;
                cut.members[member].marked |= entry.marked;
                cut.of_member[list][member].push(rule);
            }
        }
        cut
    }

    pub(super) fn sweep(&self, everything: bool) -> Sweep<'_> {
        Sweep {
            within: &self.extents[self.dimension],
            members: &self.members,
            all: everything || self.marked_everywhere,
        }
    }

    pub(super) fn weight(&self, everything: bool) -> usize {
        let everywhere = self.everywhere.iter().map(Vec::len).sum();
        self.sweep(everything).weight(everywhere)
    }

    /// Entries of a list in the class of these members, ascending.
    pub(super) fn rules_of(&self, list: usize, members: &[usize]) -> impl Iterator<Item = usize> {
        let of_members = members
            .iter()
            .flat_map(|&member| &self.of_member[list][member]);
        let mut own: Vec<usize> = of_members.copied().collect();
        own.sort_unstable();
        let mut own = own.into_iter().peekable();
        let mut everywhere = self.everywhere[list].iter().copied().peekable();
        std::iter::from_fn(move || match (own.peek(), everywhere.peek()) {
            (Some(one), Some(other)) if one < other => own.next(),
            (_, Some(_)) => everywhere.next(),
            (_, None) => own.next(),
        })
    }
}
