//! A hop on the way takes less than a whole frame: its ICMP errors have to come in, or everything large stalls.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, PATIENCE, drain, exchange, mapped, udp, wait_until};
use firewall_tests::net::{Host, Lab, MODES, rules};

/// The least that IPv6 allows.
const MTU: u32 = 1280;
const PORT: u16 = 8080;
/// More than the hop takes, in a frame that the first link takes.
const LARGE: [u8; 1400] = [7; 1400];

/// What this host believes to get through to `address`.
fn believed(host: &Host, address: IpAddr) -> Result<Option<u64>> {
    let text = host.ip(&format!("-json route get {address}"))?;
    let routes: serde_json::Value = serde_json::from_str(&text)?;
    Ok(routes[0]["metrics"][0]["mtu"].as_u64())
}

#[test]
fn tcp_learns_what_a_hop_takes() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let beyond = lab.beyond(MTU)?;
        let _service = Echo::start(&beyond, PORT)?;
        lab.apply(&rules(&[]), mode)?;
        for address in [IpAddr::from(beyond.v4), IpAddr::from(beyond.v6)] {
            let before = lab.stats()?.passed("path-mtu");
            ensure!(
                believed(&lab.inside, address)?.is_none(),
                "it knows already"
            );
            let to = SocketAddr::new(address, PORT);
            let mut stream = lab
                .inside
                .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
            exchange(&mut stream, 4 << 20).with_context(|| format!("{mode}, {to}"))?;
            let learnt = believed(&lab.inside, address)?;
            ensure!(learnt == Some(MTU.into()), "{mode}, {to}: {learnt:?}");
            let stats = lab.stats()?;
            ensure!(
                stats.passed("path-mtu") > before,
                "{mode}, {to}: {stats:#?}"
            );
        }
        let stats = lab.stats()?;
        ensure!(stats.totals.dropped.packets == 0, "{mode}: {stats:#?}");
    }
    Ok(())
}

/// The first datagram is lost, as ever; the next ones go in fragments.
#[test]
fn udp_learns_what_a_hop_takes() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let beyond = lab.beyond(MTU)?;
    let receiver = udp(&beyond, PORT)?;
    lab.apply(&rules(&[]), "native")?;
    for address in [IpAddr::from(beyond.v4), IpAddr::from(beyond.v6)] {
        // Sockets set DF on what fits their own link.
        let sender = udp(&lab.inside, 0)?;
        let to = mapped(&sender, SocketAddr::new(address, PORT))?;
        sender.send_to(&LARGE, to)?;
        wait_until("the error comes in", || {
            Ok(believed(&lab.inside, address)? == Some(MTU.into()))
        })?;
        ensure!(
            drain(&receiver)? == 0,
            "{address}: it fits, so this shows nothing"
        );
        sender.send_to(&LARGE, to)?;
        ensure!(drain(&receiver)? == 1, "{address}: it does not arrive");
        // What may not be cut is refused before it leaves, by the same knowledge.
        let mut command = Command::new("ping");
        command
            .args(["-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1400"])
            .arg(address.to_string());
        let refused = lab.inside.run(&mut command)?;
        // Written by ping as `mtu=1280` or `mtu: 1280`, by family.
        let told = ["message too long", "1280"]
            .iter()
            .all(|part| refused.stderr.contains(part));
        ensure!(told, "{address}: {refused}");
    }
    let stats = lab.stats()?;
    ensure!(stats.passed("path-mtu") == 2, "{stats:#?}");
    ensure!(stats.totals.dropped.packets == 0, "{stats:#?}");
    Ok(())
}

/// The near miss: that it is this essential through which they come in.
#[test]
fn nothing_is_learnt_where_the_file_says_so() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let beyond = lab.beyond(MTU)?;
    let receiver = udp(&beyond, PORT)?;
    lab.apply(
        &(rules(&[]) + "\n[essentials]\npath-mtu = false\n"),
        "native",
    )?;
    let addresses = [IpAddr::from(beyond.v4), IpAddr::from(beyond.v6)];
    for address in addresses {
        let sender = udp(&lab.inside, 0)?;
        let to = mapped(&sender, SocketAddr::new(address, PORT))?;
        for _ in 0..2 {
            sender.send_to(&LARGE, to)?;
            ensure!(drain(&receiver)? == 0, "{address}: it arrives");
        }
        ensure!(
            believed(&lab.inside, address)?.is_none(),
            "{address}: it was told"
        );
        sender.send_to(&LARGE[..MTU as usize - 48], to)?;
        ensure!(
            drain(&receiver)? == 1,
            "{address}: what fits does not arrive"
        );
    }
    lab.stats_when(|stats| stats.dropped("no-rule") == 4)?;
    Ok(())
}
