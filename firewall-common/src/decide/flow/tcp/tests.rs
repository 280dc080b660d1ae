//! Each transition by name, the edges of the windows, and conversations between two model endpoints.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::super::tests::{Table, key};
use super::super::{Answer, FlowPacket, Kind, Recorded, quoted};
use super::*;
use crate::parse::protocol;

/// A connection: we begin at 1000, the peer at 5000.
pub(crate) struct Wire<'a> {
    table: &'a Table,
    number: u32,
}

impl<'a> Wire<'a> {
    pub(crate) fn of(table: &'a Table, number: u32) -> Self {
        Self { table, number }
    }

    /// After SYN and SYN+ACK, before our ACK.
    pub(crate) fn open(table: &'a Table, number: u32) -> Self {
        let wire = Self::of(table, number);
        assert!(matches!(
            wire.out(syn(1000)),
            Recorded::Created | Recorded::CreatedEvicting
        ));
        assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
        wire
    }

    /// An open connection, all acknowledged.
    fn established(table: &'a Table) -> Self {
        let wire = Self::open(table, 1);
        assert_eq!(wire.out(ack(1001, 5001)), Recorded::Refreshed);
        wire
    }

    fn packet(&self, segment: Segment) -> FlowPacket {
        FlowPacket {
            key: key(protocol::TCP, self.number),
            kind: Kind::Tcp(segment),
        }
    }

    pub(crate) fn out(&self, segment: Segment) -> Recorded {
        self.table.out(&self.packet(segment))
    }

    pub(crate) fn answer(&self, segment: Segment) -> Answer {
        self.table.answer(&self.packet(segment))
    }

    fn state(&self) -> Option<State> {
        self.table.state(&key(protocol::TCP, self.number))
    }
}

pub(crate) fn segment(flags: u8, sequence: u32, acknowledgment: u32) -> Segment {
    Segment {
        flags,
        sequence,
        acknowledgment,
        window: 0xffff,
        window_scale: Some(0),
        payload: 0,
    }
}

pub(crate) fn syn(sequence: u32) -> Segment {
    segment(SYN, sequence, 0)
}

fn syn_ack(sequence: u32, acknowledgment: u32) -> Segment {
    segment(SYN | ACK, sequence, acknowledgment)
}

pub(crate) fn ack(sequence: u32, acknowledgment: u32) -> Segment {
    segment(ACK, sequence, acknowledgment)
}

pub(crate) fn fin(sequence: u32, acknowledgment: u32) -> Segment {
    segment(FIN | ACK, sequence, acknowledgment)
}

pub(crate) fn rst(sequence: u32) -> Segment {
    segment(RST, sequence, 0)
}

pub(crate) fn data(sequence: u32, acknowledgment: u32, payload: u32) -> Segment {
    Segment {
        payload,
        ..ack(sequence, acknowledgment)
    }
}

/// The bound of an unscaled window.
const WINDOW: u32 = 1 << MIN_WINDOW_BITS;

#[test]
fn open_data_both_ways_close_by_us() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    assert_eq!(wire.out(syn(1000)), Recorded::Created);
    assert_eq!(wire.state(), Some(State::SynSent));
    assert_eq!(wire.answer(data(5001, 1001, 1)), Answer::WrongState);
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::Established));
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted, "again");
    assert_eq!(wire.out(ack(1001, 5001)), Recorded::Refreshed);
    assert_eq!(wire.out(data(1001, 5001, 100)), Recorded::Refreshed);
    assert_eq!(wire.answer(ack(5001, 1101)), Answer::Accepted);
    assert_eq!(wire.answer(data(5001, 1101, 1000)), Answer::Accepted);
    assert_eq!(wire.out(fin(1101, 6001)), Recorded::Refreshed);
    assert_eq!(wire.state(), Some(State::FinSent));
    assert_eq!(wire.answer(ack(6001, 1102)), Answer::Accepted);
    assert_eq!(wire.answer(data(6001, 1102, 50)), Answer::Accepted);
    assert_eq!(wire.answer(fin(6051, 1102)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::FinBoth));
    assert_eq!(wire.out(ack(1102, 6052)), Recorded::Refreshed);
    assert_eq!(wire.answer(fin(6051, 1102)), Answer::Accepted, "again");
    assert_eq!(
        table.at(120).answer(&wire.packet(fin(6051, 1102))),
        Answer::Accepted
    );
    assert_eq!(
        table.at(121).answer(&wire.packet(fin(6051, 1102))),
        Answer::Expired
    );
}

