//! A candidate beside the policy in force: where it is said to differ, and only there, the two decide otherwise.

use anyhow::{Result, ensure};
use firewall_common::abi::image::{Line, Selector};
use firewall_common::abi::shadow::{Difference, Sample, Shadow};
use firewall_common::decide::Cause;
use firewall_common::decide::shadow::{Candidate, differs, find};
use firewall_common::parse::{Fragment, Packet, Parsed, parse};
use firewall_common::tables::{HostTables, HostWorld, World as _};
use firewall_tests::policy::{Policy, decide_by};
use firewall_tests::random;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

const PAIRS: usize = 150;
const FRAMES: usize = 100;

/// A policy in plain memory that is only asked.
struct Asked<'a>(&'a [Line]);

impl<'a> Candidate for Asked<'a> {
    type Tables = HostTables<'a>;

    fn tables(&self) -> Option<HostTables<'a>> {
        HostWorld::new(self.0, |_, _| {}).tables()
    }

    fn find(&self, packet: &Packet, at: u32, answered: bool) -> Option<(bool, u32)> {
        find(packet, at, answered, &self.tables()?)
    }
}

#[test]
fn a_candidate_differs_where_it_would_decide_otherwise() -> Result<()> {
    let mut runner = TestRunner::default();
    let (rule_sets, frames) = (random::rule_set(), random::frame());
    let mut found = [0; 3];
    for _ in 0..PAIRS {
        let mut policy = || {
            let mut rule_set = generate(&rule_sets, &mut runner);
            // VLANs are not compared.
            rule_set.vlans = None;
            Policy::new(rule_set)
        };
        let (in_force, candidate) = (policy()?, policy()?);
        for _ in 0..FRAMES {
            let frame = generate(&frames, &mut runner);
            let Ok(Parsed::Ip(packet)) = parse(&frame[..]) else {
                continue;
            };
            // ICMP errors go by what they quote, and are left out.
            if !matches!(packet.fragment, Fragment::Whole) || packet.transport.is_icmp_error() {
                continue;
            }
            let now = decide_by(&in_force.compiled.image, &frame).decision;
            let then = decide_by(&candidate.compiled.image, &frame).decision;
            let world = HostWorld::new(&in_force.compiled.image, |_, _| {});
            let asked = Asked(&candidate.compiled.image);
            let said = differs(&packet, now.outcome(), false, &asked, &world);
            // Of TCP, what is let through is looked at where a connection is opened.
            let goes_on = now.accepts()
                && matches!(packet.transport.selector, Some(Selector::Tcp))
                && !packet.transport.opens_connection();
            let expected = match (now.accepts(), then.accepts()) {
                _ if goes_on => None,
                (true, false) => Some(Difference::Refuses),
                (false, true) => Some(Difference::Accepts),
                _ => None,
            };
            ensure!(
                said.map(|(difference, _)| difference) == expected,
                "{packet:?}: now {now:?}, then {then:?}, said {said:?}"
            );
            if let (Some((_, number)), Cause::Rule(rule)) = (said, then.cause()) {
                ensure!(
                    number == rule,
                    "rule {rule} decides, and {number} is counted"
                );
            }
            found[said.map_or(2, |(difference, _)| difference as usize)] += 1;
        }
    }
    println!("would accept, would refuse, alike: {found:?}");
    ensure!(
        found.iter().all(|&count| count > 100),
        "too few of a kind: {found:?}"
    );
    Ok(())
}

#[test]
fn every_rule_has_counters_of_its_own() {
    let shadow = Shadow {
        place: 0,
        ingress_rules: 3,
        egress_rules: 2,
    };
    let mut slots = Vec::new();
    for (is_egress, rules) in [(false, 3), (true, 2)] {
        for number in 0..rules {
            for difference in [Difference::Accepts, Difference::Refuses] {
                slots.push(shadow.slot(is_egress, number, difference));
            }
        }
    }
    assert_eq!(slots, (0..shadow.slots()).collect::<Vec<_>>());
    // What no rule says is the default's, and nothing lies behind that.
    for number in [2, 3, Shadow::NO_RULE] {
        assert_eq!(shadow.slot(false, number, Difference::Refuses), 5);
    }
    assert_eq!(shadow.slot(true, Shadow::NO_RULE, Difference::Accepts), 8);
}

#[test]
fn samples_are_spread_over_time_and_place() {
    let places: Vec<u32> = (0..=1 << 16)
        .filter_map(|count| Sample::place(7, count))
        .collect();
    // 0, which no packet has as its number, then 1, 2, 4 and so on.
    assert_eq!(places.len(), 18);
    let different: std::collections::BTreeSet<_> = places[1..].iter().collect();
    assert_eq!(different.len(), 17);
    let last = firewall_common::abi::shadow::SAMPLES;
    assert!(places.iter().all(|&place| place < last));
}

fn generate<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, runner: &mut TestRunner) -> T {
    strategy.new_tree(runner).expect("generated").current()
}
