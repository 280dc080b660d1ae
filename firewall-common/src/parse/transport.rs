//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792), ICMPv6 (RFC 4443); any other protocol by its number.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, network_endian::U16};

use super::{Fragment, Transport, protocol};
use crate::abi::{image::Selector, reason::DropReason};
use crate::frame::{Frame, Wire};

/// Where the upper layer lies and what the IP header said about it.
pub struct Place {
    /// Protocol number.
    pub protocol: u8,
    /// Offset of the upper-layer header in the frame.
    pub start: u32,
    /// Offset behind the packet's last byte: Ethernet padding is not the packet's.
    pub end: u32,
    /// Which piece of the packet this is.
    pub fragment: Fragment,
    /// Whether there was an IPv6 fragment header, even an atomic one.
    pub fragment_header: bool,
    /// Whether the packet is IPv6.
    pub ipv6: bool,
    /// Time to live or hop limit.
    pub hop_limit: u8,
}

/// TCP flags in the bit order of their byte.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset.
    pub const RST: u8 = 1 << 2;
    /// Push.
    pub const PSH: u8 = 1 << 3;
    /// The acknowledgment field counts.
    pub const ACK: u8 = 1 << 4;
    /// The urgent pointer counts.
    pub const URG: u8 = 1 << 5;
}

/// ICMPv6 types of neighbour discovery (RFC 4861): router solicitation to redirect.
pub(crate) const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
/// Hop limit that no router has touched.
const HOP_LIMIT_ON_LINK: u8 = 255;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tcp {
    source_port: U16,
    destination_port: U16,
    sequence: [u8; 4],
    acknowledgment: [u8; 4],
    data_offset: u8,
    flags: u8,
    window_checksum_urgent: [u8; 6],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Udp {
    source_port: U16,
    destination_port: U16,
    length: U16,
    checksum: U16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Sctp {
    source_port: U16,
    destination_port: U16,
    tag_checksum: [u8; 8],
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum_rest: [u8; 6],
}

/// Reads the upper-layer header at `place`.
///
/// # Errors
///
/// The reason to drop the packet.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, place: &Place) -> Result<Transport, DropReason> {
    match place.protocol {
        protocol::TCP => {
            let tcp: &Tcp = header(frame, place, DropReason::TcpTruncated)?;
            let length = u32::from(tcp.data_offset >> 4) * 4;
            if length < size_of::<Tcp>() as u32 {
                return Err(DropReason::TcpDataOffset);
            }
            if place.start + length > place.end {
                return Err(match place.fragment {
                    Fragment::First => DropReason::FragmentTiny,
                    Fragment::Whole => DropReason::TcpDataOffset,
                });
            }
            check_tcp_flags(tcp.flags)?;
            Transport::with_ports(
                place.protocol,
                Selector::Tcp,
                tcp.source_port,
                tcp.destination_port,
                tcp.flags,
            )
        }
        protocol::UDP => {
            let udp: &Udp = header(frame, place, DropReason::UdpTruncated)?;
            let length = u32::from(udp.length.get());
            let whole = matches!(place.fragment, Fragment::Whole);
            if length < size_of::<Udp>() as u32 || (whole && place.start + length > place.end) {
                return Err(DropReason::UdpLength);
            }
            Transport::with_ports(
                place.protocol,
                Selector::Udp,
                udp.source_port,
                udp.destination_port,
                0,
            )
        }
        protocol::SCTP => {
            let sctp: &Sctp = header(frame, place, DropReason::SctpTruncated)?;
            Transport::with_ports(
                place.protocol,
                Selector::Sctp,
                sctp.source_port,
                sctp.destination_port,
                0,
            )
        }
        protocol::ICMP => {
            if place.ipv6 {
                return Err(DropReason::IcmpFamily);
            }
            let icmp: &Icmp = header(frame, place, DropReason::IcmpTruncated)?;
            Ok(Transport::icmp(place.protocol, Selector::Icmp, icmp))
        }
        protocol::ICMPV6 => {
            if !place.ipv6 {
                return Err(DropReason::IcmpFamily);
            }
            let icmp: &Icmp = header(frame, place, DropReason::IcmpTruncated)?;
            if NEIGHBOUR_DISCOVERY.contains(&icmp.kind) {
                check_neighbour_discovery(icmp, place)?;
            }
            Ok(Transport::icmp(place.protocol, Selector::Icmpv6, icmp))
        }
        other => Ok(Transport::without_selector(other)),
    }
}

impl Transport {
    #[inline(always)]
    fn with_ports(
        protocol: u8,
        selector: Selector,
        source_port: U16,
        destination_port: U16,
        tcp_flags: u8,
    ) -> Result<Self, DropReason> {
        let (source_port, value) = (source_port.get(), destination_port.get());
        if source_port == 0 || value == 0 {
            return Err(DropReason::PortZero);
        }
        Ok(Self {
            protocol,
            selector: Some(selector),
            value,
            source_port,
            tcp_flags,
        })
    }

    #[inline(always)]
    fn icmp(protocol: u8, selector: Selector, icmp: &Icmp) -> Self {
        Self {
            protocol,
            selector: Some(selector),
            value: u16::from(icmp.kind) << 8 | u16::from(icmp.code),
            source_port: 0,
            tcp_flags: 0,
        }
    }

    #[inline(always)]
    fn without_selector(protocol: u8) -> Self {
        Self {
            protocol,
            selector: None,
            value: 0,
            source_port: 0,
            tcp_flags: 0,
        }
    }
}

/// The header at `place`, wholly inside the packet (and not in the padding behind it).
#[inline(always)]
fn header<'a, T: Wire, F: Frame + ?Sized>(
    frame: &'a F,
    place: &Place,
    truncated: DropReason,
) -> Result<&'a T, DropReason> {
    let inside = place.start + size_of::<T>() as u32 <= place.end;
    match frame.view(place.start) {
        Some(header) if inside => Ok(header),
        _ => Err(match place.fragment {
            Fragment::First => DropReason::FragmentTiny,
            Fragment::Whole => truncated,
        }),
    }
}

