//! The site does what it is for, with a firewall on every server.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::infra::design::SITE;
use firewall_tests::infra::{Site, database};

use crate::client::{ask, get, write};

pub(crate) fn pages_come_through_both_balancers_from_both_web_servers(
    site: &mut Site,
) -> Result<()> {
    let client = site.machine("client")?;
    let mut addresses: Vec<IpAddr> = SITE.to_vec();
    for name in ["lb1", "lb2"] {
        addresses.extend(site.machine(name)?.addresses());
    }
    for address in addresses {
        let mut servers = BTreeSet::new();
        for _ in 0..6 {
            let answer = get(client, address, "/").with_context(|| format!("{address}"))?;
            let server = answer.served_by().context("nobody")?.to_owned();
            ensure!(
                answer.body() == format!("A page, served by {server}."),
                "{answer:?}"
            );
            servers.insert(server);
        }
        ensure!(
            servers.iter().eq(["web1", "web2"]),
            "{address}: {servers:?}"
        );
    }
    site.balancers()?;
    Ok(())
}

pub(crate) fn notes_are_written_replicated_and_read(site: &mut Site) -> Result<()> {
    let client = site.machine("client")?;
    let (primary, replica) = (site.machine("db1")?, site.machine("db2")?);
    for (address, note) in SITE.into_iter().zip(["over IPv4", "over IPv6"]) {
        let number = write(client, address, note)?;
        let question = format!("SELECT note FROM site.notes WHERE id = {number}");
        ensure!(database::ask(primary, &question)? == note, "{number}");
        database::wait_for_replica(primary, replica)?;
        ensure!(database::ask(replica, &question)? == note, "{number}");
        let answer = get(client, address, &format!("/notes?{number}"))?;
        ensure!(answer.body() == note, "{answer:?}");
    }
    // The near miss: what was never written is not there, and reads do not go to the primary.
    let answer = ask(client, SITE[0], "/notes?999999", &[])?;
    ensure!(answer.status == 404, "{answer:?}");
    database::ask(replica, "STOP SLAVE SQL_THREAD")?;
    let number = write(client, SITE[0], "not replicated yet")?;
    let answer = ask(client, SITE[0], &format!("/notes?{number}"), &[])?;
    ensure!(answer.status == 404, "{answer:?}");
    database::ask(replica, "START SLAVE SQL_THREAD")?;
    database::wait_for_replica(primary, replica)?;
    get(client, SITE[0], &format!("/notes?{number}")).map(drop)
}