#[test]
fn close_by_peer() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    assert_eq!(wire.answer(fin(5001, 1001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::FinReceived));
    wire.out(data(1001, 5002, 500));
    assert_eq!(wire.state(), Some(State::FinReceived));
    assert_eq!(wire.answer(ack(5002, 1501)), Answer::Accepted);
    wire.out(fin(1501, 5002));
    assert_eq!(wire.state(), Some(State::FinBoth));
    assert_eq!(wire.answer(ack(5002, 1502)), Answer::Accepted);
    assert_eq!(wire.answer(syn(9000)), Answer::WrongState);
}

#[test]
fn a_fin_after_long_silence_is_still_acknowledged_in_order() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    table.at(7200);
    assert_eq!(wire.answer(fin(5001, 1001)), Answer::Accepted);
    // Shortened to 120 s since our last packet, which have passed; the acknowledgment does not make it established.
    assert_eq!(wire.answer(fin(5001, 1001)), Answer::Expired);
    assert_eq!(wire.out(ack(1001, 5002)), Recorded::Refreshed);
    assert_eq!(wire.state(), Some(State::FinReceived));
    assert_eq!(wire.answer(fin(5001, 1001)), Answer::Accepted);
}

#[test]
fn timeouts_by_state() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    wire.out(syn(1000));
    table.at(121);
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Expired);
    table.at(122);
    assert_eq!(wire.out(syn(1000)), Recorded::Renewed);
    table.at(122 + 120);
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
    // Five days count from our SYN, whatever arrives.
    table.at(122 + 432_000);
    assert_eq!(wire.answer(data(5001, 1001, 1)), Answer::Accepted);
    table.at(122 + 432_001);
    assert_eq!(wire.answer(data(5001, 1001, 1)), Answer::Expired);
    wire.out(ack(1001, 5002));
    assert_eq!(wire.answer(data(5002, 1001, 1)), Answer::Accepted);
}

#[test]
fn rst_in_and_out_of_window() {
    let table = Table::new(64);
    // Before our first acknowledgment the peer's SYN says where it stands.
    let wire = Wire::open(&table, 2);
    assert_eq!(wire.answer(rst(5000)), Answer::OutOfWindow);
    assert_eq!(wire.answer(rst(5001)), Answer::Accepted);
    let wire = Wire::established(&table);
    for sequence in [
        5000,
        5001 + WINDOW + 1,
        5001u32.wrapping_sub(WINDOW),
        0x8000_0000,
        0,
    ] {
        assert_eq!(
            wire.answer(rst(sequence)),
            Answer::OutOfWindow,
            "{sequence}"
        );
    }
    assert_eq!(wire.state(), Some(State::Established));
    assert_eq!(
        wire.answer(rst(5001 + WINDOW)),
        Answer::Accepted,
        "the edge"
    );
    // The host sends a challenge, and needs the answer (RFC 5961, 3.2).
    assert_eq!(wire.state(), Some(State::Established));
    assert_eq!(wire.answer(rst(5001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::ResetReceived));
    table.at(10);
    assert_eq!(wire.answer(rst(5001)), Answer::Accepted);
    table.at(11);
    assert_eq!(wire.answer(rst(5001)), Answer::Expired);
}

#[test]
fn a_host_that_goes_on_after_a_rst_keeps_its_connection() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    table.at(3600);
    assert_eq!(wire.answer(rst(5001 + 100)), Answer::Accepted);
    // The challenge ACK of RFC 5961.
    assert_eq!(wire.out(ack(1001, 5001)), Recorded::Refreshed);
    assert_eq!(wire.state(), Some(State::Established));
    assert_eq!(wire.answer(data(5001, 1001, 10)), Answer::Accepted);
}

