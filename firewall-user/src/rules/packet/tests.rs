use firewall_common::parse::{Addresses, Parsed, parse};
use proptest::prelude::*;

use super::*;

fn pattern(text: &str) -> Pattern {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn concrete(text: &str) -> Concrete {
    let packet = pattern(text).concrete(&Host::default());
    packet.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What is wrong with it, and what to write instead.
fn refused(text: &str) -> String {
    let read = text.parse::<Pattern>();
    let packet = read.and_then(|pattern| pattern.concrete(&Host::default()));
    packet.expect_err(text).to_string()
}

#[test]
fn forms_that_mean_the_same() {
    let whole = "tcp 198.51.100.7:40000 -> 192.0.2.10:443 syn";
    assert_eq!(concrete(whole).to_string(), whole);
    for other in [
        "tcp from 198.51.100.7:40000 to 192.0.2.10:443 syn",
        "tcp to 192.0.2.10:https from 198.51.100.7",
        "6 syn from any to :443",
        "  tcp   ->  :443  ",
        "tcp in -> :443",
        "tcp 198.51.100.7 -> :443",
    ] {
        assert_eq!(concrete(other).to_string(), whole, "{other}");
    }
}

#[test]
fn what_is_left_out_is_filled_in() {
    for (text, whole) in [
        (
            "tcp to :22 out",
            "tcp 192.0.2.10:40000 -> 198.51.100.7:22 syn out",
        ),
        (
            "tcp from [2001:db8::7] to :22 rst,ack egress",
            "tcp [2001:db8::7]:40000 -> [2001:db8:2::7]:22 rst,ack out",
        ),
        (
            "udp from 2001:db8::7 to :53",
            "udp [2001:db8::7]:40000 -> [2001:db8:1::a]:53",
        ),
        (
            "icmp to 192.0.2.1",
            "icmp 198.51.100.7 -> 192.0.2.1 echo-request",
        ),
        (
            "icmpv6",
            "icmpv6 2001:db8:2::7 -> 2001:db8:1::a echo-request",
        ),
        (
            "icmp 13",
            "icmp 198.51.100.7 -> 192.0.2.10 timestamp-request",
        ),
        ("47 192.0.2.1 -> 192.0.2.2", "gre 192.0.2.1 -> 192.0.2.2"),
        (
            "253 192.0.2.1 -> 192.0.2.2 vlan 10",
            "253 192.0.2.1 -> 192.0.2.2 vlan 10",
        ),
        (
            "sctp to :5060",
            "sctp 198.51.100.7:40000 -> 192.0.2.10:5060",
        ),
    ] {
        assert_eq!(concrete(text).to_string(), whole, "{text}");
    }
}

#[test]
fn patterns_leave_open_what_is_not_written() {
    let all = pattern("any from office to 192.0.2.0/24");
    assert_eq!(all.protocol, Protocol::Any);
    assert_eq!(all.source.address, Some(Whose::Group("office".to_owned())));
    assert_eq!(
        all.destination.address,
        Some(Whose::Block(Block::V4(0xc000_0200, 0xc000_02ff)))
    );
    let ports = pattern("tcp office:1024-65535 -> :8000-8100");
    assert_eq!(ports.source.ports, Some((1024, 65535)));
    assert_eq!(ports.destination.ports, Some((8000, 8100)));
    assert_eq!(ports.destination.address, None);
    assert_eq!(ports.tcp_flags, None);
}

#[test]
fn mistakes_say_what_to_write() {
    let all: Vec<String> = [
        "",
        "tpc to :22",
        "tcp",
        "tcp form 192.0.2.1 to :22",
        "tcp 192.0.2.1 :22",
        "tcp to :22 192.0.2.1",
        "tcp from",
        "tcp from to :22",
        "tcp to :22 to :23",
        "tcp from :1 from :2 to :3",
        "tcp to :htps",
        "tcp to :0",
        "tcp to :22 sym",
        "tcp to :22 syn ack",
        "tcp from office to :22",
        "tcp from 192.0.2.0/24 to :22",
        "tcp from 192.0.2.1/24 to :22",
        "tcp from 192.0.2.1 to [2001:db8::1]:22",
        "tcp to [2001:db8::1:22",
        "tcp to :80-90",
        "any to 192.0.2.1",
        "any to :22",
        "gre to :22",
        "icmp to 192.0.2.1 packet-too-big",
        "icmp to 2001:db8::1",
        "icmp to 192.0.2.1 ehco-request",
        "fragment",
        "44 to 2001:db8::1",
        "udp to :53 vlan",
        "udp to :53 vlan 4095",
        "udp to :53 vlan 10-20",
        "udp to :53 out in",
        "udp to :53 output",
    ]
    .iter()
    .map(|text| format!("{text}\n    {}", refused(text)))
    .collect();
    insta::assert_snapshot!(all.join("\n"));
}

/// The packet that the firewall reads in the frame.
fn read(packet: &Concrete) -> firewall_common::parse::Packet {
    match parse(&packet.frame()[..]) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{packet}: {other:?}"),
    }
}

fn addresses(packet: &Concrete) -> Addresses {
    use std::net::IpAddr;
    let halves = |address: u128| [(address >> 64) as u64, address as u64];
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 {
            source: source.to_bits(),
            destination: destination.to_bits(),
        },
        (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 {
            source: halves(source.to_bits()),
            destination: halves(destination.to_bits()),
        },
        _ => panic!("{packet}: two families"),
    }
}

/// The frame says what the packet does, and so does its notation.
fn comes_back(packet: &Concrete) {
    assert_eq!(concrete(&packet.to_string()), *packet);
    let found = read(packet);
    assert_eq!(found.addresses, addresses(packet), "{packet}");
    let transport = found.transport;
    assert_eq!(transport.protocol, packet.protocol, "{packet}");
    let (source_port, value, flags) = match packet.upper {
        Upper::Tcp {
            source,
            destination,
            flags,
        } => (source, destination, flags),
        Upper::Ports {
            source,
            destination,
        } => (source, destination, 0),
        Upper::Icmp(kind) => (0, u16::from(kind) << 8, 0),
        Upper::Other => (0, 0, 0),
    };
    assert_eq!(
        (transport.source_port, transport.value, transport.tcp_flags),
        (source_port, value, flags),
        "{packet}"
    );
}

#[test]
fn frames_say_what_the_packet_does() {
    for text in [
        "tcp 198.51.100.7:40000 -> 192.0.2.10:443 syn",
        "tcp [2001:db8::7]:40000 -> [2001:db8::1]:https syn,ack",
        "tcp to :22 psh,ack vlan 4094",
        "udp from 203.0.113.7 to 192.0.2.10:53",
        "udp [2001:db8::7]:1 -> [2001:db8::1]:65535 out",
        "sctp to :5060",
        "sctp from 2001:db8::7 to :5060 vlan 1",
        "icmp 198.51.100.7 -> 192.0.2.10 echo-request",
        "icmp destination-unreachable",
        "icmpv6 packet-too-big",
        "icmpv6 neighbour-solicitation",
        "icmpv6 from fe80::7 to ff02::1 router-advertisement",
        "gre 192.0.2.1 -> 192.0.2.2",
        "igmp 192.0.2.1 -> 224.0.0.22",
        "253 2001:db8::1 -> 2001:db8::2",
    ] {
        comes_back(&concrete(text));
    }
}

#[test]
fn an_icmp_error_is_about_a_datagram_of_its_receiver() {
    let packet = concrete("icmp 198.51.100.7 -> 192.0.2.10 time-exceeded");
    let frame = packet.frame();
    let quoted = &frame[14 + 20 + 8..];
    assert_eq!(quoted[12..16], [192, 0, 2, 10]);
    assert_eq!(quoted[16..20], [198, 51, 100, 7]);
}

proptest! {
    #[test]
    fn any_packet_comes_back(
        is_v6: bool,
        source in 1u32..255,
        destination in 1u32..255,
        ports in (1u16.., 1u16..),
        number in prop::sample::select(vec![6u8, 17, 132, 47, 253]),
        flags in prop::sample::select(vec![2u8, 16, 18, 24, 4, 20, 17]),
        vlan in prop::option::of(1u16..4095),
        leaves: bool,
    ) {
        let address = |network: u32, host: u32| -> std::net::IpAddr {
            if is_v6 {
                std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(network) << 64 | u128::from(host)).into()
            } else {
                std::net::Ipv4Addr::from_bits(network | host).into()
            }
        };
        let (from, to) = ports;
        let packet = Concrete {
            direction: if leaves { Direction::Egress } else { Direction::Ingress },
            protocol: number,
            source: address(0xcb00_7100, source),
            destination: address(0xc000_0200, destination),
            upper: match number {
                6 => Upper::Tcp { source: from, destination: to, flags },
                17 | 132 => Upper::Ports { source: from, destination: to },
                _ => Upper::Other,
            },
            vlan,
        };
        comes_back(&packet);
    }
}
