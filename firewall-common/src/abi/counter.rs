//! Counters: one per-CPU array of packets, bytes and connections, whose slots are shared out as below.
//!
//! | slots | what is counted |
//! |---|---|
//! | `0 .. PASS_BASE` | drops by [`super::reason::DropReason`] number |
//! | `PASS_BASE .. FLOWS_CREATED` | packets that pass without a rule, by [`super::reason::PassReason`] number |
//! | `FLOWS_CREATED .. NAMED_BASE` | packets that opened a flow, or did not |
//! | from `NAMED_BASE` | rules and named ports; user space hands these out and keeps them by name |

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Packets, bytes and connections, one CPU's share. Bytes are whole frames as the program sees them, without FCS.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Packets that open a TCP connection: SYN without ACK.
    pub connections: u64,
}

/// First slot of the [`super::reason::PassReason`] counters; drop reasons have numbers below this.
pub const PASS_BASE: u32 = 128;
/// A flow was opened in a free slot of the flow table.
pub const FLOWS_CREATED: u32 = 176;
/// A flow was opened in the slot of a live one, which had to go.
pub const FLOWS_EVICTED: u32 = 177;
/// A flow was not opened: other CPUs took each slot that was tried.
pub const FLOWS_CONTENDED: u32 = 178;
/// First slot that user space hands out, to rules and named ports. Slot `0` therefore never names a port: a service
/// whose hits are not counted carries `0`.
pub const NAMED_BASE: u32 = 192;
/// Slots when the map is made with no policy to fit: 4096 x 24 bytes = 96 KiB a CPU.
pub const MIN_SLOTS: u32 = 4096;
/// Most slots there can be (24 MiB a CPU): every rule that a file may hold, every port of every port protocol, and
/// as many again for those of the generation before, whose counts go on being shown until their slots are reused.
pub const MAX_SLOTS: u32 = 1 << 20;

const _: () = assert!(size_of::<Counter>() == 24);

impl Counter {
    /// Adds a packet of `bytes`, which opens a connection or not.
    #[inline(always)]
    pub const fn add(&mut self, bytes: u32, opens: bool) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
        if opens {
            self.connections = self.connections.wrapping_add(1);
        }
    }

    /// The sum of both.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets.wrapping_add(other.packets),
            bytes: self.bytes.wrapping_add(other.bytes),
            connections: self.connections.wrapping_add(other.connections),
        }
    }
}
