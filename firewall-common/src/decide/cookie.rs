//! SYN cookies: which SYNs are answered in this host's place, and the SYN+ACK that they get.
//!
//! The kernel makes the cookie and takes the ACK for it: it is the sequence number of the SYN+ACK, and holds all that is
//! remembered of the SYN, which is its MSS, rounded down. What else a SYN offers would have to be in a timestamp, whose offset only
//! the kernel knows. So connections that are made this way have no window scaling, no selective acknowledgment, no timestamps and
//! no ECN: they are slower over long ways, and they are made.
//!
//! What is not answered here goes on to the kernel as the rule says, which has cookies of its own: a SYN that brings data (TCP Fast
//! Open), one with IP options or extension headers, one to a port that nobody listens at, one that is broken.

use super::{Asked, Decision, finish};
use crate::abi::reason::PassReason;
use crate::frame::Frame;
use crate::parse::ethernet::{self, Content};
use crate::parse::transport::{TCP_HEADER, tcp_flag};
use crate::parse::{Addresses, Packet, protocol};
use crate::tables::World;

/// Words of 32 bits that the headers of a SYN can have, those of IPv6 and of TCP with all its options.
pub const MAX_WORDS: usize = (IPV6_HEADER + MAX_TCP_HEADER) as usize / 4;

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: u32 = 20;
/// Bytes of an IPv6 header.
pub const IPV6_HEADER: u32 = 40;
/// Bytes of a TCP header with as many options as it can have.
const MAX_TCP_HEADER: u32 = 60;
/// Bytes of the TCP header that answers: one option of four bytes.
const ANSWER_TCP_HEADER: usize = TCP_HEADER + 4;
/// Bytes behind an answer over IPv4, which make it the 60 that an Ethernet frame has at the least (IEEE 802.3, 3.2.8), also when its
/// VLAN tags are taken off: not every driver sees to that for what a program sends.
const PADDING: usize = 2;
/// Bytes of an answer over IPv4 behind the Ethernet header.
pub const ANSWER_V4: usize = IPV4_HEADER as usize + ANSWER_TCP_HEADER + PADDING;
/// Bytes of an answer over IPv6 behind the Ethernet header.
pub const ANSWER_V6: usize = IPV6_HEADER as usize + ANSWER_TCP_HEADER;

/// Time to live and hop limit, as the kernel's.
const HOP_LIMIT: u8 = 64;
/// Version 4 and no options.
const PLAIN_IPV4: u8 = 0x45;
const DONT_FRAGMENT: u16 = 0x4000;
/// Data offset of six words, in the upper half, and the flags of what answers a SYN.
const OFFSET_FLAGS: u16 =
    (ANSWER_TCP_HEADER as u16 / 4) << 12 | (tcp_flag::SYN | tcp_flag::ACK) as u16;
/// Largest window that can be said without scaling. The kernel's own word comes with its first segment.
const WINDOW: u16 = u16::MAX;
/// Kind and length of the option that says the maximum segment size (RFC 9293, 3.2).
const OPTION_MSS: u16 = 0x0204;
/// Least MSS that is said, however little goes through the interface: what every IPv4 host takes (RFC 9293, 3.7.1).
const MIN_MSS: u16 = 536;

/// Counts a SYN that was answered.
#[inline(always)]
pub fn answered<W: World>(asked: &Asked, world: &W) -> Decision {
    finish(asked, Decision::passed(PassReason::SynCookie), world)
}

/// Counts a SYN that goes on to the kernel, as the rule says.
#[inline(always)]
pub fn not_answered<W: World>(asked: &Asked, world: &W) -> Decision {
    finish(asked, asked.by_rules, world)
}

/// Where a SYN has its headers: IP and right behind it TCP, and that is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of the IP header.
    pub start: u32,
    /// Bytes of the TCP header, 20 to 60.
    pub tcp_bytes: u32,
}

