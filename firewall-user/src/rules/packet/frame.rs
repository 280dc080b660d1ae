//! A packet as the frame that would carry it.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, SingleVlanHeader,
    TcpHeader, UdpHeader, VlanId,
};
use firewall_common::parse::protocol;

use super::{Concrete, Upper};

/// Hardware address of whoever receives the frame, locally administered: rules do not look at it.
const TO: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Hardware address of whoever sends it.
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Hop limit of a packet that has come some way.
const HOP_LIMIT: u8 = 64;
/// Hop limit of neighbour discovery, which no router hands on (RFC 4861, 6.1).
const HOP_LIMIT_ON_LINK: u8 = 255;
/// Hop limit of multicast membership, which is never for another network (RFC 3376, 4; RFC 3810, 5).
const HOP_LIMIT_MEMBERSHIP: u8 = 1;
/// Ports of the datagram that an ICMP error is about: a question to a name server.
const ABOUT: (u16, u16) = (40_000, 53);

impl Concrete {
    /// The bytes of an Ethernet frame with this packet.
    pub fn frame(&self) -> Vec<u8> {
        let packet = self.packet();
        let ether_type = match self.source {
            IpAddr::V4(_) => EtherType::IPV4,
            IpAddr::V6(_) => EtherType::IPV6,
        };
        let tag = self.vlan.map(|id| SingleVlanHeader {
            // Twelve bits are all that was read.
            vlan_id: VlanId::try_new(id).unwrap_or(VlanId::ZERO),
            ether_type,
            ..SingleVlanHeader::default()
        });
        let ethernet = Ethernet2Header {
            source: FROM,
            destination: TO,
            ether_type: if tag.is_some() {
                EtherType::VLAN_TAGGED_FRAME
            } else {
                ether_type
            },
        };
        let mut frame = ethernet.to_bytes().to_vec();
        if let Some(tag) = tag {
            frame.extend(tag.to_bytes());
        }
        frame.extend(packet);
        frame
    }

    /// The packet without its frame.
    fn packet(&self) -> Vec<u8> {
        let upper = self.upper_bytes();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    total_len: (usize::from(Ipv4Header::MIN_LEN_U16) + upper.len()) as u16,
                    time_to_live: self.hop_limit(),
                    protocol: IpNumber(self.protocol),
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes()[..], &upper].concat()
            }
            (source, destination) => {
                let v6 = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                };
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: upper.len() as u16,
                    next_header: IpNumber(self.protocol),
                    hop_limit: self.hop_limit(),
                    source: v6(source),
                    destination: v6(destination),
                };
                [&header.to_bytes()[..], &upper].concat()
            }
        }
    }

    /// Neighbour discovery, MLD and IGMP have hop limits of their own.
    fn hop_limit(&self) -> u8 {
        match (self.protocol, self.upper) {
            (protocol::ICMPV6, Upper::Icmp(133..=137)) => HOP_LIMIT_ON_LINK,
            (protocol::ICMPV6, Upper::Icmp(130..=132 | 143)) => HOP_LIMIT_MEMBERSHIP,
            (protocol::IGMP, _) => HOP_LIMIT_MEMBERSHIP,
            _ => HOP_LIMIT,
        }
    }

    /// Headers of the upper layer, without data. Checksums are left out: they are for the host to check, not for the firewall.
    fn upper_bytes(&self) -> Vec<u8> {
        match self.upper {
            Upper::Tcp {
                source,
                destination,
                flags,
            } => {
                const FLAGS: usize = 13;
                let mut bytes = TcpHeader::new(source, destination, 1, u16::MAX).to_bytes();
                bytes[FLAGS] = flags;
                bytes.to_vec()
            }
            Upper::Ports {
                source,
                destination,
            } if self.protocol == protocol::UDP => UdpHeader {
                source_port: source,
                destination_port: destination,
                length: UdpHeader::LEN_U16,
                checksum: 0,
            }
            .to_bytes()
            .to_vec(),
            // An SCTP common header; its tag and checksum are zero (RFC 9260, 3.1).
            Upper::Ports {
                source,
                destination,
            } => [
                &source.to_be_bytes()[..],
                &destination.to_be_bytes(),
                &[0; 8],
            ]
            .concat(),
            Upper::Icmp(kind) => [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &self.about()].concat(),
            Upper::Other => Vec::new(),
        }
    }

    /// What an ICMP message is about, where it is an error: a datagram of whoever it goes to.
    fn about(&self) -> Vec<u8> {
        let is_error = match (self.upper, self.source) {
            (Upper::Icmp(kind), IpAddr::V4(_)) => matches!(kind, 3 | 11 | 12),
            (Upper::Icmp(kind), IpAddr::V6(_)) => matches!(kind, 1..=4),
            _ => false,
        };
        if !is_error {
            return Vec::new();
        }
        let (source, destination) = ABOUT;
        let about = Self {
            protocol: protocol::UDP,
            source: self.destination,
            destination: self.source,
            upper: Upper::Ports {
                source,
                destination,
            },
            ..*self
        };
        about.packet()
    }
}
