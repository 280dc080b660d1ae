//! Looks at the machine and at interfaces for whatever keeps the firewall from guarding them, or from doing it well. Nothing is
//! touched.

mod bpffs;
mod card;
mod company;
mod finding;
mod guard;
mod machine;
mod verdict;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};

pub(crate) use finding::{Finding, Severity};

use crate::kernel::interface::{self, Interface};
use crate::kernel::programs;
use crate::kernel::standing::{self, Standing};

/// Every finding about the machine, and about the interfaces called `names`; without names, about all that are guarded. The
/// last of each interface is its verdict.
///
/// # Errors
///
/// An interface that does not exist; netlink or the BPF file system is out of reach.
pub(crate) fn examine(names: &[String]) -> Result<Vec<Finding>> {
    let all = interface::all()?;
    let machine = [machine::findings(), vec![bpffs::finding()]].concat();
    let guarded = if machine::may_look(&machine) {
        standing::ours()?
    } else {
        Vec::new()
    };
    let mut findings = machine.clone();
    let wanted: BTreeSet<&String> = if names.is_empty() {
        findings.extend(without_interface(&machine)?);
        guarded.iter().collect()
    } else {
        names.iter().collect()
    };
    for name in wanted {
        let interface = all.iter().find(|interface| interface.name == *name);
        let interface = interface.with_context(|| {
            format!("there is no interface {name}; `ip link` lists those there are")
        })?;
        let of_it = of_interface(interface, &all, &guarded, &machine);
        findings.extend(of_it.into_iter().map(|finding| finding.of(name)));
    }
    Ok(findings)
}

fn of_interface(
    interface: &Interface,
    all: &[Interface],
    guarded: &[String],
    machine: &[Finding],
) -> Vec<Finding> {
    if let Some(refused) = never(interface) {
        let verdict = verdict::unguarded(std::slice::from_ref(&refused), &[]);
        return vec![refused, verdict];
    }
    let mut findings = card::findings(interface);
    if !machine::may_look(machine) {
        findings.push(verdict::unknown());
        return findings;
    }
    let standing = Standing::of(interface);
    let (ours, file) = match &standing {
        Standing::Guarded(guard) => {
            let ids = [Some(guard.program_id), guard.egress_id];
            (
                Vec::from_iter(ids.into_iter().flatten()),
                guard.description.file.as_str(),
            )
        }
        _ => (Vec::from_iter(programs::looks_like_ours(interface)), "FILE"),
    };
    findings.extend(company::programs(interface, &ours));
    findings.extend(company::neighbours(interface, all, guarded, file));
    findings.extend(guard::findings(interface, &standing));
    let verdict = verdict::verdict(&standing, &findings, machine);
    findings.push(verdict);
    findings
}

/// Interfaces that no mending makes fit.
fn never(interface: &Interface) -> Option<Finding> {
    const CHECK: &str = "link";
    if interface.is_loopback {
        let text = "this is the loopback interface: what it carries never was on a network";
        return Some(Finding::error(CHECK, text));
    }
    (!interface.is_ethernet).then(|| {
        Finding::error(
            CHECK,
            "it carries no Ethernet frames (it is a tunnel, say): guard the interface that its packets come through",
        )
    })
}

/// Pins of interfaces that are not there under any name.
fn without_interface(machine: &[Finding]) -> Result<Vec<Finding>> {
    if !machine::may_look(machine) {
        return Ok(Vec::new());
    }
    let lost = standing::without_interface()?.into_iter();
    let told = lost.map(|name| {
        Finding::warning("pins", "there are pins, but no such interface")
            .mended_by(format!("firewall detach -i {name}"))
            .of(&name)
    });
    Ok(told.collect())
}
