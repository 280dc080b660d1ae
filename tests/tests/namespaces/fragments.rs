//! Datagrams that come in pieces: honest ones arrive whole, refused ones never do.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{PATIENCE, SILENCE, mapped, udp};
use firewall_tests::net::{FramePort, Host, Lab};
use firewall_tests::packets::{
    ethernet_to, ethertype, ipv4_between, ipv6_between, patched, udp as datagram,
};

use crate::{MODES, rules};

const SERVED: u16 = 7000;
const REFUSED: u16 = 7001;
const RESOLVER: u16 = 53;

const SERVICES: [&str; 1] =
    [r#"name = "nfs"; action = "accept"; protocol = "udp"; ports = [7000]"#];

/// More than two frames of an MTU of 1500 hold.
const LARGE: usize = 4_000;

/// Sends a large datagram; whether it arrived, whole and unchanged.
fn arrives(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Result<bool> {
    let sent: Vec<u8> = (0..LARGE).map(|index| (index % 251) as u8).collect();
    from.send_to(&sent, mapped(from, to)?)?;
    let mut buffer = vec![0; 2 * LARGE];
    match receiver.recv(&mut buffer) {
        Ok(length) => {
            ensure!(buffer[..length] == sent, "{length} bytes, or others");
            Ok(true)
        }
        Err(_) => Ok(false),
    }
}

#[test]
fn large_datagrams_arrive_where_rules_or_flows_let_them() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let served = udp(&lab.inside, SERVED)?;
        let refused = udp(&lab.inside, REFUSED)?;
        let resolver = udp(&lab.outside, RESOLVER)?;
        let stranger = udp(&lab.outside, 0)?;
        lab.apply(&rules(&SERVICES), mode)?;
        for (inside, outside) in [
            (IpAddr::from(lab.inside.v4), IpAddr::from(lab.outside.v4)),
            (lab.inside.v6.into(), lab.outside.v6.into()),
        ] {
            let at = |port| SocketAddr::new(inside, port);
            ensure!(
                arrives(&stranger, at(SERVED), &served)?,
                "{mode}, {inside}: to a served port"
            );
            ensure!(
                !arrives(&stranger, at(REFUSED), &refused)?,
                "{mode}, {inside}: to a port that no rule names"
            );
            // A large answer to a small question: what resolvers send.
            refused.send_to(b"?", mapped(&refused, SocketAddr::new(outside, RESOLVER))?)?;
            resolver.recv(&mut [0; 8]).context("the small question")?;
            ensure!(
                arrives(&resolver, at(REFUSED), &refused)?,
                "{mode}, {inside}: an answer"
            );
            // And a large question, whose answer is as large.
            ensure!(
                arrives(&refused, SocketAddr::new(outside, RESOLVER), &resolver)?,
                "{mode}, {outside}: a question"
            );
            ensure!(
                arrives(&resolver, at(REFUSED), &refused)?,
                "{mode}, {inside}: its answer"
            );
        }
        let stats = lab.stats()?;
        ensure!(stats.passed("fragment") >= 12, "{stats:#?}");
        ensure!(stats.dropped("fragment-denied") == 4, "{stats:#?}");
        ensure!(stats.passed("fragment-early") == 0, "{stats:#?}");
    }
    Ok(())
}

/// Data of the datagrams that are cut by hand.
const SMALL: [u8; 24] = [b'x'; 24];

/// A datagram from one host to the other in two fragments, the first with ports and 16 bytes.
fn in_two(
    from: &Host,
    to: &Host,
    ipv6: bool,
    port: u16,
    identification: u16,
) -> Result<[Vec<u8>; 2]> {
    let mut whole = datagram(4000, port, &SMALL);
    if ipv6 {
        // RFC 8200, 8.1: over IPv6 a UDP checksum is not optional. The pseudo-header has the length and the protocol.
        let ends = [from.v6.octets(), to.v6.octets()].concat();
        let length = whole.len() as u8;
        let sum =
            checksum(&[&ends[..], &[0, length, 0, 17], &patched(&whole, 6, &[0, 0])].concat());
        whole = patched(&whole, 6, &sum.to_be_bytes());
    }
    let mac = to.hardware_address()?;
    Ok(
        [(0u16, &whole[..24]), (3, &whole[24..])].map(|(offset, piece)| {
            let more = offset == 0;
            if ipv6 {
                // RFC 8200, 4.5: what follows, reserved, offset and M, identification.
                let field = (offset << 3 | u16::from(more)).to_be_bytes();
                let [high, low] = identification.to_be_bytes();
                let header = [17, 0, field[0], field[1], 0, 0, high, low];
                let payload = [&header[..], piece].concat();
                let packet = ipv6_between(from.v6, to.v6, 44, &payload);
                ethernet_to(mac, ethertype::IPV6, &packet)
            } else {
                let packet = ipv4_between(from.v4, to.v4, 17, piece);
                let field = offset | if more { 0x2000 } else { 0 };
                let packet = patched(&packet, 4, &identification.to_be_bytes());
                let packet = patched(&packet, 6, &field.to_be_bytes());
                ethernet_to(mac, ethertype::IPV4, &checksummed(&packet))
            }
        }),
    )
}

