//! A second reading of frames and rules, as plain as it can be: slices that shrink to what each layer may look at, and a walk
//! over the rules. What it says of a frame, the tables and the program must say too, down to the counters.
//!
//! It shares with the packet path the types of the result and [`oracle::first_match`], and nothing that looks at bytes.

use firewall_common::abi::image::Selector;
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::{Addresses, Fragment, Packet, Transport, Upper};
use firewall_user::rules::model::{Action, Direction, RuleSet};
use firewall_user::rules::oracle;

use crate::policy::Counted;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// ARP.
    Arp,
    /// LLDP, LACP, STP.
    LinkLayer,
    /// An IP packet.
    Ip(Packet),
}

/// What must happen to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it goes on to the kernel's stack.
    pub accepts: bool,
    /// What counts it, sorted; all with the frame's bytes.
    pub counted: Vec<Counted>,
}

/// Decides `frame` by `rule_set`.
pub fn decide(rule_set: &RuleSet, frame: &[u8]) -> Outcome {
    let dropped = |reason| Outcome {
        accepts: false,
        counted: vec![Counted::Drop(reason)],
    };
    let passed = |reason| Outcome {
        accepts: true,
        counted: vec![Counted::Pass(reason)],
    };
    let on = &rule_set.essentials;
    let packet = match read(frame) {
        Err(reason) => return dropped(reason),
        Ok(_) if !vlans_are_listed(rule_set, frame) => return dropped(DropReason::VlanNotListed),
        Ok(Seen::Arp) if on.arp => return passed(PassReason::Arp),
        Ok(Seen::LinkLayer) if on.link_layer => return passed(PassReason::LinkLayer),
        Ok(Seen::Arp | Seen::LinkLayer) => return dropped(DropReason::EssentialOff),
        // No first fragment has been seen here.
        Ok(Seen::Ip(packet)) if packet.fragment == Fragment::Later => {
            return passed(PassReason::FragmentEarly);
        }
        Ok(Seen::Ip(packet)) => packet,
    };
    let essential = match essential(&packet) {
        Some(PassReason::NeighbourDiscovery) if on.neighbour_discovery => {
            Some(PassReason::NeighbourDiscovery)
        }
        Some(PassReason::DhcpClient) if on.dhcp_client => Some(PassReason::DhcpClient),
        Some(PassReason::MulticastMembership) if on.multicast_membership => {
            Some(PassReason::MulticastMembership)
        }
        _ => None,
    };
    if let Some(reason) = essential {
        return passed(reason);
    }
    let mut outcome = match oracle::first_match(rule_set, Direction::Ingress, &packet) {
        Some(index) => {
            let rule = &rule_set.rules[index];
            Outcome {
                accepts: rule.action == Action::Accept,
                counted: vec![Counted::Rule(rule.name.clone())],
            }
        }
        None if rule_set.defaults.ingress == Action::Accept => passed(PassReason::Default),
        None => dropped(DropReason::NoRule),
    };
    if !outcome.accepts && on.path_mtu && is_error(&packet.transport) {
        return match sent_by_us(rule_set, frame, &packet) {
            Ok(()) => passed(PassReason::PathMtu),
            Err(reason) => dropped(reason),
        };
    }
    let (protocol, port) = (packet.transport.protocol, packet.transport.value);
    if has_ports(protocol) && names_port(rule_set, protocol, port) {
        outcome.counted.push(Counted::Port(protocol, port));
        outcome.counted.sort();
    }
    outcome
}

/// Whether the rule set lets in frames of this one's VLANs.
fn vlans_are_listed(rule_set: &RuleSet, frame: &[u8]) -> bool {
    let Some(vlans) = &rule_set.vlans else {
        return true;
    };
    let ids: Vec<u16> = frame[12..]
        .chunks_exact(4)
        .take_while(|tag| matches!(be16(tag, 0), 0x8100 | 0x88a8))
        .map(|tag| be16(tag, 2) & 0xfff)
        .filter(|&id| id != 0)
        .collect();
    let listed = |id: &u16| {
        vlans
            .ids
            .iter()
            .any(|(first, last)| (first..=last).contains(&id))
    };
    if ids.is_empty() {
        vlans.untagged
    } else {
        ids.iter().all(listed)
    }
}

fn is_error(transport: &Transport) -> bool {
    matches!(
        (transport.protocol, transport.value >> 8),
        (1, 3 | 11 | 12) | (58, 1..=4)
    )
}

