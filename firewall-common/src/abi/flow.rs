//! The flow table as it lies in its BPF array: buckets of eight flows, and the settings that its readers need.
//!
//! The table is our own because one helper call costs 8 to 10 ns and a kernel hash map 47 ns and more, where an array of
//! known size is inlined. A bucket's first line has one word for each of its flows, which says all that a miss, a
//! timeout and a replacement need; a hit reads one line more.
//!
//! ```text
//! bucket, 576 bytes: 8 slot words │ 8 entries of one line
//! slot word:         tag 32 │ tick of the last outgoing packet 28 │ state 4
//! entry:             local 128 │ remote 128 │ selector 64 │ sequences 64 │ sent 64 │ received 64
//! ```
//!
//! Every field is part of a 64-bit word of type `W`, because the words are shared between CPUs and the BPF target has no
//! usable atomics: `AtomicU32` does not exist there, and a load of an `AtomicU64` needs `target-cpu=v4`. On the host `W`
//! is `AtomicU64`; the kernel's shell brings its own, see [`crate::word::Word`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the array of [`Bucket`]s.
pub const MAP_FLOWS: &str = "FLOWS";
/// Name of the map that holds the one [`Settings`] record.
pub const MAP_FLOW_SETTINGS: &str = "FLOW_SETTINGS";
/// Name of the map that holds the one [`Ports`] record.
pub const MAP_FLOW_PORTS: &str = "FLOW_PORTS";
/// Flags of [`MAP_FLOWS`]: `BPF_F_MMAPABLE` (linux/bpf.h). Buckets then begin on cache lines, as the table does on a page,
/// and user space reads them without a system call for each.
pub const FLOW_MAP_FLAGS: u32 = 1 << 10;

/// Flows in a bucket, a power of two. Eight words make one cache line.
pub const WAYS: usize = 8;
/// Fewest and most buckets; the number is a power of two. Half a million flows fill half of 2^17 buckets (72 MiB).
pub const MIN_BUCKETS: u32 = 64;
/// See [`MIN_BUCKETS`]: 16 million slots, 1.1 GiB.
pub const MAX_BUCKETS: u32 = 1 << 21;

/// Bits of a tick. A tick is one to two seconds, so that the clock comes round after 8.5 years at the earliest: until
/// then nothing that was forgotten can look fresh, and nothing has to be swept.
pub const TICK_BITS: u32 = 28;
/// All ones in a tick.
pub const TICK_MASK: u32 = (1 << TICK_BITS) - 1;
/// Longest timeout: 2^27 ticks, four years.
pub const MAX_TIMEOUT_TICKS: u32 = 1 << (TICK_BITS - 1);
/// CPUs may be this far apart: a tick this little in the future is now.
const SKEW_TICKS: u32 = 8;

/// A bucket of the table.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Bucket<W> {
    /// A [`SlotWord`] for each entry.
    pub slots: [W; WAYS],
    /// The entries; meaningful where the slot word is neither [`SlotWord::EMPTY`] nor [`SlotWord::BUSY`].
    pub entries: [Entry<W>; WAYS],
}

/// Which local ports flows have ever been opened from, a bit each, TCP's first. Bits are set and never cleared while the
/// table is there, so a bit that is not set says that there is no flow, and one that is says nothing.
#[derive(Debug, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Ports<W> {
    /// 64 ports a word.
    pub words: [W; PORT_WORDS],
}

/// Words of [`Ports`]: 16 KiB.
pub const PORT_WORDS: usize = 2 * 65_536 / 64;

/// Whose ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PortProtocol {
    /// TCP's.
    Tcp = 0,
    /// UDP's.
    Udp = 1,
}

/// A flow, apart from its slot word. After it was opened each word has one writer: `sequences` and `sent` the egress
/// program, `received` the ingress program, which touches `sequences` only when a connection is answered.
#[derive(Debug, Default, FromBytes, KnownLayout)]
#[repr(C)]
pub struct Entry<W> {
    /// This host's address, upper half first, IPv4 as `::ffff:a.b.c.d`.
    pub local: [W; 2],
    /// The other's address.
    pub remote: [W; 2],
    /// `protocol << 32 | local port << 16 | remote port`.
    pub selector: W,
    /// TCP: [`Sequences`].
    pub sequences: W,
    /// [`Sent`].
    pub sent: W,
    /// [`Received`].
    pub received: W,
}

