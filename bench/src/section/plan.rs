//! How long it takes to tell what a new rule file changes.

use std::time::Instant;

use anyhow::{Result, anyhow};
use firewall_user::counters::Slots;
use firewall_user::rules::{
    self,
    compile::compile,
    diff,
    model::{Action, AddressSet, RuleSet},
};

use super::{Bench, groups};
use crate::{
    cidr::Mix,
    frame::Service,
    random::Random,
    report::{Better, Section, shown},
    rule_list::{self, Rule},
    statistics::Spread,
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "plan",
    title: "What a new rule file changes",
    unit: "ms",
    note: "Packets: every set of packets that is decided otherwise, for both rule sets in memory. Written: rules and settings that \
           are others, and rules that can never match, for which both are compiled.",
    better: Better::Lower,
};

const RULES: usize = 10_000;
const CIDRS: usize = 1_000_000;
const SMALL: usize = 10;

const AIM: f64 = 5_000.0;
const AIM_ONE: f64 = 1_000.0;

/// Two rule sets, and what is between them.
struct Case {
    name: String,
    old: RuleSet,
    new: RuleSet,
    aim: f64,
}

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let count = if bench.quick { RULES / SMALL } else { RULES };
    let mut cases = of_lists(count)?;
    cases.extend(of_dimensions(count)?);
    cases.push(of_a_group(bench)?);
    for case in cases {
        if bench.wants(&case.name) {
            measure(bench, &case)?;
        }
    }
    Ok(())
}

fn measure(bench: &mut Bench, case: &Case) -> Result<()> {
    let Case {
        name,
        old,
        new,
        aim,
    } = case;
    let rounds = if bench.quick { 1 } else { 5 };
    let mut packets = Vec::new();
    let mut written = Vec::new();
    let mut changes = 0;
    for _ in 0..rounds {
        let start = Instant::now();
        changes = diff::packets(old, new).len();
        packets.push(milliseconds(start));
        let start = Instant::now();
        std::hint::black_box((diff::rules(old, new), diff::settings(old, new)));
        let [before, after] = [
            compile(old, &Slots::default())?,
            compile(new, &Slots::default())?,
        ];
        std::hint::black_box(diff::shadowing((old, &before), (new, &after)));
        written.push(milliseconds(start));
    }
    let case = format!("{name}: {} sets", shown(changes as f64));
    bench
        .report
        .add(&SECTION, &case, "packets", Spread::of(packets));
    bench.report.aim(Some(*aim));
    bench
        .report
        .add(&SECTION, &case, "written", Spread::of(written));
    Ok(())
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Rules for a source and a service each, and what may be done to all of them or to one.
fn of_lists(count: usize) -> Result<Vec<Case>> {
    let mut random = Random::new(count as u64);
    let old = rule_list::take(count, &mut random);
    let another_port = |rule: &Rule| Rule {
        from: rule.from,
        service: match rule.service {
            Service::Tcp(port) => Service::Tcp(port.saturating_add(1)),
            Service::Udp(port) => Service::Udp(port.saturating_add(1)),
            Service::Echo => Service::Echo,
        },
    };
    let mut reordered = old.clone();
    random.shuffle(&mut reordered);
    let mut without_one = old.clone();
    without_one.remove(count / 2);
    let others = rule_list::take(count, &mut random);
    let half: Vec<Rule> = old[..count / 2]
        .iter()
        .chain(&others[count / 2..])
        .copied()
        .collect();
    let cases = [
        ("nothing", old.clone()),
        ("one removed", without_one),
        ("reordered", reordered),
        ("another port each", old.iter().map(another_port).collect()),
        ("half replaced", half),
        ("all replaced", others),
    ];
    let before = parsed(&rule_list::file(&old))?;
    let cases = cases.into_iter().map(|(name, rules)| {
        Ok(Case {
            name: format!("{} rules, {name}", shown(count as f64)),
            old: before.clone(),
            new: parsed(&rule_list::file(&rules))?,
            aim: AIM,
        })
    });
    cases.collect()
}

/// Rules of which every third names sources, every third destinations, every third ports, and every seventh drops: each dimension
/// is a bad one to begin with.
fn of_dimensions(count: usize) -> Result<Vec<Case>> {
    use std::fmt::Write as _;
    let mut text = "version = 1\n".to_owned();
    for index in 0..count {
        let action = if index % 7 == 0 { "drop" } else { "accept" };
        let address = format!("10.{}.{}.0/25", index >> 8, index & 255);
        let matcher = match index % 3 {
            0 => format!("protocol = \"tcp\"\nports = [{}]", index + 1),
            1 => format!("from = [\"{address}\"]"),
            _ => format!("to = [\"{address}\"]"),
        };
        let _ = write!(
            text,
            "\n[[rule]]\nname = \"rule {index}\"\naction = \"{action}\"\n{matcher}\n"
        );
    }
    let old = parsed(&text)?;
    let mut without_one = old.clone();
    without_one.rules.remove(count / 2);
    let mut turned = old.clone();
    for rule in turned.rules.iter_mut().step_by(100) {
        rule.action = match rule.action {
            Action::Accept => Action::Drop,
            Action::Drop => Action::Accept,
        };
    }
    let cases = [("one removed", without_one), ("one in 100 turned", turned)];
    let cases = cases.into_iter().map(|(name, new)| Case {
        name: format!(
            "{} rules of one dimension each, {name}",
            shown(count as f64)
        ),
        old: old.clone(),
        new,
        aim: AIM,
    });
    Ok(cases.collect())
}

/// A large group that gets one CIDR more.
fn of_a_group(bench: &Bench) -> Result<Case> {
    let count = if bench.quick { CIDRS / SMALL } else { CIDRS };
    let cidrs = Mix::Threats.take(count, &mut Random::new(1));
    let path = groups::write(bench, &cidrs)?;
    let old = rules::load(&path).map_err(|report| anyhow!("{report}"))?;
    let old = old.rule_set;
    let mut new = old.clone();
    for set in &mut new.sets {
        add(set);
    }
    Ok(Case {
        name: format!("a group of {} CIDRs, one added", shown(count as f64)),
        old,
        new,
        aim: AIM_ONE,
    })
}

/// Adds 192.0.2.1, or what there is behind it that is not in the set yet.
fn add(set: &mut AddressSet) {
    let mut address = 0xc000_0201;
    let at = set.v4.partition_point(|range| range.1 < address);
    if let Some(&(first, last)) = set.v4.get(at)
        && first <= address
    {
        address = last + 1;
        set.v4[at].1 = address;
    } else {
        set.v4.insert(at, (address, address));
    }
}

fn parsed(text: &str) -> Result<RuleSet> {
    rules::parse("rules.toml", text, std::path::Path::new("."))
        .map(|loaded| loaded.rule_set)
        .map_err(|report| anyhow!("{report}"))
}
