//! Frames as layer stacks: each function puts its header in front of the payload that it is given, with lengths that fit.
//!
//! What is malformed is made from a good frame by changing the one thing, with [`patched`], [`cut`] and [`padded`]; the
//! good frame is then its near miss.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpPacket, EtherType, Ethernet2Header, IpAuthHeader, IpFragOffset, IpNumber, Ipv4Header,
    Ipv4Options, Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader, VlanId,
};
use firewall_common::parse::protocol;

/// The guarded host.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The guarded host.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1);
/// Somebody whom no rule names.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
/// Somebody whom no rule names.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
/// A neighbour on the link.
pub const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

/// MAC of the guarded host, locally administered.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC of the sender.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
/// Where bridges send spanning tree.
pub const BRIDGE_GROUP: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];

/// Where fields lie in an untagged frame.
pub mod at {
    /// Ethertype.
    pub const ETHERTYPE: usize = 12;
    /// First byte behind the Ethernet header.
    pub const NETWORK: usize = 14;
    /// IPv4 total length.
    pub const V4_TOTAL_LENGTH: usize = NETWORK + 2;
    /// IPv4 source.
    pub const V4_SOURCE: usize = NETWORK + 12;
    /// First byte behind an IPv4 header without options.
    pub const V4_PAYLOAD: usize = NETWORK + 20;
    /// IPv6 payload length.
    pub const V6_PAYLOAD_LENGTH: usize = NETWORK + 4;
    /// First byte behind the IPv6 header.
    pub const V6_PAYLOAD: usize = NETWORK + 40;
}

/// Ethertypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

pub use firewall_common::parse::transport::tcp_flag;

/// An Ethernet II frame.
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    ethernet_to(HOST_MAC, ethertype, payload)
}

/// An Ethernet II frame, or with an `ethertype` below 0x600 an 802.3 frame, to `destination`.
pub fn ethernet_to(destination: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header {
        source: CLIENT_MAC,
        destination,
        ether_type: EtherType(ethertype),
    };
    stacked(&header.to_bytes(), payload)
}

/// A frame with tags, each as its ethertype and VLAN number.
pub fn tagged(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut inner = payload.to_vec();
    let mut inner_type = ethertype;
    for &(tag_type, vlan) in tags.iter().rev() {
        let tag = etherparse::SingleVlanHeader {
            vlan_id: VlanId::try_new(vlan).expect("12 bits"),
            ether_type: EtherType(inner_type),
            ..Default::default()
        };
        inner = stacked(&tag.to_bytes(), &inner);
        inner_type = tag_type;
    }
    ethernet(inner_type, &inner)
}

/// An ARP request for the host's address.
pub fn arp() -> Vec<u8> {
    let request = ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        etherparse::ArpOperation::REQUEST,
        &CLIENT_MAC,
        &CLIENT_V4.octets(),
        &[0; 6],
        &HOST_V4.octets(),
    );
    request.expect("lengths agree").to_bytes().to_vec()
}

/// An IPv4 packet from the client to the host.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |_| {})
}

/// An IPv4 packet whose header is `edit`ed before its length and checksum are filled in.
pub fn ipv4_with(protocol: u8, payload: &[u8], edit: impl FnOnce(&mut Ipv4Header)) -> Vec<u8> {
    let addresses = (CLIENT_V4.octets(), HOST_V4.octets());
    let mut header = Ipv4Header::new(0, 64, IpNumber(protocol), addresses.0, addresses.1)
        .expect("an empty payload fits");
    edit(&mut header);
    header
        .set_payload_len(payload.len())
        .expect("the payload fits");
    header.header_checksum = header.calc_header_checksum();
    stacked(&header.to_bytes(), payload)
}

/// An IPv4 packet with options, which must fill whole 32-bit words.
pub fn ipv4_options(options: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |header| {
        header.options = Ipv4Options::try_from(options).expect("at most 40 bytes, whole words");
    })
}

/// An IPv4 fragment; `offset` in 8-byte units.
pub fn ipv4_fragment(offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |header| {
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
    })
}

/// An IPv4 fragment of a datagram whose first fragment is never seen.
pub fn ipv4_fragment_of_another(offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |header| {
        header.identification = u16::MAX;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
    })
}

/// An IPv4 packet with other addresses.
pub fn ipv4_between(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_with(protocol, payload, |header| {
        header.source = from.octets();
        header.destination = to.octets();
    })
}

/// An IPv6 packet from the client to the host.
pub fn ipv6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_with(next_header, payload, |_| {})
}

/// An IPv6 packet whose header is `edit`ed.
pub fn ipv6_with(next_header: u8, payload: &[u8], edit: impl FnOnce(&mut Ipv6Header)) -> Vec<u8> {
    let mut header = Ipv6Header {
        payload_length: u16::try_from(payload.len()).expect("the payload fits"),
        next_header: IpNumber(next_header),
        hop_limit: 64,
        source: CLIENT_V6.octets(),
        destination: HOST_V6.octets(),
        ..Default::default()
    };
    edit(&mut header);
    stacked(&header.to_bytes(), payload)
}

