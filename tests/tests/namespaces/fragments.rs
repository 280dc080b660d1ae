//! Datagrams that come in pieces: honest ones arrive whole, refused ones never do.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use firewall_common::parse::protocol::{DESTINATION_OPTIONS as OPTIONS, TCP, UDP};
use firewall_tests::net::traffic::{Echo, PATIENCE, SILENCE, mapped, udp};
use firewall_tests::net::{FramePort, Host, Lab};
use firewall_tests::packets::{
    PADDING, at, ethernet_to, ethertype, extension, ipv4_between, ipv6_between, patched, tcp_flag,
    tcp_from, udp as datagram,
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

/// The hosts that a packet goes from and to.
#[derive(Clone, Copy, Debug)]
struct Way<'a> {
    from: &'a Host,
    to: &'a Host,
}

/// From the host outside to the one inside.
fn inwards(lab: &Lab) -> Way<'_> {
    Way {
        from: &lab.outside,
        to: &lab.inside,
    }
}

/// A datagram in two fragments, the first with ports and 16 bytes.
fn in_two(way: Way<'_>, ipv6: bool, port: u16, identification: u16) -> Result<[Vec<u8>; 2]> {
    let whole = sound(way, ipv6, UDP, &datagram(4000, port, &SMALL));
    let pieces = [
        Piece::first(UDP, &whole[..24]),
        Piece::last(UDP, 3, &whole[24..]),
    ];
    let mac = way.to.hardware_address()?;
    Ok(pieces.map(|piece| piece.frame(way, mac, ipv6, identification)))
}

/// A fragment.
#[derive(Clone, Debug)]
struct Piece {
    protocol: u8,
    /// In units of 8 bytes.
    offset: u16,
    more: bool,
    bytes: Vec<u8>,
}

impl Piece {
    /// What a datagram begins with.
    fn first(protocol: u8, bytes: &[u8]) -> Self {
        Self {
            more: true,
            ..Self::last(protocol, 0, bytes)
        }
    }

    /// What a datagram ends with.
    fn last(protocol: u8, offset: u16, bytes: &[u8]) -> Self {
        Self {
            protocol,
            offset,
            more: false,
            bytes: bytes.to_vec(),
        }
    }

    /// Whether it would rewrite what rules have looked at: in IPv6 a later fragment may say that it carries anything.
    fn reaches_into_header(&self, ipv6: bool) -> bool {
        (1..3).contains(&self.offset) && (ipv6 || self.protocol == TCP)
    }

    /// The frame in which it goes to the hardware address `mac`.
    fn frame(&self, way: Way<'_>, mac: [u8; 6], ipv6: bool, identification: u16) -> Vec<u8> {
        let Way { from, to } = way;
        if ipv6 {
            // RFC 8200, 4.5: what follows, reserved, offset and M, identification.
            let field = (self.offset << 3 | u16::from(self.more)).to_be_bytes();
            let [high, low] = identification.to_be_bytes();
            let header = [self.protocol, 0, field[0], field[1], 0, 0, high, low];
            let payload = [&header[..], &self.bytes].concat();
            let packet = ipv6_between(from.v6, to.v6, 44, &payload);
            ethernet_to(mac, ethertype::IPV6, &packet)
        } else {
            let packet = ipv4_between(from.v4, to.v4, self.protocol, &self.bytes);
            let field = self.offset | if self.more { 0x2000 } else { 0 };
            let packet = patched(&packet, 4, &identification.to_be_bytes());
            let packet = patched(&packet, 6, &field.to_be_bytes());
            ethernet_to(mac, ethertype::IPV4, &checksummed(&packet))
        }
    }
}