const _: () = assert!(size_of::<Entry<u64>>() == 64);
const _: () = assert!(size_of::<Bucket<u64>>() == 576);
const _: () = assert!(core::mem::offset_of!(Bucket<u64>, entries) == 64);
const _: () = assert!(core::mem::offset_of!(Entry<u64>, remote) == 16);
const _: () = assert!(core::mem::offset_of!(Entry<u64>, selector) == 32);
const _: () = assert!(core::mem::offset_of!(Entry<u64>, sequences) == 40);
const _: () = assert!(core::mem::offset_of!(Entry<u64>, sent) == 48);
const _: () = assert!(core::mem::offset_of!(Entry<u64>, received) == 56);
#[cfg(not(target_arch = "bpf"))]
const _: () = assert!(size_of::<Bucket<core::sync::atomic::AtomicU64>>() == 576);

/// What a flow is doing, which decides how long it lives without an outgoing packet ([`Settings::timeouts`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// TCP: we sent a segment of a connection whose beginning was not seen, and nothing has answered. On a router anybody may have made
    /// it up.
    PickedUp = 0,
    /// TCP: we sent SYN.
    SynSent = 1,
    /// TCP: SYN met SYN (simultaneous open, RFC 9293, 3.5).
    SynReceived = 2,
    /// TCP: answered.
    Established = 3,
    /// TCP: we sent FIN.
    FinSent = 4,
    /// TCP: the peer sent FIN.
    FinReceived = 5,
    /// TCP: both sent FIN.
    FinBoth = 6,
    /// TCP: we sent RST.
    Reset = 7,
    /// TCP: the peer sent RST.
    ResetReceived = 8,
    /// UDP: not answered.
    UdpSent = 9,
    /// UDP: answered.
    UdpAnswered = 10,
    /// UDP: answered, and continued by us.
    UdpStream = 11,
    /// ICMP echo request: not answered.
    EchoSent = 12,
    /// ICMP echo request: answered.
    EchoAnswered = 13,
    /// Another protocol: not answered.
    OtherSent = 14,
    /// Another protocol: answered.
    OtherAnswered = 15,
}

impl State {
    /// All states, by number.
    pub const ALL: [Self; 16] = [
        Self::PickedUp,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinSent,
        Self::FinReceived,
        Self::FinBoth,
        Self::Reset,
        Self::ResetReceived,
        Self::UdpSent,
        Self::UdpAnswered,
        Self::UdpStream,
        Self::EchoSent,
        Self::EchoAnswered,
        Self::OtherSent,
        Self::OtherAnswered,
    ];

    /// The state with this number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number & 15 {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::FinSent,
            5 => Self::FinReceived,
            6 => Self::FinBoth,
            7 => Self::Reset,
            8 => Self::ResetReceived,
            9 => Self::UdpSent,
            10 => Self::UdpAnswered,
            11 => Self::UdpStream,
            12 => Self::EchoSent,
            13 => Self::EchoAnswered,
            14 => Self::OtherSent,
            15 => Self::OtherAnswered,
            _ => Self::PickedUp,
        }
    }

    /// Name for people, in the words of RFC 9293 where it has one.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PickedUp => "picked-up",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinSent => "fin-wait",
            Self::FinReceived => "close-wait",
            Self::FinBoth => "time-wait",
            Self::Reset => "reset",
            Self::ResetReceived => "reset-by-peer",
            Self::UdpSent | Self::EchoSent | Self::OtherSent => "unanswered",
            Self::UdpAnswered | Self::EchoAnswered | Self::OtherAnswered => "answered",
            Self::UdpStream => "stream",
        }
    }
}

