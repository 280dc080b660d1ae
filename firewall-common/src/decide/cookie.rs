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

/// Bytes of an IPv4 header without options.
const IPV4_HEADER: u32 = 20;
/// Bytes of an IPv6 header.
const IPV6_HEADER: u32 = 40;
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

/// Where a SYN has its headers: Ethernet, IP and right behind it TCP, and that is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Destination and source of the Ethernet header.
    pub hardware: Hardware,
    /// Offset of the IP header.
    pub start: u32,
    /// Bytes of the TCP header, 20 to 60.
    pub tcp_bytes: u32,
}

/// Where the headers of a SYN lie that may be answered. It comes for `own` as hardware address, 0 if that is not known: what a
/// bridge hands on comes for others.
#[inline(always)]
pub fn place<F: Frame + ?Sized>(frame: &F, packet: &Packet, own: u64) -> Option<Place> {
    let hardware = Hardware::of(frame.view(0)?);
    let is_own = own == 0 || hardware.destination == own;
    let is_group = (hardware.destination | hardware.source) & GROUP != 0;
    if !is_own || is_group || !is_between_hosts(&packet.addresses) {
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
    is_plain.then_some(Place {
        hardware,
        start,
        tcp_bytes,
    })
}

/// The hardware addresses of a frame, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// To whom it goes.
    pub destination: u64,
    /// From whom it comes.
    pub source: u64,
}

impl Hardware {
    /// Those that a frame begins with.
    #[inline(always)]
    const fn of(bytes: &[[u8; 4]; 3]) -> Self {
        let [a, b, c] = *bytes;
        let (a, b, c) = (
            u32::from_be_bytes(a) as u64,
            u32::from_be_bytes(b) as u64,
            u32::from_be_bytes(c) as u64,
        );
        Self {
            destination: a << 16 | b >> 16,
            source: (b & 0xffff) << 32 | c,
        }
    }

    /// What the answer begins with: 12 bytes as they go over the wire.
    #[inline(always)]
    pub const fn answered(self) -> [u64; 2] {
        let (to, from) = (self.source, self.destination);
        [(to << 16 | from >> 32).to_be(), (from << 32).to_be()]
    }
}

/// The bit of a hardware address that makes it one of several hosts.
const GROUP: u64 = 1 << 40;

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

/// A SYN's headers as they lie in the frame, and zeros behind. Aligned, because the compiler makes two words one where it likes, and
/// on its stack a program must not have them at any address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Headers([u32; MAX_WORDS]);

/// Words of 32 bits in an IPv4 header.
pub const V4_WORDS: usize = IPV4_HEADER as usize / 4;
/// Words in an IPv6 header.
pub const V6_WORDS: usize = IPV6_HEADER as usize / 4;
/// Words in a TCP header with as many options as it can have.
const MAX_TCP_WORDS: usize = MAX_TCP_HEADER as usize / 4;
/// Words in one without.
const TCP_WORDS: usize = TCP_HEADER / 4;
/// Words of all, and one more that makes them even.
const MAX_WORDS: usize = V6_WORDS + MAX_TCP_WORDS + 1;

impl Headers {
    /// Nothing yet.
    pub const EMPTY: Self = Self([0; MAX_WORDS]);

