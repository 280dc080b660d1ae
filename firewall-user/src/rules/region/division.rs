//! A region and two lists of rules to divide it by: which rules have something in common with it, and which sets cut it.

use std::collections::HashMap;
use std::rc::Rc;

use super::ranges::Extent;
use super::services;
use crate::rules::model::{Action, AddressSet, Protocol, Rule, RuleSet};

/// What packets are told apart by.
pub(in crate::rules) mod dimension {
    pub(in crate::rules) const SOURCE: usize = 0;
    pub(in crate::rules) const DESTINATION: usize = 1;
    pub(in crate::rules) const SERVICE: usize = 2;
    /// Of TCP alone, so this is cut only where the service has been.
    pub(in crate::rules) const FLAGS: usize = 3;
    pub(in crate::rules) const COUNT: usize = 4;
}

use dimension::{COUNT, DESTINATION, FLAGS, SERVICE, SOURCE};

/// A product of one set a dimension.
pub(in crate::rules) type Extents = [Rc<Extent<'static>>; COUNT];

/// A region to be divided, and what divides it.
pub(in crate::rules) struct Division<'a> {
    pub(super) within: Extents,
    /// Sets that cut the region, each once.
    pub(super) sets: [Vec<Extent<'a>>; COUNT],
    /// What is known of address sets, by where they lie.
    addresses: [HashMap<*const AddressSet, Relation>; 2],
    /// The same of services and flags.
    services: [HashMap<Vec<(u32, u32)>, Relation>; 2],
    pub(super) lists: [List; 2],
}

/// Rules in the order in which they are asked, and what holds if none matches.
pub(super) struct List {
    pub(super) entries: Vec<Entry>,
    pub(super) default: Action,
}

/// A rule that has something in common with the region.
pub(super) struct Entry {
    /// Index into its rule set.
    pub(super) rule: usize,
    pub(super) action: Action,
    /// Sets that cut the region; without one it is covered in that dimension.
    pub(super) cuts: [Option<usize>; COUNT],
    pub(super) marked: bool,
}

#[derive(Clone, Copy)]
enum Relation {
    Apart,
    Covers,
    Cuts(usize),
}

impl<'a> Division<'a> {
    /// To divide `within` by two lists without rules yet.
    pub(in crate::rules) fn new(within: [Extent<'static>; COUNT], defaults: [Action; 2]) -> Self {
        Self {
            within: within.map(Rc::new),
            sets: Default::default(),
            addresses: Default::default(),
            services: Default::default(),
            lists: defaults.map(|default| List {
                entries: Vec::new(),
                default,
            }),
        }
    }

    /// Appends a rule to a list. Where the defaults are the same, only packets that some marked rule matches are looked at: of
    /// all others the lists must have the same to say. Equal sets should lie in the same place.
    pub(in crate::rules) fn push(
        &mut self,
        list: usize,
        rule_set: &RuleSet,
        rule: usize,
        [from, to]: [Option<&'a AddressSet>; 2],
        marked: bool,
    ) {
        let asked: &Rule = &rule_set.rules[rule];
        let relations = [self.address(SOURCE, from), self.address(DESTINATION, to)];
        if relations
            .iter()
            .any(|relation| matches!(relation, Relation::Apart))
        {
            return;
        }
        let [source, destination] = relations;
        // Most rules ask for no flags, and many for no service: what they cover needs no comparison.
        let service = match asked.protocol {
            Protocol::Any => Relation::Covers,
            Protocol::Number(_) => self.narrow(SERVICE, services::numbers(asked)),
        };
        let flags = match asked.tcp_flags {
            None => Relation::Covers,
            flags => self.narrow(FLAGS, services::flag_bytes(flags)),
        };
        let relations = [source, destination, service, flags];
        let mut cuts = [None; COUNT];
        for (cut, relation) in cuts.iter_mut().zip(relations) {
            match relation {
                Relation::Apart => return,
                Relation::Covers => {}
                Relation::Cuts(set) => *cut = Some(set),
            }
        }
        self.lists[list].entries.push(Entry {
            rule,
            action: asked.action,
            cuts,
            marked,
        });
    }

    fn address(&mut self, dimension: usize, set: Option<&'a AddressSet>) -> Relation {
        let Some(set) = set else {
            return Relation::Covers;
        };
        let place = std::ptr::from_ref(set);
        if let Some(&known) = self.addresses[dimension].get(&place) {
            return known;
        }
        let relation = self.relation(dimension, Extent::addresses(Some(set)));
        self.addresses[dimension].insert(place, relation);
        relation
    }

    fn narrow(&mut self, dimension: usize, ranges: Vec<(u32, u32)>) -> Relation {
        if let Some(&known) = self.services[dimension - SERVICE].get(&ranges) {
            return known;
        }
        let extent = Extent::narrow(&ranges).into_owned();
        let relation = self.relation(dimension, extent);
        self.services[dimension - SERVICE].insert(ranges, relation);
        relation
    }

    fn relation(&mut self, dimension: usize, set: Extent<'a>) -> Relation {
        let within = &self.within[dimension];
        if set.covers(within) {
            Relation::Covers
        } else if set.meets(within) {
            self.sets[dimension].push(set);
            Relation::Cuts(self.sets[dimension].len() - 1)
        } else {
            Relation::Apart
        }
    }
}

impl Entry {
    pub(super) fn is_whole(&self, open: &[bool; COUNT]) -> bool {
        let mut dimensions = self.cuts.iter().zip(open);
        dimensions.all(|(cut, open)| cut.is_none() || !open)
    }
}
