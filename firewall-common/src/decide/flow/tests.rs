//! The table under a clock set by hand, against a model, under floods, and from several threads.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{collections::HashMap, sync::Arc, thread, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::abi::flow::{
    BucketWords, FlowRecord, MAX_TIMEOUT_TICKS, PortProtocol, SEED_WORDS, Timeouts,
};
use crate::parse::protocol;

/// A table whose tick is a second.
pub(super) struct Table {
    buckets: &'static [Bucket<AtomicU64>],
    pub(super) flows: HostFlows<'static>,
}

pub(super) const SEED: [u64; SEED_WORDS] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0x2545_f491_4f6c_dd1d,
    0xd6e8_feb8_6659_fd93,
    0xa076_1d64_78bd_642f,
    0xe703_7ed1_a0b4_28db,
];

impl Table {
    pub(super) fn new(buckets: u32) -> Self {
        let memory: Vec<Bucket<AtomicU64>> = (0..buckets).map(|_| Bucket::default()).collect();
        let buckets_leaked: &'static [_] = memory.leak();
        Self {
            buckets: buckets_leaked,
            flows: HostFlows::new(
                buckets_leaked,
                Settings::new(SEED, buckets, 1, &Timeouts::default()),
            ),
        }
    }

    pub(super) fn at(&self, second: u32) -> &Self {
        self.flows.set_now(second);
        self
    }

    pub(super) fn out(&self, packet: &FlowPacket) -> Recorded {
        outgoing(packet, &self.flows)
    }

    pub(super) fn answer(&self, packet: &FlowPacket) -> Answer {
        answer(packet, &self.flows)
    }

    pub(super) fn words(&self) -> Vec<BucketWords> {
        self.buckets.iter().map(Bucket::words).collect()
    }

    pub(super) fn records(&self) -> Vec<FlowRecord> {
        let words = self.words();
        words.iter().flat_map(BucketWords::records).collect()
    }

    pub(super) fn record(&self, key: &Key) -> Option<FlowRecord> {
        self.records().into_iter().find(|r| r.key == *key)
    }

    pub(super) fn state(&self, key: &Key) -> Option<State> {
        self.record(key).map(|r| r.state())
    }
}

/// The `number`th flow of 192.0.2.1 to 198.51.100.0/24 and ports.
pub(super) fn key(protocol: u8, number: u32) -> Key {
    Key {
        local: Key::mapped(0xc000_0201),
        remote: Key::mapped(0xc633_6400 | (number & 0xff)),
        protocol,
        local_port: 1024 + (number >> 8) as u16,
        remote_port: 53,
    }
}

fn udp(number: u32) -> FlowPacket {
    FlowPacket {
        key: key(protocol::UDP, number),
        kind: Kind::Udp,
    }
}

fn echo(number: u32, request: bool) -> FlowPacket {
    FlowPacket {
        key: key(protocol::ICMP, number),
        kind: Kind::Echo { request },
    }
}

fn gre(number: u32) -> FlowPacket {
    FlowPacket {
        key: key(47, number),
        kind: Kind::Other,
    }
}

#[test]
fn an_answer_needs_every_field_of_the_key() {
    let table = Table::new(64);
    let packet = udp(1);
    assert_eq!(table.answer(&packet), Answer::NoFlow);
    assert_eq!(table.out(&packet), Recorded::Created);
    assert_eq!(table.answer(&packet), Answer::Accepted);
    let near_misses: [fn(&mut Key); 8] = [
        |k| k.local[0] ^= 1,
        |k| k.local[1] ^= 1 << 63,
        |k| k.remote[0] ^= 1,
        |k| k.remote[1] ^= 1,
        |k| k.protocol = 16,
        |k| k.local_port ^= 1,
        |k| k.remote_port ^= 1 << 15,
        |k| core::mem::swap(&mut k.local, &mut k.remote),
    ];
    for change in near_misses {
        let mut other = packet;
        change(&mut other.key);
        assert_eq!(table.answer(&other), Answer::NoFlow, "{other:?}");
    }
    let record = table.record(&packet.key).unwrap();
    assert_eq!((record.sent.packets, record.received.packets), (1, 1));
}

