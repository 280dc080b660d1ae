//! Fuzz target: any bytes as a frame. The decision never panics, agrees with the reference down to the counters, and what it
//! takes for a packet, etherparse takes for the same.
//!
//! `cargo test` runs it briefly; for longer, `cargo bolero test -p firewall-tests --test fuzz_packet any_frame`.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use firewall_common::parse::{Addresses, Packet, Parsed, parse};
use firewall_tests::corpus::Under;
use firewall_tests::policy::Counted;
use firewall_tests::{random, reference};

const ITERATIONS: usize = 150_000;

#[test]
fn any_frame() {
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_max_len(400)
        .for_each(|input: &[u8]| {
            let frame = random::frame_from(input);
            for under in Under::ALL {
                let policy = under.policy();
                let effect = policy.decide(&frame);
                let expected = reference::decide(&policy.rule_set, &frame);
                let counted: Vec<Counted> = policy
                    .meaning(&effect)
                    .into_iter()
                    .map(|(counted, _)| counted)
                    .collect();
                assert_eq!(
                    (effect.decision.accepts(), counted),
                    (expected.accepts, expected.counted),
                    "{frame:02x?}"
                );
            }
            if let Ok(Parsed::Ip(packet)) = parse(&frame[..]) {
                assert_seen_alike(&packet, &frame);
            }
        });
}

/// Where etherparse can read the frame as well, it must see the same addresses and ports.
fn assert_seen_alike(packet: &Packet, frame: &[u8]) {
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else {
        return;
    };
    match sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (source, destination) = (
                u32::from(header.source_addr()),
                u32::from(header.destination_addr()),
            );
            assert_eq!(
                packet.addresses,
                Addresses::V4 {
                    source,
                    destination
                },
                "{frame:02x?}"
            );
        }
        Some(NetSlice::Ipv6(ip)) => {
            let halves = |address: std::net::Ipv6Addr| {
                [(address.to_bits() >> 64) as u64, address.to_bits() as u64]
            };
            let header = ip.header();
            let source = halves(header.source_addr());
            let destination = halves(header.destination_addr());
            assert_eq!(
                packet.addresses,
                Addresses::V6 {
                    source,
                    destination
                },
                "{frame:02x?}"
            );
        }
        other => panic!("no IP packet: {other:?}, {frame:02x?}"),
    }
    let ours = &packet.transport;
    match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let theirs = (6, tcp.source_port(), tcp.destination_port());
            assert_eq!(
                (ours.protocol, ours.source_port, ours.value),
                theirs,
                "{frame:02x?}"
            );
        }
        Some(TransportSlice::Udp(udp)) => {
            let theirs = (17, udp.source_port(), udp.destination_port());
            assert_eq!(
                (ours.protocol, ours.source_port, ours.value),
                theirs,
                "{frame:02x?}"
            );
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let kind = u16::from_be_bytes([icmp.type_u8(), icmp.code_u8()]);
            assert_eq!((ours.protocol, ours.value), (1, kind), "{frame:02x?}");
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let kind = u16::from_be_bytes([icmp.type_u8(), icmp.code_u8()]);
            assert_eq!((ours.protocol, ours.value), (58, kind), "{frame:02x?}");
        }
        _ => {}
    }
}
