//! IPv4 (RFC 791): the header, its options as far as they are dangerous, and addresses that cannot be.

use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    network_endian::{U16, U32},
};

use super::{Addresses, Fragment, Packet, transport};
use crate::abi::reason::DropReason;
use crate::frame::Frame;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Ipv4 {
    version_ihl: u8,
    service: u8,
    total_length: U16,
    identification: U16,
    fragment: U16,
    time_to_live: u8,
    protocol: u8,
    checksum: U16,
    source: U32,
    destination: U32,
}

/// Shortest header: five 32-bit words.
const MIN_HEADER: u32 = 20;
/// Bytes of options that IHL = 15 leaves room for, each of which may be one option.
const MAX_OPTIONS: u32 = 40;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

mod option {
    pub(super) const END: u8 = 0;
    pub(super) const NO_OPERATION: u8 = 1;
    pub(super) const LOOSE_SOURCE_ROUTE: u8 = 131;
    pub(super) const STRICT_SOURCE_ROUTE: u8 = 137;
}

/// Reads the packet whose IPv4 header starts at `offset`.
///
/// # Errors
///
/// The reason to drop it.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, offset: u32) -> Result<Packet, DropReason> {
    let header: &Ipv4 = frame.view(offset).ok_or(DropReason::Ipv4Truncated)?;
    if header.version_ihl >> 4 != 4 {
        return Err(DropReason::Ipv4Version);
    }
    let header_length = u32::from(header.version_ihl & 0xf) * 4;
    if header_length < MIN_HEADER {
        return Err(DropReason::Ipv4HeaderLength);
    }
    let total_length = u32::from(header.total_length.get());
    if total_length < header_length {
        return Err(DropReason::Ipv4LengthShort);
    }
    let end = offset + total_length;
    let mut frame_bytes = frame.len();
    if end > frame_bytes {
        frame_bytes = frame.full_len();
        if end > frame_bytes {
            return Err(DropReason::Ipv4LengthLong);
        }
    }
    if header_length > MIN_HEADER {
        check_options(frame, offset + MIN_HEADER, offset + header_length)?;
    }

    let source = header.source.get();
    let destination = header.destination.get();
    check_addresses(source, destination)?;

    let bits = header.fragment.get();
    let fragment = if bits & FRAGMENT_OFFSET != 0 {
        return Err(DropReason::FragmentLater);
    } else if bits & MORE_FRAGMENTS != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    };
    let transport = transport::parse(
        frame,
        &transport::Place {
            protocol: header.protocol,
            start: offset + header_length,
            end,
            fragment,
            fragment_header: false,
            ipv6: false,
            hop_limit: header.time_to_live,
        },
    )?;
    Ok(Packet {
        addresses: Addresses::V4 {
            source,
            destination,
        },
        hop_limit: header.time_to_live,
        fragment,
        transport,
        frame_bytes,
    })
}

/// Walks the options from `start` to `end`; source routes would let a sender choose another way in.
#[inline(always)]
fn check_options<F: Frame + ?Sized>(frame: &F, start: u32, end: u32) -> Result<(), DropReason> {
    let mut at = start;
    for _ in 0..MAX_OPTIONS {
        at = frame.any_offset(at);
        if at >= end {
            break;
        }
        match *frame.view::<u8>(at).ok_or(DropReason::Ipv4Truncated)? {
            option::END => break,
            option::NO_OPERATION => at += 1,
            option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
                return Err(DropReason::Ipv4SourceRoute);
            }
            _ => {
                let length = *frame.view::<u8>(at + 1).ok_or(DropReason::Ipv4Options)?;
                if length < 2 || at + u32::from(length) > end {
                    return Err(DropReason::Ipv4Options);
                }
                at += u32::from(length);
            }
        }
    }
    Ok(())
}

#[inline(always)]
fn check_addresses(source: u32, destination: u32) -> Result<(), DropReason> {
    if source == destination {
        return Err(DropReason::SourceIsDestination);
    }
    if destination >> 24 == 127 {
        return Err(DropReason::DestinationLoopback);
    }
    match source >> 24 {
        0 if source != 0 => Err(DropReason::SourceZero),
        127 => Err(DropReason::SourceLoopback),
        224..=239 => Err(DropReason::SourceMulticast),
        255 if source == u32::MAX => Err(DropReason::SourceBroadcast),
        _ => Ok(()),
    }
}