#[test]
fn ipv6_and_ipv4_do_not_meet() {
    let table = Table::new(64);
    let mut packet = udp(1);
    packet.key.local = [0x2001_0db8 << 32, 1];
    packet.key.remote = [0x2001_0db8 << 32, 0xffff_c000_0201];
    assert_eq!(table.out(&packet), Recorded::Created);
    assert_eq!(table.answer(&packet), Answer::Accepted);
    packet.key.remote[0] = 0;
    assert_eq!(table.answer(&packet), Answer::NoFlow);
}

#[test]
fn udp_lives_30_seconds_unanswered_and_120_as_a_stream() {
    for start in [0, 1000, TICK_MASK - 10, TICK_MASK] {
        let table = Table::new(64);
        let packet = udp(1);
        let after = |seconds: u32| table.at(start.wrapping_add(seconds));
        after(0).out(&packet);
        assert_eq!(after(30).answer(&packet), Answer::Accepted);
        // The answer made it no younger.
        assert_eq!(after(31).answer(&packet), Answer::Expired);
        assert_eq!(after(31).out(&packet), Recorded::Renewed);
        assert_eq!(table.state(&packet.key), Some(State::UdpSent));
        assert_eq!(table.record(&packet.key).unwrap().sent.packets, 1);
        assert_eq!(after(32).answer(&packet), Answer::Accepted);
        assert_eq!(table.state(&packet.key), Some(State::UdpAnswered));
        assert_eq!(after(33).out(&packet), Recorded::Refreshed);
        assert_eq!(table.state(&packet.key), Some(State::UdpStream));
        assert_eq!(after(33 + 120).answer(&packet), Answer::Accepted);
        assert_eq!(after(33 + 121).answer(&packet), Answer::Expired);
        let record = table.record(&packet.key).unwrap();
        assert_eq!((record.sent.packets, record.received.packets), (2, 2));
        let now = start.wrapping_add(154);
        assert_eq!((record.age(now), record.idle(now)), (123, 121));
    }
}

#[test]
fn sending_without_an_answer_stays_one_way() {
    let table = Table::new(64);
    for second in [0, 20, 40] {
        table.at(second).out(&udp(1));
    }
    assert_eq!(table.state(&udp(1).key), Some(State::UdpSent));
    assert_eq!(table.at(71).answer(&udp(1)), Answer::Expired);
}

#[test]
fn echo_is_opened_by_requests_and_answered_by_replies() {
    let table = Table::new(64);
    assert_eq!(table.out(&echo(1, false)), Recorded::Untracked);
    assert_eq!(table.out(&echo(1, true)), Recorded::Created);
    assert_eq!(table.answer(&echo(1, true)), Answer::WrongState);
    assert_eq!(table.at(30).answer(&echo(1, false)), Answer::Accepted);
    assert_eq!(table.state(&echo(1, true).key), Some(State::EchoAnswered));
    assert_eq!(table.at(31).answer(&echo(1, false)), Answer::Expired);
    let other = FlowPacket {
        kind: Kind::Icmp,
        ..echo(2, true)
    };
    assert_eq!(table.out(&other), Recorded::Untracked);
    assert_eq!(table.records().len(), 1);
    assert_eq!(
        table.answer(&FlowPacket {
            kind: Kind::Icmp,
            ..echo(1, true)
        }),
        Answer::NoFlow
    );
}

#[test]
fn other_protocols_live_600_seconds() {
    let table = Table::new(64);
    assert_eq!(table.out(&gre(1)), Recorded::Created);
    assert_eq!(table.at(600).answer(&gre(1)), Answer::Accepted);
    assert_eq!(table.at(601).answer(&gre(1)), Answer::Expired);
}

