//! One balancer is gone: the other takes the site's address, and gives it back.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use firewall_tests::infra::design::SITE;
use firewall_tests::infra::{Machine, Site, balancer, guard, network};

use crate::client::{Load, get};
use crate::wait_until;

/// The longest that requests may be without an answer. keepalived gives up after three advertisements that did not come, 0.6 s
/// here, and a request that was under way is given up after five seconds.
const LONGEST: Duration = Duration::from_secs(8);

pub(crate) fn the_address_moves_and_requests_go_on(site: &mut Site) -> Result<()> {
    let [active, standby] = site.balancers()?;
    let heard = vrrp(standby)?;
    let load = Load::start(site, &SITE)?;
    thread::sleep(Duration::from_secs(2));
    ensure!(vrrp(standby)? > heard, "it hears nothing of the other one");

    network::set_cable(site.router(), active.name(), false)?;
    let pulled = Instant::now();
    wait_until("the other one takes the address", || {
        balancer::holds_the_address(standby)
    })?;
    let moved = pulled.elapsed();
    thread::sleep(Duration::from_secs(6));
    let settled = Instant::now();
    thread::sleep(Duration::from_secs(2));

    // It is back, and takes what is its own.
    network::set_cable(site.router(), active.name(), true)?;
    let plugged = Instant::now();
    wait_until("the first one has it again", || {
        Ok(balancer::holds_the_address(active)? && !balancer::holds_the_address(standby)?)
    })?;
    thread::sleep(Duration::from_secs(2));
    let tally = load.stop()?;
    println!(
        "moved after {moved:.1?}; {} requests served, {} lost, none for {:.1?} at most",
        tally.served,
        tally.failed.len(),
        tally.longest_gap
    );
    ensure!(tally.served > 50, "{tally:?}");
    ensure!(tally.longest_gap < LONGEST, "{tally:?}");
    // What was under way while the address moved is lost, and nothing else.
    for (at, said) in &tally.failed {
        let is_under_way = |since: Instant| *at > since && *at < since + LONGEST;
        ensure!(
            is_under_way(pulled) && *at < settled || is_under_way(plugged),
            "{said}"
        );
        ensure!(
            !said.contains("503"),
            "a balancer without web servers: {said}"
        );
    }
    the_address_leaves_a_balancer_without_haproxy(active, standby, site.machine("client")?)
}

/// The machine is there, and what it is for is not.
fn the_address_leaves_a_balancer_without_haproxy(
    active: &Machine,
    standby: &Machine,
    client: &Machine,
) -> Result<()> {
    let process = fs::read_to_string(active.file(balancer::HAPROXY_PID))?;
    active.must(&format!("kill -KILL {}", process.trim()))?;
    wait_until("the other one takes the address", || {
        Ok(balancer::holds_the_address(standby)? && !balancer::holds_the_address(active)?)
    })?;
    for address in SITE {
        get(client, address, "/")?;
    }
    Ok(())
}

/// Packets that the rule for VRRP has let in.
fn vrrp(machine: &Machine) -> Result<u64> {
    Ok(guard::stats(machine)?.rule("vrrp").unwrap_or(0))
}
