//! One packet: a pattern whose open fields are filled in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use firewall_common::abi::image::Selector;
use firewall_common::parse::transport::{icmp_type, tcp_flag};
use firewall_common::parse::{Addresses, Packet, protocol};

use super::super::addresses::Block;
use super::super::model::{Direction, Protocol};
use super::{End, PacketError, Pattern, Whose};

/// Somebody else, unless written otherwise.
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Somebody else, unless written otherwise.
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
/// Source port unless written otherwise: one that clients are given.
const SOURCE_PORT: u16 = 40_000;

/// The addresses of this host, for packets that do not say them.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Of IPv4.
    pub v4: Ipv4Addr,
    /// Of IPv6.
    pub v6: Ipv6Addr,
}

impl Default for Host {
    /// A host that is nowhere.
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::new(192, 0, 2, 10),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 10),
        }
    }
}

/// One packet, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concrete {
    /// Which way it goes.
    pub direction: Direction,
    /// IP protocol number, for IPv6 that of the upper layer.
    pub protocol: u8,
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes; of the source's family.
    pub destination: IpAddr,
    /// What the upper layer says.
    pub upper: Upper,
    /// VLAN id of its tag.
    pub vlan: Option<u16>,
}

/// What the upper layer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upper {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The header's flags byte.
        flags: u8,
    },
    /// UDP or SCTP.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP or ICMPv6 of this type, with code 0.
    Icmp(u8),
    /// Nothing that rules look at.
    Other,
}

impl Concrete {
    /// What the firewall has read of a packet. Its tags are not among that, and a code of ICMP is left out.
    pub fn of(packet: &Packet, direction: Direction) -> Self {
        let whole = |[upper, lower]: [u64; 2]| u128::from(upper) << 64 | u128::from(lower);
        let v6 = |address| Ipv6Addr::from_bits(whole(address)).into();
        let v4 = |address| Ipv4Addr::from_bits(address).into();
        let (from, to): (IpAddr, IpAddr) = match packet.addresses {
            Addresses::V4 {
                source,
                destination,
            } => (v4(source), v4(destination)),
            Addresses::V6 {
                source,
                destination,
            } => (v6(source), v6(destination)),
        };
        let transport = &packet.transport;
        let (source, destination) = (transport.source_port, transport.value);
        Self {
            direction,
            protocol: transport.protocol,
            source: from,
            destination: to,
            upper: match transport.selector {
                Some(Selector::Tcp) => Upper::Tcp {
                    source,
                    destination,
                    flags: transport.tcp_flags,
                },
                Some(Selector::Udp | Selector::Sctp) => Upper::Ports {
                    source,
                    destination,
                },
                Some(Selector::Icmp | Selector::Icmpv6) => {
                    Upper::Icmp((transport.value >> 8) as u8)
                }
                None => Upper::Other,
            },
            vlan: None,
        }
    }
}

impl Pattern {
    /// The packet that is meant: what was left out is filled in, with an address of `host` at its end.
    ///
    /// # Errors
    ///
    /// What is written is no single packet, or none that there can be.
    pub fn concrete(&self, host: &Host) -> Result<Concrete, PacketError> {
        let Protocol::Number(number) = self.protocol else {
            return Err(PacketError::new(
                "`any` is no protocol of one packet",
                "begin the packet with its protocol, such as tcp",
            ));
        };
        let source = single(&self.source)?;
        let destination = single(&self.destination)?;
        let is_v6 = is_v6(number, source, destination)?;
        let (here, there): (IpAddr, IpAddr) = if is_v6 {
            (host.v6.into(), OTHER_V6.into())
        } else {
            (host.v4.into(), OTHER_V4.into())
        };
        let (from, to) = match self.direction {
            Direction::Ingress => (there, here),
            Direction::Egress => (here, there),
        };
        Ok(Concrete {
            direction: self.direction,
            protocol: number,
            source: source.unwrap_or(from),
            destination: destination.unwrap_or(to),
            upper: self.upper(number)?,
            vlan: self.vlan,
        })
    }