#[test]
fn an_expired_flow_stays_dead_until_the_clock_comes_round() {
    let table = Table::new(64);
    table.out(&udp(1));
    for age in [31, 1 << 20, MAX_TIMEOUT_TICKS, TICK_MASK - 100] {
        assert_eq!(table.at(age).answer(&udp(1)), Answer::Expired, "{age}");
    }
}

#[test]
fn a_table_smaller_than_its_settings_is_no_table() {
    let settings = Settings::new(SEED, 64, 1, &Timeouts::default());
    let flows = HostFlows::new(&[], settings);
    assert_eq!(outgoing(&udp(1), &flows), Recorded::NoTable);
    assert_eq!(answer(&udp(1), &flows), Answer::NoTable);
    assert!(!quoted(&udp(1).key, 0, &flows));
}

#[test]
fn errors_may_quote_live_flows_only_and_change_nothing() {
    let table = Table::new(64);
    table.out(&udp(1));
    let before = table.words();
    assert!(quoted(&udp(1).key, 0, &table.flows));
    assert!(!quoted(&udp(2).key, 0, &table.flows));
    table.at(31);
    assert!(!quoted(&udp(1).key, 0, &table.flows));
    assert_eq!(table.words(), before);
}

/// Opens `packet` and has it answered, so that it is worth keeping.
fn answered(table: &Table, packet: &FlowPacket) {
    table.out(packet);
    assert_eq!(table.answer(packet), Answer::Accepted);
}

#[test]
fn a_free_slot_is_taken_first_then_an_expired_one() {
    let table = Table::new(1);
    for number in 0..7 {
        table.at(number);
        answered(&table, &gre(number));
    }
    assert_eq!(table.at(10).out(&udp(1)), Recorded::Created);
    assert_eq!(table.records().len(), 8);
    // The datagram's flow is the youngest, but gone.
    assert_eq!(table.at(41).out(&udp(2)), Recorded::Created);
    assert!(table.record(&udp(1).key).is_none());
    assert_eq!(table.records().len(), 8);
}

#[test]
fn unanswered_flows_make_room_the_oldest_first_then_the_longest_idle() {
    let table = Table::new(1);
    for number in 0..6 {
        table.at(number);
        answered(&table, &gre(number));
    }
    table.at(6).out(&gre(6));
    table.at(7).out(&gre(7));
    assert_eq!(table.at(8).out(&gre(8)), Recorded::CreatedEvicting);
    assert!(table.record(&gre(6).key).is_none());
    assert!(table.record(&gre(7).key).is_some());
    // All answered: the longest idle goes, which is not the first opened.
    for number in [7, 8] {
        assert_eq!(table.answer(&gre(number)), Answer::Accepted);
    }
    assert_eq!(table.at(9).out(&gre(0)), Recorded::Refreshed);
    assert_eq!(table.out(&gre(9)), Recorded::CreatedEvicting);
    assert!(table.record(&gre(0).key).is_some());
    assert!(table.record(&gre(1).key).is_none());
}

#[test]
fn closing_connections_go_before_open_ones_and_after_unanswered_ones() {
    use super::tcp::tests::{Wire, ack, fin, rst};
    let table = Table::new(1);
    for number in 0..8 {
        let wire = Wire::open(&table, number);
        match number {
            5 => assert_eq!(wire.out(fin(1001, 5001)), Recorded::Refreshed),
            6 => assert_eq!(wire.out(rst(1001)), Recorded::Refreshed),
            _ => assert_eq!(wire.out(ack(1001, 5001)), Recorded::Refreshed),
        }
    }
    assert_eq!(table.out(&gre(0)), Recorded::CreatedEvicting);
    assert_eq!(table.state(&key(protocol::TCP, 6)), None, "reset");
    assert_eq!(table.out(&gre(1)), Recorded::CreatedEvicting);
    assert!(table.record(&gre(0).key).is_none(), "unanswered");
    assert_eq!(table.answer(&gre(1)), Answer::Accepted);
    assert_eq!(table.out(&gre(2)), Recorded::CreatedEvicting);
    assert_eq!(table.state(&key(protocol::TCP, 5)), None, "closing");
}

