//! A region divided into pieces in each of which two lists of rules decide every packet alike.
//!
//! One dimension after the other is cut where the sets that rules name in it begin and end; what is in the same sets is one
//! class, however scattered it lies. In a class only its rules are left, and they have one dimension less to be told apart by.
//! A piece is not cut any further once each list has only one answer for it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;

use super::cut::Cut;
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
    within: Extents,
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
    default: Action,
}

/// A rule that has something in common with the region.
pub(super) struct Entry {
    /// Index into its rule set.
    rule: usize,
    action: Action,
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

/// Packets that each list has only one answer for, and another one than the other list.
pub(in crate::rules) struct Piece<'p> {
    pub(in crate::rules) extents: &'p Extents,
    /// The answers.
    pub(in crate::rules) actions: [Action; 2],
    /// Indices of the rules that match some of it, in the order in which they are asked. Only the last may match all of it.
    pub(in crate::rules) rules: [Vec<usize>; 2],
    /// Whether the default may have to answer.
    pub(in crate::rules) by_default: [bool; 2],
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

    /// Calls `found` with each piece that the lists have different answers for, until it breaks.
    pub(in crate::rules) fn differences<B>(
        &self,
        found: &mut dyn FnMut(Piece<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let open =
            [SOURCE, DESTINATION, SERVICE, FLAGS].map(|dimension| !self.sets[dimension].is_empty());
        let lists = [0, 1].map(|list| {
            let all = 0..self.lists[list].entries.len();
            self.until_whole(list, &open, all)
        });
        self.divide(
            &Node {
                extents: self.within.clone(),
                open,
                lists,
            },
            found,
        )
    }

    fn divide<B>(
        &self,
        node: &Node,
        found: &mut dyn FnMut(Piece<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let everything = self.lists[0].default != self.lists[1].default;
        if !everything && !self.any_marked(node) {
            return ControlFlow::Continue(());
        }
        let answers = [0, 1].map(|list| self.answer(list, node));
        if let [Some(one), Some(other)] = answers {
            if one == other {
                return ControlFlow::Continue(());
            }
            return found(Piece {
                extents: &node.extents,
                actions: [one, other],
                rules: [0, 1].map(|list| self.rules(list, node)),
                by_default: [0, 1].map(|list| !self.ends_whole(list, node)),
            });
        }
        let cut = self.best_cut(node, everything);
        for class in cut.classes(everything) {
            let mut extents = node.extents.clone();
            extents[cut.dimension] = Rc::new(class.extent);
            if is_impossible(&extents) {
                continue;
            }
            let mut open = node.open;
            open[cut.dimension] = false;
            let lists = [0, 1].map(|list| {
                let rules = cut.rules_of(list, &class.members);
                self.until_whole(list, &open, rules)
            });
            self.divide(
                &Node {
                    extents,
                    open,
                    lists,
                },
                found,
            )?;
        }
        ControlFlow::Continue(())
    }

    /// The dimension whose classes have the fewest rules all together.
    fn best_cut<'n>(&'n self, node: &'n Node, everything: bool) -> Cut<'n> {
        let is_cut = |dimension: usize| node.open[dimension] && self.is_cut(node, dimension);
        // Without the service there is no telling whose flags they are.
        let order = [SOURCE, DESTINATION, SERVICE];
        let mut cuts: Vec<Cut<'_>> = order
            .into_iter()
            .filter(|&dimension| is_cut(dimension))
            .map(|dimension| Cut::new(self, node, dimension))
            .collect();
        if cuts.len() > 1 {
            cuts.sort_by_cached_key(|cut| cut.weight(everything));
        }
        match cuts.into_iter().next() {
            Some(cut) => cut,
            None => Cut::new(self, node, FLAGS),
        }
    }

    fn is_cut(&self, node: &Node, dimension: usize) -> bool {
        [0, 1].into_iter().any(|list| {
            let entries = self.entries(list, node);
            entries
                .into_iter()
                .any(|entry| entry.cuts[dimension].is_some())
        })
    }

    /// Rules up to the first that covers the node in all dimensions that are still open.
    fn until_whole(
        &self,
        list: usize,
        open: &[bool; COUNT],
        rules: impl IntoIterator<Item = usize>,
    ) -> Vec<usize> {
        let mut kept = Vec::new();
        for rule in rules {
            kept.push(rule);
            if self.lists[list].entries[rule].is_whole(open) {
                break;
            }
        }
        kept
    }

    fn entries<'n>(&'n self, list: usize, node: &'n Node) -> impl Iterator<Item = &'n Entry> {
        let entries = &self.lists[list].entries;
        node.lists[list].iter().map(|&rule| &entries[rule])
    }

    fn any_marked(&self, node: &Node) -> bool {
        [0, 1]
            .into_iter()
            .any(|list| self.entries(list, node).any(|entry| entry.marked))
    }

    fn ends_whole(&self, list: usize, node: &Node) -> bool {
        let last = node.lists[list].last();
        last.is_some_and(|&rule| self.lists[list].entries[rule].is_whole(&node.open))
    }

    /// What a list has to say of all packets of a node, if it is one thing.
    fn answer(&self, list: usize, node: &Node) -> Option<Action> {
        let mut actions = self.entries(list, node).map(|entry| entry.action);
        let default = self.lists[list].default;
        let first = actions.next().unwrap_or(default);
        let is_one = (self.ends_whole(list, node) || first == default)
            && actions.all(|action| action == first);
        is_one.then_some(first)
    }

    fn rules(&self, list: usize, node: &Node) -> Vec<usize> {
        self.entries(list, node).map(|entry| entry.rule).collect()
    }
}

impl Entry {
    pub(super) fn is_whole(&self, open: &[bool; COUNT]) -> bool {
        let mut dimensions = self.cuts.iter().zip(open);
        dimensions.all(|(cut, open)| cut.is_none() || !open)
    }
}

/// Whether no packet has all of this: there are none from IPv4 to IPv6 addresses.
fn is_impossible(extents: &Extents) -> bool {
    let has = |dimension: usize| {
        let extent = &extents[dimension];
        [!extent.narrow.is_empty(), !extent.wide.is_empty()]
    };
    let ([from_v4, from_v6], [to_v4, to_v6]) = (has(SOURCE), has(DESTINATION));
    !(from_v4 && to_v4 || from_v6 && to_v6)
}

/// A part of the region.
pub(super) struct Node {
    pub(super) extents: Extents,
    /// Dimensions that have not been cut yet.
    pub(super) open: [bool; COUNT],
    /// Entries of the lists that have something in common with it.
    pub(super) lists: [Vec<usize>; 2],
}
