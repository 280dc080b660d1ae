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
//! header ── services: protocol, port or ICMP type ─> Service { class, rule, outcome, hits }
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

/// Positions in a header, as `u32` indices. An image begins with two: [`header::INGRESS`] and [`header::EGRESS`].
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
    /// Index (`u64`) of 64 words with a bit for each VLAN id that may arrive, bit 0 standing for frames of no VLAN; 0 if any
    /// may. Of the ingress header only.
    pub const VLANS: u32 = 8;
    /// First service of each selector.
    pub const FIRST_SERVICES: u32 = 16;
    /// The address tables, one line each ([`super::AddressTable`]). Order: IPv4 source, IPv4 destination, IPv6 source,
    /// IPv6 destination.
    pub const ADDRESS_TABLES: u32 = 32;
    /// `u32`s from one address table to the next.
    pub const ADDRESS_TABLE_LEN: u32 = 16;
    /// For each selector 256 `u32`: index (`u16`) of the page for values with these upper eight bits. A page has for the
    /// lower eight bits a service number, relative to the selector's first.
    pub const PAGES: u32 = ADDRESS_TABLES + 4 * ADDRESS_TABLE_LEN;
    /// `u32`s in the header of one direction.
    pub const LEN: u32 = PAGES + 256 * super::SELECTORS;
    /// Where the header of what arrives begins.
    pub const INGRESS: u32 = 0;
    /// Where the header of what leaves begins. Its [`ESSENTIALS`] are 0 where nothing that leaves is filtered.
    pub const EGRESS: u32 = LEN;
    /// `u32`s in both headers.
    pub const BOTH: u32 = 2 * LEN;
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
    /// No essential: packets of this direction are filtered. Always set on ingress.
    pub const FILTERED: u32 = 1 << 31;
}

/// What the tables know of a protocol and selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Column of the cells; 0 if no rule names this service together with an address. Where TCP flags decide further
    /// ([`Outcome::by_flags`]), the first of a run of services, one for each flags class, which leave `hits` to this one.
    pub class: u32,
    /// First rule that matches this service whatever the addresses; the default's number if none does.
    pub rule: u32,
    /// What that rule does, and how to go on: [`Outcome::is_final`], [`Outcome::by_flags`].
    pub outcome: Outcome,
    /// Counter slot of the port's hits by outcomes that do not say the port themselves, or 0.
    pub hits: u32,
}

impl Service {
    /// The service stored in a record.
    #[inline(always)]
    pub const fn from_record(record: &Record) -> Self {
        let [class, rule, outcome, hits] = record.fields;
        Self {
            class,
            rule,
            outcome: Outcome(outcome),
            hits,
        }
    }

