//! Answers, read by somebody else's parser, and SYNs, written by it.

use std::vec::Vec;

use etherparse::{
    IpNumber, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId,
};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

use super::*;
use crate::parse::{Parsed, parse};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SERVER_V4: [u8; 4] = [192, 0, 2, 1];
const CLIENT_V4: [u8; 4] = [198, 51, 100, 7];
const SERVER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 5, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 7];

/// What Linux sends: MSS 1460, SACK permitted, timestamps, window scale 7.
const OPTIONS: [u8; 20] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// A SYN from [`OTHER`] to [`OWN`] with this many VLAN tags.
fn syn(ipv6: bool, tags: usize, sequence: u32, options: &[u8], data: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(OTHER, OWN);
    let [outer, inner] = [7, 8].map(|id| VlanId::try_new(id).unwrap());
    let mut frame = Vec::new();
    macro_rules! write {
        ($below:expr) => {{
            let below = $below;
            let ip = if ipv6 {
                below.ipv6(CLIENT_V6, SERVER_V6, 60)
            } else {
                below.ipv4(CLIENT_V4, SERVER_V4, 60)
            };
            let tcp = ip.tcp(40_000, 443, sequence, 64_240).syn();
            let tcp = tcp.options_raw(options).unwrap();
            tcp.write(&mut frame, data).unwrap();
        }};
    }
    match tags {
        0 => write!(ethernet),
        1 => write!(ethernet.single_vlan(outer)),
        _ => write!(ethernet.double_vlan(outer, inner)),
    }
    frame
}