/// An IPv6 packet with other addresses.
pub fn ipv6_between(from: Ipv6Addr, to: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_with(next_header, payload, |header| {
        header.source = from.octets();
        header.destination = to.octets();
    })
}

/// An IPv6 packet from a neighbour with a hop limit.
pub fn ipv6_on_link(hop_limit: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6_with(next_header, payload, |header| {
        header.source = NEIGHBOUR.octets();
        header.hop_limit = hop_limit;
    })
}

/// A hop-by-hop, routing or destination options header of 8 bytes, whose last six are `content`.
pub fn extension(next_header: u8, content: [u8; 6], payload: &[u8]) -> Vec<u8> {
    stacked(&[&[next_header, 0], &content[..]].concat(), payload)
}

/// Options that mean nothing (PadN over the whole header), as `content` of an [`extension`].
pub const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

/// A routing header of type `kind`, as `content` of an [`extension`].
pub const fn routing(kind: u8, segments_left: u8) -> [u8; 6] {
    [kind, segments_left, 0, 0, 0, 0]
}

/// An IPv6 fragment header; `offset` in 8-byte units.
pub fn fragment(next_header: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let offset = IpFragOffset::try_new(offset).expect("13 bits");
    let header = Ipv6FragmentHeader::new(IpNumber(next_header), offset, more, 7);
    stacked(&header.to_bytes(), payload)
}

/// An IPv6 fragment header of a datagram whose first fragment is never seen.
pub fn fragment_of_another(next_header: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    patched(
        &fragment(next_header, offset, more, payload),
        4,
        &u32::MAX.to_be_bytes(),
    )
}

/// An authentication header with a check value of 12 bytes.
pub fn authentication(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = IpAuthHeader::new(IpNumber(next_header), 7, 1, &[0; 12]);
    stacked(&header.expect("whole words").to_bytes(), payload)
}

/// A TCP header without options or data, from port 40000.
pub fn tcp(destination: u16, flags: u8) -> Vec<u8> {
    tcp_from(40_000, destination, flags)
}

/// A TCP header without options or data.
pub fn tcp_from(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let header = TcpHeader::new(source, destination, 1, 65_535).to_bytes();
    patched(&header, 13, &[flags])
}

/// A TCP header with options, which must fill whole 32-bit words.
pub fn tcp_options(destination: u16, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(40_000, destination, 1, 65_535);
    header.set_options_raw(options).expect("at most 40 bytes");
    patched(&header.to_bytes(), 13, &[flags])
}

/// A UDP datagram.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let header = UdpHeader::without_ipv4_checksum(source, destination, payload.len());
    stacked(&header.expect("the payload fits").to_bytes(), payload)
}

/// An SCTP common header with an INIT chunk's first word.
pub fn sctp(source: u16, destination: u16) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0; 8], &[1, 0, 0, 4]].concat()
}

/// An ICMP or ICMPv6 message with 8 bytes behind the type, code and checksum's word.
pub fn icmp(kind: u8, code: u8) -> Vec<u8> {
    [&[kind, code, 0, 0], &[0u8; 8][..]].concat()
}

/// An untagged frame with an IPv4 packet.
pub fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV4, &ipv4(protocol, payload))
}

/// An untagged frame with an IPv6 packet.
pub fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(ethertype::IPV6, &ipv6(next_header, payload))
}

/// A TCP SYN to port 80.
pub fn syn() -> Vec<u8> {
    tcp(80, tcp_flag::SYN)
}

/// A whole frame with a SYN to port 80.
pub fn web_v4() -> Vec<u8> {
    v4(protocol::TCP, &syn())
}

/// A whole frame with a SYN to port 80.
pub fn web_v6() -> Vec<u8> {
    v6(protocol::TCP, &syn())
}

/// `bytes` with those from `offset` replaced.
pub fn patched(bytes: &[u8], offset: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset..offset + new.len()].copy_from_slice(new);
    bytes
}

/// The first `length` bytes.
pub fn cut(bytes: &[u8], length: usize) -> Vec<u8> {
    bytes[..length].to_vec()
}

/// `bytes` and, up to `length`, Ethernet padding that looks like a TCP SYN to port 80 at every fourth byte.
pub fn padded(bytes: &[u8], length: usize) -> Vec<u8> {
    const DECOY: [u8; 4] = [0x50, 0x02, 0x00, 0x50];
    let decoy = DECOY.iter().copied().cycle();
    bytes
        .iter()
        .copied()
        .chain(decoy)
        .take(length.max(bytes.len()))
        .collect()
}

fn stacked(header: &[u8], payload: &[u8]) -> Vec<u8> {
    [header, payload].concat()
}
