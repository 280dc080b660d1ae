//! Ports that packets come for although no rule names them: the ones most knocked at, in a table of bounded size.
//!
//! Each CPU has its own, of sets of two ports, a cache line each. A port that comes again gains rank; one that comes new takes a rank
//! from whoever has the lower one of its set, and his place when there is none left ("frequent": Misra & Gries, Science of Computer
//! Programming 2(2), 1982). So one that comes often stays, whatever a scan brings in between. A count is what came since the port has
//! its place, and so never too high. Where both places are taken, only one newcomer in [`CONTEST`] may try: most of a scan then
//! costs two comparisons.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::counter::Counter;

/// Name of the per-CPU array of [`Set`]s.
pub const MAP_KNOCKS: &str = "KNOCKS";
/// Sets, a power of two: 2,048 ports and 64 KiB a CPU.
pub const SETS: u32 = 1 << SET_BITS;
const SET_BITS: u32 = 10;
/// Ports in a set.
pub const WAYS: usize = 2;

/// Of so many newcomers one takes a rank, a power of two.
pub const CONTEST: u32 = 16;

/// Two ports.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Set {
    /// The ports.
    pub ports: [Knocked; WAYS],
}

/// A port that is knocked at.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Knocked {
    /// [`port_key`], or 0.
    pub port: u32,
    /// How hard it is to displace.
    pub rank: u32,
    /// What came since it has its place.
    pub counter: Counter,
}

const _: () = assert!(size_of::<Set>() == 64);

/// `protocol << 16 | port`, which is not 0.
#[inline(always)]
pub const fn port_key(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

impl Knocked {
    /// Protocol number and port; `None` of a place that nothing has.
    pub const fn port(&self) -> Option<(u8, u16)> {
        if self.port == 0 {
            None
        } else {
            Some(((self.port >> 16) as u8, self.port as u16))
        }
    }
}

impl Set {
    /// Index of the set that a port belongs to: a multiplication by 2^32 / golden ratio spreads neighbours.
    #[inline(always)]
    pub const fn index(key: u32) -> u32 {
        key.wrapping_mul(0x9e37_79b1) >> (32 - SET_BITS)
    }

    /// Counts a packet for the port with this key; `sequence` is another number for each.
    #[inline(always)]
    pub fn count(&mut self, key: u32, sequence: u32, bytes: u32, opens: bool) {
        let [first, second] = &mut self.ports;
        let knocked = if first.port == key {
            first
        } else if second.port == key {
            second
        } else if second.port != 0 && sequence & (CONTEST - 1) != 0 {
            return;
        } else {
            let lower = if first.rank <= second.rank {
                first
            } else {
                second
            };
            if lower.rank != 0 {
                lower.rank -= 1;
                return;
            }
            lower.port = key;
            lower.counter = Counter::default();
            lower
        };
        knocked.rank = knocked.rank.saturating_add(1);
        knocked.counter.add(bytes, opens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_comes_often_stays_through_a_scan() {
        let mut sets = [Set::default(); SETS as usize];
        let mut sequence = 0;
        let mut knock = |port: u16| {
            let key = port_key(6, port);
            sequence += 1;
            sets[Set::index(key) as usize].count(key, sequence, 60, true);
        };
        for port in 1..=u16::MAX {
            knock(port);
            if port % 20 == 0 {
                knock(23);
            }
        }
        let of_23 = sets
            .iter()
            .flat_map(|set| &set.ports)
            .find(|port| port.port() == Some((6, 23)))
            .unwrap();
        // Its first knocks may have been displaced before it had a rank.
        assert!(
            (3_000..=3_278).contains(&of_23.counter.packets),
            "{of_23:?}"
        );
        assert_eq!(of_23.counter.bytes, 60 * of_23.counter.packets);
        assert_eq!(of_23.counter.connections, of_23.counter.packets);
    }
}
