//! A region divided into pieces in each of which two lists of rules decide every packet alike.
//!
//! One dimension after the other is cut where the sets that rules name in it begin and end; what is in the same sets is one
//! class, however scattered it lies. In a class only its rules are left, and they have one dimension less to be told apart by.
//! A piece is not cut any further once each list has only one answer for it.

use std::ops::ControlFlow;
use std::rc::Rc;

use super::cut::Cut;
use super::division::dimension::{COUNT, DESTINATION, FLAGS, SERVICE, SOURCE};
use super::division::{Division, Entry, Extents};
use crate::rules::model::Action;

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

impl Division<'_> {
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
                focus: Focus::All,
            },
            found,
        )
    }

    fn divide<B>(
        &self,
        node: &Node,
        found: &mut dyn FnMut(Piece<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self.step(node) {
            Step::Done => return ControlFlow::Continue(()),
            Step::Found(actions) => {
                return found(Piece {
                    extents: &node.extents,
                    actions,
                    rules: [0, 1].map(|list| self.rules(list, node)),
                    by_default: [0, 1].map(|list| !self.ends_whole(list, node)),
                });
            }
            Step::Cut => {}
        }
        let (cut, weight) = self.best_cut(node);
        if node.focus == Focus::All {
            let focuses = self.focuses(node);
            let rules: usize = node.lists.iter().map(Vec::len).sum();
            if focuses.len() * rules < weight {
                for focus in focuses {
                    let node = Node {
                        focus,
                        ..node.clone()
                    };
                    self.divide(&node, found)?;
                }
                return ControlFlow::Continue(());
            }
        }
        for class in cut.classes(self.looks_everywhere(node)) {
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
                    focus: node.focus,
                },
                found,
            )?;
        }
        ControlFlow::Continue(())
    }

    fn step(&self, node: &Node) -> Step {
        let answers = [0, 1].map(|list| self.answer(list, node));
        if let [Some(one), Some(other)] = answers
            && one == other
        {
            return Step::Done;
        }
        let is_empty = node.lists.iter().all(Vec::is_empty);
        let is_clear = match node.focus {
            Focus::All if !self.looks_everywhere(node) && !self.any_marked(node) => {
                return Step::Done;
            }
            Focus::All => true,
            Focus::Entry(list, entry) => {
                if !node.lists[list].contains(&entry) {
                    return Step::Done;
                }
                let is_told_of = list == 1 && self.entries(0, node).any(|entry| entry.marked);
                if is_told_of && node.lists[0].len() == 1 && self.ends_whole(0, node) {
                    return Step::Done;
                }
                node.lists[list].len() == 1 && self.ends_whole(list, node) && !is_told_of
            }
            Focus::Defaults if self.ends_whole(0, node) || self.ends_whole(1, node) => {
                return Step::Done;
            }
            Focus::Defaults => is_empty,
        };
        match answers {
            [Some(one), Some(other)] if is_clear => Step::Found([one, other]),
            _ => Step::Cut,
        }
    }

    /// Whether packets matter that no marked rule matches.
    fn looks_everywhere(&self, node: &Node) -> bool {
        match node.focus {
            Focus::All => self.lists[0].default != self.lists[1].default,
            Focus::Entry(..) => false,
            Focus::Defaults => true,
        }
    }

    /// Every focus that together they look at all of a node.
    fn focuses(&self, node: &Node) -> Vec<Focus> {
        let mut focuses = Vec::new();
        for list in [0, 1] {
            let entries = &self.lists[list].entries;
            let marked = node.lists[list]
                .iter()
                .filter(|&&entry| entries[entry].marked);
            focuses.extend(marked.map(|&entry| Focus::Entry(list, entry)));
        }
        if self.looks_everywhere(node) {
            focuses.push(Focus::Defaults);
        }
        focuses
    }

    /// Whether it matters what an entry of a list matches.
    pub(super) fn is_marked(&self, node: &Node, list: usize, entry: usize) -> bool {
        match node.focus {
            Focus::All => self.lists[list].entries[entry].marked,
            Focus::Entry(..) => node.focus == Focus::Entry(list, entry),
            Focus::Defaults => false,
        }
    }

    /// The dimension whose classes have the fewest rules all together, and how many those are.
    fn best_cut<'n>(&'n self, node: &'n Node) -> (Cut<'n>, usize) {
        let everywhere = self.looks_everywhere(node);
        let is_cut = |dimension: usize| node.open[dimension] && self.is_cut(node, dimension);
        // Without the service there is no telling whose flags they are.
        let order = [SOURCE, DESTINATION, SERVICE];
        let cuts = order.into_iter().filter(|&dimension| is_cut(dimension));
        let cuts = cuts.map(|dimension| {
            let cut = Cut::new(self, node, dimension);
            let weight = cut.weight(everywhere);
            (cut, weight)
        });
        let best = cuts.min_by_key(|&(_, weight)| weight);
        best.unwrap_or_else(|| (Cut::new(self, node, FLAGS), 0))
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
#[derive(Clone)]
pub(super) struct Node {
    pub(super) extents: Extents,
    /// Dimensions that have not been cut yet.
    pub(super) open: [bool; COUNT],
    /// Entries of the lists that have something in common with it.
    pub(super) lists: [Vec<usize>; 2],
    pub(super) focus: Focus,
}

/// Which packets of a node are looked at. Where few of many rules are marked, it is much less to look at what each of them is the
/// first to match, one after the other, than at how all of them cut each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
    /// All that may be decided otherwise.
    All,
    /// Those that this entry of this list is the first to match. Of the second list, only those that no marked rule of the first
    /// one has decided: they are that rule's.
    Entry(usize, usize),
    /// Those that no rule matches.
    Defaults,
}

/// What is to be done with a node.
enum Step {
    /// There is nothing in it.
    Done,
    /// It is a piece, with these answers.
    Found([Action; 2]),
    Cut,
}
