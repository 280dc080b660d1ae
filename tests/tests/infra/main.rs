//! The infrastructure that the firewall is for, with everything in it at work: built once, and then put to the test part by
//! part.

mod abuse;
mod broken_into;
mod changes;
mod client;
mod designed;
mod ends;
mod failover;
mod flood;
mod served;
mod watched;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use firewall_tests::infra::{Programs, Site};
use firewall_tests::net::traffic::wait_at_most;
use firewall_tests::net::{search_path, skip};

/// What runs on the machines, of Debian's packages.
const NEEDED: &[&str] = &[
    "chronyd",
    "curl",
    "dnsmasq",
    "ethtool",
    "haproxy",
    "ip",
    "keepalived",
    "mariadb",
    "mariadbd",
    "nginx",
    "nsenter",
    "openssl",
    "prometheus",
    "prometheus-mysqld-exporter",
    "prometheus-node-exporter",
    "setpriv",
    "unshare",
];

/// How long something may take, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(30);

/// A part of the test.
type Part = fn(&mut Site) -> Result<()>;

/// In this order: the first two need a site that nobody has used yet, and what is watched needs something to see.
const PARTS: &[(&str, Part)] = &[
    (
        "everything arrives while nothing is guarded, and only what is designed afterwards",
        designed::every_try_has_the_fate_that_the_design_says,
    ),
    (
        "the site answers over HTTPS through both balancers",
        served::pages_come_through_both_balancers_from_both_web_servers,
    ),
    (
        "writes reach the primary, are replicated and read back",
        served::notes_are_written_replicated_and_read,
    ),
    (
        "a web server that is broken into reaches nothing but its application server and what all may ask",
        broken_into::a_web_server_in_wrong_hands_finds_no_way_on,
    ),
    (
        "forged VRRP takes no address",
        abuse::forged_vrrp_is_refused,
    ),
    (
        "a brute-force client is limited, then banned",
        abuse::who_tries_too_often_is_limited_then_banned,
    ),
    (
        "Prometheus shows drops and request rates, and its alert fires",
        watched::drops_and_requests_are_seen_and_an_alert_fires,
    ),
    (
        "a SYN flood leaves clients served",
        flood::clients_are_served_in_a_syn_flood,
    ),
    (
        "live changes on all servers lose no request",
        changes::rules_change_on_all_servers_and_no_request_is_lost,
    ),
    (
        "the address moves when a balancer is gone",
        failover::the_address_moves_and_requests_go_on,
    ),
];

#[test]
fn the_site_is_served_and_guarded_as_designed() -> Result<()> {
    if !is_possible()? {
        return Ok(());
    }
    let started = Instant::now();
    let mut site = Site::build(&Programs {
        application: PathBuf::from(env!("CARGO_BIN_EXE_firewall-infra-application")),
    })?;
    say(&format!("built in {:.1?}", started.elapsed()))?;
    for (what, part) in PARTS {
        let started = Instant::now();
        part(&mut site).context(*what)?;
        say(&format!("{what}: {:.1?}", started.elapsed()))?;
    }
    Ok(())
}

/// Whether the site can be built here; if not, why is told and counted.
fn is_possible() -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        skip("the infrastructure takes root")?;
        return Ok(false);
    }
    if let Some(missing) = NEEDED.iter().find(|program| !is_there(program)) {
        skip(&format!(
            "the infrastructure takes {missing}: `cargo xtask setup --for test` sees to it"
        ))?;
        return Ok(false);
    }
    Ok(true)
}

/// Waits until `done` says so.
fn wait_until(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_at_most(PATIENCE, what, done)
}

/// Tells the person who has asked for output how far it is.
fn say(text: &str) -> Result<()> {
    println!("{text}");
    Ok(std::io::stdout().flush()?)
}

fn is_there(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| Path::new(&folder).join(program).exists())
}