/// Segments in mid-stream that somebody makes up and a router forwards push out each other, and no connection.
#[test]
fn what_was_picked_up_goes_before_what_was_answered() {
    use super::tcp::tests::{Wire, ack};
    let table = Table::new(1);
    for number in 0..4 {
        Wire::open(&table, number).out(ack(1001, 5001));
    }
    let picked_up = Wire::of(&table, 4);
    picked_up.out(ack(7000, 9000));
    assert_eq!(picked_up.answer(ack(9000, 7000)), Answer::Accepted);
    for number in 5..1_000 {
        Wire::of(&table, number).out(ack(7000, 9000));
    }
    for number in 0..5 {
        let state = table.state(&key(protocol::TCP, number));
        assert_eq!(state, Some(State::Established), "{number}");
    }
}

#[test]
fn only_ports_that_flows_were_opened_from_are_known() {
    let table = Table::new(64);
    let has = |of, port| ports::has(of, port, &table.flows);
    for port in [0, 63, 64, 40_000, u16::MAX] {
        let mut packet = udp(1);
        packet.key.local_port = port;
        assert!(!has(PortProtocol::Udp, port), "{port}");
        table.out(&packet);
        assert!(has(PortProtocol::Udp, port), "{port}");
        assert!(!has(PortProtocol::Udp, port ^ 1), "{port}");
        assert!(!has(PortProtocol::Tcp, port), "{port}");
        // It answers nothing, and opens nothing.
        packet.key.local_port = port ^ 2;
        assert_eq!(table.answer(&packet), Answer::NoFlow);
        assert!(!has(PortProtocol::Udp, port ^ 2), "{port}");
    }
    table.out(&gre(1));
    assert_eq!(table.records().len(), 6);
}

/// Whoever makes a host look up names all the time pushes out other look-ups, not its connections.
#[test]
fn what_was_answered_once_goes_before_connections_and_streams() {
    use super::tcp::tests::{Wire, ack};
    let table = Table::new(1);
    let connection = Wire::open(&table, 1);
    connection.out(ack(1001, 5001));
    let stream = udp(2);
    answered(&table, &stream);
    table.out(&stream);
    for number in 0..100 {
        answered(table.at(1 + number / 4), &udp(1000 + number));
    }
    assert_eq!(table.records().len(), 8);
    assert_eq!(
        table.state(&key(protocol::TCP, 1)),
        Some(State::Established)
    );
    assert!(table.record(&stream.key).is_some());
}

#[test]
fn a_storm_of_new_flows_leaves_answered_ones_alive() {
    let table = Table::new(64);
    let kept: Vec<_> = (0..128).map(gre).collect();
    for packet in &kept {
        answered(&table, packet);
    }
    let before = kept.iter().filter(|p| table.answer(p).accepts()).count();
    let mut evicted = 0;
    for number in 0..5120 {
        evicted += u32::from(table.out(&udp(number)) == Recorded::CreatedEvicting);
    }
    assert!(evicted > 4000, "{evicted}");
    let after = kept.iter().filter(|p| table.answer(p).accepts()).count();
    assert_eq!((before, after), (128, 128));
}

#[test]
fn a_bucket_that_others_write_is_left_alone() {
    let table = Table::new(1);
    for slot in &table.buckets[0].slots {
        Word::store(slot, SlotWord::BUSY.0);
    }
    assert_eq!(table.out(&udp(1)), Recorded::Contended);
    assert_eq!(table.answer(&udp(1)), Answer::NoFlow);
    assert!(table.records().is_empty());
    Word::store(&table.buckets[0].slots[3], SlotWord::EMPTY.0);
    assert_eq!(table.out(&udp(1)), Recorded::Created);
    assert_eq!(table.answer(&udp(1)), Answer::Accepted);
}

