//! Rules change on every server while the site is used.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::infra::design::SITE;
use firewall_tests::infra::guard::{self, RULES};
use firewall_tests::infra::{INTERFACE, Machine, Site, monitoring};

use crate::client::Load;
use crate::designed::dropped;

/// A rule more.
const MORE: &str = "\n[[rule]]\nname = \"more\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [8443]\nfrom = [\"operators\"]\n\
    comment = \"For the test.\"\n";

/// A rule less, of those that are not needed at the moment.
const LESS: &str = "protocol = \"icmp\"\n";

pub(crate) fn rules_change_on_all_servers_and_no_request_is_lost(site: &mut Site) -> Result<()> {
    const REASONS: [&str; 2] = ["no-rule", "egress-no-rule"];
    let drops = || -> Result<u64> {
        let mut sum = 0;
        for machine in site.guarded() {
            for reason in REASONS {
                sum += dropped(machine, reason)?;
            }
        }
        Ok(sum)
    };
    let before = drops()?;
    let load = Load::start(site, &SITE)?;
    let mut changes = 0;
    for machine in site.guarded() {
        changes += change(machine).with_context(|| machine.name().to_owned())?;
    }
    let tally = load.stop()?;
    println!(
        "{changes} changes on {} servers, {} requests served",
        site.guarded().count(),
        tally.served
    );
    ensure!(tally.failed.is_empty(), "{tally:?}");
    ensure!(tally.served > 100, "only {} requests", tally.served);
    // Not even a packet that TCP would have mended.
    ensure!(drops()? == before, "{} packets", drops()? - before);
    // And monitoring saw all of it: Prometheus has scraped each second meanwhile.
    let errors = "sum by (host) (firewall_scrape_errors_total) > 0";
    let errors = monitoring::ask(site.machine("mon1")?, errors)?;
    ensure!(errors.is_empty(), "{errors:?}");
    Ok(())
}

/// Every way to change rules; how many times they changed. In the end they are as in the beginning.
fn change(machine: &Machine) -> Result<u32> {
    let file = machine.file(RULES);
    let as_it_was = fs::read_to_string(&file)?;
    let run = |arguments: &[&str]| -> Result<String> {
        let arguments = [arguments, &["-i", INTERFACE]].concat();
        let outcome = guard::firewall(machine, &arguments)?;
        outcome.success().with_context(|| format!("{arguments:?}"))
    };
    let first = generation(machine)?;
    // Single rules and members of groups.
    run(&[
        "rule",
        "add",
        "accept tcp 8443 from operators",
        "--name",
        "more",
    ])?;
    run(&["group", "add", "operators", "192.0.2.128/28"])?;
    run(&["group", "remove", "operators", "192.0.2.128/28"])?;
    run(&["rule", "remove", "more"])?;
    // A file, on trial, and back before it is confirmed.
    fs::write(&file, as_it_was.clone() + MORE)?;
    run(&["apply", RULES, "--confirm", "60s"])?;
    run(&["rollback"])?;
    // The same, kept.
    run(&["apply", RULES, "--confirm", "60s"])?;
    run(&["confirm"])?;
    // Beside what is in force, and then in its place. This loads other programs, which takes seconds: on one of a pair.
    if machine.name().ends_with('2') {
        fs::write(&file, &as_it_was)?;
        run(&["apply", RULES])?;
        return count(machine, first);
    }
    let less = as_it_was.replacen(LESS, "protocol = \"igmp\"\n", 1);
    let less = less.replacen("icmp-types = [\"echo-request\"]\n", "", 1);
    ensure!(less != as_it_was);
    fs::write(&file, less)?;
    run(&["apply", RULES, "--shadow"])?;
    run(&["shadow", "promote"])?;
    // What was there.
    fs::write(&file, &as_it_was)?;
    run(&["apply", RULES])?;
    let plan = run(&["plan", RULES])?;
    ensure!(plan.contains("nothing"), "{plan}");
    count(machine, first)
}

/// How many generations have been in force since the first.
fn count(machine: &Machine, first: u64) -> Result<u32> {
    let changes = generation(machine)? - first;
    ensure!(changes >= 7, "{changes}");
    Ok(u32::try_from(changes)?)
}

fn generation(machine: &Machine) -> Result<u64> {
    Ok(guard::stats(machine)?.generation)
}
