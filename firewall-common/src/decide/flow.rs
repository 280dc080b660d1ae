//! Recording the flows that leave, and recognising what answers them. Nothing from outside opens a flow.
//!
//! # Readers and writers on several CPUs
//!
//! A slot's word names its owner by a tag, a keyed fingerprint of the flow's key. Who opens a flow in a slot
//!
//! 1. swaps the word he judged for [`SlotWord::BUSY`], so that only one gets the slot, and not if it was used meanwhile;
//! 2. writes the entry;
//! 3. swaps `BUSY` for the new word.
//!
//! Who looks for a flow finds its tag, compares the whole key, reads what it needs, and then sees that the tag is still
//! the same. He thus never takes one flow's numbers for another's, nor a half-written key for a whole one, unless both
//! flows in that very slot have the same 32-bit tag as well, which nobody can bring about without the seed. This also is
//! what remains on a machine that reorders loads, should its [`Word::barrier`] do nothing.
//!
//! Two CPUs that open the same flow at once may both succeed. Everybody then uses the first; the other one times out.
//! Changes of state are swaps of the whole slot word too: they fail if the slot was given away.

#[cfg(not(target_arch = "bpf"))]
mod host;
pub mod ports;
mod rank;
pub mod tcp;

use crate::abi::flow::{
    Bucket, Entry, Key, MIN_WINDOW_BITS, Ports, Received, Sent, Sequences, Settings, SlotWord,
    State, TICK_MASK, WAYS,
};

pub use tcp::Segment;

use crate::hash;
use crate::parse::transport::tcp_flag;
use crate::word::Word;

/// The flow table, and the time.
pub trait Flows {
    /// What the table is made of.
    type Word: Word;

    /// The settings; `None` if there are none.
    fn settings(&self) -> Option<&Settings>;

    /// The ports that flows were opened from; `None` if there is no table.
    fn ports(&self) -> Option<&Ports<Self::Word>>;

    /// The bucket at `index`, which is masked by the settings; `None` if the table is smaller.
    fn bucket(&self, index: u32) -> Option<&Bucket<Self::Word>>;

    /// Monotonic time in ticks ([`Settings::tick_shift`]), of which the lower [`crate::abi::flow::TICK_BITS`] count.
    fn now(&self) -> u32;

    /// `slot` itself. The verifier is to forget which one it is, or it follows all that comes after eight times.
    #[inline(always)]
    fn any_slot(&self, slot: u32) -> u32 {
        slot
    }
}

/// A packet of a flow, as this host sees it: local and remote, whichever way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowPacket {
    /// Its ends.
    pub key: Key,
    /// What it is.
    pub kind: Kind,
}

/// What matters of a packet to its flow, by protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo; the identifier is the key's local port.
    Echo {
        /// A request, or else a reply.
        request: bool,
    },
    /// Any other ICMP or ICMPv6 message: it neither opens a flow nor answers one. Errors go to [`quoted`].
    Icmp,
    /// Any other protocol.
    Other,
}

impl Kind {
    /// Whether it resets a TCP connection.
    #[inline(always)]
    pub const fn is_reset(&self) -> bool {
        matches!(self, Self::Tcp(segment) if segment.flags & tcp_flag::RST != 0)
    }
}

/// What became of an outgoing packet. The table's fill is what user space counts; evictions are counted from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It opened a flow, in a free slot or in that of a flow that was gone.
    Created,
    /// It opened a flow, and a live one had to go.
    CreatedEvicting,
    /// It began its flow anew, in the same slot: the old one was gone, or TCP opened another connection.
    Renewed,
    /// It belongs to a flow that is known.
    Refreshed,
    /// It is none that opens a flow, and belongs to none that it could go on with.
    Untracked,
    /// It would have opened a flow, but other CPUs took every slot that was tried.
    Contended,
    /// There is no table, or it is smaller than its settings say.
    NoTable,
}

/// Whether a packet from outside answers a flow, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It does.
    Accepted,
    /// There is no such flow.
    NoFlow,
    /// The flow has been idle for longer than its timeout.
    Expired,
    /// TCP: sequence or acknowledgment lies where nothing of the conversation can be.
    OutOfWindow,
    /// The flow is in no state in which such a packet can come.
    WrongState,
    /// There is no table, or it is smaller than its settings say.
    NoTable,
}