/// A segment or datagram with its checksum made right: over IPv6 that of UDP is not optional (RFC 8200, 8.1).
fn sound(way: Way<'_>, ipv6: bool, protocol: u8, whole: &[u8]) -> Vec<u8> {
    let at = if protocol == TCP { 16 } else { 6 };
    let ends = if ipv6 {
        [way.from.v6.octets(), way.to.v6.octets()].concat()
    } else {
        [way.from.v4.octets(), way.to.v4.octets()].concat()
    };
    // Of the pseudo-header, length and protocol; where they lie in it changes no sum.
    let rest = [0, whole.len() as u8, 0, protocol];
    let sum = checksum(&[&ends[..], &rest, &patched(whole, at, &[0, 0])].concat());
    patched(whole, at, &sum.to_be_bytes())
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
                let [first, later] = in_two(inwards(&lab), ipv6, to, identification)?;
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

/// Pieces that lie over each other, so that something else comes to lie where rules have looked at what they accept, if whoever
/// puts them together takes the later one. The first is always one that rules accept.
fn overlaps(lab: &Lab, ipv6: bool) -> Vec<(&'static str, Vec<Piece>)> {
    // The same but for where they go.
    let [accepted, denied] = [SERVED, REFUSED]
        .map(|port| sound(inwards(lab), ipv6, UDP, &datagram(4000, port, &[b'x'; 24])));
    let [syn, denied_syn] = [SERVED, REFUSED].map(|port| {
        let segment = [&tcp_from(4000, port, tcp_flag::SYN)[..], &[b'x'; 12]].concat();
        sound(inwards(lab), ipv6, TCP, &segment)
    });
    let other = [b'd'; 24];
    let mut overlaps = vec![
        (
            "a second header",
            vec![
                Piece::first(UDP, &accepted[..16]),
                Piece::first(UDP, &denied[..16]),
                Piece::last(UDP, 2, &accepted[16..]),
            ],
        ),
        (
            "data over the first's",
            vec![
                Piece::first(UDP, &accepted[..24]),
                Piece::last(UDP, 1, &other),
            ],
        ),
        (
            "data within the first's",
            vec![
                Piece::first(UDP, &accepted[..24]),
                Piece {
                    more: true,
                    ..Piece::last(UDP, 1, &other[..8])
                },
                Piece::last(UDP, 3, &accepted[24..]),
            ],
        ),
        (
            "a second TCP header",
            vec![
                Piece::first(TCP, &syn[..24]),
                Piece::first(TCP, &denied_syn[..24]),
                Piece::last(TCP, 3, &syn[24..]),
            ],
        ),
        (
            "TCP's flags",
            vec![
                Piece::first(TCP, &syn[..24]),
                Piece::last(TCP, 1, &denied_syn[8..]),
            ],
        ),
        (
            "TCP's checksum",
            vec![
                Piece::first(TCP, &syn[..24]),
                Piece::last(TCP, 2, &denied_syn[16..]),
            ],
        ),
    ];
    if ipv6 {
        overlaps.push((
            "a header behind options",
            vec![
                Piece::first(OPTIONS, &extension(UDP, PADDING, &accepted)[..24]),
                Piece::last(OPTIONS, 1, &denied),
            ],
        ));
    }
    overlaps
}

/// What the firewall cannot tell by itself the kernel drops: nothing reaches a port that rules do not serve, and what reaches
/// one that they do is what was accepted.
#[test]
fn overlapping_fragments_rewrite_nothing() -> Result<()> {
    const WEB: &str = r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [7000]"#;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (served, refused) = (udp(&lab.inside, SERVED)?, udp(&lab.inside, REFUSED)?);
    let _services = [
        Echo::start(&lab.inside, SERVED)?,
        Echo::start(&lab.inside, REFUSED)?,
    ];
    let mac = lab.inside.hardware_address()?;
    let port = FramePort::open(&lab.outside)?;
    let cable = FramePort::listen(&lab.outside)?;
    let mut identification = 1_000;
    let mut send = |ipv6: bool, pieces: &[&Piece]| -> Result<()> {
        identification += 1;
        pieces
            .iter()
            .try_for_each(|piece| port.send(&piece.frame(inwards(&lab), mac, ipv6, identification)))
    };
    // Whether the port that rules do not serve has said anything over TCP.
    let answers = || -> Result<bool> {
        let frames = cable.received()?;
        Ok(frames.iter().any(|frame| {
            let upper = match frame[at::ETHERTYPE..at::NETWORK] {
                [0x86, 0xdd] => at::V6_PAYLOAD,
                _ => at::V4_PAYLOAD,
            };
            let source = frame.get(upper..upper + 2);
            frame[6..12] == mac && source == Some(&REFUSED.to_be_bytes())
        }))
    };
    let mut buffer = [0; 64];

    // Without a firewall and without overlaps, the refused ones arrive: they are what they should be.
    for ipv6 in [false, true] {
        let whole = sound(
            inwards(&lab),
            ipv6,
            UDP,
            &datagram(4000, REFUSED, &[b'x'; 24]),
        );
        let mut wholes = vec![(UDP, whole.clone())];
        if ipv6 {
            wholes.push((OPTIONS, extension(UDP, PADDING, &whole)));
        }
        for (protocol, whole) in &wholes {
            let pieces = (
                Piece::first(*protocol, &whole[..24]),
                Piece::last(*protocol, 3, &whole[24..]),
            );
            send(ipv6, &[&pieces.0, &pieces.1])?;
            let length = refused.recv(&mut buffer).context("no datagram")?;
            ensure!(buffer[..length] == [b'x'; 24], "{length} bytes");
        }
        let segment = [&tcp_from(4000, REFUSED, tcp_flag::SYN)[..], &[b'x'; 12]].concat();
        let whole = sound(inwards(&lab), ipv6, TCP, &segment);
        let pieces = (
            Piece::first(TCP, &whole[..24]),
            Piece::last(TCP, 3, &whole[24..]),
        );
        send(ipv6, &[&pieces.0, &pieces.1])?;
        ensure!(answers()?, "nobody answers a SYN");
    }

    lab.apply(&rules(&[SERVICES[0], WEB]), "native")?;
    let mut refused_alone = 0;
    for ipv6 in [false, true] {
        for (name, pieces) in overlaps(&lab, ipv6) {
            let forwards: Vec<_> = pieces.iter().collect();
            let backwards: Vec<_> = pieces.iter().rev().collect();
            for order in [forwards, backwards] {
                let alone = order.iter().filter(|piece| piece.reaches_into_header(ipv6));
                refused_alone += alone.count() as u64;
                let case = format!("{name}, IPv6: {ipv6}, beginning with {:02x?}", order[0]);
                send(ipv6, &order)?;
                ensure!(refused.recv(&mut buffer).is_err(), "{case}: it arrived");
                ensure!(!answers()?, "{case}: it was answered");
                served.set_nonblocking(true)?;
                while let Ok(length) = served.recv(&mut buffer) {
                    ensure!(
                        buffer[..length] == [b'x'; 24],
                        "{case}: {:02x?}",
                        &buffer[..length]
                    );
                }
                served.set_nonblocking(false)?;
            }
        }
        // One that is whole arrives after all of them.
        let [first, later] = in_two(inwards(&lab), ipv6, SERVED, 1)?;
        port.send(&first)?;
        port.send(&later)?;
        let length = served.recv(&mut buffer).context("the honest one")?;
        ensure!(buffer[..length] == SMALL, "{length} bytes");
    }
    let stats = lab.stats()?;
    ensure!(
        stats.dropped("fragment-overlap") == refused_alone,
        "{stats:#?}"
    );
    ensure!(stats.dropped("no-rule") == 8, "{stats:#?}");
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
    let outwards = Way {
        from: &lab.inside,
        to: &lab.outside,
    };
    for (number, ipv6) in [(200, false), (201, true)] {
        let [first, later] = in_two(outwards, ipv6, REFUSED, number)?;
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
