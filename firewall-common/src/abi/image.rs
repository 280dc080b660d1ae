//! The policy image: one generation of rules as tables, in one piece of memory.
//!
//! An image is an array of 64-byte lines, filled by the rule compiler and never written by the program. All its tables
//! refer to each other by index, so it can be copied, hashed, stored and compared as it is. Indices count the table's
//! own unit: `u8`, `u16`, `u32`, `u64`, a 16-byte record or a line, always from the start of the image.
//!
//! It is one value of a BPF array rather than many elements because reading at an offset inside one value is inlined to
//! a bounds check and a load (0.1 ns), where each lookup in an array of unknown length is a call (8 to 10 ns).
//!
//! ```text
//! header ── pages: protocol, port or ICMP type ────> Service { class, candidate, hits }
//!        └─ addresses: source, destination ────────> where a row of cells begins
//!                      cell [row + class] ─────────> Candidate { rule number, outcome }
//! ```
//!
//! What a table names is a [`Candidate`]: a number whose upper bits are the rule's, so that the first rule of several is the
//! smallest number, and which has with it what that rule does.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the values that hold an image, smallest first. A generation is loaded into the smallest that fits; the sizes
/// are fixed because the verifier must know the size of a value.
pub const SIZE_CLASSES: [usize; 5] = [256 << 10, 2 << 20, 8 << 20, 32 << 20, 128 << 20];

/// One cache line of an image.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(64))]
pub struct Line {
    /// Eight words in the machine's own byte order: images never leave the machine that compiled them.
    pub words: [u64; 8],
}

/// Four `u32`, the unit of services.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(16))]
pub struct Record {
    /// See [`Service`].
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
    /// Index (`u16`) of the table that turns a TCP flags byte into a flags class; 0 if no rule asks for flags.
    pub const FLAGS_CLASSES: u32 = 1;
    /// Index (`u64`) of 64 words with a bit for each VLAN id that may arrive, bit 0 standing for frames of no VLAN; 0 if any
    /// may. Of the ingress header only.
    pub const VLANS: u32 = 2;
    /// The address tables, one line each ([`super::AddressTable`]). Order: IPv4 source, IPv4 destination, IPv6 source,
    /// IPv6 destination.
    pub const ADDRESS_TABLES: u32 = 16;
    /// `u32`s from one address table to the next.
    pub const ADDRESS_TABLE_LEN: u32 = 16;
    /// Index (`u32`) of the terms of rules, by number: each the index (line) of a [`crate::abi::terms::Terms`], or 0.
    pub const TERMS: u32 = 3;
    /// The address tables of those whom no ban cuts, of IPv4 and IPv6, whose entries begin at 1 for them. Of the ingress header only.
    pub const NEVER_BANNED: [u32; 2] = [
        ADDRESS_TABLES + 4 * ADDRESS_TABLE_LEN,
        ADDRESS_TABLES + 5 * ADDRESS_TABLE_LEN,
    ];
    /// For each selector 256 [`super::Page`]s of 64 bits, by the upper eight bits of values.
    pub const PAGES: u32 = ADDRESS_TABLES + 6 * ADDRESS_TABLE_LEN;
    /// 256 `u32`, by protocol number: index (record) of the service of protocols without selector.
    pub const PROTOCOLS: u32 = PAGES + 2 * 256 * super::SELECTORS;
    /// `u32`s in the header of one direction.
    pub const LEN: u32 = PROTOCOLS + 256;
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
    /// No essential: whatever arrives is let in, even what cannot be read. Of the image that is in force where a first policy was not
    /// confirmed.
    pub const OPEN: u32 = 1 << 30;
    /// No essential: packets of this direction are filtered. Always set on ingress.
    pub const FILTERED: u32 = 1 << 31;
}

/// What the tables know of a protocol and selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// The first rule that matches this service whatever the addresses, or the default.
    pub candidate: Candidate,
    /// How addresses and TCP flags go on from here.
    pub class: Class,
    /// Counter slot of the port's hits by outcomes that do not say the port themselves; 0 of a port that no rule names.
    pub hits: u32,
}

impl Service {
    /// The service stored in a record.
    #[inline(always)]
    pub const fn from_record(record: &Record) -> Self {
        let [low, high, class, hits] = record.fields;
        Self {
            candidate: Candidate(low as u64 | (high as u64) << 32),
            class: Class(class),
            hits,
        }
    }

