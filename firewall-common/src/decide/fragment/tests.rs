//! Fragments in the order in which they arrive, with what rules say of the first.

use core::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header};

use super::{first, later};
use crate::abi::ban::Prefix;
use crate::abi::flow::Key;
use crate::abi::fragment::{FragmentKey, LIFETIME_V4_TICKS, LIFETIME_V6_TICKS, Remembered};
use crate::abi::image::{Line, Outcome};
use crate::abi::reason::{DropReason, PassReason};
use crate::decide::ban::tests::Table;
use crate::decide::{Asked, Decision, beyond_rules, terms};
use crate::parse::transport::TCP_HEADER;
use crate::parse::{self, Fragment, IpHeader, Parsed, Transport, parse, protocol};
use crate::tables::{
    Fragments, HostTables, HostWorld, Limited, MaybeBans, MaybeFlows, MaybeLimits, Tally, World,
};

const ACCEPTED: Decision = Decision::by_rules(0, Outcome::new(true, false, 200));
const REFUSED: Decision = Decision::dropped(DropReason::NoRule);
const GOES_ON: Decision = Decision::passed(PassReason::Fragment);
const DENIED: Decision = Decision::dropped(DropReason::FragmentDenied);
const EARLY: Decision = Decision::passed(PassReason::FragmentEarly);
const BANNED: Decision = Decision::dropped(DropReason::Banned);

/// A world of fragments alone, which lets in two early ones.
#[derive(Debug, Default)]
struct Memory {
    remembered: RefCell<HashMap<FragmentKey, Remembered>>,
    now: Cell<u64>,
    early: Cell<u32>,
    counted: RefCell<Vec<u32>>,
}

impl World for Memory {
    type Tables = HostTables<'static>;
    type Flows = MaybeFlows<'static>;
    type Bans = MaybeBans<'static>;
    type Limits = MaybeLimits<'static>;

    fn tables(&self) -> Option<Self::Tables> {
        None
    }

    fn count(&self, slot: u32, _: Tally) -> u32 {
        self.counted.borrow_mut().push(slot);
        0
    }

    fn knock(&self, _: &Transport, _: Tally, _: u32) {}

    fn now_ns(&self, _: bool) -> u64 {
        0
    }

    fn bans(&self) -> &Self::Bans {
        &MaybeBans(None)
    }

    fn limits(&self) -> &Self::Limits {
        &MaybeLimits(None)
    }

    fn flows(&self) -> &Self::Flows {
        &MaybeFlows(None)
    }

    fn has_connection(&self, _: &Key, _: bool) -> bool {
        false
    }

    fn acknowledges_cookie(&self, _: IpHeader<'_>, _: &[u8; TCP_HEADER]) -> bool {
        false
    }

    fn admits(&self, kind: Limited) -> bool {
        assert_eq!(kind, Limited::EarlyFragment);
        self.early.set(self.early.get() + 1);
        self.early.get() <= 2
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<bool> {
        let remembered = *self.remembered.borrow().get(key)?;
        remembered.accepts(key, self.now.get())
    }

    fn remember_fragment(&self, key: &FragmentKey, accepts: bool) {
        let remembered = Remembered::new(self.now.get(), accepts);
        self.remembered.borrow_mut().insert(*key, remembered);
    }
}

impl Fragments for Memory {
    fn first(&self, key: &FragmentKey) -> Option<bool> {
        self.first_fragment(key)
    }

    fn remember(&self, key: &FragmentKey, accepts: bool) {
        self.remember_fragment(key, accepts);
    }

    fn admits(&self, kind: Limited) -> bool {
        World::admits(self, kind)
    }
}

impl Memory {
    /// Decides a frame of which rules say `by_rules`, and sees that it is counted once.
    fn decide(&self, frame: &[u8], by_rules: Decision) -> Decision {
        let Ok(Parsed::Ip(packet)) = parse(frame) else {
            panic!("{frame:02x?}");
        };
        let identification = parse::identification(frame).unwrap_or_default();
        let refused =
            |asked: &Asked| beyond_rules(frame, asked, self, |_| panic!("no rule here has terms"));
        let asked = Asked::new(&packet, by_rules, identification);
        let terms = |_: &Asked| panic!("no rule here has terms");
        let decision = match packet.fragment {
            Fragment::Whole => refused(&asked),
            Fragment::First => first(&asked, self, refused, terms),
            Fragment::Later => later(&packet, identification, self),
        };
        assert_eq!(self.counted.take(), [decision.outcome().counter()]);
        decision
    }