    fn upper(&self, number: u8) -> Result<Upper, PacketError> {
        match number {
            protocol::TCP => {
                let (source, destination) = self.ports()?;
                Ok(Upper::Tcp {
                    source,
                    destination,
                    flags: self.tcp_flags.unwrap_or(tcp_flag::SYN),
                })
            }
            protocol::UDP | protocol::SCTP => {
                let (source, destination) = self.ports()?;
                Ok(Upper::Ports {
                    source,
                    destination,
                })
            }
            protocol::ICMP => Ok(Upper::Icmp(
                self.icmp_type.unwrap_or(icmp_type::ECHO_REQUEST),
            )),
            protocol::ICMPV6 => Ok(Upper::Icmp(
                self.icmp_type.unwrap_or(icmp_type::V6_ECHO_REQUEST),
            )),
            _ => Ok(Upper::Other),
        }
    }

    /// Source and destination port.
    fn ports(&self) -> Result<(u16, u16), PacketError> {
        let port = |ports| match ports {
            Some((first, last)) if first != last => Err(PacketError::new(
                format!("a packet has one port, not {first}-{last}"),
                "write the one that is asked about",
            )),
            ports => Ok(ports.map(|(port, _)| port)),
        };
        let destination = port(self.destination.ports)?.ok_or_else(|| {
            PacketError::new(
                "the port that the packet goes to is missing",
                "write it behind the address that it goes to, or alone: `to :443`",
            )
        })?;
        Ok((port(self.source.ports)?.unwrap_or(SOURCE_PORT), destination))
    }
}

/// The address of an end, if it has one.
fn single(end: &End) -> Result<Option<IpAddr>, PacketError> {
    match &end.address {
        None => Ok(None),
        Some(Whose::Block(Block::V4(first, last))) if first == last => {
            Ok(Some(Ipv4Addr::from_bits(*first).into()))
        }
        Some(Whose::Block(Block::V6(first, last))) if first == last => {
            Ok(Some(Ipv6Addr::from_bits(*first).into()))
        }
        Some(Whose::Block(_)) => Err(PacketError::new(
            "a packet has one address at each end, not those of a network",
            "write the address that is asked about, without `/`",
        )),
        Some(Whose::Group(name)) => Err(PacketError::new(
            format!("`{name}` is no address"),
            "write the address that is asked about, such as 192.0.2.10",
        )),
    }
}

/// The family that protocol and addresses agree on; IPv4 if they say nothing.
fn is_v6(
    number: u8,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
) -> Result<bool, PacketError> {
    let by_protocol = match number {
        protocol::ICMP => Some(false),
        protocol::ICMPV6 => Some(true),
        _ => None,
    };
    let by_address = |address: Option<IpAddr>| address.map(|address| address.is_ipv6());
    let is_v6 = match (by_address(source), by_address(destination)) {
        (Some(source), Some(destination)) if source != destination => {
            return Err(PacketError::new(
                "one address is of IPv4, the other of IPv6",
                "write two of the same family, or leave one out",
            ));
        }
        (source, destination) => source.or(destination),
    };
    match (by_protocol, is_v6) {
        (Some(false), Some(true)) => Err(PacketError::new(
            "icmp belongs to IPv4",
            "begin the packet with icmpv6",
        )),
        (Some(true), Some(false)) => Err(PacketError::new(
            "icmpv6 belongs to IPv6",
            "begin the packet with icmp",
        )),
        (by_protocol, is_v6) => {
            let is_v6 = by_protocol.or(is_v6).unwrap_or(false);
            if is_v6 && is_extension(number) {
                return Err(PacketError::new(
                    format!("protocol {number} is an extension header of IPv6"),
                    "begin the packet with the protocol that comes behind it",
                ));
            }
            Ok(is_v6)
        }
    }
}

/// Headers that are followed and not decided by.
const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AH
            | protocol::DESTINATION_OPTIONS
    )
}
