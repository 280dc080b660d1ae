//! Frame to [`Parsed`]: every header is read here, once; what comes after never sees bytes.
//!
//! A frame that the kernel would refuse, or that could mean one thing here and another there, is dropped with the
//! reason's number. Nothing is accepted because it could not be parsed.

pub mod ethernet;
pub mod ipv4;
pub mod ipv6;
pub mod quoted;
pub mod transport;

use crate::abi::{image::Selector, reason::DropReason};
use crate::frame::Frame;

use ethernet::Content;

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// ARP.
    Arp,
    /// A link-layer protocol that hosts and switches speak: LLDP, LACP, STP.
    LinkLayer,
    /// An IP packet.
    Ip(Packet),
}

/// An IP packet, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source and destination.
    pub addresses: Addresses,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Whether and where this is a piece of a larger packet.
    pub fragment: Fragment,
    /// What it carries.
    pub transport: Transport,
    /// Where in the frame that lies.
    pub upper: Upper,
    /// Bytes of the frame; where it is spread over several buffers and the packet ends in the first, bytes of that one.
    pub frame_bytes: u32,
}

/// Where the upper layer lies in the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upper {
    /// Offset of its header.
    pub start: u32,
    /// Offset behind the packet's last byte: Ethernet padding is not the packet's.
    pub end: u32,
}

/// Source and destination in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Source address.
        source: u32,
        /// Destination address.
        destination: u32,
    },
    /// IPv6, the upper half first.
    V6 {
        /// Source address.
        source: [u64; 2],
        /// Destination address.
        destination: [u64; 2],
    },
}

impl Addresses {
    /// The same with source and destination changed.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        match self {
            Self::V4 {
                source,
                destination,
            } => Self::V4 {
                source: destination,
                destination: source,
            },
            Self::V6 {
                source,
                destination,
            } => Self::V6 {
                source: destination,
                destination: source,
            },
        }
    }
}

/// A packet's place among fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// Not fragmented, or an atomic fragment (RFC 6946), which is a whole packet.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// A later fragment, which does not say what it carries.
    Later,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Protocol number, for IPv6 that of the upper layer; of a later fragment, what the fragment header says comes first.
    pub protocol: u8,
    /// Which kind of selector the protocol has.
    pub selector: Option<Selector>,
    /// Destination port, or ICMP `type << 8 | code`; 0 for protocols without.
    pub value: u16,
    /// Source port; 0 for protocols without.
    pub source_port: u16,
    /// TCP flags byte, FIN = 1 .. CWR = 128; 0 for other protocols.
    pub tcp_flags: u8,
}

/// IP protocol numbers (IANA) that the packet path tells apart.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AH: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// What the datagram's fragments are known by, 16 bits of IPv4 or 32 of IPv6, where `frame` is a fragment that [`parse`] has
/// let through. It is read again: with it in every packet the verifier would have half as much again to look at.
#[inline(always)]
pub fn identification<F: Frame + ?Sized>(frame: &F) -> Option<u32> {
    match ethernet::parse(frame).ok()? {
        Content::Ipv4 { offset } => ipv4::identification(frame, offset),
        Content::Ipv6 { offset } => ipv6::identification(frame, offset),
        Content::Arp | Content::LinkLayer => None,
    }
}

/// An IP header as it lies in the frame, without options or extensions.
#[derive(Clone, Copy, Debug)]
pub enum IpHeader<'a> {
    /// IPv4.
    V4(&'a [u8; 20]),
    /// IPv6.
    V6(&'a [u8; 40]),
}

/// The headers of a TCP segment that [`parse`] has made `packet` of. `None` where they cannot be reached.
#[inline(always)]
pub fn tcp_headers<'a, F: Frame + ?Sized>(
    frame: &'a F,
    packet: &Packet,
) -> Option<(IpHeader<'a>, &'a [u8; transport::TCP_HEADER])> {
    let ip = match ethernet::parse(frame).ok()? {
        Content::Ipv4 { offset } => IpHeader::V4(frame.view(offset)?),
        Content::Ipv6 { offset } => IpHeader::V6(frame.view(offset)?),
        Content::Arp | Content::LinkLayer => return None,
    };
    Some((ip, frame.view(packet.upper.start)?))
}

/// Reads a frame's headers.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Parsed, DropReason> {
    match ethernet::parse(frame)? {
        Content::Arp => Ok(Parsed::Arp),
        Content::LinkLayer => Ok(Parsed::LinkLayer),
        Content::Ipv4 { offset } => ipv4::parse(frame, offset).map(Parsed::Ip),
        Content::Ipv6 { offset } => ipv6::parse(frame, offset).map(Parsed::Ip),
    }
}