#[test]
fn a_tag_alone_is_no_match() {
    let table = Table::new(1);
    table.out(&udp(1));
    // Another key under the same tag.
    let index = WAYS - 1;
    Word::store(&table.buckets[0].entries[index].local[1], 7);
    assert_eq!(table.answer(&udp(1)), Answer::NoFlow);
    // The key under another tag.
    let table = Table::new(1);
    table.out(&udp(1));
    let slot = &table.buckets[0].slots[index];
    assert_ne!(Word::load(slot), SlotWord::EMPTY.0);
    Word::store(slot, Word::load(slot) ^ 1 << 40);
    assert_eq!(table.answer(&udp(1)), Answer::NoFlow);
}

#[test]
fn keys_spread_over_buckets_and_tags() {
    let settings = Settings::new(SEED, 1024, 1, &Timeouts::default());
    let mut load = [0u32; 1024];
    let mut tags = std::collections::HashSet::new();
    for number in 0..32_768 {
        let place = Place::of(&key(protocol::UDP, number), &settings);
        load[place.index as usize] += 1;
        tags.insert(place.tag);
        assert!(place.tag >= SlotWord::FIRST_TAG);
    }
    // 32 a bucket; a deviation of 5.7 is to be expected, six times that in none.
    assert!(load.iter().all(|n| (4..=66).contains(n)), "{load:?}");
    assert!(tags.len() > 32_760, "{}", tags.len());
    // Every part of the seed counts.
    let place = |settings: &Settings| {
        let place = Place::of(&key(protocol::UDP, 1), settings);
        (place.index, place.tag)
    };
    for index in 0..SEED_WORDS {
        let mut other = settings;
        other.seed[index] ^= 0x0001_0000_0000_0100;
        assert_ne!(place(&other), place(&settings), "{index}");
    }
}

#[test]
fn a_flood_from_outside_changes_nothing() {
    use super::tcp::tests::{Wire, ack, data, segment, syn};
    use crate::parse::transport::tcp_flag::{ACK, FIN, RST, SYN};
    let table = Table::new(64);
    for number in 0..64 {
        table.out(&udp(number));
        table.out(&echo(number, true));
        let wire = Wire::open(&table, number);
        wire.out(ack(1001, 5001));
    }
    let before = table.words();
    for number in 0..5120u32 {
        let far = 0x4000_0000u32.wrapping_add(number.wrapping_mul(0x0004_0003) & 0x3fff_ffff);
        let strangers = [udp(number + 64), echo(number + 64, false), gre(number)];
        for packet in strangers {
            assert_eq!(table.answer(&packet), Answer::NoFlow);
        }
        let wire = Wire::of(&table, number % 64);
        assert_eq!(wire.answer(syn(far)), Answer::WrongState);
        for flags in [ACK, SYN | ACK, FIN | ACK, RST, RST | ACK] {
            assert_eq!(wire.answer(segment(flags, far, 1001)), Answer::OutOfWindow);
        }
        assert_eq!(wire.answer(data(5001, far, 10)), Answer::OutOfWindow);
        let stranger = Wire::of(&table, 64 + number);
        assert_eq!(stranger.answer(syn(far)), Answer::NoFlow);
        assert_eq!(stranger.answer(ack(far, 1001)), Answer::NoFlow);
    }
    assert!(table.words() == before);
}

/// What can happen to one of a few flows.
#[derive(Clone, Copy, Debug)]
enum Event {
    Out(u32),
    Answer(u32),
    Wait(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..24u32).prop_map(Event::Out),
        (0..24u32).prop_map(Event::Answer),
        (0..200u32).prop_map(Event::Wait),
    ]
}

fn packet_of(number: u32, request: bool) -> FlowPacket {
    match number % 3 {
        0 => udp(number),
        1 => echo(number, request),
        _ => gre(number),
    }
}

