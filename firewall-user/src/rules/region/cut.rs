//! A part of a region about to be cut in one dimension: which rules will be in every class, and which name sets.

use std::collections::HashMap;

use super::division::{Division, Extents, Node};
use super::ranges::Extent;
use super::sweep::{Class, Member, Sweep};

/// A way to cut a node.
pub(super) struct Cut<'n> {
    pub(super) dimension: usize,
    extents: &'n Extents,
    members: Vec<Member<'n>>,
    /// Entries of each list by member, ascending.
    of_member: [Vec<Vec<usize>>; 2],
    /// Entries of each list that are in every class.
    everywhere: [Vec<usize>; 2],
    /// The first entries of each list by member.
    firsts: [Vec<Firsts>; 2],
    firsts_everywhere: [Firsts; 2],
}

/// Of some entries, which are known by their place in the list: the first of each kind, [`NONE`] where there is none.
#[derive(Clone, Copy)]
struct Firsts {
    any: usize,
    marked: usize,
    /// That needs no more than to be in the class.
    whole: usize,
}

const NONE: usize = usize::MAX;

impl Firsts {
    const fn none() -> Self {
        Self {
            any: NONE,
            marked: NONE,
            whole: NONE,
        }
    }

    fn add(&mut self, place: usize, marked: bool, whole: bool) {
        self.any = self.any.min(place);
        if marked {
            self.marked = self.marked.min(place);
        }
        if whole {
            self.whole = self.whole.min(place);
        }
    }
}

impl<'n> Cut<'n> {
    pub(super) fn new(division: &'n Division<'n>, node: &'n Node, dimension: usize) -> Self {
        let mut cut = Self {
            dimension,
            extents: &node.extents,
            members: Vec::new(),
            of_member: Default::default(),
            everywhere: Default::default(),
            firsts: Default::default(),
            firsts_everywhere: [Firsts::none(); 2],
        };
        let mut open = node.open;
        open[dimension] = false;
        let mut known: HashMap<usize, usize> = HashMap::new();
        for list in [0, 1] {
            for &rule in &node.lists[list] {
                let entry = &division.lists[list].entries[rule];
                let whole = entry.is_whole(&open);
                let Some(set) = entry.cuts[dimension] else {
                    cut.everywhere[list].push(rule);
                    cut.firsts_everywhere[list].add(rule, entry.marked, whole);
                    continue;
                };
                let member = *known.entry(set).or_insert_with(|| {
                    cut.members.push(Member {
                        extent: &division.sets[dimension][set],
                        rules: 0,
                        marked: false,
                    });
                    for list in [0, 1] {
                        cut.of_member[list].push(Vec::new());
                        cut.firsts[list].push(Firsts::none());
                    }
                    cut.members.len() - 1
                });
                cut.members[member].rules += 1;
                cut.members[member].marked |= entry.marked;
                cut.of_member[list][member].push(rule);
                cut.firsts[list][member].add(rule, entry.marked, whole);
            }
        }
        cut
    }

    /// The classes of interest. What differs only in members that have nothing to say there is one class.
    pub(super) fn classes(&self, everything: bool) -> Vec<Class> {
        let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
        let mut classes: Vec<(Vec<usize>, Vec<Extent<'static>>)> = Vec::new();
        for class in self.sweep(everything).classes() {
            let Some(members) = self.with_a_say(class.members, everything) else {
                continue;
            };
            let index = *known.entry(members).or_insert_with_key(|members| {
                classes.push((members.clone(), Vec::new()));
                classes.len() - 1
            });
            classes[index].1.push(class.extent);
        }
        classes
            .into_iter()
            .map(|(members, extents)| Class {
                extent: Extent::union(extents),
                members,
            })
            .collect()
    }

    /// Those of a class's members with entries before the first that decides all of it; `None` if none of interest is before that.
    fn with_a_say(&self, mut members: Vec<usize>, everything: bool) -> Option<Vec<usize>> {
        let least = |list: usize, kind: fn(&Firsts) -> usize| {
            let firsts = members
                .iter()
                .map(|&member| kind(&self.firsts[list][member]));
            firsts.fold(kind(&self.firsts_everywhere[list]), usize::min)
        };
        let whole = [0, 1].map(|list| least(list, |firsts| firsts.whole));
        let marked = [0, 1].map(|list| least(list, |firsts| firsts.marked));
        let is_of_interest = |list: usize| marked[list] != NONE && marked[list] <= whole[list];
        if !everything && !is_of_interest(0) && !is_of_interest(1) {
            return None;
        }
        members.retain(|&member| {
            let says = |list: usize| {
                let first = self.firsts[list][member].any;
                first != NONE && first <= whole[list]
            };
            says(0) || says(1)
        });
        Some(members)
    }

    fn sweep(&self, everything: bool) -> Sweep<'_> {
        let marked = self
            .firsts_everywhere
            .iter()
            .any(|firsts| firsts.marked != NONE);
        Sweep {
            within: &self.extents[self.dimension],
            members: &self.members,
            all: everything || marked,
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