/// Whether the packet that an ICMP error quotes answers something that rules accept; no flows are known here.
fn sent_by_us(rule_set: &RuleSet, frame: &[u8], packet: &Packet) -> Result<(), DropReason> {
    let message = &frame[packet.upper.start as usize..packet.upper.end as usize];
    let quoted = message.get(8..).ok_or(DropReason::IcmpMalformed)?;
    let halves = |bytes: &[u8]| {
        let address = u128::from_be_bytes(bytes.try_into().expect("16 bytes"));
        [(address >> 64) as u64, address as u64]
    };
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("4 bytes"));
    let (addresses, protocol, behind) = match packet.addresses {
        Addresses::V4 { destination, .. } => {
            let (fixed, _) = split(quoted, 20).ok_or(DropReason::IcmpMalformed)?;
            let length = usize::from(fixed[0] & 15) * 4;
            if fixed[0] >> 4 != 4 || length < 20 || be16(fixed, 6) & 0x1fff != 0 {
                return Err(DropReason::IcmpMalformed);
            }
            let (ours, theirs) = (word(&fixed[12..16]), word(&fixed[16..20]));
            if ours != destination {
                return Err(DropReason::IcmpUnrelated);
            }
            let addresses = Addresses::V4 {
                source: theirs,
                destination: ours,
            };
            (
                addresses,
                fixed[9],
                quoted.get(length..).unwrap_or_default(),
            )
        }
        Addresses::V6 { destination, .. } => {
            let (fixed, behind) = split(quoted, 40).ok_or(DropReason::IcmpMalformed)?;
            if fixed[0] >> 4 != 6 {
                return Err(DropReason::IcmpMalformed);
            }
            let (ours, theirs) = (halves(&fixed[8..24]), halves(&fixed[24..40]));
            if ours != destination {
                return Err(DropReason::IcmpUnrelated);
            }
            let addresses = Addresses::V6 {
                source: theirs,
                destination: ours,
            };
            match fixed[6] {
                44 => {
                    let (fragment, behind) = split(behind, 8).ok_or(DropReason::IcmpMalformed)?;
                    if be16(fragment, 2) >= 8 {
                        return Err(DropReason::IcmpMalformed);
                    }
                    (addresses, fragment[0], behind)
                }
                protocol => (addresses, protocol, behind),
            }
        }
    };
    let (upper, _) = split(behind, 8).ok_or(DropReason::IcmpMalformed)?;
    let v6 = matches!(packet.addresses, Addresses::V6 { .. });
    let (selector, value, source_port) = match protocol {
        6 => (Some(Selector::Tcp), be16(upper, 0), be16(upper, 2)),
        17 => (Some(Selector::Udp), be16(upper, 0), be16(upper, 2)),
        132 => (Some(Selector::Sctp), be16(upper, 0), be16(upper, 2)),
        1 if !v6 => (Some(Selector::Icmp), asked(be16(upper, 0), (8, 0)), 0),
        58 if v6 => (Some(Selector::Icmpv6), asked(be16(upper, 0), (128, 129)), 0),
        1 | 58 => return Err(DropReason::IcmpMalformed),
        _ => (None, 0, 0),
    };
    let answered = Packet {
        addresses,
        transport: Transport {
            protocol,
            selector,
            value,
            source_port,
            tcp_flags: if protocol == 6 { 0x10 } else { 0 },
        },
        ..*packet
    };
    let accepts = match oracle::first_match(rule_set, Direction::Ingress, &answered) {
        Some(index) => rule_set.rules[index].action == Action::Accept,
        None => rule_set.defaults.ingress == Action::Accept,
    };
    if accepts {
        Ok(())
    } else {
        Err(DropReason::IcmpUnrelated)
    }
}

