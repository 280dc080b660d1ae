//! Whether an interface is guarded as whoever guarded it believes: both programs at work, in the mode that the driver allows,
//! with the rules that are in the file, and with room for flows.

use std::fs;
use std::path::Path;

use anyhow::Result;
use firewall_common::abi::counter::FLOWS_EVICTED;

use super::finding::Finding;
use crate::kernel::cookies::{self, Made};
use crate::kernel::description::Description;
use crate::kernel::flows::Fill;
use crate::kernel::guard::Guard;
use crate::kernel::interface::{Interface, Mode};
use crate::kernel::pins::Pins;
use crate::kernel::standing::Standing;
use crate::kernel::{driver, offload};
use crate::output::count;
use crate::{policy, rules};

/// Percent of its slots from which on a flow table is too small: from here on buckets fill up, and flows give way to others.
const FULL_PERCENT: u64 = 80;

/// Every finding about how it stands with `interface`.
pub(super) fn findings(interface: &Interface, standing: &Standing) -> Vec<Finding> {
    let name = &interface.name;
    match standing {
        Standing::Guarded(guard) => guarded(interface, guard).unwrap_or_else(|error| {
            vec![Finding::error(
                "pins",
                format!("what is pinned cannot be read: {error:#}"),
            )]
        }),
        other => pins(name, other).into_iter().collect(),
    }
}

/// Whatever is pinned and guards nothing, or guards and is not pinned.
fn pins(name: &str, standing: &Standing) -> Option<Finding> {
    const CHECK: &str = "pins";
    let folder = Pins::of(name).folder();
    let folder = folder.display();
    Some(match standing {
        Standing::Unguarded | Standing::Guarded(_) => return None,
        Standing::Stale => Finding::error(
            CHECK,
            format!("the program pinned in {folder} is not on the interface, which was removed or made again since"),
        )
        .mended_by(format!("firewall apply FILE -i {name}")),
        Standing::Leftovers => Finding::warning(
            CHECK,
            format!("{folder} holds what an interrupted apply or detach has left; everything is let in"),
        )
        .mended_by(format!("firewall detach -i {name}")),
        Standing::OtherAbi { version, at_work } => Finding::error(
            CHECK,
            format!(
                "pinned is the state of another version of this firewall ({version}), {}",
                if *at_work { "which guards the interface" } else { "which guards nothing any more" }
            ),
        )
        .mended_by("firewall upgrade"),
        Standing::Renamed(before) => Finding::error(
            CHECK,
            format!("the interface is guarded, but as {before}, which it was called before: no command finds it"),
        )
        .mended_by(format!("ip link set dev {name} name {before}")),
        Standing::Hidden => Finding::error(
            CHECK,
            "a program of this firewall is on the interface, and what is pinned cannot be seen from this mount namespace",
        )
        .mended_by(format!("nsenter --net=/run/netns/NAME firewall doctor -i {name}")),
        Standing::Unpinned { link } => {
            let found = Finding::error(
                CHECK,
                "a program of this firewall is on the interface, but not pinned: no command can change it, and it is gone when \
                 whoever holds its link is",
            );
            match link {
                Some(link) => found.mended_by(format!(
                    "bpftool link detach id {link} && firewall apply FILE -i {name}"
                )),
                None => found.mended_by("bpftool link show"),
            }
        }
        Standing::Unreadable(error) => Finding::error(CHECK, format!("{error:#}")),
    })
}

fn guarded(interface: &Interface, guard: &Guard) -> Result<Vec<Finding>> {
    let name = &interface.name;
    let description = &guard.description;
    let native = driver::abilities(interface).is_ok_and(|abilities| abilities.native);
    let text = fs::read(&description.file).ok();
    let evicted = guard.counters()?.read([FLOWS_EVICTED])?;
    let evicted = evicted.first().map_or(0, |counter| counter.packets);
    let findings = [
        Some(egress(name, guard.egress_id, &description.file)),
        mode(name, guard.mode, native, &description.file),
        Some(file(name, description, text.as_deref())),
        tags(interface, description),
        syn_cookies(has_syn_cookies(&description.file), cookies::made().ok()),
        flows(name, guard.flow_fill()?, &description.file),
        gave_way(evicted),
    ];
    Ok(findings.into_iter().flatten().collect())
}