    /// The record that stores this service.
    pub const fn to_record(self) -> Record {
        Record {
            fields: [self.class, self.rule, self.outcome.0, self.hits],
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

/// What happens to a packet, as stored in the tables: action, counter slot, and how the tables go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome(pub u32);

impl Outcome {
    const ACCEPT: u32 = 1 << 31;
    const LOG: u32 = 1 << 30;
    const SAYS_PORT: u32 = 1 << 29;
    const FINAL: u32 = 1 << 28;
    const BY_FLAGS: u32 = 1 << 27;

    /// Packs an outcome; `counter` is a slot below [`super::counter::MAX_SLOTS`].
    pub const fn new(accept: bool, log: bool, counter: u32) -> Self {
        assert!(
            counter < super::counter::MAX_SLOTS,
            "counter slot out of range"
        );
        Self((accept as u32 * Self::ACCEPT) | (log as u32 * Self::LOG) | counter)
    }

    /// The same, and its counter is the destination port's as well.
    pub const fn saying_port(self) -> Self {
        Self(self.0 | Self::SAYS_PORT)
    }

    /// The same, and no address can change it.
    pub const fn finally(self) -> Self {
        Self(self.0 | Self::FINAL)
    }

    /// In a service of which nothing is known before TCP flags are looked at.
    pub const fn asking_flags(self) -> Self {
        Self(self.0 | Self::BY_FLAGS)
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

    /// Whether its counter also tells the destination port, which then needs no count of its own.
    #[inline(always)]
    pub const fn says_port(self) -> bool {
        self.0 & Self::SAYS_PORT != 0
    }

    /// Whether no address can change it.
    #[inline(always)]
    pub const fn is_final(self) -> bool {
        self.0 & Self::FINAL != 0
    }

    /// Whether TCP flags decide further.
    #[inline(always)]
    pub const fn by_flags(self) -> bool {
        self.0 & Self::BY_FLAGS != 0
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

    /// Index (line) of the tree node that knows more.
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

/// Where an address table begins and how its keys are cut, one line of the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressTable {
    /// Index (`u32`) of the root's first [`Entry`]; 0 where no rule names such an address.
    pub root: u32,
    /// Shift that leaves the root's bits of an address: of 32 bits of IPv4, of the upper 64 of IPv6.
    pub root_shift: u32,
    /// The bits below the root's that the trees under the root compare. IPv4: the rest of the address. IPv6: the rest of
    /// bits 127 to 63, shifted down by 63.
    pub key_mask: u64,
    /// How the nodes of these trees are packed.
    pub lanes: Lanes,
}

impl AddressTable {
    /// The table stored in a line.
    #[inline(always)]
    pub const fn from_line(line: &Line) -> Self {
        let [root, key_mask, repeat, guards, highest, ..] = line.words;
        Self {
            root: root as u32,
            root_shift: (root >> 32) as u32,
            key_mask,
            lanes: Lanes {
                repeat,
                guards,
                highest: highest as u32,
            },
        }
    }

    /// The line that stores this table.
    pub const fn to_line(self) -> Line {
        let Lanes {
            repeat,
            guards,
            highest,
        } = self.lanes;
        let root = self.root as u64 | (self.root_shift as u64) << 32;
        Line {
            words: [root, self.key_mask, repeat, guards, highest as u64, 0, 0, 0],
        }
    }
}

/// How bounds are packed into the words of a node: equal lanes, each a bound below a guard bit.
///
/// Keys are laid out the same with the guards set. Then one subtraction compares all lanes of a word: a guard bit stays
/// set where the bound is not above the key. Guards of all seven words are added up some bits lower, and a multiplication
/// by `repeat` adds up the lanes in the highest one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lanes {
    /// The lowest bit of each lane.
    pub repeat: u64,
    /// The guard bit of each lane.
    pub guards: u64,
    /// Position of the highest guard bit.
    pub highest: u32,
}

impl Lanes {
    /// Words with bounds in a node.
    pub const WORDS: u32 = 7;
    /// Bits that the number of bounds of a node takes, and so how much lower guards are added up.
    pub const COUNT_BITS: u32 = 5;
    /// One lane of 64 bits, for keys of up to 63.
    pub const WIDE: Self = Self::of(63);

    /// As many lanes as there can be for keys of `key_bits`.
    pub const fn of(key_bits: u32) -> Self {
        let count = 64 / (key_bits + 1);
        let width = 64 / count;
        assert!(
            count * Self::WORDS < 1 << Self::COUNT_BITS
                && (count + 1) * width >= 64 + 1 + Self::COUNT_BITS,
            "keys too short for their bounds to be counted"
        );
        let mut repeat = 0;
        let mut lane = 0;
        while lane < count {
            repeat |= 1 << (lane * width);
            lane += 1;
        }
        Self {
            repeat,
            guards: repeat << (width - 1),
            highest: count * width - 1,
        }
    }

    /// Lanes in a word.
    pub const fn count(self) -> u32 {
        self.repeat.count_ones()
    }

    /// Bits of a lane, its guard included.
    pub const fn width(self) -> u32 {
        self.guards.trailing_zeros() + 1
    }

    /// Bounds in a node.
    pub const fn bounds(self) -> u32 {
        self.count() * Self::WORDS
    }
}

/// A node of an address tree: one line, a pointer and the lowest keys of all children but the first, ascending.
///
/// The child to follow is the number of bounds not above the key. Unused bounds are a guard bit, which is above every
/// key.
pub mod node {
    /// Bit of word 0: children are [`super::Entry`]s from `u32` index `pointer`; else nodes from line `pointer`.
    pub const LEAF: u64 = 1 << 63;
    /// Fewest bits that an IPv4 root looks at, and most: keys are 15 to 20 bits, in four or three lanes.
    pub const V4_ROOT_BITS: core::ops::RangeInclusive<u32> = 12..=17;
    /// Levels of an IPv4 tree: 22 children a node reach all 2^20 keys in five, 29 all 2^15 keys in four.
    pub const V4_LEVELS: u32 = 5;
    /// Fewest bits that an IPv6 root looks at, and most.
    pub const V6_ROOT_BITS: core::ops::RangeInclusive<u32> = 8..=20;
    /// Bits of the last IPv6 key. Those above, less the root's, are the first, so that prefixes up to /65 need only that.
    pub const V6_LAST_BITS: u32 = 63;
    /// Levels of an IPv6 tree: 8^8 = 16.7 million ranges under one entry.
    pub const V6_LEVELS: u32 = 8;
}

const _: () = assert!(size_of::<Line>() == 64 && size_of::<Record>() == 16);
const _: () = assert!(header::FIRST_SERVICES + SELECTORS <= header::ADDRESS_TABLES);
const _: () = assert!(header::ADDRESS_TABLE_LEN as usize * 4 == size_of::<Line>());
const _: () = assert!((header::LEN * 4).is_multiple_of(size_of::<Line>() as u32));
