//! The frames that are sent: 64k different ones for each case, all of the same length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, VlanId};

use crate::{
    abi::{FRAME_BYTES, FRAMES},
    random::Random,
};

/// The frames of a case.
pub(crate) type Frames = Box<[[u8; FRAME_BYTES]; FRAMES]>;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// A TCP SYN to this port.
    Tcp(u16),
    /// A UDP datagram to this port.
    Udp(u16),
    /// An ICMP or ICMPv6 echo request.
    Echo,
}

/// What is told of a packet; the rest is random or does not matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Source address; the destination is this host's documentation address.
    pub(crate) source: IpAddr,
    /// What it carries.
    pub(crate) service: Service,
    /// VLAN that its tag names.
    pub(crate) vlan: Option<u16>,
}

impl Packet {
    /// An untagged packet.
    pub(crate) const fn new(source: IpAddr, service: Service) -> Self {
        Self {
            source,
            service,
            vlan: None,
        }
    }
}

/// The guarded host.
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The same over IPv6.
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10);
const ETHERNET: u16 = 14;
const TAG: u16 = 4;
pub(crate) const TIME_TO_LIVE: u8 = 61;

/// Makes the frames of a case from what `packet` tells of each.
///
/// # Errors
///
/// If a frame cannot be written.
pub(crate) fn frames(
    random: &mut Random,
    mut packet: impl FnMut(&mut Random) -> Packet,
) -> Result<Frames> {
    collect(|_, buffer| write(&packet(random), random, buffer))
}

/// Makes the frames of a case, each written by `write`, which is told its number.
///
/// # Errors
///
/// If a frame cannot be written.
pub(crate) fn collect(mut write: impl FnMut(usize, &mut Vec<u8>) -> Result<()>) -> Result<Frames> {
    let mut frames = Vec::with_capacity(FRAMES);
    let mut buffer = Vec::with_capacity(FRAME_BYTES);
    for number in 0..FRAMES {
        buffer.clear();
        write(number, &mut buffer)?;
        frames.push(*buffer.first_chunk().context("a frame is too short")?);
    }
    let frames: Box<[_]> = frames.into();
    frames.try_into().ok().context("as many frames as are sent")
}

fn write(packet: &Packet, random: &mut Random, buffer: &mut Vec<u8>) -> Result<()> {
    let (protocol, transport) = match (packet.service, packet.source) {
        (Service::Tcp(_), _) => (IpNumber::TCP, 20),
        (Service::Udp(_), _) => (IpNumber::UDP, 8),
        (Service::Echo, IpAddr::V4(_)) => (IpNumber::ICMP, 8),
        (Service::Echo, IpAddr::V6(_)) => (IpNumber::IPV6_ICMP, 8),
    };
    let tag = if packet.vlan.is_some() { TAG } else { 0 };
    let behind_ethernet = FRAME_BYTES as u16 - ETHERNET - tag;
    let (ip, payload) = match packet.source {
        IpAddr::V4(source) => {
            let length = behind_ethernet - Ipv4Header::MIN_LEN as u16;
            let header = Ipv4Header::new(
                length,
                TIME_TO_LIVE,
                protocol,
                source.octets(),
                HOST_V4.octets(),
            )?;
            (
                IpHeaders::Ipv4(header, Default::default()),
                length - transport,
            )
        }
        IpAddr::V6(source) => {
            let length = behind_ethernet - Ipv6Header::LEN as u16;
            let header = Ipv6Header {
                payload_length: length,
                next_header: protocol,
                hop_limit: TIME_TO_LIVE,
                source: source.octets(),
                destination: HOST_V6.octets(),
                ..Ipv6Header::default()
            };
            (
                IpHeaders::Ipv6(header, Default::default()),
                length - transport,
            )
        }
    };
    // Locally administered addresses.
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match packet.vlan {
        Some(vlan) => ethernet.single_vlan(VlanId::try_new(vlan)?).ip(ip),
        None => ethernet.ip(ip),
    };
    let payload = vec![0; usize::from(payload)];
    match packet.service {
        Service::Tcp(port) => {
            let sequence = random.bits() as u32;
            builder
                .tcp(random.port(), port, sequence, 64240)
                .syn()
                .write(buffer, &payload)?;
        }
        Service::Udp(port) => builder.udp(random.port(), port).write(buffer, &payload)?,
        Service::Echo => {
            let (id, sequence) = (random.bits() as u16, random.bits() as u16);
            match packet.source {
                IpAddr::V4(_) => builder
                    .icmpv4_echo_request(id, sequence)
                    .write(buffer, &payload)?,
                IpAddr::V6(_) => builder
                    .icmpv6_echo_request(id, sequence)
                    .write(buffer, &payload)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use firewall_common::parse::{Parsed, parse};

    #[test]
    fn every_form_parses_and_fills_the_frame() {
        let sources: [IpAddr; 2] = [
            "198.51.100.7".parse().unwrap(),
            "2001:db8::7".parse().unwrap(),
        ];
        let mut buffer = Vec::new();
        for source in sources {
            for service in [Service::Tcp(443), Service::Udp(53), Service::Echo] {
                for vlan in [None, Some(7)] {
                    let packet = Packet {
                        source,
                        service,
                        vlan,
                    };
                    buffer.clear();
                    write(&packet, &mut Random::new(3), &mut buffer).unwrap();
                    assert_eq!(buffer.len(), FRAME_BYTES, "{packet:?}");
                    assert!(
                        matches!(parse(buffer.as_slice()), Ok(Parsed::Ip(_))),
                        "{packet:?}"
                    );
                }
            }
        }
    }
}