/// A slot's word: whose it is, when it was last used, in which state. One word, so that whoever changes a part of it by
/// compare-and-swap knows that the rest was what he thought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotWord(pub u64);

impl SlotWord {
    /// A free slot.
    pub const EMPTY: Self = Self(0);
    /// A slot whose entry is being written.
    pub const BUSY: Self = Self(1 << 32);
    /// Tags below this are taken by the words above.
    pub const FIRST_TAG: u32 = 2;

    /// Packs a word; `tick` is below 2^28.
    #[inline(always)]
    pub const fn new(tag: u32, tick: u32, state: State) -> Self {
        Self((tag as u64) << 32 | ((tick & TICK_MASK) << 4) as u64 | state as u64)
    }

    /// Fingerprint of the flow's key.
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Tick of the last outgoing packet.
    #[inline(always)]
    pub const fn tick(self) -> u32 {
        (self.0 as u32) >> 4
    }

    /// Number of the state.
    #[inline(always)]
    pub const fn state_number(self) -> u32 {
        self.0 as u32 & 15
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> State {
        State::from_number(self.state_number())
    }

    /// Ticks since the last outgoing packet.
    #[inline(always)]
    pub const fn idle(self, now: u32) -> u32 {
        ticks_between(self.tick(), now)
    }
}

/// Ticks from `earlier` to `now`, across the end of the clock; 0 where `earlier` was just taken on a faster CPU.
#[inline(always)]
pub const fn ticks_between(earlier: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(earlier) & TICK_MASK;
    if ticks > TICK_MASK - SKEW_TICKS {
        0
    } else {
        ticks
    }
}

/// Where a TCP conversation stands: `sent_end << 32 | acked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    /// End of the highest segment that we sent: SND.NXT.
    pub sent_end: u32,
    /// Highest acknowledgment that we sent. In the two SYN states our own initial sequence number, because there is
    /// nothing to acknowledge yet and an answer must acknowledge more than that.
    pub acked: u32,
}

impl Sequences {
    /// From the entry's word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            sent_end: (word >> 32) as u32,
            acked: word as u32,
        }
    }

    /// To the entry's word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        (self.sent_end as u64) << 32 | self.acked as u64
    }
}

/// Windows are kept as powers of two, from this one: twice what an unscaled window can be, so that a full one fits and
/// as much again for segments that were overtaken (`MAXACKWINCONST`, 66,000, in nf_conntrack_proto_tcp.c).
pub const MIN_WINDOW_BITS: u32 = 17;
/// Largest window there can be: 65,535 << 14 (RFC 7323, 2.3) is below 2^30.
pub const MAX_WINDOW_BITS: u32 = 30;
/// What 4 bits count from.
const WINDOW_BITS_BASE: u32 = 16;

/// What egress counts: `created 28 │ window 4 │ packets 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Tick of the first packet.
    pub created: u32,
    /// TCP: the largest window that we ever announced is below two to this power.
    pub window_bits: u32,
    /// Packets that left, saturating.
    pub packets: u32,
}

impl Sent {
    /// From the entry's word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            created: (word >> 36) as u32,
            window_bits: WINDOW_BITS_BASE + ((word >> 32) as u32 & 15),
            packets: word as u32,
        }
    }

    /// To the entry's word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        ((self.created & TICK_MASK) as u64) << 36
            | ((self.window_bits.wrapping_sub(WINDOW_BITS_BASE) & 15) as u64) << 32
            | self.packets as u64
    }
}

/// What ingress counts: `picked up 1 │ our scale 4 │ peer's scale 4 │ window 4 │ packets 32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// TCP: 1 if the flow's beginning was not seen. Then every window is the largest, and what the peer acknowledges
    /// may be ahead of what was seen to leave.
    pub picked_up: u32,
    /// TCP: shift of the windows that we announce.
    pub local_scale: u32,
    /// TCP: shift of the windows that the peer announces.
    pub remote_scale: u32,
    /// TCP: the largest window that the peer ever announced is below two to this power.
    pub window_bits: u32,
    /// Accepted answers, saturating.
    pub packets: u32,
}

