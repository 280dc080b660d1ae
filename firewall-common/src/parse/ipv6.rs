//! IPv6 (RFC 8200): the header and a bounded walk of the extension headers to the real upper layer.

use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    network_endian::{U16, U32, U64},
};

use super::{Addresses, Fragment, Packet, Upper, protocol, transport};
use crate::abi::reason::DropReason;
use crate::frame::Frame;

/// Extension headers that are followed. RFC 8200 (4.1) knows of at most seven in one packet, one of them twice.
pub const MAX_EXTENSION_HEADERS: usize = 8;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Ipv6 {
    pub(super) version_class_flow: U32,
    payload_length: U16,
    pub(super) next_header: u8,
    hop_limit: u8,
    pub(super) source: [U64; 2],
    pub(super) destination: [U64; 2],
}

/// The first four bytes of every extension header, and all that is looked at in a routing or fragment header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Extension {
    next_header: u8,
    /// Length in 8-byte units beyond the first (4-byte units beyond two for AH); reserved in a fragment header.
    length: u8,
    /// Fragment header: offset in 8-byte units in the upper 13 bits, "more" in the lowest. Routing: type, segments left.
    third: U16,
}

impl Extension {
    /// Of the fragment header of a first fragment, what follows it.
    #[inline(always)]
    pub(super) fn of_first_fragment(&self) -> Option<u8> {
        (self.third.get() & FRAGMENT_OFFSET == 0).then_some(self.next_header)
    }
}

/// Every extension header is at least this long.
pub(super) const MIN_EXTENSION: u32 = 8;
const MORE_FRAGMENTS: u16 = 1;
const FRAGMENT_OFFSET: u16 = 0xfff8;

/// Reads the packet whose IPv6 header starts at `offset`.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, offset: u32) -> Result<Packet, DropReason> {
    let header: &Ipv6 = frame.view(offset).ok_or(DropReason::Ipv6Truncated)?;
    if header.version_class_flow.get() >> 28 != 6 {
        return Err(DropReason::Ipv6Version);
    }
    let start = offset + size_of::<Ipv6>() as u32;
    let end = start + u32::from(header.payload_length.get());
    let mut frame_bytes = frame.len();
    if end > frame_bytes {
        frame_bytes = frame.full_len();
        if end > frame_bytes {
            return Err(DropReason::Ipv6LengthLong);
        }
    }
    let source = [header.source[0].get(), header.source[1].get()];
    let destination = [header.destination[0].get(), header.destination[1].get()];
    check_addresses(source, destination)?;

    let chain = walk(frame, header.next_header, start, end)?;
    let transport = transport::parse(
        frame,
        &transport::Place {
            protocol: chain.protocol,
            start: chain.at,
            end,
            fragment: chain.fragment,
            fragment_header: chain.fragment_header,
            ipv6: true,
            hop_limit: header.hop_limit,
        },
    )?;
    Ok(Packet {
        addresses: Addresses::V6 {
            source,
            destination,
        },
        hop_limit: header.hop_limit,
        fragment: chain.fragment,
        transport,
        upper: Upper {
            start: chain.at,
            end,
        },
        frame_bytes,
    })
}

struct Chain {
    protocol: u8,
    at: u32,
    fragment: Fragment,
    fragment_header: bool,
}