fn egress(name: &str, program: Option<u32>, file: &str) -> Finding {
    const CHECK: &str = "egress";
    match program {
        Some(_) => Finding::ok(CHECK, "both programs are at work: what leaves is seen, and answered"),
        None => Finding::error(
            CHECK,
            "somebody took off the program for what leaves: new answers are refused, and nothing that leaves is filtered",
        )
        .mended_by(format!("firewall apply {file} -i {name}")),
    }
}

fn mode(name: &str, mode: Mode, native: bool, file: &str) -> Option<Finding> {
    (mode == Mode::Generic && native).then(|| {
        let text = "guarded in generic mode, though the driver runs XDP programs; detaching opens the interface";
        Finding::note("mode", text).mended_by(format!(
            "firewall detach -i {name} && firewall apply {file} -i {name} --mode native"
        ))
    })
}

/// `now` is what the file has in it, if it is still there.
fn file(name: &str, description: &Description, now: Option<&[u8]>) -> Finding {
    const CHECK: &str = "file";
    let file = &description.file;
    match now.map(policy::sha256) {
        None => Finding::warning(
            CHECK,
            format!("{file}, whose rules are in force, is gone or cannot be read"),
        )
        .mended_by(format!("firewall apply FILE -i {name}")),
        Some(hash) if hash != description.policy.file_sha256 => Finding::note(
            CHECK,
            format!("{file} has changed since its rules were put in force"),
        )
        .mended_by(format!("firewall plan {file} -i {name}")),
        Some(_) => Finding::ok(CHECK, format!("the rules in force are those of {file}")),
    }
}

/// What takes tags out of frames may have been switched on since the apply.
fn tags(interface: &Interface, description: &Description) -> Option<Finding> {
    if !description.policy.lists_vlans {
        return None;
    }
    let switches = offload::vlan_stripping(&interface.name).unwrap_or_default();
    hidden_tags(&interface.name, &switches)
}

fn hidden_tags(name: &str, switches: &[&str]) -> Option<Finding> {
    if switches.is_empty() {
        return None;
    }
    let off: Vec<_> = switches.iter().map(|on| format!("{on} off")).collect();
    let text =
        "[vlans] does not hold: the card takes tags out of frames before the firewall sees them";
    Some(Finding::error("vlans", text).mended_by(format!("ethtool -K {name} {}", off.join(" "))))
}

/// Whether a rule of the file has `syn-cookies`, as far as it can be read.
fn has_syn_cookies(file: &str) -> bool {
    rules::load(Path::new(file)).is_ok_and(|loaded| {
        let mut rules = loaded.rule_set.rules.iter();
        rules.any(|rule| rule.terms.syn_cookies.is_some())
    })
}

fn syn_cookies(wanted: bool, made: Option<Made>) -> Option<Finding> {
    const CHECK: &str = "syn-cookies";
    if !wanted {
        return None;
    }
    let found = match made? {
        Made::Always => {
            return Some(Finding::ok(
                CHECK,
                "the kernel makes SYN cookies for every SYN",
            ));
        }
        Made::InNeed => Finding::note(
            CHECK,
            "syn-cookies begin when the queue of the listening socket is full, and not at their rate",
        ),
        Made::Never => Finding::error(
            CHECK,
            "syn-cookies do nothing: the kernel makes no SYN cookies",
        ),
    };
    Some(found.mended_by("sysctl -w net.ipv4.tcp_syncookies=2"))
}

fn flows(name: &str, fill: Fill, file: &str) -> Option<Finding> {
    let Fill { used, size } = fill;
    let percent = u64::from(used) * 100 / u64::from(size.max(1));
    (percent >= FULL_PERCENT).then(|| {
        Finding::warning(
            "flows",
            format!(
                "the flow table is {percent} % full ({} of {}): give [flows] a larger size in {file}, which takes effect when all \
                 interfaces of this network namespace are detached",
                count(used.into()),
                count(size.into()),
            ),
        )
        .mended_by(format!("firewall detach -i {name} && firewall apply {file} -i {name}"))
    })
}

fn gave_way(evicted: u64) -> Option<Finding> {
    (evicted > 0).then(|| {
        Finding::note(
            "evictions",
            format!(
                "{} flows gave way to others before their time since the interface is guarded: a larger `size` under [flows] \
                 makes that rarer",
                count(evicted)
            ),
        )
    })
}

#[cfg(test)]
mod tests;
