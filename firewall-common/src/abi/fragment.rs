//! What is remembered of a datagram that comes in fragments: the first one's decision, under what the others share with it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::flow::Key;
use crate::parse::{Addresses, Packet};

/// Datagrams that are remembered at a time, the ones seen last: 16,384 entries of about 100 bytes make 1.6 MB.
pub const MAX_DATAGRAMS: u32 = 1 << 14;
/// How long a decision on an IPv4 datagram counts, in ticks ([`super::flow::Settings::tick_shift`]) of one to two seconds:
/// at least as long as Linux waits for the rest (`net.ipv4.ipfrag_time`, 30 s).
pub const LIFETIME_V4_TICKS: u64 = 31;
/// The same for IPv6: 60 s (RFC 8200, 4.5).
pub const LIFETIME_V6_TICKS: u64 = 61;

/// What the fragments of one datagram have in common, which is what they are reassembled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address, upper half first, IPv4 as `::ffff:a.b.c.d`.
    pub source: [u64; 2],
    /// Destination address.
    pub destination: [u64; 2],
    /// Identification: 16 bits of IPv4, 32 of IPv6.
    pub identification: u32,
    /// Protocol number of IPv4 (RFC 791, 2.3). 0 for IPv6, which does not look at it (RFC 8200, 4.5): fragments of one
    /// datagram may name different ones, of which the first's counts.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

impl FragmentKey {
    /// The datagram that `packet` is a fragment of, with this identification.
    #[inline(always)]
    pub const fn new(packet: &Packet, identification: u32) -> Self {
        match packet.addresses {
            Addresses::V4 {
                source,
                destination,
            } => Self {
                source: Key::mapped(source),
                destination: Key::mapped(destination),
                identification,
                protocol: packet.transport.protocol as u32,
            },
            Addresses::V6 {
                source,
                destination,
            } => Self {
                source,
                destination,
                identification,
                protocol: 0,
            },
        }
    }

    /// How long a decision on this datagram counts.
    #[inline(always)]
    const fn lifetime_ticks(&self) -> u64 {
        // No IPv6 packet has a source in ::ffff:0:0/96.
        if Key::is_mapped(self.source) {
            LIFETIME_V4_TICKS
        } else {
            LIFETIME_V6_TICKS
        }
    }
}

/// The first fragment's decision, and when it was taken: `tick << 1 | accepts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Remembered(pub u64);

impl Remembered {
    /// Taken in `tick`.
    #[inline(always)]
    pub const fn new(tick: u64, accepts: bool) -> Self {
        Self(tick << 1 | accepts as u64)
    }

    /// Whether the first fragment of `key` was accepted; `None` if it is too long ago in tick `now`.
    #[inline(always)]
    pub const fn accepts(self, key: &FragmentKey, now: u64) -> Option<bool> {
        if now.wrapping_sub(self.0 >> 1) < key.lifetime_ticks() {
            Some(self.0 & 1 != 0)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: FragmentKey = FragmentKey {
        source: Key::mapped(0xc000_0207),
        destination: Key::mapped(0xc633_6401),
        identification: 7,
        protocol: 17,
    };

    #[test]
    fn a_decision_counts_for_as_long_as_a_host_waits() {
        let v6 = FragmentKey {
            source: [0x2001_0db8 << 32, 7],
            protocol: 0,
            ..V4
        };
        for (key, seconds) in [(V4, 30), (v6, 60)] {
            for accepts in [false, true] {
                // The clock may be about to tick when the first fragment comes.
                let then = Remembered::new(1_000, accepts);
                assert_eq!(then.accepts(&key, 1_000), Some(accepts));
                assert_eq!(then.accepts(&key, 1_000 + seconds), Some(accepts));
                assert_eq!(then.accepts(&key, 1_001 + seconds), None);
            }
        }
    }

    #[test]
    fn what_another_cpu_has_not_reached_yet_does_not_count() {
        assert_eq!(Remembered::new(1_001, true).accepts(&V4, 1_000), None);
    }
}
