//! What an ordinary server's packets cost: ten rules without addresses, and `rules/web.toml`.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, Result};

use super::Bench;
use crate::{
    cidr::{Cidr, Family},
    frame::{Packet, Service, frames},
    policy::Policy,
    random::Random,
    report::{Better, FIREWALL, Section},
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "served",
    title: "Ordinary servers",
    unit: "ns/packet",
    note: "Above an empty XDP program, 65,536 different packets. Open: ten rules without addresses. Web: rules/web.toml, whose \
           rules name groups of both families.",
    better: Better::Lower,
};

/// Ten rules without addresses.
pub(crate) const OPEN: &str = include_str!("served.toml");

struct Case {
    name: &'static str,
    from: Family,
    service: Service,
    vlan: Option<u16>,
    accept: bool,
}

const fn case(name: &'static str, from: Family, service: Service, accept: bool) -> Case {
    Case {
        name,
        from,
        service,
        vlan: None,
        accept,
    }
}

const CASES: [Case; 8] = [
    case("TCP over IPv4", Family::V4, Service::Tcp(443), true),
    case("TCP over IPv6", Family::V6, Service::Tcp(443), true),
    Case {
        vlan: Some(7),
        ..case(
            "TCP over IPv4, one VLAN tag",
            Family::V4,
            Service::Tcp(443),
            true,
        )
    },
    case("UDP over IPv4", Family::V4, Service::Udp(443), true),
    case("ICMP echo", Family::V4, Service::Echo, true),
    case("ICMPv6 echo", Family::V6, Service::Echo, true),
    case(
        "dropped by default, IPv4",
        Family::V4,
        Service::Tcp(3389),
        false,
    ),
    case(
        "dropped by default, IPv6",
        Family::V6,
        Service::Tcp(3389),
        false,
    ),
];

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let open = bench.file("served.toml", OPEN)?;
    let mut policy = Policy::load(&open)?;
    for one in &CASES {
        measure(bench, &mut policy, "open", one, anywhere)?;
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let mut policy = Policy::load(&root.join("rules/web.toml"))?;
    // web.toml has no HTTP/3.
    for one in CASES
        .iter()
        .filter(|one| !matches!(one.service, Service::Udp(_)))
    {
        measure(bench, &mut policy, "web", one, load_balancer)?;
    }
    Ok(())
}

fn measure(
    bench: &mut Bench,
    policy: &mut Policy,
    file: &str,
    case: &Case,
    source: fn(Family, &mut Random) -> IpAddr,
) -> Result<()> {
    let name = format!("{file}: {}", case.name);
    let frames = frames(&mut Random::new(1), |random| Packet {
        source: source(case.from, random),
        service: case.service,
        vlan: case.vlan,
    })?;
    policy
        .prepare(&mut bench.harness, &frames, case.accept)
        .with_context(|| name.clone())?;
    bench
        .report
        .add(&SECTION, &name, FIREWALL, bench.harness.nanoseconds()?);
    Ok(())
}

/// 16 bits of a network for tests (RFC 2544), or of documentation's.
fn anywhere(family: Family, random: &mut Random) -> IpAddr {
    match family {
        Family::V4 => Cidr::around(family, 0xc612_0000, 15),
        Family::V6 => Cidr::around(family, 0x2001_0db8 << 96, 32),
    }
    .member(random)
}

/// An address of the group `load-balancers` of `rules/web.toml`.
fn load_balancer(family: Family, random: &mut Random) -> IpAddr {
    match family {
        Family::V4 => Cidr::around(family, 0xc000_0210, 28),
        Family::V6 => Cidr::around(family, 0x2001_0db8_0000_0010 << 64, 64),
    }
    .member(random)
}