fn packet(frame: &[u8]) -> Packet {
    match parse(frame) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

/// The sequence number of a frame that may be answered.
fn sequence_of(frame: &[u8]) -> Option<u32> {
    let packet = packet(frame);
    let place = place(frame, &packet, hardware_address(OWN))?;
    let mut headers = Headers::EMPTY;
    match packet.addresses {
        Addresses::V4 { .. } => headers.read::<V4_WORDS, _>(frame, &packet, &place),
        Addresses::V6 { .. } => headers.read::<V6_WORDS, _>(frame, &packet, &place),
    }
}

fn patched(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn syns_are_found_behind_tags_with_and_without_options() {
    for ipv6 in [false, true] {
        for tags in 0..=2 {
            for options in [&[][..], &OPTIONS[..4], &OPTIONS, &[1; 40]] {
                let frame = syn(ipv6, tags, 0xdead_beef, options, &[]);
                assert_eq!(sequence_of(&frame), Some(0xdead_beef), "{frame:02x?}");
                let padded = [&frame[..], &[0xff; 6]].concat();
                assert_eq!(sequence_of(&padded), Some(0xdead_beef), "padded");
            }
        }
    }
}

#[test]
fn syns_that_only_the_kernel_can_answer_go_on_to_it() {
    for ipv6 in [false, true] {
        let ip = 14;
        let tcp = ip + if ipv6 { 40 } else { 20 };
        let good = syn(ipv6, 0, 7, &OPTIONS, &[]);
        assert_eq!(sequence_of(&good), Some(7));
        assert_eq!(sequence_of(&syn(ipv6, 0, 7, &OPTIONS, b"data")), None);

        // Broken in one bit, wherever that is; in the IPv6 header there are some that nothing protects.
        let protected = if ipv6 { ip + 8 } else { ip };
        for at in protected..good.len() {
            let broken = patched(&good, at, &[good[at] ^ 1]);
            let Ok(Parsed::Ip(packet)) = parse(&broken[..]) else {
                continue;
            };
            if !packet.transport.opens_connection() {
                continue;
            }
            assert_eq!(sequence_of(&broken), None, "byte {at}");
        }

        // The checksum of the pseudo-header alone is what a card was to complete.
        let pseudo = folded(pseudo_header(&packet(&good).addresses, 40));
        let partial = patched(&good, tcp + 16, &pseudo.to_be_bytes());
        assert_eq!(sequence_of(&partial), Some(7));
        let wrong = patched(&good, tcp + 16, &pseudo.wrapping_add(1).to_be_bytes());
        assert_eq!(sequence_of(&wrong), None);
    }
}

#[test]
fn options_and_extension_headers_go_on_to_the_kernel() {
    let segment = &syn(false, 0, 7, &OPTIONS, &[])[34..];
    let mut header = Ipv4Header::new(0, 64, IpNumber::TCP, CLIENT_V4, SERVER_V4).unwrap();
    header.options = [1; 4].into();
    header.set_payload_len(segment.len()).unwrap();
    let ethernet = &syn(false, 0, 7, &[], &[])[..14];
    let frame = [ethernet, &header.to_bytes(), segment].concat();
    assert!(packet(&frame).transport.opens_connection());
    assert_eq!(sequence_of(&frame), None);

    let plain = syn(true, 0, 7, &OPTIONS, &[]);
    // Destination options that are padding alone, 8 bytes.
    let extension = [6, 0, 1, 4, 0, 0, 0, 0];
    let frame = [&plain[..54], &extension, &plain[54..]].concat();
    let frame = patched(&frame, 14 + 4, &48u16.to_be_bytes());
    let frame = patched(&frame, 14 + 6, &[60]);
    assert!(packet(&frame).transport.opens_connection());
    assert_eq!(sequence_of(&frame), None);
}

#[test]
fn only_what_comes_from_one_host_to_this_one_is_answered() {
    let v4 = syn(false, 0, 7, &[], &[]);
    let v6 = syn(true, 0, 7, &[], &[]);
    for frame in [&v4, &v6] {
        let packet = packet(frame);
        let placed = |frame: &[u8], own: u64| place(frame, &packet, own).is_some();
        let own = hardware_address(OWN);
        assert!(placed(frame, own));
        let hardware = place(&frame[..], &packet, own).unwrap().hardware;
        let answered = [OTHER, OWN].concat();
        assert_eq!(hardware.answered().as_bytes()[..12], answered[..]);
        assert!(placed(frame, 0), "its own address is not known");
        assert!(!placed(frame, own + 1), "for another host");
        for at in [0, 6] {
            let group = patched(frame, at, &[0xff; 6]);
            assert!(!placed(&group, 0), "for or from several");
        }
    }
    let from_to = |source: u32, destination: u32| {
        let mut packet = packet(&v4);
        packet.addresses = Addresses::V4 {
            source,
            destination,
        };
        place(&v4[..], &packet, 0).is_some()
    };
    assert!(from_to(0xc000_0201, 0xdfff_ffff));
    assert!(!from_to(0xc000_0201, 0xe000_0001), "multicast");
    assert!(!from_to(0xc000_0201, u32::MAX), "broadcast");
    assert!(!from_to(0, 0xc000_0201), "from nobody");
    let from_to = |source: [u64; 2], destination: [u64; 2]| {
        let mut packet = packet(&v6);
        packet.addresses = Addresses::V6 {
            source,
            destination,
        };
        place(&v6[..], &packet, 0).is_some()
    };
    assert!(from_to([1, 2], [3, 4]));
    assert!(!from_to([1, 2], [0xff02 << 48, 1]), "multicast");
    assert!(!from_to([0, 0], [3, 4]), "from nobody");
}

#[test]
fn segments_are_no_larger_than_the_interface_takes() {
    let v4 = packet(&syn(false, 0, 7, &[], &[]));
    let v6 = packet(&syn(true, 0, 7, &[], &[]));
    for (packet, mss, mtu, expected) in [
        (&v4, 1460, 1500, 1460),
        (&v4, 1460, 1400, 1360),
        (&v4, 536, 1500, 536),
        (&v4, 1460, 100, 536),
        (&v6, 8940, 1500, 1440),
        (&v6, 8940, 9000, 8940),
        (&v6, 1440, 1 << 20, 1440),
    ] {
        assert_eq!(SynAck::new(packet, 1, 2, mss, mtu).mss, expected);
    }
}

proptest! {
    #[test]
    fn answers_are_what_any_parser_reads(
        ipv6: bool,
        v4: [u32; 2],
        v6: [[u64; 2]; 2],
        ports: [u16; 2],
        sequence: u32,
        cookie: u32,
        mss: u16,
    ) {
        let answer = SynAck {
            addresses: if ipv6 {
                Addresses::V6 { source: v6[0], destination: v6[1] }
            } else {
                Addresses::V4 { source: v4[0], destination: v4[1] }
            },
            source_port: ports[0],
            destination_port: ports[1],
            sequence,
            cookie,
            mss,
        };
        let bytes = match answer.addresses {
            Addresses::V4 { source, destination } => answer.v4(source, destination).as_bytes()[..ANSWER_V4].to_vec(),
            Addresses::V6 { source, destination } => answer.v6(source, destination).as_bytes().to_vec(),
        };
        let sliced = SlicedPacket::from_ip(&bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            panic!("{sliced:?}");
        };
        match &sliced.net {
            Some(NetSlice::Ipv4(slice)) => {
                let header = slice.header().to_header();
                prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
                prop_assert_eq!(header.source, v4[1].to_be_bytes());
                prop_assert_eq!(header.destination, v4[0].to_be_bytes());
                prop_assert_eq!(header.total_len, 44);
                prop_assert_eq!(header.identification, 0);
                prop_assert_eq!(header.time_to_live, 64);
                prop_assert!(header.dont_fragment && !header.more_fragments);
                prop_assert_eq!(&bytes[44..], &[0, 0]);
                let sum = tcp.to_header().calc_checksum_ipv4(&header, &[]).unwrap();
                prop_assert_eq!(tcp.checksum(), sum);
            }
            Some(NetSlice::Ipv6(slice)) => {
                let header = slice.header().to_header();
                let bytes = |[upper, lower]: [u64; 2]| (u128::from(upper) << 64 | u128::from(lower)).to_be_bytes();
                prop_assert_eq!(header.source, bytes(v6[1]));
                prop_assert_eq!(header.destination, bytes(v6[0]));
                prop_assert_eq!(header.payload_length, 24);
                prop_assert_eq!(header.hop_limit, 64);
                let sum = tcp.to_header().calc_checksum_ipv6(&header, &[]).unwrap();
                prop_assert_eq!(tcp.checksum(), sum);
            }
            other => panic!("{other:?}"),
        }
        let header = tcp.to_header();
        prop_assert_eq!((header.source_port, header.destination_port), (ports[1], ports[0]));
        prop_assert_eq!(header.sequence_number, cookie);
        prop_assert_eq!(header.acknowledgment_number, sequence.wrapping_add(1));
        prop_assert_eq!(header.window_size, 65_535);
        prop_assert_eq!(tcp.options(), &[[2, 4], mss.to_be_bytes()].concat()[..]);
        prop_assert!(header.syn && header.ack);
        prop_assert!(!(header.fin || header.rst || header.psh || header.urg || header.ece || header.cwr || header.ns));
    }
}