proptest! {
    /// The table answers like a map with timeouts in it, from any time on the clock, as long as no bucket overflows.
    #[test]
    fn like_a_map(start in 0..=TICK_MASK, events in prop::collection::vec(event(), 1..200)) {
        let table = Table::new(64);
        let mut now = start;
        // Since the first packet: when the last left, and how often it was answered and then continued.
        let mut clock = 0u64;
        let mut model: HashMap<u32, (u64, u32)> = HashMap::new();
        let timeout = |number: u32, stage: u32| match (number % 3, stage) {
            (0, 2) => 120,
            (0 | 1, _) => 30,
            _ => 600,
        };
        for event in events {
            table.at(now);
            match event {
                Event::Wait(seconds) => {
                    now = now.wrapping_add(seconds);
                    clock += u64::from(seconds);
                }
                Event::Out(number) => {
                    let recorded = table.out(&packet_of(number, true));
                    let expected = match model.get_mut(&number) {
                        None => {
                            model.insert(number, (clock, 0));
                            Recorded::Created
                        }
                        Some((last, stage)) if clock - *last > timeout(number, *stage) => {
                            (*last, *stage) = (clock, 0);
                            Recorded::Renewed
                        }
                        Some((last, stage)) => {
                            *last = clock;
                            *stage += u32::from(*stage == 1);
                            Recorded::Refreshed
                        }
                    };
                    prop_assert_eq!(recorded, expected);
                }
                Event::Answer(number) => {
                    let expected = match model.get_mut(&number) {
                        None => Answer::NoFlow,
                        Some((last, stage)) if clock - *last > timeout(number, *stage) => Answer::Expired,
                        Some((_, stage)) => {
                            *stage = (*stage).max(1);
                            Answer::Accepted
                        }
                    };
                    prop_assert_eq!(table.answer(&packet_of(number, false)), expected);
                }
            }
        }
        prop_assert_eq!(table.records().len(), model.len());
    }
}

/// Four writers replace each other's flows in two buckets; readers ask for flows that nobody ever opened, whose keys
/// are made of the halves of those that are, and see none.
#[test]
fn no_false_answer_under_contention() {
    let table = Arc::new(Table::new(2));
    let stop = Arc::new(AtomicBool::new(false));
    // Opened: both ports are equal. Never opened: they differ.
    let of = |local: u16, remote: u16| FlowPacket {
        key: Key {
            local: [u64::from(local), u64::from(local)],
            remote: [u64::from(remote), u64::from(remote)],
            protocol: protocol::UDP,
            local_port: local,
            remote_port: remote,
        },
        kind: Kind::Udp,
    };
    let readers: Vec<_> = (0..2u16)
        .map(|reader| {
            let (table, stop) = (table.clone(), stop.clone());
            thread::spawn(move || {
                let mut accepted = 0u32;
                let mut round = reader;
                while !stop.load(Ordering::Relaxed) {
                    round = round.wrapping_add(1);
                    let (a, b) = (round % 32, (round / 32) % 32);
                    let answer = table.answer(&of(a, b));
                    if a == b {
                        accepted += u32::from(answer.accepts());
                    } else {
                        assert_eq!(answer, Answer::NoFlow, "{a} {b}");
                    }
                }
                accepted
            })
        })
        .collect();
    let writers: Vec<_> = (0..4u16)
        .map(|writer| {
            let table = table.clone();
            thread::spawn(move || {
                let mut created = 0u32;
                for round in 0..100_000u32 {
                    let port = (round.wrapping_mul(2_654_435_761) >> 27) as u16 ^ writer;
                    created += u32::from(matches!(
                        table.out(&of(port, port)),
                        Recorded::Created | Recorded::CreatedEvicting
                    ));
                }
                created
            })
        })
        .collect();
    let created: u32 = writers.into_iter().map(|w| w.join().unwrap()).sum();
    stop.store(true, Ordering::Relaxed);
    let accepted: u32 = readers.into_iter().map(|r| r.join().unwrap()).sum();
    assert!(created > 1000 && accepted > 100, "{created} {accepted}");
    // Nothing was left half done: every slot is a whole flow, in its place.
    for record in table.records() {
        let key = record.key;
        assert_eq!(key, of(key.local_port, key.local_port).key);
        let place = Place::of(&key, table.flows.settings().unwrap());
        assert_eq!(place.tag, record.slot.tag());
    }
    assert_eq!(table.records().len(), 16);
}