impl Received {
    /// From the entry's word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let upper = (word >> 32) as u32;
        Self {
            picked_up: upper >> 12 & 1,
            local_scale: upper >> 8 & 15,
            remote_scale: upper >> 4 & 15,
            window_bits: WINDOW_BITS_BASE + (upper & 15),
            packets: word as u32,
        }
    }

    /// To the entry's word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let upper = (self.picked_up & 1) << 12
            | (self.local_scale & 15) << 8
            | (self.remote_scale & 15) << 4
            | self.window_bits.wrapping_sub(WINDOW_BITS_BASE) & 15;
        (upper as u64) << 32 | self.packets as u64
    }
}

/// Most seconds that a connection lives which was picked up in mid-stream, until something answers it (`tcp_timeout_unacknowledged`, as
/// nf_conntrack_proto_tcp.c has it for "mid-connection pickup with loose=1").
pub const MAX_PICKED_UP_S: u32 = 300;

/// How long a flow lives after its last outgoing packet, in seconds.
///
/// The defaults are those of conntrack (Documentation/networking/nf_conntrack-sysctl.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// SYN sent, not answered (`tcp_timeout_syn_sent`).
    pub tcp_syn_sent: u32,
    /// Open connection (`tcp_timeout_established`). One that was picked up in mid-stream and not answered has [`MAX_PICKED_UP_S`] at
    /// the most.
    pub tcp_established: u32,
    /// A FIN was sent or received, or both: conntrack has 120 s for the first FIN and for time-wait, 60 and 30 s for
    /// close-wait and last-ack. Ours is the longest of them, which never loses an answer that conntrack would accept.
    pub tcp_closing: u32,
    /// A RST was sent or received (`tcp_timeout_close`).
    pub tcp_closed: u32,
    /// UDP, not answered, or answered and not continued (`udp_timeout`).
    pub udp: u32,
    /// UDP, answered and continued (`udp_timeout_stream`).
    pub udp_stream: u32,
    /// ICMP echo (`icmp_timeout`).
    pub icmp: u32,
    /// Any other protocol (`generic_timeout`).
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 120,
            tcp_established: 432_000,
            tcp_closing: 120,
            tcp_closed: 10,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            other: 600,
        }
    }
}

impl Timeouts {
    /// The timeout that applies in `state`, in seconds.
    pub const fn of(&self, state: State) -> u32 {
        match state {
            State::SynSent | State::SynReceived => self.tcp_syn_sent,
            State::PickedUp if self.tcp_established > MAX_PICKED_UP_S => MAX_PICKED_UP_S,
            State::PickedUp | State::Established => self.tcp_established,
            State::FinSent | State::FinReceived | State::FinBoth => self.tcp_closing,
            State::Reset | State::ResetReceived => self.tcp_closed,
            State::UdpSent | State::UdpAnswered => self.udp,
            State::UdpStream => self.udp_stream,
            State::EchoSent | State::EchoAnswered => self.icmp,
            State::OtherSent | State::OtherAnswered => self.other,
        }
    }
}

/// Number of random words that the hash needs: five for the words of a key, two to finish.
pub const SEED_WORDS: usize = 7;

/// What the programs must know of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// Secret of the hash, random for each table. Nobody without it can choose flows that meet in one bucket.
    pub seed: [u64; SEED_WORDS],
    /// Number of buckets, less one.
    pub mask: u32,
    /// A tick is `jiffies >> tick_shift`.
    pub tick_shift: u32,
    /// By state number: a flow that has been idle for this many ticks is gone.
    pub timeouts: [u32; 16],
}

const _: () = assert!(size_of::<Settings>() == 128);
const _: () = assert!(core::mem::offset_of!(Settings, mask) == 56);
const _: () = assert!(core::mem::offset_of!(Settings, timeouts) == 64);