    /// The record that stores this service.
    pub const fn to_record(self) -> Record {
        Record {
            fields: [
                self.candidate.0 as u32,
                (self.candidate.0 >> 32) as u32,
                self.class.0,
                self.hits,
            ],
        }
    }
}

/// What values of a selector with the same upper eight bits have: a byte for each of the lower eight bits says which of the
/// page's services it is. Ports that rules name lie scattered, and so few cache lines hold all that is said of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page(pub u64);

impl Page {
    /// The page whose bytes begin at index (`u8`) `bytes` and whose services begin at index (record) `services`.
    pub const fn new(bytes: u32, services: u32) -> Self {
        Self(bytes as u64 | (services as u64) << 32)
    }

    /// Index (`u8`) of its bytes.
    #[inline(always)]
    pub const fn bytes(self) -> u32 {
        self.0 as u32
    }

    /// Index (record) of its first service.
    #[inline(always)]
    pub const fn services(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// A service's column of the cells, and how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class(pub u32);

impl Class {
    const FINAL: u32 = 1 << 31;
    const BY_FLAGS: u32 = 1 << 30;

    /// The column of a service that rules name together with addresses, from [`column::FIRST_CLASS`], or
    /// [`column::ALWAYS`] of one that they do not.
    pub const fn column(column: u32) -> Self {
        assert!(column < column::NONE, "column out of range");
        Self(column)
    }

    /// No address can change what the service's candidate says.
    pub const fn finally() -> Self {
        Self(Self::FINAL)
    }

    /// TCP flags decide which of a run of services it is, which begins at index (record) `first` and has one for each flags
    /// class. These leave the hits to the one that is asked first.
    pub const fn by_flags(first: u32) -> Self {
        assert!(first < Self::BY_FLAGS, "service index out of range");
        Self(first | Self::BY_FLAGS)
    }

    /// Whether no address can change it.
    #[inline(always)]
    pub const fn is_final(self) -> bool {
        self.0 & Self::FINAL != 0
    }

    /// The first service of the run, where TCP flags decide further.
    #[inline(always)]
    pub const fn run(self) -> Option<u32> {
        if self.0 & Self::BY_FLAGS != 0 {
            Some(self.0 & !Self::BY_FLAGS)
        } else {
            None
        }
    }
}

/// Columns of the cells. A row of cells lies over others, each in the gaps of the others; no two rows begin at the same
/// cell, so a cell that says its column also says whose it is.
pub mod column {
    /// The first rule that matches these addresses whatever the service.
    pub const ALWAYS: u32 = 0;
    /// Of a source, where its row of pairs begins, and of a destination, its column there.
    pub const PAIR: u32 = 1;
    /// The first column that stands for a class of services.
    pub const FIRST_CLASS: u32 = 2;
    /// The column that a free cell has; no row has it.
    pub const NONE: u32 = (1 << 20) - 1;
}

/// A rule that matches and what it does, so made that of two candidates the smaller number is the earlier rule's. As a cell it
/// also has the cell's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate(pub u64);

impl Candidate {
    const COLUMN_BITS: u32 = 20;
    const OUTCOME_BITS: u32 = 27;
    const NUMBER_SHIFT: u32 = Self::COLUMN_BITS + Self::OUTCOME_BITS;

    /// No rule, and a cell that is no row's.
    pub const NONE: Self = Self(u64::MAX);

    /// The rule with this number, from 0 in its direction; the default's is behind the last rule's.
    pub const fn new(number: u32, outcome: Outcome) -> Self {
        assert!(number < 1 << 17, "rule number out of range");
        Self((number as u64) << Self::NUMBER_SHIFT | (outcome.0 as u64) << Self::COLUMN_BITS)
    }

    /// A cell that has a value and not a rule: [`column::PAIR`], and the cells of a row of pairs.
    pub const fn of_value(value: u32) -> Self {
        Self((value as u64) << Self::COLUMN_BITS)
    }

    /// The same as a cell of this column.
    pub const fn in_column(self, column: u32) -> Self {
        assert!(column < column::NONE, "column out of range");
        Self(self.0 & !(column::NONE as u64) | column as u64)
    }

    /// Whether this is a cell of `column`.
    #[inline(always)]
    pub const fn is_in(self, column: u32) -> bool {
        self.0 as u32 & column::NONE == column
    }

    /// The rule's number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        (self.0 >> Self::NUMBER_SHIFT) as u32
    }

    /// What the rule does.
    #[inline(always)]
    pub const fn outcome(self) -> Outcome {
        Outcome((self.0 >> Self::COLUMN_BITS) as u32 & ((1 << Self::OUTCOME_BITS) - 1))
    }

    /// What a cell made by [`Self::of_value`] has.
    #[inline(always)]
    pub const fn value(self) -> u32 {
        (self.0 >> Self::COLUMN_BITS) as u32
    }
}

/// What happens to a packet, as stored in the tables: action, counter slot, and what else is to be known of the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome(pub u32);

impl Outcome {
    const HELD: u32 = 1 << 25;
    const TERMS: u32 = 1 << 24;
    const ACCEPT: u32 = 1 << 23;
    const LOG: u32 = 1 << 22;
    const SAYS_PORT: u32 = 1 << 21;
    const DEFAULT: u32 = 1 << 20;

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

