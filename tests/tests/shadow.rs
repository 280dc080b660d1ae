//! A candidate beside the policy in force: where it is said to differ, and only there, the two decide otherwise.

use anyhow::{Context as _, Result, ensure};
use aya::maps::PerCpuArray;
use firewall_common::abi::control::{Control, Place};
use firewall_common::abi::counter::MIN_SLOTS;
use firewall_common::abi::image::Selector;
use firewall_common::abi::question::Question;
use firewall_common::abi::shadow::{Difference, MAP_SHADOW_COUNTERS, Sample, Shadow};
use firewall_common::decide::shadow::{answer, differs};
use firewall_common::decide::{Cause, decide, egress};
use firewall_common::parse::{Fragment, Parsed, parse};
use firewall_common::tables::{HostWorld, World as _};
use firewall_tests::kernel::{lets_in, lets_out, of};
use firewall_tests::policy::{Policy, decide_by};
use firewall_tests::random;
use firewall_user::kernel::image::class_of;
use firewall_user::kernel::instance::Instance;
use firewall_user::rules::model::Action;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

const PAIRS: usize = 150;
const FRAMES: usize = 100;
/// As many of the kernel's, which take longer.
const KERNEL_PAIRS: usize = 40;
const KERNEL_FRAMES: usize = 300;

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
            let candidate = HostWorld::new(&candidate.compiled.image, |_, _| {});
            let tables = candidate.tables().context("no tables")?;
            let asked = |question: &Question| answer(question, &tables);
            let said = differs(&packet, now.outcome(), false, asked, &world);
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

/// The programs count of whole packets and first fragments, whatever has decided them, what the host says is different.
#[test]
fn the_kernel_counts_what_the_host_says() -> Result<()> {
    let (place, candidate_place) = (Place::new(0, 0), Place::new(0, 1));
    let shadow = Shadow {
        place: Control::new(candidate_place, Place::NONE).word,
        ingress_rules: 32,
        egress_rules: 32,
    };
    let mut instance = Instance::load_with_shadow(MIN_SLOTS, &shadow)?;
    let mut runner = TestRunner::default();
    let (rule_sets, frames) = (random::rule_set(), random::frame());
    let mut expected = vec![[0; 3]; shadow.slots() as usize];
    let mut first_fragments = 0;
    for _ in 0..KERNEL_PAIRS {
        let mut policy = || {
            let mut rule_set = generate(&rule_sets, &mut runner);
            rule_set.vlans = None;
            rule_set.defaults.egress = generate(&actions(), &mut runner);
            Policy::new(rule_set)
        };
        let [in_force, candidate] = [policy()?, policy()?].map(|policy| policy.compiled.image);
        ensure!(
            [&in_force, &candidate].map(|image| class_of(image)) == [0, 0],
            "an image of another size"
        );
        instance.install(place, in_force.clone())?;
        instance.install(candidate_place, candidate.clone())?;
        instance.activate(place)?;
        let (world, asked) = (
            HostWorld::new(&in_force, |_, _| {}),
            HostWorld::new(&candidate, |_, _| {}),
        );
        let tables = asked.tables().context("no tables")?;
        for _ in 0..KERNEL_FRAMES {
            let frame = generate(&frames, &mut runner);
            let Ok(Parsed::Ip(packet)) = parse(&frame[..]) else {
                continue;
            };
            for is_egress in [false, true] {
                match packet.fragment {
                    // What is remembered of these is not the host's here.
                    Fragment::Later => continue,
                    // Those that leave as answers are not asked about.
                    Fragment::First if is_egress => continue,
                    Fragment::First => first_fragments += 1,
                    Fragment::Whole => {}
                }
                let (accepts, decision) = if is_egress {
                    let decision = egress::decide(&frame[..], &world);
                    (lets_out(&mut instance, &frame)?, decision)
                } else {
                    let decision = decide(&frame[..], &world);
                    (lets_in(&mut instance, of(&frame))?, decision)
                };
                ensure!(
                    accepts == decision.accepts(),
                    "{packet:?}: let through: {accepts}, {decision:?}"
                );
                let answer = |question: &Question| answer(question, &tables);
                let said = differs(&packet, decision.outcome(), is_egress, answer, &world);
                if let Some((difference, number)) = said {
                    let slot = shadow.slot(is_egress, number, difference);
                    let [packets, bytes, connections] = &mut expected[slot as usize];
                    *packets += 1;
                    *bytes += u64::from(packet.frame_bytes);
                    *connections += u64::from(packet.transport.opens_connection());
                }
            }
        }
        ensure!(
            counted(&mut instance)? == expected,
            "the kernel and the host count otherwise"
        );
    }
    let kinds: Vec<u64> = [0, 1, 64, 65]
        .map(|kind| {
            let slots = expected.iter().skip(kind).step_by(2).take(32);
            slots.map(|[packets, ..]| packets).sum()
        })
        .into();
    println!(
        "would accept, would refuse, arriving and leaving: {kinds:?}; {first_fragments} first fragments"
    );
    ensure!(
        kinds.iter().all(|&count| count > 100) && first_fragments > 50,
        "too few of a kind"
    );
    Ok(())
}

/// Packets, bytes and connections of each counter.
fn counted(instance: &mut Instance) -> Result<Vec<[u64; 3]>> {
    let map = instance.ebpf().map(MAP_SHADOW_COUNTERS);
    let counters = PerCpuArray::<_, [u64; 3]>::try_from(map.context("no counters")?)?;
    (0..counters.len())
        .map(|slot| {
            let of_processors = counters.get(&slot, 0)?;
            Ok(of_processors.iter().fold([0; 3], |sum, counter| {
                [0, 1, 2].map(|field| sum[field] + counter[field])
            }))
        })
        .collect()
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Accept), Just(Action::Drop)]
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