#[test]
fn our_rst_ends_the_connection() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    table.at(50);
    assert_eq!(wire.out(rst(1001)), Recorded::Refreshed);
    assert_eq!(wire.state(), Some(State::Reset));
    assert_eq!(wire.out(ack(1001, 5001)), Recorded::Refreshed, "overtaken");
    assert_eq!(wire.state(), Some(State::Reset));
    table.at(60);
    assert_eq!(
        wire.answer(data(5001, 1001, 10)),
        Answer::Accepted,
        "on its way"
    );
    table.at(61);
    assert_eq!(wire.answer(data(5001, 1001, 10)), Answer::Expired);
}

#[test]
fn a_refused_connection() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    wire.out(syn(1000));
    assert_eq!(wire.answer(rst(0)), Answer::OutOfWindow, "no ACK");
    for acknowledgment in [1000, 1002, 0] {
        let segment = segment(RST | ACK, 0, acknowledgment);
        assert_eq!(
            wire.answer(segment),
            Answer::OutOfWindow,
            "{acknowledgment}"
        );
    }
    assert_eq!(wire.answer(segment(RST | ACK, 0, 1001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::ResetReceived));
}

#[test]
fn a_syn_ack_must_acknowledge_the_syn() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    wire.out(Segment {
        payload: 10,
        ..syn(1000)
    });
    for acknowledgment in [1000, 1012, 0, 0x8000_0000] {
        assert_eq!(
            wire.answer(syn_ack(5000, acknowledgment)),
            Answer::OutOfWindow
        );
    }
    assert_eq!(
        wire.answer(syn_ack(5000, 1001)),
        Answer::Accepted,
        "without the data"
    );
    assert_eq!(
        wire.answer(syn_ack(5000, 1011)),
        Answer::Accepted,
        "with it (RFC 7413)"
    );
}

#[test]
fn an_ack_of_unsent_data_is_refused() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    wire.out(data(1001, 5001, 100));
    assert_eq!(wire.answer(ack(5001, 1101)), Answer::Accepted);
    assert_eq!(wire.answer(ack(5001, 1102)), Answer::OutOfWindow);
    assert_eq!(wire.answer(data(5001, 1102, 5)), Answer::OutOfWindow);
    assert_eq!(wire.answer(fin(5001, 1102)), Answer::OutOfWindow);
    assert_eq!(wire.state(), Some(State::Established));
}

#[test]
fn old_duplicates() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    // 200,000 bytes in each direction.
    for block in 1..=4 {
        let bytes = block * 50_000;
        wire.out(data(1001 + bytes - 50_000, 5001, 50_000));
        assert_eq!(wire.answer(ack(5001, 1001 + bytes)), Answer::Accepted);
    }
    for block in 1..=4 {
        let bytes = block * 50_000;
        assert_eq!(
            wire.answer(data(5001 + bytes - 50_000, 201_001, 50_000)),
            Answer::Accepted
        );
        wire.out(ack(201_001, 5001 + bytes));
    }
    let (sent, received) = (201_001, 205_001);
    assert_eq!(wire.answer(ack(received, sent - WINDOW)), Answer::Accepted);
    assert_eq!(
        wire.answer(ack(received, sent - WINDOW - 1)),
        Answer::OutOfWindow
    );
    assert_eq!(
        wire.answer(data(received - WINDOW - 10, sent, 10)),
        Answer::Accepted
    );
    assert_eq!(
        wire.answer(data(received - WINDOW - 11, sent, 10)),
        Answer::OutOfWindow
    );
    assert_eq!(
        wire.answer(data(received + WINDOW, sent, 10)),
        Answer::Accepted
    );
    assert_eq!(
        wire.answer(data(received + WINDOW + 1, sent, 10)),
        Answer::OutOfWindow
    );
    assert_eq!(
        wire.answer(ack(received - 1, sent)),
        Answer::Accepted,
        "keep-alive"
    );
}

