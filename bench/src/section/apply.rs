//! How long an apply takes, by stage.

use anyhow::Result;

use super::{Bench, large::Large};
use crate::{
    policy::Policy,
    report::{Better, Section},
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
    for large in Large::wanted(bench) {
        let path = large.write(bench)?;
        stages(bench, &large.name(bench), &path)?;
    }
    Ok(())
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