    /// Decides a later fragment, of which rules say nothing.
    fn later(&self, frame: &[u8]) -> Decision {
        self.decide(frame, Decision::dropped(DropReason::FragmentLater))
    }
}

/// A UDP datagram's fragment, of either family.
#[derive(Clone, Copy)]
struct Piece {
    ipv6: bool,
    source: u8,
    identification: u16,
    protocol: u8,
    /// In 8-byte units.
    offset: u16,
    more: bool,
}

const FIRST: Piece = Piece {
    ipv6: false,
    source: 7,
    identification: 0x1a7e,
    protocol: protocol::UDP,
    offset: 0,
    more: true,
};
const LATER: Piece = Piece {
    offset: 3,
    more: false,
    ..FIRST
};

impl Piece {
    fn frame(self) -> Vec<u8> {
        // Ports 40000 and 53, a length of 64.
        let payload = [&[0x9c, 0x40, 0, 53, 0, 64, 0, 0], &[0u8; 16][..]].concat();
        let (protocol, offset) = (
            IpNumber(self.protocol),
            IpFragOffset::try_new(self.offset).unwrap(),
        );
        let (ethertype, headers) = if self.ipv6 {
            let mut source = [0; 16];
            source[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
            let mut destination = source;
            (source[15], destination[15]) = (self.source, 1);
            let header = Ipv6Header {
                payload_length: 8 + payload.len() as u16,
                next_header: IpNumber(protocol::FRAGMENT),
                hop_limit: 64,
                source,
                destination,
                ..Default::default()
            };
            let fragment =
                Ipv6FragmentHeader::new(protocol, offset, self.more, self.identification.into());
            let headers = [&header.to_bytes()[..], &fragment.to_bytes()].concat();
            (0x86ddu16, headers)
        } else {
            let source = [192, 0, 2, self.source];
            let mut header = Ipv4Header::new(
                payload.len() as u16,
                64,
                protocol,
                source,
                [198, 51, 100, 1],
            )
            .unwrap();
            header.dont_fragment = false;
            header.identification = self.identification;
            header.fragment_offset = offset;
            header.more_fragments = self.more;
            (0x0800, header.to_bytes().to_vec())
        };
        [&[0; 12][..], &ethertype.to_be_bytes(), &headers, &payload].concat()
    }
}

/// The same for both families.
fn of_both_families(test: impl Fn(fn(Piece) -> Vec<u8>)) {
    test(|piece| piece.frame());
    test(|piece| {
        let ipv6 = true;
        Piece { ipv6, ..piece }.frame()
    });
}

#[test]
fn first_accepted_then_later_accepted() {
    of_both_families(|frame| {
        let memory = Memory::default();
        assert_eq!(memory.decide(&frame(FIRST), ACCEPTED), ACCEPTED);
        assert_eq!(memory.later(&frame(LATER)), GOES_ON);
        let middle = Piece {
            offset: 5,
            more: true,
            ..LATER
        };
        assert_eq!(memory.later(&frame(middle)), GOES_ON);
    });
}

#[test]
fn first_refused_then_later_refused() {
    of_both_families(|frame| {
        let memory = Memory::default();
        assert_eq!(memory.decide(&frame(FIRST), REFUSED), REFUSED);
        assert_eq!(memory.later(&frame(LATER)), DENIED);
        // The identification comes round again.
        assert_eq!(memory.decide(&frame(FIRST), ACCEPTED), ACCEPTED);
        assert_eq!(memory.later(&frame(LATER)), GOES_ON);
    });
}

#[test]
fn later_first_is_let_in_and_the_refused_first_one_is_not() {
    of_both_families(|frame| {
        let memory = Memory::default();
        assert_eq!(memory.later(&frame(LATER)), EARLY);
        assert_eq!(memory.decide(&frame(FIRST), REFUSED), REFUSED);
        assert_eq!(memory.later(&frame(LATER)), DENIED);
    });
}

#[test]
fn another_datagram_is_unknown() {
    of_both_families(|frame| {
        for other in [
            Piece {
                identification: 0x1a7f,
                ..LATER
            },
            Piece { source: 8, ..LATER },
        ] {
            for by_rules in [ACCEPTED, REFUSED] {
                let memory = Memory::default();
                memory.decide(&frame(FIRST), by_rules);
                assert_eq!(memory.later(&frame(other)), EARLY);
            }
        }
    });
}

/// IPv4 reassembles by protocol too; IPv6 does not, so that a datagram that was refused cannot go on under another number.
#[test]
fn another_protocol_is_another_datagram_in_ipv4_only() {
    let other = Piece {
        protocol: protocol::TCP,
        ..LATER
    };
    for (ipv6, expected) in [(false, EARLY), (true, DENIED)] {
        let memory = Memory::default();
        memory.decide(&Piece { ipv6, ..FIRST }.frame(), REFUSED);
        assert_eq!(memory.later(&Piece { ipv6, ..other }.frame()), expected);
    }
}

#[test]
fn what_is_too_long_ago_is_unknown() {
    for (ipv6, lifetime) in [(false, LIFETIME_V4_TICKS), (true, LIFETIME_V6_TICKS)] {
        let (first, later) = (Piece { ipv6, ..FIRST }, Piece { ipv6, ..LATER });
        let memory = Memory::default();
        memory.decide(&first.frame(), REFUSED);
        memory.now.set(lifetime - 1);
        assert_eq!(memory.later(&later.frame()), DENIED);
        memory.now.set(lifetime);
        assert_eq!(memory.later(&later.frame()), EARLY);
    }
}

#[test]
fn early_ones_are_limited_and_others_are_not() {
    let memory = Memory::default();
    assert_eq!(memory.later(&LATER.frame()), EARLY);
    assert_eq!(memory.later(&LATER.frame()), EARLY);
    let limit = Decision::dropped(DropReason::FragmentLater);
    assert_eq!(memory.later(&LATER.frame()), limit);
    assert_eq!(memory.decide(&FIRST.frame(), ACCEPTED), ACCEPTED);
    assert_eq!(memory.later(&LATER.frame()), GOES_ON);
}

/// What answers this host is accepted, whoever is banned, and goes on as that does.
#[test]
fn a_ban_cuts_all_fragments_but_those_of_what_was_accepted() {
    let image = [Line::default(); 64];
    let table = Table::new(64, &[128]);
    for ipv6 in [false, true] {
        let (first, later) = (Piece { ipv6, ..FIRST }, Piece { ipv6, ..LATER });
        let beside = Piece { source: 8, ..later };
        let read = |piece: Piece| {
            let frame = piece.frame();
            let Ok(Parsed::Ip(packet)) = parse(&frame[..]) else {
                panic!("{frame:02x?}");
            };
            (packet, parse::identification(&frame[..]).unwrap())
        };
        let (banned, _) = terms::source(&read(first).0);
        table.give(Prefix::of(banned, 128), None, 0);
        for (by_rules, of_banned, of_other) in [
            (Some(ACCEPTED), GOES_ON, EARLY),
            (Some(REFUSED), BANNED, EARLY),
            (None, BANNED, EARLY),
        ] {
            let memory = Memory::default();
            if let Some(by_rules) = by_rules {
                memory.decide(&first.frame(), by_rules);
            }
            let world = HostWorld::new(&image, |_, _| {})
                .with_bans(table.bans())
                .with_fragments(&memory);
            let decide = |piece| {
                let (packet, identification) = read(piece);
                super::later(&packet, identification, &world)
            };
            assert_eq!(decide(later), of_banned, "{by_rules:?}");
            assert_eq!(decide(beside), of_other, "{by_rules:?}");
        }
    }
}

/// RFC 6946: it is reassembled with nothing, and says nothing of fragments that have its identification.
#[test]
fn an_atomic_fragment_is_a_whole_packet_and_remembers_nothing() {
    let atomic = Piece {
        ipv6: true,
        more: false,
        ..FIRST
    };
    // A whole datagram's length must fit.
    let mut frame = atomic.frame();
    let length = 14 + 40 + 8 + 4;
    frame[length..length + 2].copy_from_slice(&24u16.to_be_bytes());
    let Ok(Parsed::Ip(packet)) = parse(&frame[..]) else {
        panic!("{frame:02x?}");
    };
    assert_eq!(packet.fragment, Fragment::Whole);
    let memory = Memory::default();
    assert_eq!(memory.decide(&frame, REFUSED), REFUSED);
    assert!(memory.remembered.borrow().is_empty());
    assert_eq!(
        memory.later(
            &Piece {
                ipv6: true,
                ..LATER
            }
            .frame()
        ),
        EARLY
    );
}

#[test]
fn overlaps_with_the_tcp_header_and_datagrams_too_long_are_refused_by_themselves() {
    let tcp = |offset| Piece {
        protocol: protocol::TCP,
        offset,
        ..LATER
    };
    of_both_families(|frame| {
        for offset in [1, 2] {
            let refused = parse(&frame(tcp(offset))[..]);
            assert_eq!(refused, Err(DropReason::FragmentOverlap), "{offset}");
        }
        assert!(parse(&frame(tcp(3))[..]).is_ok());
        let beyond = Piece {
            offset: 8190,
            ..LATER
        };
        let refused = parse(&frame(beyond)[..]);
        assert_eq!(refused, Err(DropReason::FragmentBeyond));
        assert!(
            parse(
                &frame(Piece {
                    offset: 8186,
                    ..LATER
                })[..]
            )
            .is_ok()
        );
    });
}
