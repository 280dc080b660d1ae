//! A flood of SYNs from forged sources at the site's address, while clients go on.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::PacketBuilder;
use firewall_tests::infra::design::SITE;
use firewall_tests::infra::{INTERFACE, Machine, Site, guard};
use firewall_tests::net::FramePort;

use crate::client::{Load, get};

/// Where the forged sources are (RFC 2544); answers to them end at the client.
const FORGED: &str = "198.18.0.0/15";

/// How many sources there are.
const SOURCES: u32 = 4096;

/// SYNs a second, ten times what the rule of the balancers answers without cookies.
const RATE: u32 = 20_000;

/// How long it goes on.
const TIME: Duration = Duration::from_secs(5);

/// SYNs that are sent at once.
const AT_ONCE: u32 = 200;

pub(crate) fn clients_are_served_in_a_syn_flood(site: &mut Site) -> Result<()> {
    let client = site.machine("client")?;
    site.router()
        .ip(&format!("route add {FORGED} via {}\n", client.v4()))?;
    client.ip(&format!("route add blackhole {FORGED}\n"))?;
    let [active, _] = site.balancers()?;
    let before = guard::stats(active)?;
    let frames = frames(site)?;

    let load = Load::start(site, &SITE)?;
    let sent = thread::scope(|scope| -> Result<u64> {
        let flood = scope.spawn(|| send(client, &frames));
        // Both families, in the midst of it.
        while !flood.is_finished() {
            for address in SITE {
                get(client, address, "/").context("in the flood")?;
            }
        }
        match flood.join() {
            Ok(sent) => sent,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let tally = load.stop()?;
    let after = guard::stats(active)?;
    let answered = after.passed("syn-cookie") - before.passed("syn-cookie");
    println!(
        "{sent} SYNs in {TIME:?}, {answered} answered with cookies; {} requests served",
        tally.served
    );
    ensure!(sent > 20_000, "only {sent} SYNs were sent");
    ensure!(answered > sent / 2, "{answered} of {sent}: {after:#?}");
    ensure!(tally.failed.is_empty() && tally.served > 50, "{tally:?}");
    // Nobody is banned for what is forged.
    let said = guard::firewall(active, &["bans"])?.success()?;
    ensure!(
        !said.contains("198.18.") && !said.contains(&client.v4().to_string()),
        "{said}"
    );
    Ok(())
}

/// A SYN from each source, to the router, which hands it on.
fn frames(site: &Site) -> Result<Vec<Vec<u8>>> {
    let client = site.machine("client")?;
    let from = hardware_address(client, INTERFACE)?;
    let to = hardware_address(site.router(), client.server.role.segment().name)?;
    let [IpAddr::V4(address), _] = SITE else {
        bail!("the site has no IPv4 address");
    };
    (0..SOURCES)
        .map(|number| {
            let source = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + 31 * number);
            let port = 1024 + u16::try_from(number)?;
            let packet = PacketBuilder::ethernet2(from, to)
                .ipv4(source.octets(), address.octets(), 64)
                .tcp(port, 443, number, 64_240)
                .syn();
            let mut frame = Vec::new();
            packet.write(&mut frame, &[])?;
            Ok(frame)
        })
        .collect()
}

fn hardware_address(machine: &Machine, interface: &str) -> Result<[u8; 6]> {
    let text = machine.must(&format!("cat /sys/class/net/{interface}/address"))?;
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("an address of Ethernet")
}

/// Sends them, at [`RATE`] or what the machine is good for; how many.
fn send(client: &Machine, frames: &[Vec<u8>]) -> Result<u64> {
    let port = client.enter(|| FramePort::open_here(INTERFACE))?;
    let mut frames = frames.iter().cycle();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < TIME {
        for frame in frames.by_ref().take(AT_ONCE as usize) {
            port.send(frame)?;
        }
        sent += u64::from(AT_ONCE);
        let due = Duration::from_secs_f64(sent as f64 / f64::from(RATE));
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    Ok(sent)
}