#[test]
fn sequences_wrap_around() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    let (ours, peers) = (u32::MAX - 10, u32::MAX);
    wire.out(syn(ours));
    assert_eq!(wire.answer(syn_ack(peers, ours + 1)), Answer::Accepted);
    wire.out(data(ours + 1, 0, 100));
    let sent = 90;
    assert_eq!(wire.answer(ack(0, sent)), Answer::Accepted);
    assert_eq!(wire.answer(ack(0, sent + 1)), Answer::OutOfWindow);
    assert_eq!(wire.answer(ack(0, ours + 1)), Answer::Accepted);
    assert_eq!(wire.answer(rst(u32::MAX)), Answer::OutOfWindow);
    assert_eq!(wire.answer(data(u32::MAX - 5, sent, 5)), Answer::Accepted);
    assert_eq!(wire.answer(data(0, sent, 10)), Answer::Accepted);
    assert_eq!(wire.answer(rst(0)), Answer::Accepted);
}

#[test]
fn simultaneous_open() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    wire.out(syn(1000));
    assert_eq!(wire.answer(syn(5000)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::SynReceived));
    assert_eq!(wire.out(syn_ack(1000, 5001)), Recorded::Refreshed);
    assert_eq!(wire.answer(syn(5000)), Answer::Accepted, "again");
    assert_eq!(wire.answer(syn_ack(5000, 1002)), Answer::OutOfWindow);
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::Established));
    assert_eq!(wire.answer(data(5001, 1001, 10)), Answer::Accepted);
    assert_eq!(wire.answer(syn(5000)), Answer::WrongState);
    // The peer's SYN+ACK is lost, its ACK arrives.
    let wire = Wire::of(&table, 2);
    wire.out(syn(1000));
    assert_eq!(wire.answer(syn(5000)), Answer::Accepted);
    wire.out(syn_ack(1000, 5001));
    assert_eq!(wire.answer(ack(5001, 1000)), Answer::OutOfWindow);
    assert_eq!(wire.answer(ack(5001, 1001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::Established));
}

#[test]
fn mid_stream_pick_up() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    for flags in [SYN | ACK, RST, RST | ACK, FIN | ACK, 0, FIN] {
        assert_eq!(wire.out(segment(flags, 7000, 9000)), Recorded::Untracked);
    }
    assert_eq!(table.records().len(), 0);
    assert_eq!(wire.out(data(7000, 9000, 100)), Recorded::Created);
    assert_eq!(wire.state(), Some(State::PickedUp));
    // What was sent before is unknown: it may have been more, and the windows larger.
    for acknowledgment in [7000, 7100, 60_000, 1_000_000_000] {
        assert_eq!(wire.answer(ack(9000, acknowledgment)), Answer::Accepted);
    }
    assert_eq!(
        wire.answer(data(9000 + 10_000_000, 7100, 10)),
        Answer::Accepted
    );
    assert_eq!(
        wire.answer(ack(9000, 7101 + (1 << 30))),
        Answer::OutOfWindow
    );
    assert_eq!(
        wire.answer(ack(9000 + (1 << 31), 7100)),
        Answer::OutOfWindow
    );
    assert_eq!(wire.answer(rst(8999)), Answer::OutOfWindow);
}