    /// The same, and there are [`super::terms::Terms`] to be kept.
    pub const fn with_terms(self) -> Self {
        Self(self.0 | Self::TERMS)
    }

    /// The same, and its terms have been kept.
    #[inline(always)]
    pub const fn without_terms(self) -> Self {
        Self(self.0 & !Self::TERMS)
    }

    /// The same, of what rules accept and a ban or limit holds back.
    #[inline(always)]
    pub const fn held(self) -> Self {
        Self(self.0 | Self::HELD)
    }

    /// The same, where no rule matches.
    pub const fn by_default(self) -> Self {
        Self(self.0 | Self::DEFAULT)
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

    /// Whether there are [`super::terms::Terms`] to be kept.
    #[inline(always)]
    pub const fn has_terms(self) -> bool {
        self.0 & Self::TERMS != 0
    }

    /// Whether rules accept it, and a ban or limit holds it back.
    #[inline(always)]
    pub const fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    /// Whether no rule matches.
    #[inline(always)]
    pub const fn is_default(self) -> bool {
        self.0 & Self::DEFAULT != 0
    }

    /// Slot of the counter.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self.0 & (super::counter::MAX_SLOTS - 1)
    }
}

/// An entry of the address tables: where a row of cells begins, or the way further down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry(pub u32);

impl Entry {
    const DOWN: u32 = 1 << 31;
    const PAIR: u32 = 1 << 30;

    /// Addresses whose row of cells begins at index (`u64`) `first`; `in_pairs` if it has a cell in [`column::PAIR`].
    pub const fn row(first: u32, in_pairs: bool) -> Self {
        assert!(first < Self::PAIR, "cell index out of range");
        Self(first | (in_pairs as u32 * Self::PAIR))
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

    /// Index (`u64`) of the row's first cell.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.0 & (Self::PAIR - 1)
    }

    /// Whether both, of a source and of a destination, are named by rules that name both.
    #[inline(always)]
    pub const fn may_pair(self, other: Self) -> bool {
        self.0 & other.0 & Self::PAIR != 0
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
/// key. Few prefixes have few children, and then the line itself has their entries, in the place of bounds.
pub mod node {
    /// Bit of word 0: children are [`super::Entry`]s from `u32` index `pointer`; else nodes from line `pointer`.
    pub const LEAF: u64 = 1 << 63;
    /// Bit of word 0: bounds are in the first [`INLINE_BOUND_WORDS`] words behind only, and children are the up to
    /// [`INLINE_CHILDREN`] [`super::Entry`]s from [`INLINE_ENTRIES`] on.
    pub const INLINE: u64 = 1 << 62;
    /// Words with bounds of an inline node.
    pub const INLINE_BOUND_WORDS: usize = 3;
    /// Where the entries of an inline node begin, in `u32` of the line.
    pub const INLINE_ENTRIES: u32 = 8;
    /// Most children of an inline node.
    pub const INLINE_CHILDREN: usize = 8;
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
const _: () = assert!(header::TERMS < header::ADDRESS_TABLES && header::LEN.is_multiple_of(2));
const _: () = assert!(super::counter::MAX_SLOTS <= Outcome::DEFAULT);
const _: () = assert!(header::ADDRESS_TABLE_LEN as usize * 4 == size_of::<Line>());
const _: () = assert!((header::LEN * 4).is_multiple_of(size_of::<Line>() as u32));
