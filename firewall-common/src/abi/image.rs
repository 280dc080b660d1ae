//! The policy image: one generation of rules as tables, in one piece of memory.
//!
//! An image is an array of 64-byte lines, filled by the rule compiler and never written by the program. All its tables
//! refer to each other by index, so it can be copied, hashed, stored and compared as it is. Indices count the table's
//! own unit: `u16`, `u32`, `u64`, a 16-byte record or a line, always from the start of the image.
//!
//! It is one value of a BPF array rather than many elements because reading at an offset inside one value is inlined to
//! a bounds check and a load (0.1 ns), where each lookup in an array of unknown length is a call (8 to 10 ns).
//!
//! ```text
//! header ── services: protocol, port or ICMP type ─> Service { class, rule, hits }
//!        ├─ addresses: source, destination ───────> Row     { cells, rule, pair }
//!        ├─ cells: (row, class) ──────────────────> rule number
//!        └─ rules: rule number ───────────────────> Outcome
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the values that hold an image, smallest first. A generation is loaded into the smallest that fits; the sizes
/// are fixed because the verifier must know the size of a value.
pub const SIZE_CLASSES: [usize; 5] = [256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// One cache line of an image.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(64))]
pub struct Line {
    /// Eight words in the machine's own byte order: images never leave the machine that compiled them.
    pub words: [u64; 8],
}

/// Four `u32`, the unit of services and rows.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(16))]
pub struct Record {
    /// Meaning by table: see [`Service`] and [`Row`].
    pub fields: [u32; 4],
}

/// Protocols whose packets carry a selector that rules can name: a destination port, or an ICMP type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Selector {
    /// TCP destination port.
    Tcp = 0,
    /// UDP destination port.
    Udp = 1,
    /// SCTP destination port.
    Sctp = 2,
    /// ICMP `type << 8 | code`.
    Icmp = 3,
    /// ICMPv6 `type << 8 | code`.
    Icmpv6 = 4,
}

/// Number of [`Selector`]s.
pub const SELECTORS: u32 = 5;

/// Positions in the header, as `u32` indices from the start of the image.
pub mod header {
    /// Bits of [`super::essential`] that are switched on.
    pub const ESSENTIALS: u32 = 0;
    /// Index (`u32`) of the rules table.
    pub const RULES: u32 = 1;
    /// Index (record) of the first row.
    pub const ROWS: u32 = 2;
    /// Index (record) of the first service.
    pub const SERVICES: u32 = 3;
    /// Index (`u64`) of the first cell: the row it belongs to in the low half, the rule's number in the high half.
    pub const CELLS: u32 = 4;
    /// Index (`u16`) of the table that turns a TCP flags byte into a flags class; 0 if no rule asks for flags.
    pub const FLAGS_CLASSES: u32 = 5;
    /// Index (`u32`) of 256 service numbers, by protocol number, for protocols without selector.
    pub const PROTOCOLS: u32 = 6;
    /// Number of rules, which is also the number of the default's entry in the rules table.
    pub const RULE_COUNT: u32 = 7;
    /// Roots of the address tables, `u32` indices; 0 where no rule names such an address. Order: IPv4 source,
    /// IPv4 destination, IPv6 source, IPv6 destination.
    pub const ADDRESS_ROOTS: u32 = 8;
    /// 1 if a rule names both a source and a destination.
    pub const PAIRS: u32 = 12;
    /// For each selector two `u32`: index (`u32`) of its page table, 0 if no rule names a selector value of it, and its
    /// first service.
    pub const SELECTORS: u32 = 16;
    /// `u32`s in the header.
    pub const LEN: u32 = 32;
}

/// Switches of `[essentials]`, bits of [`header::ESSENTIALS`].
pub mod essential {
    /// ARP.
    pub const ARP: u32 = 1;
    /// IPv6 neighbour discovery.
    pub const NEIGHBOUR_DISCOVERY: u32 = 1 << 1;
    /// ICMP errors that path MTU discovery and the transports need.
    pub const PATH_MTU: u32 = 1 << 2;
    /// Answers to a DHCP client.
    pub const DHCP_CLIENT: u32 = 1 << 3;
    /// IGMP and MLD.
    pub const MULTICAST_MEMBERSHIP: u32 = 1 << 4;
    /// LLDP, LACP, STP.
    pub const LINK_LAYER: u32 = 1 << 5;
    /// All of them.
    pub const ALL: u32 = 0x3f;
}

/// What the tables know of a protocol and selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Column of the cells; 0 if no rule names this service together with an address.
    pub class: u32,
    /// How to go on: [`Service::FINAL`], [`Service::BY_FLAGS`].
    pub kind: u32,
    /// First rule that matches this service whatever the addresses; the default's number if none does.
    pub rule: u32,
    /// Counter slot of the port's hits, or 0.
    pub hits: u32,
}

impl Service {
    /// `kind`: the rule is decided, no address can change it.
    pub const FINAL: u32 = 1;
    /// `kind`: TCP flags decide further; `class` is the first of a run of services, one for each flags class,
    /// which leave `hits` to this one.
    pub const BY_FLAGS: u32 = 2;