/// Whoever sends through a router can make up segments, but nothing that answers them.
#[test]
fn what_was_picked_up_lives_five_minutes_until_it_is_answered() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    wire.out(ack(7000, 9000));
    table.at(200);
    assert_eq!(wire.out(ack(7000, 9000)), Recorded::Refreshed);
    assert_eq!(wire.state(), Some(State::PickedUp), "nothing has answered");
    assert_eq!(wire.answer(rst(9001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::PickedUp), "a reset is no answer");
    table.at(200 + 300);
    assert_eq!(wire.answer(ack(9000, 7000)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::Established));
    table.at(200 + 432_000);
    assert_eq!(wire.answer(ack(9000, 7000)), Answer::Accepted);

    for (number, end, state) in [
        (2, fin(9000, 7000), State::FinReceived),
        (3, rst(9000), State::ResetReceived),
    ] {
        let wire = Wire::of(&table, number);
        wire.out(ack(7000, 9000));
        assert_eq!(wire.answer(end), Answer::Accepted);
        assert_eq!(wire.state(), Some(state));
    }
    let wire = Wire::of(&table, 4);
    wire.out(ack(7000, 9000));
    table.at(200 + 432_000 + 301);
    assert_eq!(wire.answer(ack(9000, 7000)), Answer::Expired);
    // A connection that the host goes on with is picked up again.
    assert_eq!(wire.out(ack(7000, 9000)), Recorded::Refreshed);
    assert_eq!(wire.answer(ack(9000, 7000)), Answer::Accepted);
}

#[test]
fn a_retransmitted_syn_refreshes() {
    let table = Table::new(64);
    let wire = Wire::of(&table, 1);
    wire.out(syn(1000));
    table.at(100);
    assert_eq!(wire.out(syn(1000)), Recorded::Refreshed);
    table.at(220);
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
    // The host did not see that answer and sends its SYN once more.
    assert_eq!(wire.out(syn(1000)), Recorded::Renewed);
    assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
    assert_eq!(wire.state(), Some(State::Established));
}

#[test]
fn the_same_ports_are_used_again() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    for end in [fin(1001, 5001), rst(1001), ack(1001, 5001)] {
        wire.out(end);
        assert_eq!(wire.out(syn(0x9000_0000)), Recorded::Renewed);
        assert_eq!(wire.state(), Some(State::SynSent));
        // The peer still has the old connection, and says so; the host resets it and tries again.
        assert_eq!(wire.answer(ack(5001, 1001)), Answer::Accepted);
        assert_eq!(wire.answer(data(5001, 1001, 1)), Answer::WrongState);
        assert_eq!(wire.out(rst(1001)), Recorded::Untracked);
        assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::OutOfWindow);
        assert_eq!(wire.answer(syn_ack(77, 0x9000_0001)), Answer::Accepted);
        assert_eq!(wire.out(ack(0x9000_0001, 78)), Recorded::Refreshed);
        assert_eq!(wire.answer(rst(5001 + WINDOW)), Answer::OutOfWindow);
        assert_eq!(wire.answer(data(78, 0x9000_0001, 100)), Answer::Accepted);
        assert_eq!(table.records().len(), 1);
        wire.out(syn(1000));
        assert_eq!(wire.answer(syn_ack(5000, 1001)), Answer::Accepted);
        wire.out(ack(1001, 5001));
    }
}

#[test]
fn a_connection_whose_syn_was_not_seen_replaces_what_is_left_of_another() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    // Far before what the old one sent.
    assert_eq!(wire.out(ack(0xf000_0000, 77)), Recorded::Renewed);
    assert_eq!(wire.answer(data(77, 0xf000_0000, 5)), Answer::Accepted);
    wire.out(rst(0xf000_0000));
    table.at(11);
    assert_eq!(wire.out(ack(1, 2)), Recorded::Renewed);
    assert_eq!(wire.state(), Some(State::PickedUp));
}

#[test]
fn windows_are_scaled() {
    let table = Table::new(64);
    let scaled = |scale| Segment {
        window_scale: scale,
        ..syn(1000)
    };
    let answered = |scale| Segment {
        window_scale: scale,
        ..syn_ack(5000, 1001)
    };
    // 65,535 << 7 is below 2^23; without knowledge, 2^30.
    for (number, scale, bits) in [(1, Some(7), 23), (2, None, 30), (3, Some(15), 30)] {
        let wire = Wire::of(&table, number);
        wire.out(scaled(scale));
        assert_eq!(wire.answer(answered(scale)), Answer::Accepted);
        // The windows of SYNs are not scaled.
        assert_eq!(
            wire.answer(data(5001 + WINDOW + 1, 1001, 1)),
            Answer::OutOfWindow
        );
        wire.out(ack(1001, 5001));
        let edge = 5001 + (1 << bits);
        assert_eq!(wire.answer(data(edge, 1001, 1)), Answer::Accepted);
        assert_eq!(wire.answer(data(edge + 1, 1001, 1)), Answer::OutOfWindow);
        // The same for acknowledgments, by the peer's window.
        let sent = 1001 + (1 << bits);
        wire.out(data(1001, 5001, 1 << bits));
        assert_eq!(wire.answer(ack(5001, sent - (1 << bits))), Answer::Accepted);
        assert_eq!(
            wire.answer(ack(5001, sent - (1 << bits) - 1)),
            Answer::OutOfWindow
        );
    }
}