impl Answer {
    /// Whether the packet is let through.
    #[inline(always)]
    pub const fn accepts(self) -> bool {
        matches!(self, Self::Accepted)
    }
}

/// How often a slot is looked for when other CPUs take those that were chosen.
const CLAIM_TRIES: u32 = 3;

/// Records a packet that leaves, unless rules accept its answers anyway, which the caller knows.
///
/// Flows are opened by a TCP SYN, by a TCP segment in mid-stream (there may be a connection that is older than the table; of what a
/// router carries for others nobody knows, and so it counts for little until something answers), by any UDP datagram, by an ICMP echo request and by any packet of another
/// protocol.
#[inline(always)]
pub fn outgoing<F: Flows>(packet: &FlowPacket, flows: &F) -> Recorded {
    if matches!(packet.kind, Kind::Icmp | Kind::Echo { request: false }) {
        return Recorded::Untracked;
    }
    let Some(settings) = flows.settings() else {
        return Recorded::NoTable;
    };
    let place = Place::of(&packet.key, settings);
    let Some(bucket) = flows.bucket(place.index) else {
        return Recorded::NoTable;
    };
    let now = flows.now() & TICK_MASK;
    match find(bucket, place.tag, &packet.key, flows) {
        Some(found) => go_on(packet, &found, settings, now),
        None => match Opening::of(packet) {
            Some(opening) => {
                ports::note(&packet.key, flows);
                open(&packet.key, &opening, bucket, place.tag, settings, now)
            }
            None => Recorded::Untracked,
        },
    }
}

/// Whether a packet that no rule accepts answers a flow.
///
/// It may change the flow's state, but not the time from which its timeout counts: that is the last outgoing packet.
#[inline(always)]
pub fn answer<F: Flows>(packet: &FlowPacket, flows: &F) -> Answer {
    if matches!(packet.kind, Kind::Icmp) {
        return Answer::NoFlow;
    }
    let Some(settings) = flows.settings() else {
        return Answer::NoTable;
    };
    let place = Place::of(&packet.key, settings);
    let Some(bucket) = flows.bucket(place.index) else {
        return Answer::NoTable;
    };
    let Some(found) = find(bucket, place.tag, &packet.key, flows) else {
        return Answer::NoFlow;
    };
    if settings.expired(found.word, flows.now() & TICK_MASK) {
        return Answer::Expired;
    }
    let mut sequences = Sequences::from_word(found.sequences);
    let mut received = Received::from_word(found.received);
    let old = found.word.state();
    let new = match packet.kind {
        Kind::Tcp(segment) => {
            let window_bits = Sent::from_word(found.sent).window_bits;
            match tcp::arrives(old, &segment, window_bits, &mut sequences, &mut received) {
                Ok(state) => state,
                Err(refusal) => return refusal,
            }
        }
        Kind::Echo { request: true } => return Answer::WrongState,
        Kind::Udp | Kind::Echo { request: false } | Kind::Icmp | Kind::Other => match old {
            State::UdpSent => State::UdpAnswered,
            State::EchoSent => State::EchoAnswered,
            State::OtherSent => State::OtherAnswered,
            state => state,
        },
    };
    if new as u32 != old as u32 {
        let word = SlotWord::new(found.word.tag(), found.word.tick(), new);
        // If this fails, an outgoing packet changed the word in between, and the next of either side sets it right.
        if found.slot.swap(found.word.0, word.0) && sequences.to_word() != found.sequences {
            found.entry.sequences.store(sequences.to_word());
        }
    }
    received.packets = received.packets.saturating_add(1);
    found.entry.received.store(received.to_word());
    Answer::Accepted
}

/// Whether the packet quoted in an ICMP error is one that we sent in a live flow. Changes nothing.
///
/// Of TCP an error need quote no more than ports and sequence number (RFC 792), so `sequence` is what counts there: it
/// must be of something that we sent and may still wait to be acknowledged (RFC 5927, 4.1). Other protocols ignore it.
#[inline(always)]
pub fn quoted<F: Flows>(key: &Key, sequence: u32, flows: &F) -> bool {
    let Some(settings) = flows.settings() else {
        return false;
    };
    let place = Place::of(key, settings);
    let Some(bucket) = flows.bucket(place.index) else {
        return false;
    };
    let Some(found) = find(bucket, place.tag, key, flows) else {
        return false;
    };
    if settings.expired(found.word, flows.now() & TICK_MASK) {
        return false;
    }
    key.protocol != crate::parse::protocol::TCP
        || tcp::may_have_sent(
            sequence,
            Sequences::from_word(found.sequences),
            Received::from_word(found.received),
        )
}

