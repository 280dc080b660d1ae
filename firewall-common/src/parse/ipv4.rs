//! IPv4 (RFC 791): the header, its options as far as they are dangerous, and addresses that cannot be.

use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    network_endian::{U16, U32},
};

use super::{Addresses, Fragment, Packet, Upper, transport};
use crate::abi::reason::DropReason;
use crate::frame::Frame;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Ipv4 {
    pub(super) version_ihl: u8,
    service: u8,
    total_length: U16,
    identification: U16,
    pub(super) fragment: U16,
    time_to_live: u8,
    pub(super) protocol: u8,
    checksum: U16,
    pub(super) source: U32,
    pub(super) destination: U32,
}

/// Version 4 and no options, which nearly every packet has.
const PLAIN: u8 = 0x45;
/// Shortest header: five 32-bit words.
pub(super) const MIN_HEADER: u32 = 20;
/// Bytes of options that IHL = 15 leaves room for, each of which may be one option.
const MAX_OPTIONS: u32 = 40;
const MORE_FRAGMENTS: u16 = 0x2000;
pub(super) const FRAGMENT_OFFSET: u16 = 0x1fff;

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
    let header_length = u32::from(header.version_ihl & 0xf) * 4;
    if header.version_ihl != PLAIN {
        if header.version_ihl >> 4 != 4 {
            return Err(DropReason::Ipv4Version);
        }
        if header_length < MIN_HEADER {
            return Err(DropReason::Ipv4HeaderLength);
        }
    }
    let mut total_length = u32::from(header.total_length.get());
    if F::MAY_BE_CUT_UP && total_length == 0 {
        total_length = frame.big_tcp_length(offset);
    }
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
    let fragment = if bits & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == 0 {
        Fragment::Whole
    } else {
        let offset = u32::from(bits & FRAGMENT_OFFSET) * 8;
        if offset == 0 {
            Fragment::First
        } else {
            transport::check_later(header.protocol, offset, offset + total_length)?;
            Fragment::Later
        }
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
        upper: Upper {
            start: offset + header_length,
            end,
        },
        frame_bytes,
    })
}

/// The identification in the header at `offset`.
#[inline(always)]
pub(super) fn identification<F: Frame + ?Sized>(frame: &F, offset: u32) -> Option<u32> {
    let header: &Ipv4 = frame.view(offset)?;
    Some(u32::from(header.identification.get()))
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
    let net = source >> 24;
    if net.wrapping_sub(1) < 126 || net.wrapping_sub(128) < 96 {
        return Ok(());
    }
    match net {
        0 if source != 0 => Err(DropReason::SourceZero),
        127 => Err(DropReason::SourceLoopback),
        224..=239 => Err(DropReason::SourceMulticast),
        255 if source == u32::MAX => Err(DropReason::SourceBroadcast),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn a_length_of_zero_is_believed_of_what_no_wire_carries() {
        const TCP_HEADER: u32 = 20;
        for (packet, expected) in [
            (65_536, Ok(14 + 65_536)),
            (100_000, Ok(14 + 100_000)),
            (65_535, Err(DropReason::Ipv4LengthShort)),
            (MIN_HEADER + TCP_HEADER, Err(DropReason::Ipv4LengthShort)),
        ] {
            let mut frame = vec![0; 14 + packet as usize];
            frame[14] = PLAIN;
            frame[14 + 9] = super::super::protocol::TCP;
            frame[14 + 12..14 + 20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
            // Ports, data offset and ACK.
            frame[34..38].copy_from_slice(&[0, 80, 0, 81]);
            frame[46..48].copy_from_slice(&[0x50, 0x10]);
            let end = parse(&frame[..], 14).map(|packet| packet.upper.end);
            assert_eq!(end, expected, "{packet}");
        }
    }
}
