//! A guarded host that routes, hides others behind its address or runs a bridge: those behind it are guarded as it is itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Result, ensure};
use firewall_tests::net::traffic::{Echo, PATIENCE, exchange, ping, tcp};
use firewall_tests::net::{Host, Lab};

use crate::{MODES, rules};

const PORT: u16 = 8080;
const OTHER_PORT: u16 = 9090;
/// The network behind the guarded host, and who is in it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// Lays a cable from the guarded host to `container`; returns the name of this host's end.
fn cable(lab: &Lab, container: &Host) -> Result<String> {
    let here = format!("{}b", lab.inside.interface());
    lab.inside.ip(&format!(
        "link add {here} up type veth peer name {} netns {}",
        container.interface(),
        container.namespace()
    ))?;
    container.ip(&format!("link set {} up", container.interface()))?;
    Ok(here)
}

/// A container in a network of its own, for which the guarded host is the router.
fn routed(lab: &Lab) -> Result<Host> {
    let container = lab.third()?;
    let here = cable(lab, &container)?;
    lab.inside
        .ip(&format!("address add {GATEWAY}/24 dev {here}"))?;
    container.ip(&format!(
        "address add {CONTAINER}/24 dev {}",
        container.interface()
    ))?;
    container.ip(&format!("route add default via {GATEWAY}"))?;
    lab.inside.sysctl("ipv4/ip_forward", "1")?;
    Ok(container)
}

/// Whether `from` can open a connection to `to` and use it.
fn opens(from: &Host, to: SocketAddr) -> Result<()> {
    let mut stream = from.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    exchange(&mut stream, 100_000)
}

#[test]
fn a_container_opens_connections_and_serves_what_rules_say() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let container = routed(&lab)?;
        lab.outside
            .ip(&format!("route add 203.0.113.0/24 via {}", lab.inside.v4))?;
        let _remote = Echo::start(&lab.outside, OTHER_PORT)?;
        let _served = Echo::start(&container, PORT)?;
        let _hidden = Echo::start(&container, OTHER_PORT)?;
        lab.apply(
            &rules(&[
                r#"name = "container"; action = "accept"; protocol = "tcp"; ports = [8080]; to = ["203.0.113.2"]"#,
            ]),
            mode,
        )?;
        let at = |port| SocketAddr::new(CONTAINER.into(), port);
        opens(
            &container,
            SocketAddr::new(lab.outside.v4.into(), OTHER_PORT),
        )?;
        ensure!(ping(&container, lab.outside.v4.into(), "")?, "{mode}: ping");
        opens(&lab.outside, at(PORT))?;
        ensure!(!tcp(&lab.outside, at(OTHER_PORT), 1)?, "{mode}: not served");
        ensure!(
            !ping(&lab.outside, CONTAINER.into(), "")?,
            "{mode}: ping in"
        );
        let stats = lab.stats()?;
        ensure!(stats.passed("answer") > 0, "{mode}: {stats:#?}");
        ensure!(
            stats.rule("container").is_some_and(|packets| packets > 0),
            "{mode}: {stats:#?}"
        );
    }
    Ok(())
}

#[test]
fn answers_to_masqueraded_connections_come_back() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let container = routed(&lab)?;
    // No route back: outside nobody knows the container's network.
    for line in [
        "add table ip nat",
        "add chain ip nat out { type nat hook postrouting priority srcnat; }",
        "add rule ip nat out ip saddr 203.0.113.0/24 masquerade",
    ] {
        lab.inside.run(Command::new("nft").arg(line))?.success()?;
    }
    let _remote = Echo::start(&lab.outside, OTHER_PORT)?;
    lab.apply(&rules(&[]), "native")?;
    opens(
        &container,
        SocketAddr::new(lab.outside.v4.into(), OTHER_PORT),
    )?;
    let stats = lab.stats()?;
    ensure!(stats.passed("answer") > 0, "{stats:#?}");
    ensure!(stats.totals.dropped.packets == 0, "{stats:#?}");
    Ok(())
}

#[test]
fn hosts_behind_a_bridge_are_guarded_at_its_port() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let container = lab.third()?;
        let here = cable(&lab, &container)?;
        let (port, bridge) = (lab.inside.interface(), format!("{here}r"));
        for command in [
            format!("link add {bridge} up type bridge"),
            format!("link set {here} master {bridge}"),
            format!("link set {port} master {bridge}"),
            format!("address flush dev {port}"),
            format!("address add {}/24 dev {bridge}", lab.inside.v4),
            format!("address add {}/64 dev {bridge} nodad", lab.inside.v6),
        ] {
            lab.inside.ip(&command)?;
        }
        let interface = container.interface();
        container.ip(&format!("address add {}/24 dev {interface}", container.v4))?;
        container.ip(&format!(
            "address add {}/64 dev {interface} nodad",
            container.v6
        ))?;
        let _remote = Echo::start(&lab.outside, OTHER_PORT)?;
        let _served = Echo::start(&container, PORT)?;
        let _hidden = Echo::start(&container, OTHER_PORT)?;
        let _own = Echo::start(&lab.inside, PORT)?;
        lab.apply(
            &rules(&[r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#]),
            mode,
        )?;
        for (behind, host, outside) in [
            (
                IpAddr::from(container.v4),
                IpAddr::from(lab.inside.v4),
                IpAddr::from(lab.outside.v4),
            ),
            (
                container.v6.into(),
                lab.inside.v6.into(),
                lab.outside.v6.into(),
            ),
        ] {
            for from in [&container, &lab.inside] {
                opens(from, SocketAddr::new(outside, OTHER_PORT))?;
            }
            for to in [behind, host] {
                opens(&lab.outside, SocketAddr::new(to, PORT))?;
            }
            let hidden = SocketAddr::new(behind, OTHER_PORT);
            ensure!(!tcp(&lab.outside, hidden, 1)?, "{mode}: {hidden}");
            // Between the two nothing crosses the guarded port.
            opens(&lab.inside, hidden)?;
        }
    }
    Ok(())
}