/// Where a key belongs.
struct Place {
    /// Index of the bucket.
    index: u32,
    /// Its tag there.
    tag: u32,
}

impl Place {
    #[inline(always)]
    fn of(key: &Key, settings: &Settings) -> Self {
        let words = [
            key.local[0],
            key.local[1],
            key.remote[0],
            key.remote[1],
            key.selector(),
        ];
        let sum = hash::keyed(words, &settings.seed);
        let tag = (sum >> 32) as u32;
        Self {
            index: sum as u32 & settings.mask,
            tag: if tag < SlotWord::FIRST_TAG {
                tag + SlotWord::FIRST_TAG
            } else {
                tag
            },
        }
    }
}

/// A flow in its slot, as it was at one moment.
struct Found<'a, W> {
    slot: &'a W,
    entry: &'a Entry<W>,
    word: SlotWord,
    sequences: u64,
    sent: u64,
    received: u64,
}

#[inline(always)]
fn find<'a, F: Flows>(
    bucket: &'a Bucket<F::Word>,
    tag: u32,
    key: &Key,
    flows: &F,
) -> Option<Found<'a, F::Word>> {
    let mut slot = WAYS as u32;
    for (index, (word, entry)) in bucket.slots.iter().zip(&bucket.entries).enumerate() {
        if SlotWord(word.load()).tag() == tag {
            F::Word::barrier();
            if is_of(entry, key) {
                slot = index as u32;
                break;
            }
        }
    }
    if slot == WAYS as u32 {
        return None;
    }
    let index = flows.any_slot(slot) as usize & (WAYS - 1);
    let (slot, entry) = (&bucket.slots[index], &bucket.entries[index]);
    let sequences = entry.sequences.load();
    let sent = entry.sent.load();
    let received = entry.received.load();
    F::Word::barrier();
    let word = SlotWord(slot.load());
    (word.tag() == tag).then_some(Found {
        slot,
        entry,
        word,
        sequences,
        sent,
        received,
    })
}

#[inline(always)]
fn is_of<W: Word>(entry: &Entry<W>, key: &Key) -> bool {
    // One branch: what differs anywhere leaves a bit.
    (entry.local[0].load() ^ key.local[0])
        | (entry.local[1].load() ^ key.local[1])
        | (entry.remote[0].load() ^ key.remote[0])
        | (entry.remote[1].load() ^ key.remote[1])
        | (entry.selector.load() ^ key.selector())
        == 0
}

/// What an entry begins with.
struct Opening {
    state: State,
    sequences: Sequences,
    window_bits: u32,
    received: Received,
}

impl Opening {
    /// How `packet` opens a flow, if it may.
    #[inline(always)]
    fn of(packet: &FlowPacket) -> Option<Self> {
        let state = match packet.kind {
            Kind::Tcp(segment) => {
                let mut received = Received::NONE;
                let (state, sequences, window_bits) = tcp::opens(&segment, &mut received)?;
                return Some(Self {
                    state,
                    sequences,
                    window_bits,
                    received,
                });
            }
            Kind::Udp => State::UdpSent,
            Kind::Echo { request: true } => State::EchoSent,
            Kind::Other => State::OtherSent,
            Kind::Echo { request: false } | Kind::Icmp => return None,
        };
        Some(Self {
            state,
            sequences: Sequences::default(),
            window_bits: MIN_WINDOW_BITS,
            received: Received::NONE,
        })
    }

    #[inline(always)]
    fn write<W: Word>(&self, entry: &Entry<W>, now: u32) {
        let sent = Sent {
            created: now,
            window_bits: self.window_bits,
            packets: 1,
        };
        entry.sequences.store(self.sequences.to_word());
        entry.sent.store(sent.to_word());
        entry.received.store(self.received.to_word());
    }
}

impl Received {
    /// Nothing, yet.
    const NONE: Self = Self {
        picked_up: 0,
        local_scale: 0,
        remote_scale: 0,
        window_bits: MIN_WINDOW_BITS,
        packets: 0,
    };
}

