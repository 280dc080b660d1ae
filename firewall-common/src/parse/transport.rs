//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792), ICMPv6 (RFC 4443); any other protocol by its number.

use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    network_endian::{U16, U32},
};

use super::{Fragment, Transport, Upper, protocol};
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

/// Bytes of a TCP header without options.
pub const TCP_HEADER: usize = size_of::<Tcp>();

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tcp {
    source_port: U16,
    destination_port: U16,
    sequence: U32,
    acknowledgment: U32,
    data_offset: u8,
    flags: u8,
    window: U16,
    checksum_urgent: [u8; 4],
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
    checksum: U16,
    /// Echo: identifier and sequence number.
    identifier: U16,
    rest: U16,
}

/// Reads the upper-layer header at `place`; a later fragment has none.
///
/// # Errors
///
/// The reason to drop the packet.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, place: &Place) -> Result<Transport, DropReason> {
    if matches!(place.fragment, Fragment::Later) {
        return Ok(Transport::without_selector(place.protocol));
    }
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
                    Fragment::Whole | Fragment::Later => DropReason::TcpDataOffset,
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

/// Whether a later fragment, `offset` bytes into what is in fragments, can be one; `end` is where it would end in the whole.
/// A later fragment of IPv6 may name any `protocol` (RFC 8200, 4.5): of TCP is then what could be.
#[inline(always)]
pub(super) fn check_later(protocol: u8, offset: u32, end: u32) -> Result<(), DropReason> {
    if end > MAX_PACKET {
        return Err(DropReason::FragmentBeyond);
    }
    // A first fragment has at least the TCP header without options; ports of other protocols are in its first 8 bytes.
    if protocol == protocol::TCP && offset < size_of::<Tcp>() as u32 {
        return Err(DropReason::FragmentOverlap);
    }
    Ok(())
}

/// What a TCP header says of the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Window, not scaled.
    pub window: u16,
    /// SYN: shift of the window scale option (RFC 7323, 2.2), 0 without it.
    pub window_scale: u8,
    /// Bytes of data in the packet.
    pub payload: u32,
}

/// Most bytes that an IPv4 packet can have, and most that can follow an IPv6 header, also when they come in fragments.
const MAX_PACKET: u32 = 65_535;

mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const WINDOW_SCALE: u8 = 3;
    /// Bytes of options that a data offset of 15 leaves room for.
    pub(super) const MAX: u32 = 40;
}

/// Reads the TCP header at `upper` again, for what only flows ask of it. `None` where there is none.
#[inline(always)]
pub fn conversation<F: Frame + ?Sized>(frame: &F, upper: &Upper) -> Option<Conversation> {
    let tcp: &Tcp = frame.view(upper.start)?;
    let header = u32::from(tcp.data_offset >> 4) * 4;
    let options_end = upper.start + header;
    let window_scale = if tcp.flags & tcp_flag::SYN != 0 {
        window_scale(frame, upper.start + size_of::<Tcp>() as u32, options_end)
    } else {
        0
    };
    Some(Conversation {
        sequence: tcp.sequence.get(),
        acknowledgment: tcp.acknowledgment.get(),
        window: tcp.window.get(),
        window_scale,
        payload: upper.end.saturating_sub(options_end),
    })
}

#[inline(always)]
fn window_scale<F: Frame + ?Sized>(frame: &F, start: u32, end: u32) -> u8 {
    let mut at = start;
    for _ in 0..option::MAX {
        at = frame.any_offset(at);
        if at >= end {
            break;
        }
        let Some(&kind) = frame.view::<u8>(at) else {
            break;
        };
        match kind {
            option::END => break,
            option::NO_OPERATION => at += 1,
            _ => {
                let Some(&[length, value]) = frame.view::<[u8; 2]>(at + 1) else {
                    break;
                };
                if kind == option::WINDOW_SCALE {
                    return value;
                }
                if length < 2 {
                    break;
                }
                at += u32::from(length);
            }
        }
    }
    0
}

/// Identifier of the ICMP echo message at `upper`.
#[inline(always)]
pub fn echo_identifier<F: Frame + ?Sized>(frame: &F, upper: &Upper) -> Option<u16> {
    let icmp: &Icmp = frame.view(upper.start)?;
    Some(icmp.identifier.get())
}

/// Types of the ICMP messages that say that a packet did not arrive (RFC 792).
pub mod icmp_type {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable; with code 4 path MTU discovery (RFC 1191).
    pub const UNREACHABLE: u8 = 3;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// ICMPv6 echo request (RFC 4443).
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// ICMPv6 echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
}

