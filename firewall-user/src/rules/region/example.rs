//! One packet of a region, to be shown or to be sent.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use firewall_common::parse::transport::tcp_flag;
use firewall_common::parse::{Addresses, Fragment, Packet, Transport, Upper, protocol};

use super::division::Extents;
use super::division::dimension::{DESTINATION, FLAGS, SERVICE, SOURCE};
use super::ranges::{Extent, Number, contain, intersection};
use super::services::{is_of_v6, number, selector};
use crate::rules::names::{self, IcmpFamily};

/// A packet as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Example {
    /// Source and destination.
    pub addresses: Addresses,
    /// What it carries; of source ports, which no rule asks for, some ephemeral one.
    pub transport: Transport,
}

/// Source port of examples: the first of those that IANA leaves to clients (RFC 6335, 6).
const SOURCE_PORT: u16 = 49_152;

/// Source and destination of examples, where the region has them: documentation addresses (RFC 5737, RFC 3849).
const LIKED_V4: [u32; 2] = [
    Ipv4Addr::new(198, 51, 100, 7).to_bits(),
    Ipv4Addr::new(192, 0, 2, 1).to_bits(),
];
const LIKED_V6: [u128; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).to_bits(),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).to_bits(),
];

/// IPv4 sources that packets can have: others are dropped before rules see them.
const SOURCES_V4: [(u32, u32); 4] = [
    (0, 0),
    (0x0100_0000, 0x7eff_ffff),
    (0x8000_0000, 0xdfff_ffff),
    (0xf000_0000, u32::MAX - 1),
];
const DESTINATIONS_V4: [(u32, u32); 2] = [(0, 0x7eff_ffff), (0x8000_0000, u32::MAX)];
const LOOPBACK_V6: u128 = 1;
/// IPv4 addresses in IPv6 form.
const MAPPED: (u128, u128) = (0xffff << 32, 0xffff << 32 | 0xffff_ffff);
const MULTICAST_V6: u128 = 0xff << 120;
const SOURCES_V6: [(u128, u128); 3] = [
    (0, LOOPBACK_V6 - 1),
    (LOOPBACK_V6 + 1, MAPPED.0 - 1),
    (MAPPED.1 + 1, MULTICAST_V6 - 1),
];
const DESTINATIONS_V6: [(u128, u128); 3] = [
    (0, LOOPBACK_V6 - 1),
    (LOOPBACK_V6 + 1, MAPPED.0 - 1),
    (MAPPED.1 + 1, u128::MAX),
];

/// Every source that packets can have.
pub(super) fn sources() -> Extent<'static> {
    Extent {
        narrow: (&SOURCES_V4[..]).into(),
        wide: (&SOURCES_V6[..]).into(),
    }
}

/// Every destination that packets can have.
pub(super) fn destinations() -> Extent<'static> {
    Extent {
        narrow: (&DESTINATIONS_V4[..]).into(),
        wide: (&DESTINATIONS_V6[..]).into(),
    }
}

impl Example {
    /// A packet of `extents`, if there can be one.
    pub(super) fn of(extents: &Extents) -> Option<Self> {
        let [source, destination] = [&extents[SOURCE], &extents[DESTINATION]];
        let v4 = pair(&source.narrow, &destination.narrow, LIKED_V4).and_then(|[from, to]| {
            let addresses = Addresses::V4 {
                source: from,
                destination: to,
            };
            Some((
                addresses,
                transport(extents, |number| number != protocol::ICMPV6)?,
            ))
        });
        let halves = |address: u128| [(address >> 64) as u64, address as u64];
        let v6 = || {
            let [from, to] = pair(&source.wide, &destination.wide, LIKED_V6)?;
            let addresses = Addresses::V6 {
                source: halves(from),
                destination: halves(to),
            };
            Some((addresses, transport(extents, is_of_v6)?))
        };
        let (addresses, transport) = v4.or_else(v6)?;
        Some(Self {
            addresses,
            transport,
        })
    }