impl Settings {
    /// For a table of `buckets` (a power of two) under a kernel of `hz` jiffies a second.
    ///
    /// A tick is the power of two of jiffies that takes one to two seconds. Timeouts are rounded up, by less than two
    /// ticks, and cut at [`MAX_TIMEOUT_TICKS`].
    pub const fn new(seed: [u64; SEED_WORDS], buckets: u32, hz: u32, timeouts: &Timeouts) -> Self {
        assert!(buckets.is_power_of_two(), "buckets are a power of two");
        let tick_shift = hz.next_power_of_two().trailing_zeros();
        let mut ticks = [0; 16];
        let mut index = 0;
        while index < State::ALL.len() {
            let state = State::ALL[index];
            let jiffies = timeouts.of(state) as u64 * hz as u64;
            let rounded = jiffies.div_ceil(1 << tick_shift) + 1;
            ticks[state as usize] = if rounded > MAX_TIMEOUT_TICKS as u64 {
                MAX_TIMEOUT_TICKS
            } else {
                rounded as u32
            };
            index += 1;
        }
        Self {
            seed,
            mask: buckets - 1,
            tick_shift,
            timeouts: ticks,
        }
    }

    /// Whether a flow with this slot word is gone. Who made the table in an older version knew nothing of [`State::PickedUp`] and left
    /// 0 there: such flows last, until an apply says how long, and give way to others all the same.
    #[inline(always)]
    pub const fn expired(&self, word: SlotWord, now: u32) -> bool {
        let timeout = self.timeouts[(word.state_number() & 15) as usize];
        word.idle(now) > timeout.wrapping_sub(1)
    }
}

/// The two ends of a flow, as this host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// This host's address, upper half first, IPv4 as `::ffff:a.b.c.d`.
    pub local: [u64; 2],
    /// The other's address.
    pub remote: [u64; 2],
    /// Protocol number.
    pub protocol: u8,
    /// This host's port; the identifier of ICMP echo; 0 for protocols without.
    pub local_port: u16,
    /// The other's port; 0 for ICMP echo and protocols without.
    pub remote_port: u16,
}

impl Key {
    /// An IPv4 address as the table has it: `::ffff:a.b.c.d`.
    #[inline(always)]
    pub const fn mapped(address: u32) -> [u64; 2] {
        [0, 0xffff << 32 | address as u64]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_mapped(address: [u64; 2]) -> bool {
        address[0] == 0 && address[1] >> 32 == 0xffff
    }

    /// The word of [`Entry::selector`].
    #[inline(always)]
    pub const fn selector(&self) -> u64 {
        (self.protocol as u64) << 32 | (self.local_port as u64) << 16 | self.remote_port as u64
    }
}

/// Words in a bucket.
pub const BUCKET_WORDS: usize = size_of::<Bucket<u64>>() / 8;

/// A bucket as user space reads it: its words, at no particular moment. A flow that was being replaced meanwhile may be
/// a mixture of two, which is good enough for a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BucketWords {
    /// In the order of [`Bucket`].
    pub words: [u64; BUCKET_WORDS],
}

impl Default for BucketWords {
    fn default() -> Self {
        Self {
            words: [0; BUCKET_WORDS],
        }
    }
}

impl BucketWords {
    /// The flows in the bucket, expired ones too.
    pub fn records(&self) -> impl Iterator<Item = FlowRecord> + '_ {
        let (slots, entries) = self.words.split_at(WAYS);
        slots
            .iter()
            .zip(entries.chunks_exact(size_of::<Entry<u64>>() / 8))
            .filter_map(|(&slot, entry)| FlowRecord::new(SlotWord(slot), entry.try_into().ok()?))
    }
}

/// A flow, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Its ends.
    pub key: Key,
    /// Its slot word: state and idle time.
    pub slot: SlotWord,
    /// TCP: where it stands.
    pub sequences: Sequences,
    /// Age and outgoing packets.
    pub sent: Sent,
    /// Accepted answers.
    pub received: Received,
}

