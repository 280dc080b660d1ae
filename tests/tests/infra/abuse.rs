//! Who comes with bad intent to what is open to everybody.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::infra::design::SITE;
use firewall_tests::infra::{INTERFACE, Machine, Site, balancer, guard};
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{curl, get};
use crate::designed::dropped;
use crate::wait_until;

/// Another host of the client's network.
const INTRUDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// Connections that the rule `web` of the load balancers lets one address begin at once.
const BURST: usize = 300;

/// How many over the limit it takes to be banned.
const BANNED_AFTER: usize = 1000;

/// An advertisement of VRRP version 3 with the highest priority (RFC 5798, 5.1), sent to the balancer itself and to the group.
pub(crate) fn forged_vrrp_is_refused(site: &mut Site) -> Result<()> {
    let [active, standby] = site.balancers()?;
    let before = dropped(active, "no-rule")?;
    let office = site.machine("office")?;
    let advertisement = [0x31, 51, 255, 1, 0, 20, 0, 0, 192, 0, 2, 20];
    office.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(112)))?;
        socket.set_ttl_v4(255)?;
        for _ in 0..20 {
            let to = SocketAddr::new(active.v4().into(), 0);
            socket.send_to(&advertisement, &to.into())?;
        }
        Ok(())
    })?;
    wait_until("all of it is refused", || {
        Ok(dropped(active, "no-rule")? - before == 20)
    })?;
    ensure!(balancer::holds_the_address(active)?);
    ensure!(!balancer::holds_the_address(standby)?);
    Ok(())
}

pub(crate) fn who_tries_too_often_is_limited_then_banned(site: &mut Site) -> Result<()> {
    let [active, _] = site.balancers()?;
    let client = site.machine("client")?;
    client.ip(&format!("address add {INTRUDER}/32 dev {INTERFACE}\n"))?;
    let tries_it = || has_connected(client, INTRUDER.into());
    ensure!(tries_it()?, "a first connection");

    let before = guard::stats(active)?;
    let mut begun = 0;
    let mut is_limited = false;
    while begun < 4 * BANNED_AFTER && !is_banned(active)? {
        begun += begin(client, 300)?;
        is_limited |=
            dropped(active, "rate-limit")? > before.dropped("rate-limit") && !is_banned(active)?;
    }
    ensure!(is_limited, "banned without having been limited before");
    let after = guard::stats(active)?;
    let limited = after.dropped("rate-limit") - before.dropped("rate-limit");
    ensure!(
        begun >= BURST + BANNED_AFTER,
        "banned after {begun} connections"
    );
    ensure!(
        (BANNED_AFTER as u64..2 * BANNED_AFTER as u64).contains(&limited),
        "{limited} of {begun} limited"
    );

    // Now nothing of it gets in, and it is said why and by whom.
    ensure!(!tries_it()?, "the one that is banned is served");
    let banned = guard::stats(active)?.dropped("banned");
    ensure!(banned > before.dropped("banned"), "{banned}");
    let said = guard::firewall(active, &["bans"])?.success()?;
    ensure!(
        said.contains(&INTRUDER.to_string()) && said.contains("rule web"),
        "{said}"
    );
    for address in SITE {
        get(client, address, "/").context("who did nothing is served")?;
    }
    guard::firewall(active, &["unban", &INTRUDER.to_string()])?.success()?;
    wait_until("it is served again", tries_it)
}

fn is_banned(balancer: &Machine) -> Result<bool> {
    let text = guard::firewall(balancer, &["bans", "--format", "json"])?.success()?;
    Ok(text.contains(&INTRUDER.to_string()))
}

/// Whether HTTPS works from this address.
fn has_connected(client: &Machine, from: IpAddr) -> Result<bool> {
    let mut command = curl(client, SITE[0]);
    command
        .args(["--max-time", "1", "--interface", &from.to_string()])
        .args(["--output", "/dev/null", "https://www.example.test/"]);
    Ok(client.run(&mut command)?.code == Some(0))
}

/// Begins so many connections from the intruder's address at once, and gives them up after a moment; how many.
fn begin(client: &Machine, count: usize) -> Result<usize> {
    client.enter(|| {
        let mut sockets = Vec::new();
        for _ in 0..count {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(INTRUDER.into(), 0).into())?;
            socket.set_nonblocking(true)?;
            match socket.connect(&SocketAddr::new(SITE[0], 443).into()) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            sockets.push(socket);
        }
        std::thread::sleep(Duration::from_millis(20));
        Ok(sockets.len())
    })
}
