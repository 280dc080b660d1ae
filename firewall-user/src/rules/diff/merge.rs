//! Pieces that differ in one dimension alone are one: what a person would have said in one line.

use std::collections::HashMap;
use std::rc::Rc;

use firewall_common::parse::protocol;

use super::packets::{Change, Deciders};
use crate::rules::model::{Action, AddressSet, Direction};
use crate::rules::region::Services;
use crate::rules::region::division::dimension::{COUNT, DESTINATION, FLAGS, SERVICE, SOURCE};
use crate::rules::region::division::{Extents, Piece};
use crate::rules::region::ranges::{Extent, intersection, union};
use crate::rules::region::services;

/// Gathers pieces.
#[derive(Default)]
pub(super) struct Merger {
    extents: Interned,
    pieces: Vec<Merged>,
    deciders: HashMap<[Deciders; 2], usize>,
    of_deciders: Vec<[Deciders; 2]>,
}

/// A piece by the numbers of what it consists of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Merged {
    extents: [usize; COUNT],
    now: Action,
    deciders: usize,
}

impl Merger {
    /// Adds a piece, as far as there are such packets.
    pub(super) fn push(&mut self, piece: &Piece<'_>) {
        let Some(extents) = self.possible(piece.extents) else {
            return;
        };
        let deciders = [0, 1].map(|list| Deciders {
            rules: piece.rules[list].clone(),
            default: piece.by_default[list],
        });
        let next = self.of_deciders.len();
        let number = *self.deciders.entry(deciders.clone()).or_insert(next);
        if number == next {
            self.of_deciders.push(deciders);
        }
        self.pieces.push(Merged {
            extents,
            now: piece.actions[1],
            deciders: number,
        });
    }

    /// The part that packets can have, said in one way: addresses of a family only where the other side and the services have it
    /// too, and all flags where nothing has any. `None` if that is nothing.
    fn possible(&mut self, extents: &Extents) -> Option<[usize; COUNT]> {
        let services = &extents[SERVICE].narrow;
        let [mut v4, mut v6] = services::families(services);
        for side in [SOURCE, DESTINATION] {
            v4 &= !extents[side].narrow.is_empty();
            v6 &= !extents[side].wide.is_empty();
        }
        if !v4 && !v6 {
            return None;
        }
        let mut numbers = [0; COUNT];
        for (dimension, number) in numbers.iter_mut().enumerate() {
            *number = self.extents.number(&extents[dimension]);
        }
        for side in [SOURCE, DESTINATION] {
            numbers[side] = self.extents.of_families(numbers[side], [v4, v6]);
        }
        let tcp = [services::of_protocol(protocol::TCP)];
        if intersection(services, &tcp).is_empty() {
            let any = Extent::narrow(&Services::any().flags).into_owned();
            numbers[FLAGS] = self.extents.own(Rc::new(any));
        }
        Some(numbers)
    }

    /// All of them, merged.
    pub(super) fn finish(mut self, direction: Direction) -> Vec<Change> {
        // What merges in one dimension may then be the same as another in the next.
        loop {
            let before = self.pieces.len();
            for dimension in [FLAGS, SERVICE, SOURCE, DESTINATION] {
                self.merge(dimension);
            }
            if self.pieces.len() == before {
                break;
            }
        }
        let addresses = |extent: &Extent<'_>| AddressSet {
            v4: extent.narrow.to_vec(),
            v6: extent.wide.to_vec(),
        };
        let change = |piece: &Merged| {
            let extent = |dimension: usize| self.extents.get(piece.extents[dimension]);
            let [old, new] = self.of_deciders[piece.deciders].clone();
            Change {
                direction,
                now: piece.now,
                from: addresses(extent(SOURCE)),
                to: addresses(extent(DESTINATION)),
                services: Services {
                    numbers: extent(SERVICE).narrow.to_vec(),
                    flags: extent(FLAGS).narrow.to_vec(),
                },
                old,
                new,
            }
        };
        let mut changes: Vec<Change> = self.pieces.iter().map(change).collect();
        // What is accepted first, each in the order of the rules that are the reason.
        changes.sort_by_key(|change| {
            let reason = match change.now {
                Action::Accept => &change.new,
                Action::Drop => &change.old,
            };
            (change.now == Action::Drop, reason.rules.first().copied())
        });
        changes
    }

    /// Makes one of all pieces that differ in `dimension` alone.
    fn merge(&mut self, dimension: usize) {
        let mut groups: HashMap<Merged, usize> = HashMap::new();
        let mut members: Vec<(Merged, Vec<usize>)> = Vec::new();
        for piece in &self.pieces {
            let mut key = *piece;
            key.extents[dimension] = 0;
            let group = *groups.entry(key).or_insert_with(|| {
                members.push((*piece, Vec::new()));
                members.len() - 1
            });
            members[group].1.push(piece.extents[dimension]);
        }
        self.pieces.clear();
        for (mut piece, extents) in members {
            if extents.len() > 1 {
                piece.extents[dimension] = self.extents.union(&extents);
            }
            self.pieces.push(piece);
        }
    }
}

/// Extents by number, each once.
#[derive(Default)]
struct Interned {
    known: HashMap<Rc<Extent<'static>>, usize>,
    /// The same by where they lie, for one of a million ranges is not to be compared for each piece. Each is kept, so that no other
    /// comes to lie there.
    by_place: HashMap<*const Extent<'static>, (usize, Rc<Extent<'static>>)>,
    /// What is left of one with IPv4, with IPv6.
    of_families: HashMap<(usize, [bool; 2]), usize>,
    all: Vec<Rc<Extent<'static>>>,
}

impl Interned {
    fn number(&mut self, extent: &Rc<Extent<'static>>) -> usize {
        if let Some(&(number, _)) = self.by_place.get(&Rc::as_ptr(extent)) {
            return number;
        }
        let number = self.own(Rc::clone(extent));
        self.by_place
            .insert(Rc::as_ptr(extent), (number, Rc::clone(extent)));
        number
    }

    fn own(&mut self, extent: Rc<Extent<'static>>) -> usize {
        let next = self.all.len();
        let number = *self.known.entry(Rc::clone(&extent)).or_insert(next);
        if number == next {
            self.all.push(extent);
        }
        number
    }

    fn get(&self, number: usize) -> &Extent<'static> {
        &self.all[number]
    }

    fn of_families(&mut self, number: usize, families: [bool; 2]) -> usize {
        if let Some(&known) = self.of_families.get(&(number, families)) {
            return known;
        }
        let mut left = Extent::clone(&self.all[number]);
        if !families[0] {
            left.narrow = Default::default();
        }
        if !families[1] {
            left.wide = Default::default();
        }
        let left = self.own(Rc::new(left));
        self.of_families.insert((number, families), left);
        left
    }

    fn union(&mut self, numbers: &[usize]) -> usize {
        let all = || numbers.iter().map(|&number| &self.all[number]);
        let union = Extent {
            narrow: union(all().flat_map(|extent| extent.narrow.iter().copied())).into(),
            wide: union(all().flat_map(|extent| extent.wide.iter().copied())).into(),
        };
        self.own(Rc::new(union))
    }
}