/// Flag combinations that some TCP sends (those of Linux's `tcp_valid_flags`, nf_conntrack_proto_tcp.c), as a bit for
/// each value of the lower six flags with PSH left out.
const VALID_FLAGS: u64 = {
    use tcp_flag::{ACK, FIN, PSH, RST, SYN, URG};
    let valid = [
        SYN,
        SYN | URG,
        SYN | ACK,
        RST,
        RST | ACK,
        FIN | ACK,
        FIN | ACK | URG,
        ACK,
        ACK | URG,
    ];
    let mut bits = 0u64;
    let mut index = 0;
    while index < valid.len() {
        bits |= 1 << valid[index] | 1 << (valid[index] | PSH);
        index += 1;
    }
    bits
};

#[inline(always)]
fn check_tcp_flags(flags: u8) -> Result<(), DropReason> {
    use tcp_flag::{ACK, FIN, PSH, RST, SYN, URG};
    let flags = flags & (FIN | SYN | RST | PSH | ACK | URG);
    if VALID_FLAGS >> flags & 1 != 0 {
        return Ok(());
    }
    Err(if flags == 0 {
        DropReason::TcpFlagsNull
    } else if flags & (SYN | FIN) == SYN | FIN {
        DropReason::TcpFlagsSynFin
    } else if flags & (SYN | RST) == SYN | RST {
        DropReason::TcpFlagsSynRst
    } else if flags & (FIN | RST) == FIN | RST {
        DropReason::TcpFlagsFinRst
    } else if flags & (FIN | PSH | URG) == FIN | PSH | URG {
        DropReason::TcpFlagsXmas
    } else {
        DropReason::TcpFlagsInvalid
    })
}

#[inline(always)]
fn check_neighbour_discovery(icmp: &Icmp, place: &Place) -> Result<(), DropReason> {
    if place.hop_limit != HOP_LIMIT_ON_LINK {
        return Err(DropReason::NeighbourDiscoveryHopLimit);
    }
    if place.fragment_header {
        return Err(DropReason::FragmentNeighbourDiscovery);
    }
    if icmp.code != 0 {
        return Err(DropReason::NeighbourDiscoveryCode);
    }
    Ok(())
}