/// An IPv4 packet with its header checksum made right.
fn checksummed(packet: &[u8]) -> Vec<u8> {
    let cleared = patched(packet, 10, &[0, 0]);
    patched(&cleared, 10, &checksum(&cleared[..20]).to_be_bytes())
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[test]
fn the_order_of_fragments_does_not_matter_and_refused_ones_are_never_put_together() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let served = udp(&lab.inside, SERVED)?;
    let refused = udp(&lab.inside, REFUSED)?;
    served.set_read_timeout(Some(PATIENCE))?;
    refused.set_read_timeout(Some(SILENCE))?;
    lab.apply(&rules(&SERVICES), "native")?;
    let port = FramePort::open(&lab.outside)?;
    let mut buffer = [0; 64];
    let mut identification = 100;
    for ipv6 in [false, true] {
        for backwards in [false, true] {
            let mut send = |to: u16| -> Result<()> {
                identification += 1;
                let [first, later] = in_two(&lab.outside, &lab.inside, ipv6, to, identification)?;
                let order = if backwards {
                    [later, first]
                } else {
                    [first, later]
                };
                order.iter().try_for_each(|frame| port.send(frame))
            };
            let case = format!("IPv6: {ipv6}, backwards: {backwards}");
            send(REFUSED)?;
            ensure!(refused.recv(&mut buffer).is_err(), "{case}: reassembled");
            send(SERVED)?;
            let length = served.recv(&mut buffer).context(case)?;
            ensure!(buffer[..length] == SMALL, "{length} bytes");
        }
    }
    let stats = lab.stats()?;
    ensure!(stats.passed("fragment-early") == 4, "{stats:#?}");
    ensure!(stats.passed("fragment") == 2, "{stats:#?}");
    ensure!(stats.dropped("fragment-denied") == 2, "{stats:#?}");
    Ok(())
}

/// An allowlist that a datagram's later fragments pass by would let out all but the first kilobyte.
#[test]
fn what_leaves_in_fragments_leaves_whole_or_not_at_all() -> Result<()> {
    const EGRESS: &str = r#"
version = 1

[defaults]
egress = "drop"

[[rule]]
name = "nfs"
direction = "egress"
action = "accept"
protocol = "udp"
ports = [7000]
"#;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let allowed = udp(&lab.outside, SERVED)?;
    let other = udp(&lab.outside, REFUSED)?;
    let sender = udp(&lab.inside, 0)?;
    lab.apply(EGRESS, "native")?;
    for outside in [IpAddr::from(lab.outside.v4), lab.outside.v6.into()] {
        ensure!(
            arrives(&sender, SocketAddr::new(outside, SERVED), &allowed)?,
            "{outside}: what the rule names"
        );
        let sent = [0; LARGE];
        // The kernel may tell the sender that its first fragment was dropped.
        let _ = sender.send_to(&sent, mapped(&sender, SocketAddr::new(outside, REFUSED))?);
        ensure!(
            other.recv(&mut [0; LARGE]).is_err(),
            "{outside}: reassembled"
        );
    }
    // Of a host that forwards, and of a sender with a packet socket, later fragments come without regard to the first.
    let port = FramePort::open(&lab.inside)?;
    let cable = FramePort::listen(&lab.outside)?;
    for (number, ipv6) in [(200, false), (201, true)] {
        let [first, later] = in_two(&lab.inside, &lab.outside, ipv6, REFUSED, number)?;
        for frame in [&later, &first, &later] {
            // The kernel tells this sender too.
            let _ = port.send(frame);
        }
    }
    let leaked = cable.received()?;
    let leaked = leaked.iter().filter(|frame| {
        let data = frame.windows(8);
        data.into_iter().any(|bytes| bytes == &SMALL[..8])
    });
    ensure!(leaked.count() == 0, "fragments have left");
    let stats = lab.stats()?;
    ensure!(stats.dropped("egress-fragment") == 4, "{stats:#?}");
    ensure!(stats.dropped("egress-no-rule") >= 4, "{stats:#?}");
    ensure!(stats.passed("egress-fragment-later") >= 4, "{stats:#?}");
    Ok(())
}
