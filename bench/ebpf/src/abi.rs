//! What the measuring programs and user space must agree on. `firewall-bench` includes this file too.

/// Different frames that are sent round and round; a power of two.
pub(crate) const FRAMES: usize = 1 << 16;
/// Bytes of each frame that differ, which are all its headers: the program copies this much.
pub(crate) const FRAME_BYTES: usize = 128;

/// Bytes of the frame that answers a SYN over IPv4, Ethernet header and padding included: a multiple of four.
pub(crate) const ANSWER_V4: usize = 60;
/// Bytes of the frame that answers a SYN over IPv6: two more than a multiple of four.
pub(crate) const ANSWER_V6: usize = 78;

/// Packets between two looks at the clock: so many that looking does not count, so few that most of these intervals are
/// not disturbed by interrupts and other processes.
pub(crate) const INTERVAL: u64 = 1 << 10;
/// Looks at the clock that there is room for.
pub(crate) const CLOCKS: usize = 1 << 10;

/// One measurement.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Run {
    /// Packets sent until now.
    pub(crate) sent: u64,
    /// Interface that live frames are redirected to.
    pub(crate) interface: u64,
    /// Number of the lap over the frames that the run begins with.
    pub(crate) lap: u64,
    /// Laps that differ, a power of two, less one.
    pub(crate) lap_mask: u64,
    /// Where in [`PORTS_WORD`] the lap's number is put, by exclusive or; one of the two below.
    pub(crate) lap_shift: u64,
    /// Changed by an atomic instruction behind each copy, which waits until the copy has left the store buffer: so the
    /// driver pays for that and not the program under test. Nobody reads it.
    pub(crate) drain: u64,
    /// Clock in nanoseconds before packet 0, [`INTERVAL`], ...
    pub(crate) clocks_ns: [u64; CLOCKS],
}

/// The word of an untagged frame that has the ports of IPv4 without options, in its bytes 2 to 5.
pub(crate) const PORTS_WORD: usize = 4;
/// [`Run::lap_shift`]: the low byte of the source port.
pub(crate) const LAP_IN_SOURCE_PORT: u64 = 24;
/// [`Run::lap_shift`]: the low byte of the destination port.
pub(crate) const LAP_IN_DESTINATION_PORT: u64 = 40;

/// What the LPM program knows of a source.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct LpmRule {
    /// Protocol and destination port as [`service`] packs them, or [`ANY_SERVICE`].
    pub(crate) service: u32,
    /// Counter slot in the low bits, under [`LPM_ACCEPT`].
    pub(crate) outcome: u32,
}

/// A rule for every protocol.
pub(crate) const ANY_SERVICE: u32 = u32::MAX;
/// The rule accepts.
pub(crate) const LPM_ACCEPT: u32 = 1 << 31;
/// Counters of the LPM program: one for each rule, and the last for what no rule matches.
pub(crate) const LPM_COUNTERS: u32 = 1 << 14;
/// Entries of [`OPEN`](crate)'s table: protocol's lowest bit (TCP 0, UDP 1) and port.
pub(crate) const OPEN_ENTRIES: usize = 1 << 17;

/// Protocol and destination port in one number; TCP's is even and UDP's odd in bit 16, which alone indexes the open ports.
pub(crate) const fn service(protocol: u8, port: u16) -> u32 {
    (protocol as u32) << 16 | port as u32
}

/// What the LRU programs know a flow by: local and remote address, protocol and ports, 40 bytes as in the firewall's table.
pub(crate) type LruKey = [u64; 5];
/// What they keep of it: packets sent and received, and a spare word, so that an entry is as large as the firewall's.
pub(crate) type LruValue = [u64; 3];

/// What the LRU programs count, by slot: not packets that they do not read, nor flows for which there was no room.
pub(crate) mod lru {
    /// Packets whose flow was found.
    pub(crate) const HITS: u32 = 0;
    /// Packets whose flow was not found, and not inserted.
    pub(crate) const MISSES: u32 = 1;
    /// Packets that inserted a flow.
    pub(crate) const INSERTED: u32 = 2;
    /// Slots.
    pub(crate) const COUNTERS: usize = 3;
}