/// Where the headers of a SYN lie that may be answered. It comes for `own` as hardware address, 0 if that is not known: what a
/// bridge hands on comes for others.
#[inline(always)]
pub fn place<F: Frame + ?Sized>(frame: &F, packet: &Packet, own: u64) -> Option<Place> {
    let [destination, source] = frame.view::<[[u8; 6]; 2]>(0)?;
    let is_own = own == 0 || hardware_address(*destination) == own;
    if !is_own || (destination[0] | source[0]) & GROUP != 0 || !is_between_hosts(&packet.addresses)
    {
        return None;
    }
    let (start, header) = match ethernet::parse(frame).ok()? {
        Content::Ipv4 { offset } => (offset, IPV4_HEADER),
        Content::Ipv6 { offset } => (offset, IPV6_HEADER),
        Content::Arp | Content::LinkLayer => return None,
    };
    let tcp_bytes = packet.upper.end.wrapping_sub(packet.upper.start);
    let is_plain = packet.upper.start == start + header
        && tcp_bytes >= TCP_HEADER as u32
        && tcp_bytes <= MAX_TCP_HEADER;
    is_plain.then_some(Place { start, tcp_bytes })
}

/// The bit of a hardware address's first byte that makes it one of several hosts.
const GROUP: u8 = 1;

/// A hardware address as a number.
#[inline(always)]
pub const fn hardware_address(bytes: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = bytes;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Whether a connection can be between these: both one host's. Sources that no packet has are dropped by the parser.
#[inline(always)]
const fn is_between_hosts(addresses: &Addresses) -> bool {
    match addresses {
        Addresses::V4 {
            source,
            destination,
        } => *source != 0 && *destination >> 28 < 0xe && *destination != 0,
        Addresses::V6 {
            source,
            destination,
        } => source[0] | source[1] != 0 && destination[0] >> 56 != 0xff,
    }
}

/// A SYN's headers as they lie in the frame, at [`Place`], and zeros behind.
pub type Headers = [u32; MAX_WORDS];

/// The sequence number of a SYN that the kernel would take: without data, and with right checksums. `None` for another.
///
/// A TCP checksum over the pseudo-header alone is right too: what comes from a host on the same machine has that, because the card
/// was to do the rest (`CHECKSUM_PARTIAL`, include/linux/skbuff.h) and there was none.
#[inline(always)]
pub fn sequence(packet: &Packet, headers: &Headers, tcp_bytes: u32) -> Option<u32> {
    let tcp = match packet.addresses {
        Addresses::V4 { .. } => {
            let (ip, tcp) = headers.split_at(IPV4_HEADER as usize / 4);
            if folded(words(ip)) != u16::MAX {
                return None;
            }
            tcp
        }
        Addresses::V6 { .. } => headers.split_at(IPV6_HEADER as usize / 4).1,
    };
    let tcp: &[u32; MAX_TCP_HEADER as usize / 4] = tcp.first_chunk()?;
    if (u32::from_be(tcp[3]) >> 28) * 4 != tcp_bytes {
        return None;
    }
    let pseudo = pseudo_header(&packet.addresses, tcp_bytes);
    let is_right = folded(pseudo + words(tcp)) == u16::MAX;
    let is_left_to_the_card = folded(pseudo) == (u32::from_be(tcp[4]) >> 16) as u16;
    (is_right || is_left_to_the_card).then_some(u32::from_be(tcp[1]))
}

/// What answers a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynAck {
    /// The SYN's ends.
    pub addresses: Addresses,
    /// The SYN's source port.
    pub source_port: u16,
    /// The SYN's destination port.
    pub destination_port: u16,
    /// The SYN's sequence number.
    pub sequence: u32,
    /// What the kernel will know the ACK by.
    pub cookie: u32,
    /// Bytes of data that a segment may bring.
    pub mss: u16,
}

impl SynAck {
    /// What answers `packet`. Segments may be as large as `mss`, which the kernel has made of what the SYN says, but not larger than
    /// the `mtu` of the interface that it came through.
    #[inline(always)]
    pub fn new(packet: &Packet, sequence: u32, cookie: u32, mss: u16, mtu: u32) -> Self {
        let headers = TCP_HEADER as u32
            + match packet.addresses {
                Addresses::V4 { .. } => IPV4_HEADER,
                Addresses::V6 { .. } => IPV6_HEADER,
            };
        let most = mtu.saturating_sub(headers);
        let most = if most > u32::from(u16::MAX) {
            u16::MAX
        } else if most < u32::from(MIN_MSS) {
            MIN_MSS
        } else {
            most as u16
        };
        Self {
            addresses: packet.addresses,
            source_port: packet.transport.source_port,
            destination_port: packet.transport.value,
            sequence,
            cookie,
            mss: if mss < most { mss } else { most },
        }
    }