/// A word at whose barriers something else can happen, in place of another CPU.
#[derive(Default)]
struct Interrupted(AtomicU64);

std::thread_local! {
    /// Barriers until [`Interrupted::0`] of every slot is overwritten, and the slots.
    static INTERRUPT: core::cell::Cell<(u32, Option<&'static Bucket<Interrupted>>)> =
        const { core::cell::Cell::new((0, None)) };
    /// Before the next swap, all slots of this bucket but the first are taken.
    static TAKEN: core::cell::Cell<Option<&'static Bucket<Interrupted>>> =
        const { core::cell::Cell::new(None) };
}

impl Word for Interrupted {
    fn load(&self) -> u64 {
        Word::load(&self.0)
    }

    fn store(&self, value: u64) {
        Word::store(&self.0, value);
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        if let Some(bucket) = TAKEN.take() {
            for slot in bucket.slots.iter().skip(1) {
                slot.store(SlotWord::BUSY.0);
            }
        }
        Word::swap(&self.0, from, to)
    }

    fn set(&self, bits: u64) {
        Word::set(&self.0, bits);
    }

    fn barrier() {
        let (count, bucket) = INTERRUPT.get();
        INTERRUPT.set((count.wrapping_sub(1), bucket));
        if let (1, Some(bucket)) = (count, bucket) {
            for slot in &bucket.slots {
                slot.store(SlotWord::BUSY.0);
            }
        }
    }
}

struct InterruptedTable(&'static Bucket<Interrupted>, Settings);

impl Flows for InterruptedTable {
    type Word = Interrupted;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.1)
    }

    fn ports(&self) -> Option<&Ports<Interrupted>> {
        None
    }

    fn bucket(&self, _: u32) -> Option<&Bucket<Interrupted>> {
        Some(self.0)
    }

    fn now(&self) -> u32 {
        0
    }
}

#[test]
fn a_slot_given_away_during_the_lookup_is_not_found() {
    for barrier in [0, 1, 2] {
        let memory: std::boxed::Box<Bucket<Interrupted>> = std::boxed::Box::default();
        let bucket: &'static _ = std::boxed::Box::leak(memory);
        let flows = InterruptedTable(bucket, Settings::new(SEED, 1, 1, &Timeouts::default()));
        assert_eq!(outgoing(&udp(1), &flows), Recorded::Created);
        INTERRUPT.set((barrier, Some(bucket)));
        let expected = match barrier {
            0 => Answer::Accepted,
            _ => Answer::NoFlow,
        };
        assert_eq!(answer(&udp(1), &flows), expected, "{barrier}");
        INTERRUPT.set((0, None));
    }
}

#[test]
fn a_slot_taken_before_the_claim_is_left_to_its_taker() {
    let memory: std::boxed::Box<Bucket<Interrupted>> = std::boxed::Box::default();
    let bucket: &'static _ = std::boxed::Box::leak(memory);
    let flows = InterruptedTable(bucket, Settings::new(SEED, 1, 1, &Timeouts::default()));
    TAKEN.set(Some(bucket));
    assert_eq!(outgoing(&udp(1), &flows), Recorded::Created);
    let words = bucket.words();
    assert_eq!(words.records().count(), 1);
    assert_eq!(words.words[1..WAYS], [SlotWord::BUSY.0; WAYS - 1]);
    // What a taken slot's entry holds is the taker's.
    assert_eq!(words.words[2 * WAYS..], [0; 7 * WAYS]);
    assert_eq!(answer(&udp(1), &flows), Answer::Accepted);
}