/// The echo message that belongs to one of type and code `message`; others are their own.
fn asked(message: u16, (request, reply): (u16, u16)) -> u16 {
    match message >> 8 {
        kind if kind == request => reply << 8,
        kind if kind == reply => request << 8,
        _ => message,
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

fn names_port(rule_set: &RuleSet, protocol: u8, port: u16) -> bool {
    use firewall_user::rules::model::Protocol;
    rule_set.rules.iter().any(|rule| {
        let covers = rule.protocol == Protocol::Any || rule.protocol == Protocol::Number(protocol);
        let ranges = rule.ports.iter().flatten();
        rule.direction == Direction::Ingress
            && covers
            && ranges
                .clone()
                .any(|&(low, high)| low <= port && port <= high)
    })
}

fn essential(packet: &Packet) -> Option<PassReason> {
    let Transport {
        protocol,
        value,
        source_port,
        ..
    } = packet.transport;
    let v6 = matches!(packet.addresses, Addresses::V6 { .. });
    let near = match packet.addresses {
        Addresses::V4 { .. } => false,
        Addresses::V6 { source, .. } => {
            source == [0, 0] || source[0] & 0xffc0_0000_0000_0000 == 0xfe80_0000_0000_0000
        }
    };
    let group = matches!(packet.addresses, Addresses::V4 { destination, .. } if (0xe000_0000..=0xefff_ffff).contains(&destination));
    match (protocol, value >> 8) {
        (58, 133..=136) => Some(PassReason::NeighbourDiscovery),
        (58, 130..=132 | 143) if packet.hop_limit == 1 && near => {
            Some(PassReason::MulticastMembership)
        }
        (2, _) if packet.hop_limit == 1 && group => Some(PassReason::MulticastMembership),
        (17, _) if !v6 && (source_port, value) == (67, 68) => Some(PassReason::DhcpClient),
        (17, _) if v6 && (source_port, value) == (547, 546) && near => Some(PassReason::DhcpClient),
        _ => None,
    }
}

/// Reads a frame.
///
/// # Errors
///
/// The reason to drop it.
pub fn read(frame: &[u8]) -> Result<Seen, DropReason> {
    let bytes = frame.len() as u32;
    let (header, mut rest) = split(frame, 14).ok_or(DropReason::EthernetTruncated)?;
    let mut kind = be16(header, 12);
    let mut tags = 0;
    while matches!(kind, 0x8100 | 0x88a8) {
        if tags == 2 {
            return Err(DropReason::VlanTooManyTags);
        }
        let (tag, behind) = split(rest, 4).ok_or(DropReason::EthernetTruncated)?;
        (kind, rest, tags) = (be16(tag, 2), behind, tags + 1);
    }
    match kind {
        0x0800 => v4(rest, bytes).map(Seen::Ip),
        0x86dd => v6(rest, bytes).map(Seen::Ip),
        0x0806 => Ok(Seen::Arp),
        0x88cc | 0x8809 => Ok(Seen::LinkLayer),
        0..0x0600 if rest.len() < 3 => Err(DropReason::EthernetTruncated),
        0..0x0600 if header[..6] == [1, 0x80, 0xc2, 0, 0, 0] && rest[..3] == [0x42, 0x42, 3] => {
            Ok(Seen::LinkLayer)
        }
        _ => Err(DropReason::EthertypeUnlisted),
    }
}

fn v4(bytes: &[u8], frame_bytes: u32) -> Result<Packet, DropReason> {
    let (fixed, _) = split(bytes, 20).ok_or(DropReason::Ipv4Truncated)?;
    let header_len = usize::from(fixed[0] & 15) * 4;
    let total_len = usize::from(be16(fixed, 2));
    if fixed[0] >> 4 != 4 {
        return Err(DropReason::Ipv4Version);
    } else if header_len < 20 {
        return Err(DropReason::Ipv4HeaderLength);
    } else if total_len < header_len {
        return Err(DropReason::Ipv4LengthShort);
    } else if total_len > bytes.len() {
        return Err(DropReason::Ipv4LengthLong);
    }
    options(&bytes[20..header_len])?;
    let address = |at| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let (source, destination) = (address(12), address(16));
    match (source.to_be_bytes(), destination.to_be_bytes()) {
        (from, to) if from == to => return Err(DropReason::SourceIsDestination),
        (_, [127, ..]) => return Err(DropReason::DestinationLoopback),
        ([127, ..], _) => return Err(DropReason::SourceLoopback),
        ([255, 255, 255, 255], _) => return Err(DropReason::SourceBroadcast),
        ([0, 0, 0, 0], _) => {}
        ([0, ..], _) => return Err(DropReason::SourceZero),
        ([224..240, ..], _) => return Err(DropReason::SourceMulticast),
        _ => {}
    }
    let place = be16(fixed, 6);
    let offset = usize::from(place & 0x1fff) * 8;
    let first = offset == 0 && place & 0x2000 != 0;
    if offset != 0 {
        later(fixed[9], offset, total_len)?;
    }
    let carried = Carried {
        protocol: fixed[9],
        first,
        later: offset != 0,
        fragment_header: false,
        v6: false,
        hop_limit: fixed[8],
    };
    Ok(Packet {
        addresses: Addresses::V4 {
            source,
            destination,
        },
        hop_limit: fixed[8],
        fragment: carried.fragment(),
        transport: transport(&bytes[header_len..total_len], &carried)?,
        upper: lies(header_len, total_len, bytes, frame_bytes),
        frame_bytes,
    })
}

fn options(mut rest: &[u8]) -> Result<(), DropReason> {
    while let Some((&kind, behind)) = rest.split_first() {
        rest = match kind {
            0 => return Ok(()),
            1 => behind,
            131 | 137 => return Err(DropReason::Ipv4SourceRoute),
            _ => match behind.first().map(|&length| usize::from(length)) {
                Some(length) if length >= 2 && length <= rest.len() => &rest[length..],
                _ => return Err(DropReason::Ipv4Options),
            },
        };
    }
    Ok(())
}

fn v6(bytes: &[u8], frame_bytes: u32) -> Result<Packet, DropReason> {
    let (fixed, behind) = split(bytes, 40).ok_or(DropReason::Ipv6Truncated)?;
    if fixed[0] >> 4 != 6 {
        return Err(DropReason::Ipv6Version);
    }
    let (payload, _) =
        split(behind, usize::from(be16(fixed, 4))).ok_or(DropReason::Ipv6LengthLong)?;
    let address = |at: usize| u128::from_be_bytes(fixed[at..at + 16].try_into().expect("16 bytes"));
    let (source, destination) = (address(8), address(24));
    if source == destination {
        return Err(DropReason::SourceIsDestination);
    } else if source >> 120 == 0xff {
        return Err(DropReason::SourceMulticast);
    } else if source == 1 {
        return Err(DropReason::SourceLoopback);
    } else if source >> 32 == 0xffff {
        return Err(DropReason::SourceMapped);
    } else if destination == 1 {
        return Err(DropReason::DestinationLoopback);
    } else if destination >> 32 == 0xffff {
        return Err(DropReason::DestinationMapped);
    }
    let mut carried = Carried {
        protocol: fixed[6],
        first: false,
        later: false,
        fragment_header: false,
        v6: true,
        hop_limit: fixed[7],
    };
    if fixed[6] == 0 && payload.is_empty() {
        return Err(DropReason::Ipv6LengthLong);
    }
    let upper = walk(payload, &mut carried)?;
    let halves = |address: u128| [(address >> 64) as u64, address as u64];
    Ok(Packet {
        addresses: Addresses::V6 {
            source: halves(source),
            destination: halves(destination),
        },
        hop_limit: fixed[7],
        fragment: carried.fragment(),
        transport: transport(upper, &carried)?,
        upper: lies(
            40 + payload.len() - upper.len(),
            40 + payload.len(),
            bytes,
            frame_bytes,
        ),
        frame_bytes,
    })
}

/// Follows the extension headers; returns what is behind them.
fn walk<'a>(mut rest: &'a [u8], carried: &mut Carried) -> Result<&'a [u8], DropReason> {
    for number in 0.. {
        let kind = carried.protocol;
        if !matches!(kind, 0 | 43 | 44 | 51 | 60) {
            break;
        } else if number == 8 {
            return Err(DropReason::Ipv6TooManyHeaders);
        } else if kind == 0 && number > 0 {
            return Err(DropReason::Ipv6HeaderOrder);
        }
        let short = if carried.first {
            DropReason::FragmentTiny
        } else {
            DropReason::Ipv6Truncated
        };
        let start: &[u8; 4] = rest.first_chunk().ok_or(short)?;
        let length = match kind {
            44 => 8,
            51 => (usize::from(start[1]) + 2) * 4,
            _ => (usize::from(start[1]) + 1) * 8,
        };
        let (header, behind) = split(rest, length).ok_or(short)?;
        match kind {
            43 if header[2] == 0 || header[3] != 0 => return Err(DropReason::Ipv6RoutingHeader),
            44 if carried.fragment_header => return Err(DropReason::FragmentRepeated),
            44 if be16(header, 2) >> 3 != 0 => {
                // Whatever it says that it carries, the first fragment may be TCP.
                later(6, usize::from(be16(header, 2) & !7), behind.len())?;
                carried.protocol = header[0];
                carried.later = true;
                return Ok(behind);
            }
            44 => (carried.fragment_header, carried.first) = (true, header[3] & 1 != 0),
            _ => {}
        }
        carried.protocol = header[0];
        rest = behind;
    }
    Ok(rest)
}

