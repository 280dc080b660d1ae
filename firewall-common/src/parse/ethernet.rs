//! Ethernet II, up to two VLAN tags, and the link-layer protocols that a host takes part in.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned, network_endian::U16};

use crate::abi::reason::DropReason;
use crate::frame::Frame;

/// Tags that are looked behind: one customer and one service tag (IEEE 802.1Q, 802.1ad). More are refused, because the
/// kernel untags any number of priority tags (VID 0) and would deliver what lies behind.
pub const MAX_TAGS: usize = 2;

/// What the frame carries, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// ARP (RFC 826).
    Arp,
    /// LLDP, LACP or STP.
    LinkLayer,
    /// IPv4 from `offset`.
    Ipv4 {
        /// Bytes from the start of the frame.
        offset: u32,
    },
    /// IPv6 from `offset`.
    Ipv6 {
        /// Bytes from the start of the frame.
        offset: u32,
    },
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: U16,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Tag {
    control: U16,
    ethertype: U16,
}

mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const SERVICE_VLAN: u16 = 0x88a8;
    /// Slow protocols: LACP and its kin (IEEE 802.3, annex 57A).
    pub(super) const SLOW: u16 = 0x8809;
    pub(super) const LLDP: u16 = 0x88cc;
    /// Values below are an 802.3 length, with an LLC header behind.
    pub(super) const SMALLEST: u16 = 0x0600;
}

/// Bits of a tag's control field that are the VLAN id; 0 there makes it a priority tag, of no VLAN (IEEE 802.1Q, 9.6).
const VLAN_ID: u16 = 0x0fff;
/// Bridge group address: spanning tree (IEEE 802.1D, table 7-10).
const BRIDGE_GROUP: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00];
/// LLC header of spanning tree: both service access points 0x42, unnumbered information.
const LLC_SPANNING_TREE: [u8; 3] = [0x42, 0x42, 0x03];

/// Reads the Ethernet header and tags.
///
/// # Errors
///
/// The reason to drop the frame.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Content, DropReason> {
    let header: &Ethernet = frame.view(0).ok_or(DropReason::EthernetTruncated)?;
    let mut ethertype = header.ethertype.get();
    let mut offset = size_of::<Ethernet>() as u32;
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        let tag: &Tag = frame.view(offset).ok_or(DropReason::EthernetTruncated)?;
        ethertype = tag.ethertype.get();
        offset += size_of::<Tag>() as u32;
    }
    match ethertype {
        ethertype::IPV4 => Ok(Content::Ipv4 { offset }),
        ethertype::IPV6 => Ok(Content::Ipv6 { offset }),
        ethertype::ARP => Ok(Content::Arp),
        ethertype::LLDP | ethertype::SLOW => Ok(Content::LinkLayer),
        ethertype::VLAN | ethertype::SERVICE_VLAN => Err(DropReason::VlanTooManyTags),
        length if length < ethertype::SMALLEST => {
            let llc: &[u8; 3] = frame.view(offset).ok_or(DropReason::EthernetTruncated)?;
            if header.destination == BRIDGE_GROUP && *llc == LLC_SPANNING_TREE {
                Ok(Content::LinkLayer)
            } else {
                Err(DropReason::EthertypeUnlisted)
            }
        }
        _ => Err(DropReason::EthertypeUnlisted),
    }
}

/// Whether `listed` holds for the VLAN ids of all tags of a frame that [`parse`] has let through, or for 0 if it is of no
/// VLAN. `None` if `listed` does not know.
#[inline(always)]
pub fn all_vlans<F: Frame + ?Sized>(
    frame: &F,
    listed: impl Fn(u16) -> Option<bool>,
) -> Option<bool> {
    let mut ethertype = frame.view::<Ethernet>(0)?.ethertype.get();
    let mut offset = size_of::<Ethernet>() as u32;
    let mut is_tagged = false;
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        let tag: &Tag = frame.view(offset)?;
        let id = tag.control.get() & VLAN_ID;
        if id != 0 {
            if !listed(id)? {
                return Some(false);
            }
            is_tagged = true;
        }
        ethertype = tag.ethertype.get();
        offset += size_of::<Tag>() as u32;
    }
    if is_tagged { Some(true) } else { listed(0) }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ethertype::VLAN || ethertype == ethertype::SERVICE_VLAN
}
