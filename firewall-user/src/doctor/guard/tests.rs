//! Guards as they are found, and what is said of them.

use super::super::finding::Severity;
use super::*;
use crate::counters::{Gone, Slots};
use crate::kernel::description::Policy;

const FILE: &str = "/etc/firewall/web.toml";

fn told(found: Option<Finding>) -> Option<(Severity, Option<String>)> {
    found.map(|found| (found.severity, found.remedy))
}

fn some(severity: Severity, remedy: &str) -> Option<(Severity, Option<String>)> {
    Some((severity, Some(remedy.to_owned())))
}

#[test]
fn a_program_that_was_taken_off_is_put_back_by_apply() {
    let remedy = "firewall apply /etc/firewall/web.toml -i eth0";
    assert_eq!(
        told(Some(egress("eth0", None, FILE))),
        some(Severity::Error, remedy)
    );
    assert_eq!(egress("eth0", Some(7), FILE).severity, Severity::Ok);
}

#[test]
fn generic_mode_is_told_only_where_the_driver_could_do_better() {
    let remedy =
        "firewall detach -i eth0 && firewall apply /etc/firewall/web.toml -i eth0 --mode native";
    assert_eq!(
        told(mode("eth0", Mode::Generic, true, FILE)),
        some(Severity::Note, remedy)
    );
    assert_eq!(mode("eth0", Mode::Generic, false, FILE), None);
    assert_eq!(mode("eth0", Mode::Native, true, FILE), None);
}

fn description(text: &[u8]) -> Description {
    Description {
        newest: 3,
        generation: 1,
        namespace: 1,
        file: FILE.to_owned(),
        applied_at_s: 0,
        policy: Policy {
            is_open: false,
            file_sha256: policy::sha256(text),
            image_sha256: String::new(),
            image_bytes: 0,
            default_accepts: false,
            egress_default_accepts: true,
            bans_by_rule: None,
            never_banned: Vec::new(),
            lists_vlans: false,
            rules: Vec::new(),
            ports: Vec::new(),
            slots: Slots::default(),
            lists: std::collections::BTreeMap::new(),
            asserts: 0,
            gone: Gone::default(),
        },
    }
}

#[test]
fn a_file_is_there_still_or_changed_or_gone() {
    let description = description(b"version = 1\n");
    let found = |now| told(Some(file("eth0", &description, now)));
    assert_eq!(found(Some(b"version = 1\n")), Some((Severity::Ok, None)));
    let plan = "firewall plan /etc/firewall/web.toml -i eth0";
    assert_eq!(found(Some(b"version = 1")), some(Severity::Note, plan));
    assert_eq!(
        found(None),
        some(Severity::Warning, "firewall apply FILE -i eth0")
    );
}

#[test]
fn syn_cookies_take_a_kernel_that_makes_them() {
    let remedy = "sysctl -w net.ipv4.tcp_syncookies=2";
    assert_eq!(
        told(syn_cookies(true, Some(Made::Never))),
        some(Severity::Error, remedy)
    );
    assert_eq!(
        told(syn_cookies(true, Some(Made::InNeed))),
        some(Severity::Note, remedy)
    );
    assert_eq!(
        told(syn_cookies(true, Some(Made::Always))),
        Some((Severity::Ok, None))
    );
    assert_eq!(syn_cookies(false, Some(Made::Never)), None);
}

#[test]
fn vlans_do_not_hold_where_tags_are_hidden() {
    let remedy = "ethtool -K eth0 rxvlan off";
    assert_eq!(
        told(hidden_tags("eth0", &["rxvlan"])),
        some(Severity::Error, remedy)
    );
    assert_eq!(hidden_tags("eth0", &[]), None);
}

#[test]
fn a_flow_table_is_told_from_four_fifths_on() {
    let fill = |used| flows("eth0", Fill { used, size: 1000 }, FILE);
    assert_eq!(fill(799), None);
    let found = fill(800).unwrap();
    assert_eq!(found.severity, Severity::Warning);
    assert!(
        found.finding.contains("80 % full (800 of 1,000)"),
        "{found:?}"
    );
    assert_eq!(gave_way(0), None);
    assert!(gave_way(1234).unwrap().finding.starts_with("1,234 flows"));
}

#[test]
fn pins_that_guard_nothing_are_told_with_what_clears_them() {
    let found = |standing| told(pins("eth0", &standing));
    assert_eq!(found(Standing::Unguarded), None);
    assert_eq!(
        found(Standing::Stale),
        some(Severity::Error, "firewall apply FILE -i eth0")
    );
    assert_eq!(
        found(Standing::Leftovers),
        some(Severity::Warning, "firewall detach -i eth0")
    );
    let renamed = Standing::Renamed("lan0".to_owned());
    assert_eq!(
        found(renamed),
        some(Severity::Error, "ip link set dev eth0 name lan0")
    );
    let held = Standing::Unpinned { link: Some(9) };
    assert_eq!(
        found(held),
        some(
            Severity::Error,
            "bpftool link detach id 9 && firewall apply FILE -i eth0"
        )
    );
    let other = Standing::OtherAbi {
        version: "v2".to_owned(),
        at_work: true,
    };
    assert_eq!(found(other), some(Severity::Error, "firewall upgrade"));
}