/// What the IP layer says of what it carries.
struct Carried {
    protocol: u8,
    first: bool,
    later: bool,
    fragment_header: bool,
    v6: bool,
    hop_limit: u8,
}

impl Carried {
    fn fragment(&self) -> Fragment {
        match (self.first, self.later) {
            (true, _) => Fragment::First,
            (_, true) => Fragment::Later,
            _ => Fragment::Whole,
        }
    }
}

/// What is wrong with a later fragment by itself.
fn later(protocol: u8, offset: usize, length: usize) -> Result<(), DropReason> {
    if offset + length > 65_535 {
        Err(DropReason::FragmentBeyond)
    } else if protocol == 6 && offset < 20 {
        Err(DropReason::FragmentOverlap)
    } else {
        Ok(())
    }
}

fn transport(segment: &[u8], carried: &Carried) -> Result<Transport, DropReason> {
    let short = |reason| {
        if carried.first {
            DropReason::FragmentTiny
        } else {
            reason
        }
    };
    let protocol = carried.protocol;
    let plain = Transport {
        protocol,
        selector: None,
        value: 0,
        source_port: 0,
        tcp_flags: 0,
    };
    let (least, truncated) = match protocol {
        _ if carried.later => return Ok(plain),
        6 => (20, DropReason::TcpTruncated),
        17 => (8, DropReason::UdpTruncated),
        132 => (12, DropReason::SctpTruncated),
        1 | 58 if (protocol == 58) != carried.v6 => return Err(DropReason::IcmpFamily),
        1 | 58 => (8, DropReason::IcmpTruncated),
        _ => return Ok(plain),
    };
    let (header, _) = split(segment, least).ok_or(short(truncated))?;
    let mut tcp_flags = 0;
    match protocol {
        6 => {
            let length = usize::from(header[12] >> 4) * 4;
            if length < 20 {
                return Err(DropReason::TcpDataOffset);
            } else if length > segment.len() {
                return Err(short(DropReason::TcpDataOffset));
            }
            tcp_flags = header[13];
            flags(tcp_flags)?;
        }
        17 => {
            let length = usize::from(be16(header, 4));
            if length < 8 || (length > segment.len() && !carried.first) {
                return Err(DropReason::UdpLength);
            }
        }
        58 if (133..=137).contains(&header[0]) => {
            if carried.hop_limit != 255 {
                return Err(DropReason::NeighbourDiscoveryHopLimit);
            } else if carried.fragment_header {
                return Err(DropReason::FragmentNeighbourDiscovery);
            } else if header[1] != 0 {
                return Err(DropReason::NeighbourDiscoveryCode);
            }
        }
        _ => {}
    }
    let (source_port, value, selector) = match protocol {
        1 => (0, be16(header, 0), Selector::Icmp),
        58 => (0, be16(header, 0), Selector::Icmpv6),
        6 => (be16(header, 0), be16(header, 2), Selector::Tcp),
        17 => (be16(header, 0), be16(header, 2), Selector::Udp),
        _ => (be16(header, 0), be16(header, 2), Selector::Sctp),
    };
    if has_ports(protocol) && (source_port == 0 || value == 0) {
        return Err(DropReason::PortZero);
    }
    Ok(Transport {
        protocol,
        selector: Some(selector),
        value,
        source_port,
        tcp_flags,
    })
}