/// What an outgoing packet does to a flow that has its key.
enum Step {
    /// Nothing.
    Ignore,
    /// It goes on, in this state.
    Keep(State),
    /// It begins anew.
    Renew,
}

#[inline(always)]
fn go_on<W: Word>(
    packet: &FlowPacket,
    found: &Found<'_, W>,
    settings: &Settings,
    now: u32,
) -> Recorded {
    let live = !settings.expired(found.word, now);
    let old = found.word.state();
    let mut sequences = Sequences::from_word(found.sequences);
    let mut sent = Sent::from_word(found.sent);
    let step = match packet.kind {
        Kind::Tcp(segment) => {
            let received = Received::from_word(found.received);
            tcp::leaves(
                old,
                live,
                &segment,
                &received,
                &mut sequences,
                &mut sent.window_bits,
            )
        }
        _ if !live => Step::Renew,
        _ => Step::Keep(match old {
            State::UdpAnswered => State::UdpStream,
            state => state,
        }),
    };
    let state = match step {
        Step::Ignore => return Recorded::Untracked,
        Step::Keep(state) => {
            if sequences.to_word() != found.sequences {
                found.entry.sequences.store(sequences.to_word());
            }
            sent.packets = sent.packets.saturating_add(1);
            found.entry.sent.store(sent.to_word());
            state
        }
        Step::Renew => match Opening::of(packet) {
            Some(opening) => {
                opening.write(found.entry, now);
                opening.state
            }
            None => return Recorded::Untracked,
        },
    };
    let word = SlotWord::new(found.word.tag(), now, state);
    if word.0 != found.word.0 {
        // If this fails, an answer changed the state in between, or another packet of the flow brought the time: the
        // next packet sets right what is missing.
        found.slot.swap(found.word.0, word.0);
    }
    match step {
        Step::Renew => Recorded::Renewed,
        Step::Keep(_) | Step::Ignore => Recorded::Refreshed,
    }
}

/// Opens a flow in the slot that is missed least.
#[inline(always)]
fn open<W: Word>(
    key: &Key,
    opening: &Opening,
    bucket: &Bucket<W>,
    tag: u32,
    settings: &Settings,
    now: u32,
) -> Recorded {
    for _ in 0..CLAIM_TRIES {
        let mut highest = rank::NEVER;
        for (index, slot) in bucket.slots.iter().enumerate() {
            let rank = rank::of(SlotWord(slot.load()), settings, now) | index as u64;
            highest = highest.max(rank);
        }
        let chosen = highest as usize & (WAYS - 1);
        let (slot, entry) = (&bucket.slots[chosen], &bucket.entries[chosen]);
        let word = SlotWord(slot.load());
        let rank = rank::of(word, settings, now);
        if rank != highest & !(WAYS as u64 - 1)
            || rank == rank::NEVER
            || !slot.swap(word.0, SlotWord::BUSY.0)
        {
            continue;
        }
        entry.local[0].store(key.local[0]);
        entry.local[1].store(key.local[1]);
        entry.remote[0].store(key.remote[0]);
        entry.remote[1].store(key.remote[1]);
        entry.selector.store(key.selector());
        opening.write(entry, now);
        // Nobody else changes a busy slot.
        slot.swap(SlotWord::BUSY.0, SlotWord::new(tag, now, opening.state).0);
        return if rank < rank::GONE {
            Recorded::CreatedEvicting
        } else {
            Recorded::Created
        };
    }
    Recorded::Contended
}

#[cfg(not(target_arch = "bpf"))]
pub use host::HostFlows;

impl<W: Word> Bucket<W> {
    /// The bucket as user space would read it.
    pub fn words(&self) -> crate::abi::flow::BucketWords {
        let mut copy = crate::abi::flow::BucketWords::default();
        let (slots, entries) = copy.words.split_at_mut(WAYS);
        for (to, from) in slots.iter_mut().zip(&self.slots) {
            *to = from.load();
        }
        for (to, from) in entries.as_chunks_mut().0.iter_mut().zip(&self.entries) {
            *to = from.words();
        }
        copy
    }
}

impl<W: Word> Entry<W> {
    fn words(&self) -> [u64; 8] {
        [
            self.local[0].load(),
            self.local[1].load(),
            self.remote[0].load(),
            self.remote[1].load(),
            self.selector.load(),
            self.sequences.load(),
            self.sent.load(),
            self.received.load(),
        ]
    }
}

#[cfg(test)]
mod tests;
