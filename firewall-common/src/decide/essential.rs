//! Packets without which a host falls off its network. They pass before any rule, unless the rule file switches them off.
//! ICMP errors are essential too, but must be about a packet of ours: see [`super::related`].
//!
//! A switched-off essential that is an IP packet is left to the rules; ARP and link-layer frames, which no rule can
//! name, are then dropped.

use super::Decision;
use crate::abi::image::{Selector, essential, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::parse::{Addresses, Packet, protocol};
use crate::tables::Tables;

/// Solicitations and advertisements of routers and neighbours (RFC 4861); redirects are left to the rules.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u16> = 133..=136;
/// MLD query, report, done (RFC 2710).
const MLD: core::ops::RangeInclusive<u16> = 130..=132;
/// MLDv2 report (RFC 3810).
const MLD2_REPORT: u16 = 143;
/// Hop limit of IGMP (RFC 3376, 4) and MLD (RFC 3810, 5): they never cross a router.
const HOP_LIMIT_MEMBERSHIP: u8 = 1;

/// DHCP server and client ports (RFC 2131, 4.1; RFC 8415, 7.2).
mod port {
    pub(super) const DHCP_SERVER: u16 = 67;
    pub(super) const DHCP_CLIENT: u16 = 68;
    pub(super) const DHCPV6_SERVER: u16 = 547;
    pub(super) const DHCPV6_CLIENT: u16 = 546;
}

/// ARP.
#[inline(always)]
pub fn arp<T: Tables>(tables: &T) -> Option<Decision> {
    without_rules(tables, essential::ARP, PassReason::Arp)
}

/// LLDP, LACP, STP.
#[inline(always)]
pub fn link_layer<T: Tables>(tables: &T) -> Option<Decision> {
    without_rules(tables, essential::LINK_LAYER, PassReason::LinkLayer)
}

#[inline(always)]
fn without_rules<T: Tables>(tables: &T, switch: u32, reason: PassReason) -> Option<Decision> {
    Some(if tables.u32(header::ESSENTIALS)? & switch != 0 {
        Decision::passed(reason)
    } else {
        Decision::dropped(DropReason::EssentialOff)
    })
}

/// The reason to let an IP packet pass before the rules are asked, if there is one.
#[inline(always)]
pub fn pass<T: Tables>(packet: &Packet, tables: &T) -> Option<PassReason> {
    let (switch, reason) = candidate(packet)?;
    (tables.u32(header::ESSENTIALS)? & switch != 0).then_some(reason)
}

#[inline(always)]
fn candidate(packet: &Packet) -> Option<(u32, PassReason)> {
    const MEMBERSHIP: (u32, PassReason) = (
        essential::MULTICAST_MEMBERSHIP,
        PassReason::MulticastMembership,
    );
    let transport = &packet.transport;
    match transport.selector {
        Some(Selector::Udp) => {
            is_dhcp_answer(packet).then_some((essential::DHCP_CLIENT, PassReason::DhcpClient))
        }
        Some(Selector::Icmpv6) => {
            let kind = transport.value >> 8;
            if NEIGHBOUR_DISCOVERY.contains(&kind) {
                Some((
                    essential::NEIGHBOUR_DISCOVERY,
                    PassReason::NeighbourDiscovery,
                ))
            } else if (MLD.contains(&kind) || kind == MLD2_REPORT)
                && packet.hop_limit == HOP_LIMIT_MEMBERSHIP
                && from_link_local(packet)
            {
                Some(MEMBERSHIP)
            } else {
                None
            }
        }
        // A remote sender can choose a time to live that ends here, but not send to a group of this link.
        None if transport.protocol == protocol::IGMP
            && packet.hop_limit == HOP_LIMIT_MEMBERSHIP
            && to_group_v4(packet) =>
        {
            Some(MEMBERSHIP)
        }
        Some(Selector::Tcp | Selector::Sctp | Selector::Icmp) | None => None,
    }
}

#[inline(always)]
fn is_dhcp_answer(packet: &Packet) -> bool {
    let (source, destination) = (packet.transport.source_port, packet.transport.value);
    match packet.addresses {
        Addresses::V4 { .. } => source == port::DHCP_SERVER && destination == port::DHCP_CLIENT,
        Addresses::V6 { .. } => {
            source == port::DHCPV6_SERVER
                && destination == port::DHCPV6_CLIENT
                && from_link_local(packet)
        }
    }
}

/// Whether the destination is an IPv4 multicast address.
#[inline(always)]
fn to_group_v4(packet: &Packet) -> bool {
    match packet.addresses {
        Addresses::V4 { destination, .. } => destination >> 28 == 0xe,
        Addresses::V6 { .. } => false,
    }
}

/// Whether the source is in fe80::/10, or unspecified as in MLD before an address is set (RFC 3590).
#[inline(always)]
fn from_link_local(packet: &Packet) -> bool {
    match packet.addresses {
        Addresses::V4 { .. } => false,
        Addresses::V6 { source, .. } => {
            source[0] >> 54 == 0xfe80 >> 6 || source[0] | source[1] == 0
        }
    }
}

/// Whether a packet that leaves is an essential that is switched on; `bits` are those of the egress header.
#[inline(always)]
pub fn leaves(packet: &Packet, bits: u32) -> bool {
    let transport = &packet.transport;
    let kind = transport.value >> 8;
    let switch = match transport.selector {
        Some(Selector::Udp) => {
            let ports = (transport.source_port, transport.value);
            let asks_v4 = ports == (port::DHCP_CLIENT, port::DHCP_SERVER);
            let asks_v6 = ports == (port::DHCPV6_CLIENT, port::DHCPV6_SERVER);
            match packet.addresses {
                Addresses::V4 { .. } if asks_v4 => essential::DHCP_CLIENT,
                Addresses::V6 { .. } if asks_v6 => essential::DHCP_CLIENT,
                _ => 0,
            }
        }
        Some(Selector::Icmp | Selector::Icmpv6) if transport.is_icmp_error() => essential::PATH_MTU,
        Some(Selector::Icmpv6) if NEIGHBOUR_DISCOVERY.contains(&kind) => {
            essential::NEIGHBOUR_DISCOVERY
        }
        Some(Selector::Icmpv6) if MLD.contains(&kind) || kind == MLD2_REPORT => {
            essential::MULTICAST_MEMBERSHIP
        }
        None if transport.protocol == protocol::IGMP => essential::MULTICAST_MEMBERSHIP,
        _ => 0,
    };
    bits & switch != 0
}