    /// The service stored in a record.
    #[inline(always)]
    pub const fn from_record(record: &Record) -> Self {
        let [class, kind, rule, hits] = record.fields;
        Self {
            class,
            kind,
            rule,
            hits,
        }
    }

    /// The record that stores this service.
    pub const fn to_record(self) -> Record {
        Record {
            fields: [self.class, self.kind, self.rule, self.hits],
        }
    }
}

/// What the tables know of an address (or of a pair of them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Cells of this row start here: `cells + service class` is the cell to check.
    pub cells: u32,
    /// First rule that matches these addresses whatever the service; the default's number if none does.
    pub rule: u32,
    /// For a source: where its pair cells start. Unused otherwise.
    pub pair_cells: u32,
    /// For a source: its mark in pair cells. For a destination: its column there.
    pub pair: u32,
}

impl Row {
    /// The row stored in a record.
    #[inline(always)]
    pub const fn from_record(record: &Record) -> Self {
        let [cells, rule, pair_cells, pair] = record.fields;
        Self {
            cells,
            rule,
            pair_cells,
            pair,
        }
    }

    /// The record that stores this row.
    pub const fn to_record(self) -> Record {
        Record {
            fields: [self.cells, self.rule, self.pair_cells, self.pair],
        }
    }
}

/// What a rule does, as stored in the rules table: action, log, counter slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome(pub u32);

impl Outcome {
    const ACCEPT: u32 = 1 << 31;
    const LOG: u32 = 1 << 30;

    /// Packs an outcome; `counter` is a slot below [`super::counter::MAX_SLOTS`].
    pub const fn new(accept: bool, log: bool, counter: u32) -> Self {
        assert!(
            counter < super::counter::MAX_SLOTS,
            "counter slot out of range"
        );
        Self((accept as u32 * Self::ACCEPT) | (log as u32 * Self::LOG) | counter)
    }

    /// Whether the packet is let through.
    #[inline(always)]
    pub const fn accepts(self) -> bool {
        self.0 & Self::ACCEPT != 0
    }

    /// Whether the packet is to be sampled as an event.
    #[inline(always)]
    pub const fn logs(self) -> bool {
        self.0 & Self::LOG != 0
    }

    /// Slot of the counter.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self.0 & (super::counter::MAX_SLOTS - 1)
    }
}

/// An entry of the address tables: a row number, or the way further down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(pub u32);

impl Entry {
    const DOWN: u32 = 1 << 31;

    /// The address's row.
    pub const fn row(row: u32) -> Self {
        assert!(row < Self::DOWN, "row number out of range");
        Self(row)
    }

    /// Index (line) of the page or tree node that knows more.
    pub const fn down(line: u32) -> Self {
        assert!(line < Self::DOWN, "line index out of range");
        Self(line | Self::DOWN)
    }

    /// Where to go on, or `None` where the row is known.
    #[inline(always)]
    pub const fn next(self) -> Option<u32> {
        if self.0 & Self::DOWN != 0 {
            Some(self.0 & !Self::DOWN)
        } else {
            None
        }
    }
}

/// A node of an address tree: one line, a pointer and the sorted inclusive upper bounds of all children but the last.
///
/// The child to follow is the number of bounds below the key, which [`NARROW`](node) and wide nodes count without a
/// branch. Unused bounds hold the largest value, which is below no key.
pub mod node {
    /// Bit of word 0: children are [`super::Entry`]s from `u32` index `pointer`; else nodes from line `pointer`.
    pub const LEAF: u64 = 1 << 63;
    /// Bits of an IPv4 tree's key: the address below the 17 that the root and its pages look at.
    pub const NARROW_BITS: u32 = 15;
    /// Bounds in a narrow node: 7 words of four 16-bit lanes, each a 15-bit bound under a guard bit.
    pub const NARROW_BOUNDS: usize = 28;
    /// Levels of a narrow tree: 2^15 keys and 29 children a node.
    pub const NARROW_LEVELS: u32 = 4;
    /// Bits of the first key of an IPv6 tree: the address below the first 17, down to bit 72.
    pub const WIDE_BITS: u32 = 55;
    /// Bits of the second key, the rest of the address.
    pub const WIDE_LOW_BITS: u32 = 56;
    /// Bounds in a wide node: 7 words.
    pub const WIDE_BOUNDS: usize = 7;
    /// Levels of a wide tree: 8^8 = 16.7 million ranges below one 17-bit prefix.
    pub const WIDE_LEVELS: u32 = 8;
    /// The lowest bit of each 16-bit lane.
    pub const LANES: u64 = 0x0001_0001_0001_0001;
    /// The guard bit of each 16-bit lane.
    pub const GUARDS: u64 = 0x8000_8000_8000_8000;
}

const _: () = assert!(size_of::<Line>() == 64 && size_of::<Record>() == 16);
const _: () = assert!(header::SELECTORS + 2 * SELECTORS <= header::LEN);
