//! Which packets two rule sets decide otherwise.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use super::merge::Merger;
use super::order;
use crate::rules::addresses::SetBuilder;
use crate::rules::model::{
    Action, AddressSet, Direction, Protocol, Rule, RuleSet, SetId, TcpFlags,
};
use crate::rules::region::Services;
use crate::rules::region::division::Division;
use crate::rules::region::ranges::Extent;
use crate::rules::region::{ranges, services};

/// Packets that are treated otherwise: all those from some addresses to some addresses with some services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which way they go.
    pub direction: Direction,
    /// What happens to them now.
    pub now: Action,
    /// Source addresses.
    pub from: AddressSet,
    /// Destination addresses.
    pub to: AddressSet,
    /// What they carry.
    pub services: Services,
    /// What has decided them.
    pub old: Deciders,
    /// What decides them now.
    pub new: Deciders,
}

/// What decides some packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Deciders {
    /// Indices of the rules that match any of them, in the order in which they are asked. All of them have the same action.
    pub rules: Vec<usize>,
    /// Whether the default decides what these leave.
    pub default: bool,
}

/// Every packet of `direction` that `old` refuses and `new` accepts, or the other way round. No packet is in two changes.
pub(super) fn changes(old: &RuleSet, new: &RuleSet, direction: Direction) -> Vec<Change> {
    let sides = Sides::new([old, new], direction);
    let defaults = [old, new].map(|rule_set| rule_set.defaults.of(direction));
    let within = if defaults[0] == defaults[1] {
        match sides.reach_of_marked() {
            Some(within) => within,
            None => return Vec::new(),
        }
    } else {
        let any = Services::any();
        let [numbers, flags] = [&any.numbers, &any.flags];
        [
            Extent::every_address(),
            Extent::every_address(),
            Extent::narrow(numbers).into_owned(),
            Extent::narrow(flags).into_owned(),
        ]
    };
    let mut division = Division::new(within, defaults);
    for (list, side) in sides.sides.iter().enumerate() {
        for (&index, &marked) in side.rules.iter().zip(&side.marked) {
            let rule = &side.rule_set.rules[index];
            let sets = [rule.from, rule.to].map(|id| sides.set(list, id));
            division.push(list, side.rule_set, index, sets, marked);
        }
    }
    let mut merger = Merger::default();
    let whole: ControlFlow<()> = division.differences(&mut |piece| {
        merger.push(&piece);
        ControlFlow::Continue(())
    });
    debug_assert!(whole.is_continue(), "nothing breaks off");
    merger.finish(direction)
}

/// The rules of both rule sets for one direction.
struct Sides<'a> {
    sides: [Side<'a>; 2],
    /// For each set of either rule set, the one that stands for all that equal it.
    sets: [Vec<&'a AddressSet>; 2],
}

struct Side<'a> {
    rule_set: &'a RuleSet,
    /// Indices of the direction's rules.
    rules: Vec<usize>,
    /// Whether each is not, or not in this order, in the other rule set as well. Packets that only other rules match are decided
    /// alike: by the same rule of both, or by none.
    marked: Vec<bool>,
}

/// What a rule matches and does.
#[derive(PartialEq, Eq, Hash)]
struct Meaning<'a> {
    action: Action,
    protocol: Protocol,
    ports: &'a Option<Vec<(u16, u16)>>,
    icmp_types: &'a Option<Vec<u8>>,
    tcp_flags: Option<TcpFlags>,
    sets: [Option<*const AddressSet>; 2],
}

impl<'a> Sides<'a> {
    fn new(rule_sets: [&'a RuleSet; 2], direction: Direction) -> Self {
        let mut known: HashMap<&AddressSet, &AddressSet> = HashMap::new();
        let sets = rule_sets.map(|rule_set| {
            let sets = rule_set.sets.iter();
            sets.map(|set| *known.entry(set).or_insert(set)).collect()
        });
        let sides = rule_sets.map(|rule_set| {
            let rules: Vec<usize> = (0..rule_set.rules.len())
                .filter(|&index| rule_set.rules[index].direction == direction)
                .collect();
            Side {
                rule_set,
                marked: vec![true; rules.len()],
                rules,
            }
        });
        let mut both = Self { sides, sets };
        both.unmark_what_is_alike();
        both
    }

    fn set(&self, side: usize, id: Option<SetId>) -> Option<&'a AddressSet> {
        id.map(|id| self.sets[side][id.0])
    }

    fn unmark_what_is_alike(&mut self) {
        let mut of_old: HashMap<Meaning<'_>, VecDeque<usize>> = HashMap::new();
        for place in 0..self.sides[0].rules.len() {
            let places = of_old.entry(self.meaning(0, place)).or_default();
            places.push_back(place);
        }
        let pairs: Vec<(usize, usize)> = (0..self.sides[1].rules.len())
            .filter_map(|place| {
                let same = of_old.get_mut(&self.meaning(1, place))?;
                Some((same.pop_front()?, place))
            })
            .collect();
        let places: Vec<usize> = pairs.iter().map(|&(old, _)| old).collect();
        for ((old, new), kept) in pairs.into_iter().zip(order::ascending(&places)) {
            self.sides[0].marked[old] = !kept;
            self.sides[1].marked[new] = !kept;
        }
    }

    fn meaning(&self, side: usize, place: usize) -> Meaning<'a> {
        let rule_set: &'a RuleSet = self.sides[side].rule_set;
        let rule: &'a Rule = &rule_set.rules[self.sides[side].rules[place]];
        Meaning {
            action: rule.action,
            protocol: rule.protocol,
            ports: &rule.ports,
            icmp_types: &rule.icmp_types,
            tcp_flags: rule.tcp_flags,
            sets: [rule.from, rule.to].map(|id| self.set(side, id).map(std::ptr::from_ref)),
        }
    }

    /// How far the marked rules reach in each dimension; `None` if there are none.
    fn reach_of_marked(&self) -> Option<[Extent<'static>; 4]> {
        let marked: Vec<(usize, &Rule)> = self
            .sides
            .iter()
            .enumerate()
            .flat_map(|(list, side)| {
                let rules = side.rules.iter().zip(&side.marked);
                let marked = rules.filter(|(_, marked)| **marked);
                marked.map(move |(&index, _)| (list, &side.rule_set.rules[index]))
            })
            .collect();
        if marked.is_empty() {
            return None;
        }
        let addresses = |of: fn(&Rule) -> Option<SetId>| {
            let sets = marked.iter().map(|(list, rule)| self.set(*list, of(rule)));
            match sets.collect::<Option<Vec<_>>>() {
                None => Extent::every_address(),
                Some(sets) => union(sets),
            }
        };
        let any = Services::any();
        let numbers = marked.iter().flat_map(|(_, rule)| services::numbers(rule));
        Some([
            addresses(|rule| rule.from),
            addresses(|rule| rule.to),
            Extent::narrow(&ranges::union(numbers)).into_owned(),
            Extent::narrow(&any.flags).into_owned(),
        ])
    }
}

/// All addresses of some sets, of which many may be the same one.
fn union(mut sets: Vec<&AddressSet>) -> Extent<'static> {
    sets.sort_unstable_by_key(|set| std::ptr::from_ref(*set));
    sets.dedup_by_key(|set| std::ptr::from_ref(*set));
    let mut all = SetBuilder::default();
    sets.into_iter().for_each(|set| all.add_set(set));
    Extent::addresses(Some(&all.finish())).into_owned()
}