/// Follows the extension headers from `start`, in a later fragment to the fragment header.
#[inline(always)]
fn walk<F: Frame + ?Sized>(
    frame: &F,
    first: u8,
    start: u32,
    end: u32,
) -> Result<Chain, DropReason> {
    let mut chain = Chain {
        protocol: first,
        at: start,
        fragment: Fragment::Whole,
        fragment_header: false,
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        chain.at = frame.any_offset(chain.at);
        match chain.protocol {
            protocol::HOP_BY_HOP if chain.at != start => return Err(DropReason::Ipv6HeaderOrder),
            protocol::HOP_BY_HOP
            | protocol::DESTINATION_OPTIONS
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AH => {}
            _ => return Ok(chain),
        }
        let truncated = match chain.fragment {
            Fragment::First => DropReason::FragmentTiny,
            Fragment::Whole | Fragment::Later => DropReason::Ipv6Truncated,
        };
        // RFC 2675: no payload at all behind a hop-by-hop header is how a jumbogram says that its length is in there.
        let truncated = match chain.protocol {
            protocol::HOP_BY_HOP if chain.at == end => DropReason::Ipv6LengthLong,
            _ => truncated,
        };
        let extension: &Extension = frame.view(chain.at).ok_or(truncated)?;
        let length = match chain.protocol {
            protocol::FRAGMENT => MIN_EXTENSION,
            protocol::AH => (u32::from(extension.length) + 2) * 4,
            _ => (u32::from(extension.length) + 1) * 8,
        };
        // AH alone counts in 4-byte units, so that a length of 0 would leave it shorter than any header can be.
        if length < MIN_EXTENSION || chain.at + length > end {
            return Err(truncated);
        }
        let third = extension.third.get();
        match chain.protocol {
            protocol::ROUTING => {
                let (kind, segments_left) = (third >> 8, third & 0xff);
                if kind == 0 || segments_left != 0 {
                    return Err(DropReason::Ipv6RoutingHeader);
                }
            }
            protocol::FRAGMENT => {
                if chain.fragment_header {
                    return Err(DropReason::FragmentRepeated);
                }
                chain.fragment_header = true;
                if third & FRAGMENT_OFFSET != 0 {
                    let offset = u32::from(third & FRAGMENT_OFFSET);
                    let at = chain.at + length;
                    transport::check_later(protocol::TCP, offset, offset + (end - at))?;
                    return Ok(Chain {
                        protocol: extension.next_header,
                        at,
                        fragment: Fragment::Later,
                        fragment_header: true,
                    });
                }
                if third & MORE_FRAGMENTS != 0 {
                    chain.fragment = Fragment::First;
                }
            }
            _ => {}
        }
        chain.protocol = extension.next_header;
        chain.at += length;
    }
    match chain.protocol {
        protocol::HOP_BY_HOP
        | protocol::DESTINATION_OPTIONS
        | protocol::ROUTING
        | protocol::FRAGMENT
        | protocol::AH => Err(DropReason::Ipv6TooManyHeaders),
        _ => Ok(chain),
    }
}

/// The identification in the fragment header of the packet at `offset`, which [`parse`] has let through.
#[inline(always)]
pub(super) fn identification<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<u32> {
    let header: &Ipv6 = frame.view(offset)?;
    let mut protocol = header.next_header;
    let mut at = offset + size_of::<Ipv6>() as u32;
    for _ in 0..MAX_EXTENSION_HEADERS {
        at = frame.any_offset(at);
        let extension: &Extension = frame.view(at)?;
        at += match protocol {
            protocol::FRAGMENT => {
                return frame
                    .view(at + 4)
                    .map(|identification: &U32| identification.get());
            }
            protocol::AH => (u32::from(extension.length) + 2) * 4,
            _ => (u32::from(extension.length) + 1) * 8,
        };
        protocol = extension.next_header;
    }
    None
}

/// Lower half of `::1`.
const LOOPBACK: u64 = 1;
/// Upper bits of the lower half of `::ffff:0:0/96`.
const MAPPED: u64 = 0xffff;

#[inline(always)]
fn check_addresses(source: [u64; 2], destination: [u64; 2]) -> Result<(), DropReason> {
    if equal(source, destination) {
        return Err(DropReason::SourceIsDestination);
    }
    if source[0] >> 56 == 0xff {
        return Err(DropReason::SourceMulticast);
    }
    if source[0] == 0 {
        if source[1] == LOOPBACK {
            return Err(DropReason::SourceLoopback);
        }
        if source[1] >> 32 == MAPPED {
            return Err(DropReason::SourceMapped);
        }
    }
    if destination[0] == 0 {
        if destination[1] == LOOPBACK {
            return Err(DropReason::DestinationLoopback);
        }
        if destination[1] >> 32 == MAPPED {
            return Err(DropReason::DestinationMapped);
        }
    }
    Ok(())
}

/// Whether two addresses are the same. Comparing the arrays would be a call, which costs more than all else here.
#[inline(always)]
const fn equal(a: [u64; 2], b: [u64; 2]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) == 0
}