    /// The same as the packet path knows it, without a frame.
    pub fn packet(&self) -> Packet {
        Packet {
            addresses: self.addresses,
            hop_limit: 64,
            fragment: Fragment::Whole,
            transport: self.transport,
            upper: Upper::default(),
            frame_bytes: 0,
        }
    }
}

/// Two addresses that are not the same, for no packet goes from an address to itself; the liked ones if they are there.
fn pair<N: Number>(sources: &[(N, N)], destinations: &[(N, N)], liked: [N; 2]) -> Option<[N; 2]> {
    let choose = |ranges: &[(N, N)], liked: N| {
        if contain(ranges, liked) {
            Some(liked)
        } else {
            ranges.first().map(|range| range.0)
        }
    };
    let [source, destination] = [choose(sources, liked[0])?, choose(destinations, liked[1])?];
    if source != destination {
        return Some([source, destination]);
    }
    let other = |ranges: &[(N, N)]| {
        let mut edges = ranges
            .iter()
            .take(2)
            .flat_map(|&(first, last)| [first, last]);
        edges.find(|&edge| edge != source)
    };
    let by_destination = other(destinations).map(|destination| [source, destination]);
    by_destination.or_else(|| other(sources).map(|source| [source, destination]))
}

/// What a packet of `extents` can carry, with a protocol that is `possible`; TCP or UDP if it can be.
fn transport(extents: &Extents, possible: impl Fn(u8) -> bool) -> Option<Transport> {
    let liked = [protocol::TCP, protocol::UDP];
    let mut protocols = liked.into_iter().chain(0..=u8::MAX);
    protocols.find_map(|protocol| {
        let all = [(number(protocol, 0), number(protocol, u16::MAX))];
        let services = intersection(&extents[SERVICE].narrow, &all);
        let value = services.first().filter(|_| possible(protocol))?.0 as u16;
        let flags = match protocol {
            protocol::TCP => flags(&extents[FLAGS].narrow)?,
            _ => 0,
        };
        let selector = selector(protocol);
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        Some(Transport {
            protocol,
            selector,
            value: if selector.is_some() { value } else { 0 },
            source_port: if has_ports { SOURCE_PORT } else { 0 },
            tcp_flags: flags,
        })
    })
}

/// Flags of a SYN if they are there.
fn flags(bytes: &[(u32, u32)]) -> Option<u8> {
    if contain(bytes, tcp_flag::SYN.into()) {
        return Some(tcp_flag::SYN);
    }
    bytes.first().map(|range| range.0 as u8)
}

impl fmt::Display for Example {
    /// `tcp 22 from 198.51.100.7 to 192.0.2.1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transport {
            protocol,
            value,
            tcp_flags,
            ..
        } = self.transport;
        match names::protocol_name(protocol) {
            Some(name) => write!(f, "{name}")?,
            None => write!(f, "protocol {protocol}")?,
        }
        let kind = (value >> 8) as u8;
        let type_name = match protocol {
            protocol::ICMP => IcmpFamily::V4.type_name(kind),
            protocol::ICMPV6 => IcmpFamily::V6.type_name(kind),
            _ => None,
        };
        match (protocol, type_name) {
            (_, Some(name)) => write!(f, " {name}")?,
            (protocol::ICMP | protocol::ICMPV6, None) => write!(f, " type {kind}")?,
            (protocol::TCP | protocol::UDP | protocol::SCTP, _) => write!(f, " {value}")?,
            _ => {}
        }
        if protocol == protocol::TCP && tcp_flags != tcp_flag::SYN {
            let set = names::tcp_flag_names()
                .filter(|&name| names::tcp_flag_bit(name).is_some_and(|bit| tcp_flags & bit != 0));
            write!(f, " ({})", set.collect::<Vec<_>>().join(" "))?;
        }
        match self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                let [source, destination] = [source, destination].map(Ipv4Addr::from_bits);
                write!(f, " from {source} to {destination}")
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let [source, destination] = [source, destination].map(|[upper, lower]| {
                    Ipv6Addr::from_bits(u128::from(upper) << 64 | u128::from(lower))
                });
                write!(f, " from {source} to {destination}")
            }
        }
    }
}