    /// Copies the headers at `place`, of which IP's has so many words. Returns the sequence number if the kernel would take the SYN:
    /// it brings no data, and its checksums are right.
    ///
    /// A TCP checksum over the pseudo-header alone is right too: what comes from a host on the same machine has that, because the
    /// card was to do the rest (`CHECKSUM_PARTIAL`, include/linux/skbuff.h) and there was none.
    #[inline(always)]
    pub fn read<const IP_WORDS: usize, F: Frame + ?Sized>(
        &mut self,
        frame: &F,
        packet: &Packet,
        place: &Place,
    ) -> Option<u32> {
        let words = self.0.as_mut_slice();
        let ip: &[[u8; 4]; IP_WORDS] = frame.view(place.start)?;
        let mut sum = 0;
        for (word, bytes) in words.iter_mut().zip(ip) {
            *word = u32::from_ne_bytes(*bytes);
            sum += u64::from(*word);
        }
        if IP_WORDS == V4_WORDS && folded(sum) != u16::MAX {
            return None;
        }
        let start = place.start + 4 * IP_WORDS as u32;
        let tcp: &[[u8; 4]; TCP_WORDS] = frame.view(start)?;
        let [_, sequence, _, offset, checksum] = tcp.map(u32::from_be_bytes);
        if (offset >> 28) * 4 != place.tcp_bytes {
            return None;
        }
        let pseudo = folded(pseudo_header(&packet.addresses, place.tcp_bytes));
        // A sum of words whose bytes lie the other way round is the sum with its bytes the other way round (RFC 1071, 2).
        let mut sum = u64::from(pseudo.to_be());
        for (word, bytes) in words.iter_mut().skip(IP_WORDS).zip(tcp) {
            *word = u32::from_ne_bytes(*bytes);
            sum += u64::from(*word);
        }
        let options = words.iter_mut().skip(IP_WORDS + TCP_WORDS);
        let mut at = start + TCP_HEADER as u32;
        for word in options.take(MAX_TCP_WORDS - TCP_WORDS) {
            if at >= packet.upper.end {
                break;
            }
            *word = u32::from_ne_bytes(*frame.view(at)?);
            sum += u64::from(*word);
            at += 4;
        }
        let is_left_to_the_card = pseudo == (checksum >> 16) as u16;
        (is_left_to_the_card || folded(sum) == u16::MAX).then_some(sequence)
    }

    /// Where they begin.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *const u32 {
        self.0.as_ptr()
    }
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

    /// The answer over IPv4 between `source` and `destination`, the SYN's, from its IP header on: [`ANSWER_V4`] bytes as they go over
    /// the wire.
    #[inline(always)]
    pub fn v4(&self, source: u32, destination: u32) -> [u64; ANSWER_V4.div_ceil(8)] {
        const LENGTH: u16 = (ANSWER_V4 - PADDING) as u16;
        const FIRST: u32 = (PLAIN_IPV4 as u32) << 24 | LENGTH as u32;
        /// Identification 0, as of what is never cut (RFC 6864, 4.1).
        const SECOND: u32 = DONT_FRAGMENT as u32;
        const THIRD: u32 = (HOP_LIMIT as u32) << 24 | (protocol::TCP as u32) << 16;
        let sum = [FIRST, SECOND, THIRD, source, destination];
        let third = THIRD | u32::from(!folded(self::words(&sum)));
        let [a, b, c, d, e, f] = self.tcp();
        [
            joined(FIRST, SECOND),
            joined(third, destination),
            joined(source, a),
            joined(b, c),
            joined(d, e),
            joined(f, 0),
        ]
    }

    /// The answer over IPv6 between `source` and `destination`, the SYN's, from its IP header on: [`ANSWER_V6`] bytes as they go over
    /// the wire.
    #[inline(always)]
    pub fn v6(&self, source: [u64; 2], destination: [u64; 2]) -> [u64; ANSWER_V6 / 8] {
        const FIRST: u32 = 6 << 28;
        const SECOND: u32 =
            (ANSWER_TCP_HEADER as u32) << 16 | (protocol::TCP as u32) << 8 | HOP_LIMIT as u32;
        let [a, b, c, d, e, f] = self.tcp();
        [
            joined(FIRST, SECOND),
            destination[0].to_be(),
            destination[1].to_be(),
            source[0].to_be(),
            source[1].to_be(),
            joined(a, b),
            joined(c, d),
            joined(e, f),
        ]
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
        let sum = self::words(&words) + pseudo_header(&self.addresses, ANSWER_TCP_HEADER as u32);
        words[4] = u32::from(!folded(sum)) << 16;
        words
    }
}

/// Two words as they go over the wire.
#[inline(always)]
const fn joined(first: u32, second: u32) -> u64 {
    ((first as u64) << 32 | second as u64).to_be()
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
            words(&[a, b, c, d, e, f, g, h])
        }
    };
    ends + u64::from(bytes) + u64::from(protocol::TCP)
}

/// Sum of words.
#[inline(always)]
fn words(words: &[u32]) -> u64 {
    words.iter().fold(0, |sum, word| sum + u64::from(*word))
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
