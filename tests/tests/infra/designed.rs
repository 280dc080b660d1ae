//! Who may talk to whom: every machine tries every service of every other, before anything is guarded and afterwards, and each
//! refusal is in the counters of whoever was to refuse it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::infra::design::{Fate, Role, fate};
use firewall_tests::infra::probe::{Decoys, Seen, all_from, repeated_syns};
use firewall_tests::infra::{Machine, Site, guard, map};

/// Drops so far, by machine and reason.
type Drops = BTreeMap<(&'static str, String), u64>;

pub(crate) fn every_try_has_the_fate_that_the_design_says(site: &mut Site) -> Result<()> {
    let decoys = Decoys::start(site)?;
    for machine in site.machines() {
        for seen in all_from(site, machine, |_| true)? {
            ensure!(
                seen.reached,
                "without a firewall everything arrives, but {seen:?}"
            );
        }
    }
    for said in site.guard()? {
        ensure!(
            said.contains("guarded in native mode, generation 1,"),
            "{said}"
        );
    }

    let mut all = Vec::new();
    let mut before = drops(site)?;
    ensure!(before.values().all(|count| *count == 0), "{before:?}");
    for machine in site.machines() {
        let repeated = repeated_syns(machine)?;
        let seen = all_from(site, machine, map::is_designed)?;
        let after = drops(site)?;
        let repeated = repeated_syns(machine)? - repeated;
        check(&seen, &before, &after, repeated).with_context(|| machine.name().to_owned())?;
        before = after;
        all.extend(seen);
    }
    drop(decoys);
    let differences = map::differences(&all);
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    println!("{}", map::table(&all));
    the_database_is_out_of_reach(&all)
}

/// Demands that what was refused is counted where and why the design says, and that nothing else is.
fn check(seen: &[Seen], before: &Drops, after: &Drops, repeated: u64) -> Result<()> {
    let mut expected = Drops::new();
    for one in seen {
        let counted = match fate(one.from.role, one.to.role, one.service) {
            Fate::Served => continue,
            Fate::KeptBySender(reason) => (one.from.name, reason.to_owned()),
            Fate::DroppedByReceiver(reason) => (one.to.name, reason.to_owned()),
        };
        *expected.entry(counted).or_default() += 1;
    }
    let mut more = 0;
    for (place, count) in after {
        let counted = count - before[place];
        let expected = expected.remove(place).unwrap_or(0);
        // A SYN that was sent again is counted again.
        let at_most = if expected > 0 { expected + repeated } else { 0 };
        ensure!(
            (expected..=at_most).contains(&counted),
            "{place:?}: {counted} counted, {expected} tries refused, {repeated} SYNs sent again"
        );
        more += counted - expected;
    }
    ensure!(expected.is_empty(), "no such counters: {expected:?}");
    ensure!(
        more == repeated,
        "{more} more than tries, {repeated} SYNs sent again"
    );
    Ok(())
}

fn drops(site: &Site) -> Result<Drops> {
    let mut all = Drops::new();
    for machine in site.guarded() {
        for reason in guard::stats(machine)?.reasons {
            all.insert((machine.name(), reason.reason), reason.packets);
        }
    }
    Ok(all)
}

/// What the map says as well, said once more without the design.
fn the_database_is_out_of_reach(all: &[Seen]) -> Result<()> {
    let databases = [Role::Primary, Role::Replica];
    let of = |role: Role| all.iter().filter(move |one| one.from.role == role);
    for role in [Role::Internet, Role::Web] {
        let to_databases: Vec<_> = of(role)
            .filter(|one| databases.contains(&one.to.role))
            .collect();
        ensure!(to_databases.len() > 80, "only {} tries", to_databases.len());
        let reached: Vec<_> = to_databases.iter().filter(|one| one.reached).collect();
        ensure!(reached.is_empty(), "{reached:?}");
    }
    Ok(())
}

/// The counters of one machine, as a difference.
pub(crate) fn dropped(machine: &Machine, reason: &str) -> Result<u64> {
    Ok(guard::stats(machine)?.dropped(reason))
}
