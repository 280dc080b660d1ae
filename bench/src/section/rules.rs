//! Rules "source CIDR, protocol, destination port: accept", 10 to 10,000 of them.

use anyhow::{Context as _, Result};

use super::Bench;
use crate::{
    lpm::{LPM, Lpm},
    policy::Policy,
    random::Random,
    report::{Better, FIREWALL, Section},
    rule_list::{self, Traffic},
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "rules",
    title: "Rules: source CIDR, protocol, destination port: accept; default drop",
    unit: "ns/packet",
    note: "Above an empty XDP program, 65,536 different packets. CIDRs: 50 % /32, 25 % /24, 24 % /16-/31, 1 % /8-/15; tcp or \
           udp; ports from 1024. Sources of packets that match none lie in no CIDR. The LPM trie checks nothing else.",
    better: Better::Lower,
};

/// Sizes, with what dropping by default and matching any rule should cost at most.
const SIZES: [(usize, Aims); 4] = [
    (
        10,
        Aims {
            none: 14.0,
            any: None,
        },
    ),
    (
        100,
        Aims {
            none: 14.0,
            any: None,
        },
    ),
    (
        1_000,
        Aims {
            none: 15.0,
            any: Some(24.0),
        },
    ),
    (
        10_000,
        Aims {
            none: 18.0,
            any: Some(45.0),
        },
    ),
];

/// Sizes of a first look.
const QUICK: [usize; 2] = [10, 1_000];

struct Aims {
    none: f64,
    any: Option<f64>,
}

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    for (count, aims) in SIZES {
        if bench.quick && !QUICK.contains(&count) {
            continue;
        }
        let case = |traffic: Traffic| format!("{count} rules, {}", traffic.name());
        if !Traffic::ALL
            .iter()
            .any(|&traffic| bench.wants(&case(traffic)))
        {
            continue;
        }
        let mut random = Random::new(count as u64);
        let rules = rule_list::take(count, &mut random);
        let path = bench.file("rules.toml", &rule_list::file(&rules))?;
        let mut policy = Policy::load(&path)?;
        let mut lpm = Lpm::of_rules(&rules)?;
        for traffic in Traffic::ALL {
            let case = case(traffic);
            if !bench.wants(&case) {
                continue;
            }
            let frames = traffic.frames(&rules, &mut random)?;
            policy
                .prepare(&mut bench.harness, &frames, traffic.accepted())
                .with_context(|| case.clone())?;
            bench
                .report
                .add(&SECTION, &case, FIREWALL, bench.harness.nanoseconds()?);
            bench.report.aim(match traffic {
                Traffic::Last => None,
                Traffic::NoneUnnamed | Traffic::NoneNamed => Some(aims.none),
                Traffic::Any => aims.any,
            });
            bench.harness.measure(&lpm.program()?)?;
            bench
                .report
                .add(&SECTION, &case, LPM, bench.harness.nanoseconds()?);
        }
    }
    Ok(())
}