#[test]
fn errors_quote_what_may_be_on_its_way() {
    let table = Table::new(64);
    let wire = Wire::established(&table);
    wire.out(data(1001, 5001, 1000));
    let before = table.words();
    let quote = |sequence| quoted(&key(protocol::TCP, 1), sequence, &table.flows);
    assert!(quote(1001) && quote(2000));
    assert!(!quote(2002) && !quote(2001u32.wrapping_sub(WINDOW + 1)) && !quote(0x8000_0000));
    assert!(table.words() == before);
    table.at(432_001);
    assert!(!quote(1001));
}

/// One end of a model conversation, a TCP reduced to what the table looks at.
#[derive(Clone, Copy, Debug)]
struct End {
    una: u32,
    next: u32,
    received: u32,
    scale: u8,
    /// What the other end allows, from its last word.
    edge: u32,
    closed: bool,
}

impl End {
    fn new(initial: u32, scale: u8) -> Self {
        Self {
            una: initial,
            next: initial,
            received: 0,
            scale,
            edge: initial,
            closed: false,
        }
    }

    fn emit(&self, flags: u8, sequence: u32, payload: u32, window: u16) -> Segment {
        Segment {
            flags,
            sequence,
            acknowledgment: self.received,
            window,
            window_scale: Some(self.scale),
            payload,
        }
    }

