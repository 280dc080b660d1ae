//! How long an apply takes, by stage.

use anyhow::Result;

use super::{Bench, groups};
use crate::{
    cidr::Mix,
    policy::Policy,
    random::Random,
    report::{Better, Section},
    rule_list,
    statistics::Spread,
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "apply",
    title: "Applying a rule file",
    unit: "ms",
    note: "Read: the file and the list it names, checked. Install and switch: what an apply to a guarded interface does in the \
           kernel. First: making maps and loading the program, once for each interface; not in the sum.",
    better: Better::Lower,
};

const AIM: f64 = 1000.0;

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let rules = rule_list::take(10_000, &mut Random::new(10_000));
    let path = bench.file("rules.toml", &rule_list::file(&rules))?;
    stages(bench, "10,000 rules", &path)?;
    let count = if bench.quick { 100_000 } else { 1_000_000 };
    let cidrs = Mix::Threats.take(count, &mut Random::new(1));
    let path = groups::write(bench, &cidrs)?;
    stages(bench, &format!("{count} IPv4 CIDRs"), &path)?;
    let cidrs = Mix::Clustered.take(count, &mut Random::new(1));
    let path = groups::write(bench, &cidrs)?;
    stages(bench, &format!("{count} IPv6 CIDRs"), &path)
}

fn stages(bench: &mut Bench, case: &str, path: &std::path::Path) -> Result<()> {
    let rounds = if bench.quick { 1 } else { 5 };
    let times = (0..rounds)
        .map(|_| Ok(Policy::load(path)?.times))
        .collect::<Result<Vec<_>>>()?;
    let of =
        |stage: fn(&crate::policy::Times) -> f64| Spread::of(times.iter().map(stage).collect());
    bench
        .report
        .add(&SECTION, case, "sum", of(|times| times.apply()));
    bench.report.aim(Some(AIM));
    bench
        .report
        .add(&SECTION, case, "read", of(|times| times.read));
    bench
        .report
        .add(&SECTION, case, "compile", of(|times| times.compile));
    bench
        .report
        .add(&SECTION, case, "install", of(|times| times.install));
    bench
        .report
        .add(&SECTION, case, "switch", of(|times| times.activate));
    bench
        .report
        .add(&SECTION, case, "first", of(|times| times.load));
    Ok(())
}
