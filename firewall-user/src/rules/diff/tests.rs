//! Differences against a walk over both rule sets, with random rule sets and packets.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::rules::compile::tests::{action, packet, rule, rule_set};
use crate::rules::model::{Action, Rule};
use crate::rules::oracle;
use crate::rules::region::Region;
use crate::rules::region::tests::{can_come, decided};
use firewall_common::parse::Packet;

impl Change {
    fn region(&self) -> Region {
        Region {
            direction: self.direction,
            from: Some(self.from.clone()),
            to: Some(self.to.clone()),
            services: self.services.clone(),
        }
    }
}

/// A change of one rule or default.
#[derive(Clone, Debug)]
enum Edit {
    Remove(Index),
    Insert(Index, Rule),
    Replace(Index, Rule),
    Move(Index, Index),
    Turn(Index),
    Default(Action),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<Index>().prop_map(Edit::Remove),
        (any::<Index>(), rule(1)).prop_map(|(at, rule)| Edit::Insert(at, rule)),
        (any::<Index>(), rule(1)).prop_map(|(at, rule)| Edit::Replace(at, rule)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Move(from, to)),
        any::<Index>().prop_map(Edit::Turn),
        action().prop_map(Edit::Default),
    ]
}

fn edited(mut rule_set: RuleSet, edits: &[Edit]) -> RuleSet {
    for edit in edits {
        let rules = &mut rule_set.rules;
        let count = rules.len();
        match edit {
            Edit::Insert(at, rule) => rules.insert(at.index(count + 1), rule.clone()),
            Edit::Default(action) => rule_set.defaults.ingress = *action,
            _ if count == 0 => {}
            Edit::Remove(at) => drop(rules.remove(at.index(count))),
            Edit::Replace(at, rule) => rules[at.index(count)] = rule.clone(),
            Edit::Move(from, to) => {
                let rule = rules.remove(from.index(count));
                rules.insert(to.index(count), rule);
            }
            Edit::Turn(at) => {
                let rule = &mut rules[at.index(count)];
                rule.action = match rule.action {
                    Action::Accept => Action::Drop,
                    Action::Drop => Action::Accept,
                };
            }
        }
    }
    for (index, rule) in rule_set.rules.iter_mut().enumerate() {
        rule.name = format!("rule {index}");
    }
    rule_set
}

fn check(old: &RuleSet, new: &RuleSet, packets: &[Packet]) -> Result<(), TestCaseError> {
    let changes = super::packets(old, new);
    let regions: Vec<Region> = changes.iter().map(Change::region).collect();
    for packet in packets.iter().filter(|packet| can_come(packet)) {
        // Later fragments do not say what they carry; what their first one does is what counts.
        if packet.transport.selector.is_none()
            && crate::rules::region::services::selector(packet.transport.protocol).is_some()
        {
            continue;
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let [before, after] = [old, new].map(|rule_set| decided(rule_set, direction, packet));
            let told: Vec<&Change> = changes
                .iter()
                .zip(&regions)
                .filter(|(change, region)| change.direction == direction && region.contains(packet))
                .map(|(change, _)| change)
                .collect();
            prop_assert_eq!(told.len(), usize::from(before != after), "{:?}", packet);
            if let [change] = told[..] {
                prop_assert_eq!(change.now, after);
                for (rule_set, deciders) in [(old, &change.old), (new, &change.new)] {
                    match oracle::first_match(rule_set, direction, packet) {
                        Some(rule) => prop_assert!(deciders.rules.contains(&rule)),
                        None => prop_assert!(deciders.default),
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_edit_changes_exactly_what_a_walk_says(
        old in rule_set(),
        edits in prop::collection::vec(edit(), 0..4),
        packets in prop::collection::vec(packet(), 100),
    ) {
        let new = edited(old.clone(), &edits);
        check(&old, &new, &packets)?;
    }

    #[test]
    fn unlike_rule_sets_differ_in_exactly_what_a_walk_says(
        old in rule_set(),
        new in rule_set(),
        packets in prop::collection::vec(packet(), 100),
    ) {
        check(&old, &new, &packets)?;
    }

    #[test]
    fn nothing_changes_without_a_change(rule_set in rule_set()) {
        prop_assert_eq!(super::packets(&rule_set, &rule_set), []);
    }
}