impl FlowRecord {
    /// `None` where there is no flow.
    pub const fn new(slot: SlotWord, entry: &[u64; 8]) -> Option<Self> {
        if slot.tag() < SlotWord::FIRST_TAG {
            return None;
        }
        let [l0, l1, r0, r1, selector, sequences, sent, received] = *entry;
        Some(Self {
            key: Key {
                local: [l0, l1],
                remote: [r0, r1],
                protocol: (selector >> 32) as u8,
                local_port: (selector >> 16) as u16,
                remote_port: selector as u16,
            },
            slot,
            sequences: Sequences::from_word(sequences),
            sent: Sent::from_word(sent),
            received: Received::from_word(received),
        })
    }

    /// What it is doing.
    pub const fn state(&self) -> State {
        self.slot.state()
    }

    /// Ticks since the last outgoing packet.
    pub const fn idle(&self, now: u32) -> u32 {
        self.slot.idle(now)
    }

    /// Ticks since the first outgoing packet.
    pub const fn age(&self, now: u32) -> u32 {
        ticks_between(self.sent.created, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_what_is_put_in() {
        for (index, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, index);
            assert_eq!(State::from_number(state as u32), state);
            let word = SlotWord::new(0xdead_beef, TICK_MASK, state);
            assert_eq!(
                (word.tag(), word.tick(), word.state()),
                (0xdead_beef, TICK_MASK, state)
            );
        }
        let sent = Sent {
            created: TICK_MASK - 1,
            window_bits: MAX_WINDOW_BITS,
            packets: u32::MAX,
        };
        assert_eq!(Sent::from_word(sent.to_word()), sent);
        let received = Received {
            picked_up: 1,
            local_scale: 14,
            remote_scale: 7,
            window_bits: MIN_WINDOW_BITS,
            packets: 9,
        };
        assert_eq!(Received::from_word(received.to_word()), received);
        let sequences = Sequences {
            sent_end: 1,
            acked: u32::MAX,
        };
        assert_eq!(Sequences::from_word(sequences.to_word()), sequences);
    }

    #[test]
    fn ticks_are_seconds_or_two_and_timeouts_never_shorter() {
        for hz in [100, 250, 300, 1000] {
            let settings = Settings::new([0; SEED_WORDS], 64, hz, &Timeouts::default());
            let tick_ms = (1000 << settings.tick_shift) / hz;
            assert!((1000..2000).contains(&tick_ms), "{hz}: {tick_ms}");
            for state in State::ALL {
                let least = u64::from(Timeouts::default().of(state)) * u64::from(hz);
                let ticks = u64::from(settings.timeouts[state as usize]);
                // A packet sent late in a tick is one tick old almost at once.
                assert!(
                    (ticks - 1) << settings.tick_shift >= least,
                    "{hz} {state:?}"
                );
                assert!((ticks - 2) << settings.tick_shift < least, "{hz} {state:?}");
            }
        }
        let endless = Timeouts {
            other: u32::MAX,
            ..Timeouts::default()
        };
        let settings = Settings::new([0; SEED_WORDS], 64, 1000, &endless);
        assert_eq!(
            settings.timeouts[State::OtherSent as usize],
            MAX_TIMEOUT_TICKS
        );
    }

    #[test]
    fn a_table_that_knows_no_picked_up_flows_keeps_them() {
        let mut settings = Settings::new([0; SEED_WORDS], 64, 250, &Timeouts::default());
        let word = SlotWord::new(0xdead_beef, 7, State::PickedUp);
        let timeout = settings.timeouts[State::PickedUp as usize];
        assert!(!settings.expired(word, 7 + timeout - 1));
        assert!(settings.expired(word, 7 + timeout));
        settings.timeouts[State::PickedUp as usize] = 0;
        assert!(!settings.expired(word, 7) && !settings.expired(word, 7 + MAX_TIMEOUT_TICKS));
    }

    #[test]
    fn time_goes_on_across_the_end_of_the_clock() {
        assert_eq!(ticks_between(TICK_MASK - 3, 4), 8);
        assert_eq!(ticks_between(5, 4), 0, "a CPU ahead");
        assert_eq!(ticks_between(4, 4 + MAX_TIMEOUT_TICKS), MAX_TIMEOUT_TICKS);
    }
}