fn flags(byte: u8) -> Result<(), DropReason> {
    let [fin, syn, rst, psh, ack, urg] = [0, 1, 2, 3, 4, 5].map(|bit| byte >> bit & 1 == 1);
    let valid = match (syn, rst, fin) {
        (true, false, false) => !(ack && urg),
        (false, true, false) => !urg,
        (false, false, _) => ack,
        _ => false,
    };
    match (fin, syn, rst) {
        _ if valid => Ok(()),
        _ if byte & 0x3f == 0 => Err(DropReason::TcpFlagsNull),
        (true, true, _) => Err(DropReason::TcpFlagsSynFin),
        (_, true, true) => Err(DropReason::TcpFlagsSynRst),
        (true, _, true) => Err(DropReason::TcpFlagsFinRst),
        (true, ..) if psh && urg => Err(DropReason::TcpFlagsXmas),
        _ => Err(DropReason::TcpFlagsInvalid),
    }
}

/// Where a part of `bytes`, which reach to the end of the frame, lies in the frame.
fn lies(start: usize, end: usize, bytes: &[u8], frame_bytes: u32) -> Upper {
    let before = frame_bytes - bytes.len() as u32;
    Upper {
        start: before + start as u32,
        end: before + end as u32,
    }
}

fn split(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(length)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
