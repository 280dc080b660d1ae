//! Unusual shapes of packets: larger than a page, and in pieces.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use firewall_tests::net::Lab;
use firewall_tests::net::traffic::{Echo, exchange, ping, tcp, udp, udp_from};

use crate::{MODES, rules};

const PORT: u16 = 8080;
const MTU: u32 = 9000;

const RULES: [&str; 3] = [
    r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#,
    r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#,
    r#"name = "ping"; action = "accept"; protocol = "icmp"; icmp-types = ["echo-request"]"#,
];

#[test]
fn jumbo_frames_pass() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        for host in [&lab.outside, &lab.inside] {
            host.ip(&format!("link set {} mtu {MTU}", host.interface()))?;
        }
        let (_web, _other) = (
            Echo::start(&lab.inside, PORT)?,
            Echo::start(&lab.inside, PORT + 1)?,
        );
        let game = udp(&lab.inside, 7000)?;
        lab.apply(&rules(&RULES), mode)?;

        // Headers of IPv4 and ICMP are 28 bytes.
        ensure!(
            ping(&lab.outside, lab.inside.v4.into(), "-M do -s 8972")?,
            "{mode}: ping of a whole frame"
        );
        let address = SocketAddr::new(lab.inside.v4.into(), PORT);
        let mut stream = lab.outside.enter(|| Ok(TcpStream::connect(address)?))?;
        exchange(&mut stream, 20 << 20)?;
        ensure!(
            !tcp(
                &lab.outside,
                SocketAddr::new(lab.inside.v6.into(), PORT + 1),
                1
            )?,
            "{mode}: another port"
        );

        let sender = udp_from(&lab.outside, lab.outside.v4)?;
        let sent: Vec<u8> = (0..8972_u32).map(|index| (index % 251) as u8).collect();
        sender.send_to(&sent, (lab.inside.v4, 7000))?;
        let mut received = vec![0; MTU as usize];
        let length = game.recv(&mut received)?;
        ensure!(
            received[..length] == sent,
            "{mode}: a datagram of {length} bytes came"
        );

        let stats = lab.stats()?;
        let game = stats
            .port("udp", 7000)
            .map(|count| (count.packets, count.bytes));
        ensure!(
            game == Some((1, 9014)),
            "{mode}, whole frames are counted: {stats:#?}"
        );
        ensure!(
            stats.dropped("no-rule") == 1 && stats.totals.dropped.packets == 1,
            "{mode}: {stats:#?}"
        );
    }
    Ok(())
}

#[test]
fn large_pings_go_there_and_back_in_fragments() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&RULES), mode)?;
        for (from, to) in [(&lab.outside, lab.inside.v4), (&lab.inside, lab.outside.v4)] {
            ensure!(
                ping(from, to.into(), "-s 4000")?,
                "{mode}: three fragments to {to}"
            );
        }
        let stats = lab.stats()?;
        ensure!(
            stats.rule("ping") == Some(1) && stats.passed("answer") == 1,
            "{mode}, the first fragments: {stats:#?}"
        );
        ensure!(stats.passed("fragment") == 4, "{mode}: {stats:#?}");
    }
    Ok(())
}
