//! Multicast that a server asks for takes one simple rule.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{SILENCE, reaches, udp_from};
use firewall_tests::net::{Host, Lab};

use crate::{MODES, rules};

const PORT: u16 = 5353;
/// For IPv6, so that the one socket for both families is not in the way.
const PORT_V6: u16 = 5354;
/// mDNS (RFC 6762, 3).
const MDNS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// A group of which no rule speaks: VRRP's (RFC 9568, 5.1), and all nodes (RFC 4291, 2.7.1).
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const MDNS: &str = r#"name = "mdns"; action = "accept"; protocol = "udp"; ports = [5353, 5354]; to = ["224.0.0.251", "ff02::fb"]"#;

/// The number of a host's interface.
fn index(host: &Host) -> Result<u32> {
    let text = host.ip(&format!("-json link show dev {}", host.interface()))?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let index = links[0]["ifindex"].as_u64().context("no number")?;
    Ok(index.try_into()?)
}

#[test]
fn a_group_that_a_rule_names_is_heard_and_others_are_not() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let (inside, outside) = (index(&lab.inside)?, index(&lab.outside)?);
        lab.outside.ip(&format!(
            "route add 224.0.0.0/4 dev {}",
            lab.outside.interface()
        ))?;
        let v4 = lab.inside.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
            socket.join_multicast_v4(&MDNS_V4, &lab.inside.v4)?;
            socket.join_multicast_v4(&OTHER_V4, &lab.inside.v4)?;
            socket.set_read_timeout(Some(SILENCE))?;
            Ok(socket)
        })?;
        let v6 = lab.inside.enter(|| {
            let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT_V6, 0, 0);
            let socket = UdpSocket::bind(any)?;
            socket.join_multicast_v6(&MDNS_V6, inside)?;
            socket.set_read_timeout(Some(SILENCE))?;
            Ok(socket)
        })?;
        let from_v4 = udp_from(&lab.outside, lab.outside.v4)?;
        let from_v6 = lab
            .outside
            .enter(|| Ok(UdpSocket::bind((lab.outside.v6, 0))?))?;
        let on_link = |group, port| SocketAddrV6::new(group, port, 0, outside).into();
        let heard = |group: Ipv4Addr| reaches(&from_v4, SocketAddr::new(group.into(), PORT), &v4);
        // Without the firewall all of it arrives: the test asks for the right thing.
        ensure!(heard(MDNS_V4)? && heard(OTHER_V4)?, "{mode}: before");
        for group in [MDNS_V6, OTHER_V6] {
            ensure!(
                reaches(&from_v6, on_link(group, PORT_V6), &v6)?,
                "{mode}: {group} before"
            );
        }
        lab.apply(&rules(&[MDNS]), mode)?;
        ensure!(heard(MDNS_V4)?, "{mode}: mDNS");
        ensure!(!heard(OTHER_V4)?, "{mode}: another group");
        ensure!(
            reaches(&from_v6, on_link(MDNS_V6, PORT_V6), &v6)?,
            "{mode}: mDNS over IPv6"
        );
        ensure!(
            !reaches(&from_v6, on_link(OTHER_V6, PORT_V6), &v6)?,
            "{mode}: another group over IPv6"
        );
        ensure!(lab.stats()?.rule("mdns") == Some(2), "{:#?}", lab.stats()?);
    }
    Ok(())
}