    /// The answer over IPv4 between `source` and `destination`, the SYN's, from its IP header on.
    #[inline(always)]
    pub fn v4(&self, source: u32, destination: u32) -> [u8; ANSWER_V4] {
        const LENGTH: u16 = (ANSWER_V4 - PADDING) as u16;
        const FIRST: u32 = (PLAIN_IPV4 as u32) << 24 | LENGTH as u32;
        /// Identification 0, as of what is never cut (RFC 6864, 4.1).
        const SECOND: u32 = DONT_FRAGMENT as u32;
        const THIRD: u32 = (HOP_LIMIT as u32) << 24 | (protocol::TCP as u32) << 16;
        let sum = [FIRST, SECOND, THIRD, source, destination];
        let sum = sum.iter().fold(0, |sum, word| sum + u64::from(*word));
        let third = THIRD | u32::from(!folded(sum));
        let tcp = self.tcp();
        joined(&[
            FIRST,
            SECOND,
            third,
            destination,
            source,
            tcp[0],
            tcp[1],
            tcp[2],
            tcp[3],
            tcp[4],
            tcp[5],
        ])
    }

    /// The answer over IPv6 between `source` and `destination`, the SYN's, from its IP header on.
    #[inline(always)]
    pub fn v6(&self, source: [u64; 2], destination: [u64; 2]) -> [u8; ANSWER_V6] {
        const FIRST: u32 = 6 << 28;
        const SECOND: u32 =
            (ANSWER_TCP_HEADER as u32) << 16 | (protocol::TCP as u32) << 8 | HOP_LIMIT as u32;
        let [a, b, c, d] = halves(destination);
        let [e, f, g, h] = halves(source);
        let tcp = self.tcp();
        joined(&[
            FIRST, SECOND, a, b, c, d, e, f, g, h, tcp[0], tcp[1], tcp[2], tcp[3], tcp[4], tcp[5],
        ])
    }

    /// The TCP header.
    #[inline(always)]
    fn tcp(&self) -> [u32; ANSWER_TCP_HEADER / 4] {
        let mut words = [
            u32::from(self.destination_port) << 16 | u32::from(self.source_port),
            self.cookie,
            self.sequence.wrapping_add(1),
            u32::from(OFFSET_FLAGS) << 16 | u32::from(WINDOW),
            0,
            u32::from(OPTION_MSS) << 16 | u32::from(self.mss),
        ];
        let sum = words.iter().fold(0, |sum, word| sum + u64::from(*word));
        let sum = sum + pseudo_header(&self.addresses, ANSWER_TCP_HEADER as u32);
        words[4] = u32::from(!folded(sum)) << 16;
        words
    }
}

/// The words as they go over the wire, and zeros behind.
#[inline(always)]
fn joined<const WORDS: usize, const BYTES: usize>(words: &[u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
    bytes
}

/// Sum of the pseudo-header of a TCP segment of so many bytes (RFC 9293, 3.1; RFC 8200, 8.1), not folded. Both ways have the same.
#[inline(always)]
fn pseudo_header(addresses: &Addresses, bytes: u32) -> u64 {
    let ends = match *addresses {
        Addresses::V4 {
            source,
            destination,
        } => u64::from(source) + u64::from(destination),
        Addresses::V6 {
            source,
            destination,
        } => {
            let [a, b, c, d] = halves(source);
            let [e, f, g, h] = halves(destination);
            [a, b, c, d, e, f, g, h]
                .iter()
                .fold(0, |sum, word| sum + u64::from(*word))
        }
    };
    ends + u64::from(bytes) + u64::from(protocol::TCP)
}

/// Sum of words as they lie in the frame.
#[inline(always)]
fn words(words: &[u32]) -> u64 {
    words
        .iter()
        .fold(0, |sum, word| sum + u64::from(u32::from_be(*word)))
}

/// The Internet checksum's sum (RFC 1071) of 32-bit words: their 16-bit halves added up with the carries.
#[inline(always)]
const fn folded(sum: u64) -> u16 {
    // Fewer than 2^16 words: 48 bits at most, then 33, then 18, then 17 and 16.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[inline(always)]
const fn halves(address: [u64; 2]) -> [u32; 4] {
    let [upper, lower] = address;
    [
        (upper >> 32) as u32,
        upper as u32,
        (lower >> 32) as u32,
        lower as u32,
    ]
}

#[cfg(test)]
mod tests;