    /// Takes a segment that reached this end.
    fn take(&mut self, segment: &Segment, scale: u8) {
        if self.una.wrapping_sub(segment.acknowledgment) as i32 <= 0 {
            self.una = segment.acknowledgment;
            let shift = if segment.flags & SYN == 0 { scale } else { 0 };
            let edge = segment
                .acknowledgment
                .wrapping_add(u32::from(segment.window) << shift);
            advance(&mut self.edge, edge);
        }
        // In order only; the rest is sent again.
        if segment.sequence.wrapping_sub(self.received) as i32 <= 0 {
            advance(&mut self.received, segment.end());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is lost, repeated or overtaken, nothing that the peer sends is refused, up to the end of TIME-WAIT.
    #[test]
    fn no_legal_segment_is_refused(
        ours in any::<u32>(),
        peers in any::<u32>(),
        scales in (0..=14u8, 0..=14u8),
        seen_from in prop_oneof![Just(0usize), 0..40usize],
        steps in prop::collection::vec((0..10u8, any::<u16>(), any::<u16>()), 1..400),
    ) {
        let table = Table::new(64);
        let wire = Wire::of(&table, 1);
        let (mut us, mut peer) = (End::new(ours, scales.0), End::new(peers, scales.1));
        let hello = us.emit(SYN, ours, 0, 0xffff);
        let mut seen = seen_from == 0;
        if seen { wire.out(hello); }
        us.next = ours.wrapping_add(1);
        peer.received = us.next;
        let reply = peer.emit(SYN | ACK, peers, 0, 0xffff);
        peer.next = peers.wrapping_add(1);
        if seen { prop_assert_eq!(wire.answer(reply), Answer::Accepted); }
        us.received = peer.next;
        us.take(&reply, 0);
        peer.edge = peer.next;
        let first = us.emit(ACK, us.next, 0, 0xffff);
        if seen { wire.out(first); }
        peer.take(&first, us.scale);
        peer.una = peer.next;

        // On their way: to the peer, and to us.
        let (mut there, mut here): (Vec<Segment>, Vec<Segment>) = (vec![], vec![]);
        for (count, (what, a, b)) in steps.into_iter().enumerate() {
            let window = if b % 8 == 0 { 0 } else { b };
            let by_us = what % 2 == 0;
            let end = if by_us { &mut us } else { &mut peer };
            let sent = match what / 2 {
                // New data, as far as the window goes.
                0 => {
                    let room = end.edge.wrapping_sub(end.next);
                    let bytes = if room as i32 > 0 { room.min(u32::from(a) % 3000) } else { 0 };
                    if end.closed || bytes == 0 { None } else {
                        let segment = end.emit(ACK, end.next, bytes, window);
                        end.next = end.next.wrapping_add(bytes);
                        Some(segment)
                    }
                }
                // Sent again, from what is not acknowledged; with nothing there, a keep-alive.
                1 => {
                    let waiting = end.next.wrapping_sub(end.una).wrapping_sub(u32::from(end.closed));
                    let bytes = if waiting as i32 > 0 { waiting.min(1460) } else { 0 };
                    let sequence = if bytes == 0 { end.next.wrapping_sub(1) } else { end.una };
                    Some(end.emit(ACK, sequence, bytes, window))
                }
                2 => Some(end.emit(ACK, end.next, 0, window)),
                // Once in a while, the end.
                3 if a % 64 == 0 && !end.closed && (end.edge.wrapping_sub(end.next) as i32) >= 0 => {
                    let segment = end.emit(FIN | ACK, end.next, 0, window);
                    end.next = end.next.wrapping_add(1);
                    end.closed = true;
                    Some(segment)
                }
                // Something arrives, not always the first; some is lost, some stays for another time.
                _ => {
                    let queue = if by_us { &mut here } else { &mut there };
                    if !queue.is_empty() {
                        let index = usize::from(a) % queue.len().min(8);
                        let segment = if b % 5 == 0 { queue[index] } else { queue.remove(index) };
                        if b % 7 != 0 {
                            if by_us {
                                if seen { prop_assert_eq!(wire.answer(segment), Answer::Accepted, "{:?}", segment); }
                                us.take(&segment, scales.1);
                            } else {
                                peer.take(&segment, scales.0);
                            }
                        }
                    }
                    None
                }
            };
            if let Some(segment) = sent {
                if by_us {
                    if count >= seen_from || seen {
                        let recorded = wire.out(segment);
                        let known = matches!(recorded, Recorded::Created | Recorded::Refreshed);
                        prop_assert!(known || segment.flags & FIN != 0, "{:?}", recorded);
                        seen |= known;
                    }
                    there.push(segment);
                    if there.len() > 16 { there.remove(0); }
                } else {
                    here.push(segment);
                    if here.len() > 16 { here.remove(0); }
                }
            }
        }
    }

    /// Whatever lies outside both windows is refused and changes nothing.
    #[test]
    fn nothing_outside_is_accepted(
        sequence in any::<u32>(),
        acknowledgment in any::<u32>(),
        payload in 0..1500u32,
        flags in prop::sample::select(vec![ACK, FIN | ACK, RST, RST | ACK, SYN | ACK, SYN, 0, FIN]),
    ) {
        let table = Table::new(64);
        let wire = Wire::established(&table);
        let before = table.words();
        let near = |number: u32, middle: u32| {
            (number.wrapping_sub(middle) as i32).unsigned_abs() <= WINDOW + 1500
        };
        let segment = Segment { payload, ..segment(flags, sequence, acknowledgment) };
        let possible = match flags {
            RST => near(sequence, 5001),
            f if f & RST != 0 => near(sequence, 5001),
            f if f & ACK != 0 => near(sequence, 5001) && near(acknowledgment, 1001),
            _ => false,
        };
        prop_assume!(!possible);
        prop_assert!(!wire.answer(segment).accepts());
        prop_assert!(table.words() == before);
    }
}
