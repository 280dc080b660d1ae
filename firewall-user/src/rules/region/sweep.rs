//! One dimension of a region cut into classes: what is in the same sets, and so is all the same to rules.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use super::ranges::{Extent, Number, intersection};

/// A set that some rules name.
pub(super) struct Member<'a> {
    pub(super) extent: &'a Extent<'a>,
    /// How many rules name it.
    pub(super) rules: usize,
    /// Whether one of them is of interest.
    pub(super) marked: bool,
}

/// What is in the same sets.
pub(super) struct Class {
    pub(super) extent: Extent<'static>,
    /// Indices of the sets, ascending.
    pub(super) members: Vec<usize>,
}

/// Cuts of one dimension of a region.
pub(super) struct Sweep<'a> {
    /// The region in this dimension.
    pub(super) within: &'a Extent<'a>,
    pub(super) members: &'a [Member<'a>],
    /// Whether classes are of interest that no marked set is in.
    pub(super) all: bool,
}

impl Sweep<'_> {
    /// How many rules the classes name in all, where `everywhere` rules are in each class.
    pub(super) fn weight(&self, everywhere: usize) -> usize {
        let mut known = HashSet::new();
        let mut weight = 0;
        self.walk(&mut |step, _| {
            if known.insert(step.fingerprint) {
                weight += everywhere + step.rules;
            }
        });
        weight
    }

    /// The classes of interest.
    pub(super) fn classes(&self) -> Vec<Class> {
        let mut known: HashMap<u128, usize> = HashMap::new();
        let mut classes: Vec<Class> = Vec::new();
        self.walk(&mut |step, range| {
            let index = *known.entry(step.fingerprint).or_insert_with(|| {
                classes.push(Class {
                    extent: Extent::default(),
                    members: step.active.iter().copied().collect(),
                });
                classes.len() - 1
            });
            let extent = &mut classes[index].extent;
            match range {
                Range::Narrow(first, last) => append(extent.narrow.to_mut(), first, last),
                Range::Wide(first, last) => append(extent.wide.to_mut(), first, last),
            }
        });
        classes
    }

    /// Calls `visit` for each range in which nothing changes, ascending.
    fn walk(&self, visit: &mut dyn FnMut(&Step, Range)) {
        let fingerprints = Fingerprints::default();
        let fingerprints: Vec<u128> = (0..self.members.len())
            .map(|set| fingerprints.of(set))
            .collect();
        self.walk_ranges(
            &self.within.narrow,
            |member| &member.extent.narrow,
            &fingerprints,
            &mut |step, (first, last)| visit(step, Range::Narrow(first, last)),
        );
        self.walk_ranges(
            &self.within.wide,
            |member| &member.extent.wide,
            &fingerprints,
            &mut |step, (first, last)| visit(step, Range::Wide(first, last)),
        );
    }

    fn walk_ranges<N: Number>(
        &self,
        within: &[(N, N)],
        ranges: impl for<'m> Fn(&'m Member<'_>) -> &'m [(N, N)],
        fingerprints: &[u128],
        visit: &mut dyn FnMut(&Step, (N, N)),
    ) {
        let mut edges: Vec<(N, usize)> = Vec::new();
        let mut push = |set: usize, ranges: &[(N, N)]| {
            for &(first, last) in ranges {
                edges.push((first, set));
                edges.extend(last.next().map(|behind| (behind, set)));
            }
        };
        for (set, member) in self.members.iter().enumerate() {
            push(set, &intersection(ranges(member), within));
        }
        // What no set has is of interest only where all is; the region's own edges have the number behind those of the sets.
        if self.all {
            push(self.members.len(), within);
        }
        // Stable, because each set's edges are sorted runs already, which it then only has to merge.
        edges.sort_by_key(|&(at, _)| at);

        let mut step = Step::default();
        let mut groups = edges.chunk_by(|a, b| a.0 == b.0).peekable();
        while let Some(group) = groups.next() {
            for &(_, set) in group {
                self.cross(&mut step, set, fingerprints);
            }
            let is_of_interest = if self.all {
                step.inside
            } else {
                step.marked > 0
            };
            if !is_of_interest {
                continue;
            }
            let last = match groups.peek() {
                Some(next) => next[0].0.previous(),
                None => N::MAX,
            };
            visit(&step, (group[0].0, last));
        }
    }

    /// Goes over an edge of a set: into it or out of it.
    fn cross(&self, step: &mut Step, set: usize, fingerprints: &[u128]) {
        let Some(member) = self.members.get(set) else {
            step.inside = !step.inside;
            return;
        };
        step.fingerprint ^= fingerprints[set];
        if step.active.insert(set) {
            step.rules += member.rules;
            step.marked += usize::from(member.marked);
        } else {
            step.active.remove(&set);
            step.rules -= member.rules;
            step.marked -= usize::from(member.marked);
        }
    }
}

/// Which sets a range is in.
#[derive(Default)]
struct Step {
    active: BTreeSet<usize>,
    /// Exclusive or of the sets' fingerprints, by which a combination is known at the same cost however many there are.
    fingerprint: u128,
    /// How many rules name them.
    rules: usize,
    /// How many are marked.
    marked: usize,
    /// Whether the region has it, where its edges are gone over too.
    inside: bool,
}

enum Range {
    Narrow(u32, u32),
    Wide(u128, u128),
}

/// Fingerprints of 128 bits that no one can choose sets to collide in: they are keyed at random.
#[derive(Default)]
struct Fingerprints(RandomState, RandomState);

impl Fingerprints {
    fn of(&self, set: usize) -> u128 {
        u128::from(self.0.hash_one(set)) << 64 | u128::from(self.1.hash_one(set))
    }
}

/// Appends a range to those before it.
fn append<N: Number>(ranges: &mut Vec<(N, N)>, first: N, last: N) {
    match ranges.last_mut() {
        Some(before) if before.1.next() == Some(first) => before.1 = last,
        _ => ranges.push((first, last)),
    }
}