impl Transport {
    /// Whether this is an ICMP error: destination unreachable, packet too big, time exceeded, parameter problem (RFC 792;
    /// RFC 4443, 2.1). Redirects are none of them, and neither is source quench (RFC 6633).
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        let kind = (self.value >> 8) as u8;
        match self.selector {
            Some(Selector::Icmp) => matches!(
                kind,
                icmp_type::UNREACHABLE | icmp_type::TIME_EXCEEDED | icmp_type::PARAMETER_PROBLEM
            ),
            Some(Selector::Icmpv6) => kind >= 1 && kind <= 4,
            _ => false,
        }
    }

    /// Whether this is a SYN without ACK, which answers nothing.
    #[inline(always)]
    pub const fn opens_connection(&self) -> bool {
        matches!(self.selector, Some(Selector::Tcp))
            && self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// Whether this is an echo message, and then whether it is a request.
    #[inline(always)]
    pub const fn echo(&self) -> Option<bool> {
        let kind = (self.value >> 8) as u8;
        match (self.selector, kind) {
            (Some(Selector::Icmp), icmp_type::ECHO_REQUEST)
            | (Some(Selector::Icmpv6), icmp_type::V6_ECHO_REQUEST) => Some(true),
            (Some(Selector::Icmp), icmp_type::ECHO_REPLY)
            | (Some(Selector::Icmpv6), icmp_type::V6_ECHO_REPLY) => Some(false),
            _ => None,
        }
    }

    /// What answers this, or what this answers: ports change places, an echo reply becomes a request and the other way
    /// round. A SYN+ACK answers a SYN, and so may a RST; of all else in a conversation, ACK is the flag that answers have.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        let mut reversed = *self;
        match self.selector {
            Some(Selector::Icmp | Selector::Icmpv6) => {
                let kind = match self.echo() {
                    None => return reversed,
                    Some(true) => match self.selector {
                        Some(Selector::Icmp) => icmp_type::ECHO_REPLY,
                        _ => icmp_type::V6_ECHO_REPLY,
                    },
                    Some(false) => match self.selector {
                        Some(Selector::Icmp) => icmp_type::ECHO_REQUEST,
                        _ => icmp_type::V6_ECHO_REQUEST,
                    },
                };
                reversed.value = (kind as u16) << 8;
            }
            _ => {
                reversed.value = self.source_port;
                reversed.source_port = self.value;
                if matches!(self.selector, Some(Selector::Tcp)) {
                    let answers_syn = self.tcp_flags & (tcp_flag::SYN | tcp_flag::RST) != 0;
                    reversed.tcp_flags = if answers_syn {
                        tcp_flag::SYN
                    } else {
                        tcp_flag::ACK
                    };
                }
            }
        }
        reversed
    }

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

    /// The first 8 bytes of the upper layer, which is all that an ICMP error must quote (RFC 792), and what a flow knows it
    /// by: `(transport, echo identifier, TCP sequence number)`. `None` for what no host sends.
    #[inline(always)]
    pub(super) fn quoted(protocol: u8, ipv6: bool, bytes: &[u8; 8]) -> Option<(Self, u16, u32)> {
        let [a, b, c, d, e, f, g, h] = *bytes;
        let first = u16::from_be_bytes([a, b]);
        let second = u16::from_be_bytes([c, d]);
        let selector = match protocol {
            protocol::TCP => Selector::Tcp,
            protocol::UDP => Selector::Udp,
            protocol::SCTP => Selector::Sctp,
            protocol::ICMP if !ipv6 => Selector::Icmp,
            protocol::ICMPV6 if ipv6 => Selector::Icmpv6,
            protocol::ICMP | protocol::ICMPV6 => return None,
            other => return Some((Self::without_selector(other), 0, 0)),
        };
        Some(match selector {
            Selector::Icmp | Selector::Icmpv6 => (
                Self {
                    protocol,
                    selector: Some(selector),
                    value: first,
                    source_port: 0,
                    tcp_flags: 0,
                },
                u16::from_be_bytes([e, f]),
                0,
            ),
            _ => (
                Self {
                    protocol,
                    selector: Some(selector),
                    value: second,
                    source_port: first,
                    tcp_flags: 0,
                },
                0,
                u32::from_be_bytes([e, f, g, h]),
            ),
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
    pub(super) fn without_selector(protocol: u8) -> Self {
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
            Fragment::Whole | Fragment::Later => truncated,
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

/// Flags that [`VALID_FLAGS`] looks at; the others (ECN) may be set or not.
const CHECKED_FLAGS: u8 = {
    use tcp_flag::{ACK, FIN, PSH, RST, SYN, URG};
    FIN | SYN | RST | PSH | ACK | URG
};

/// Whether some TCP sends this flags byte; segments with others are dropped before rules see them.
#[inline(always)]
pub const fn are_valid_flags(flags: u8) -> bool {
    VALID_FLAGS >> (flags & CHECKED_FLAGS) & 1 != 0
}

#[inline(always)]
fn check_tcp_flags(flags: u8) -> Result<(), DropReason> {
    use tcp_flag::{FIN, PSH, RST, SYN, URG};
    if are_valid_flags(flags) {
        return Ok(());
    }
    let flags = flags & CHECKED_FLAGS;
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
