//! The packet that an ICMP error quotes (RFC 792; RFC 4443, 3): one that this host is said to have sent.

use super::ipv4::{self, Ipv4};
use super::ipv6::{self, Ipv6};
use super::{Addresses, Packet, Transport, protocol};
use crate::abi::reason::DropReason;
use crate::frame::{Frame, Wire};

/// Bytes of the ICMP header before the quoted packet.
const ICMP_HEADER: u32 = 8;

/// A quoted packet, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its addresses; the source is the host that the error came to.
    pub addresses: Addresses,
    /// What it carried.
    pub transport: Transport,
    /// Identifier of an echo message.
    pub identifier: u16,
    /// Sequence number of TCP.
    pub sequence: u32,
}

/// Reads the packet that the ICMP error `packet` quotes.
///
/// # Errors
///
/// The reason to drop the error: it is cut short, quotes a packet of another family, a later fragment or something that
/// no host sends, or has gone to another host than the one whose packet it quotes.
#[inline(always)]
pub fn parse<F: Frame + ?Sized>(frame: &F, packet: &Packet) -> Result<Quoted, DropReason> {
    let start = packet.upper.start + ICMP_HEADER;
    let (addresses, protocol, upper, ipv6) = match packet.addresses {
        Addresses::V4 { destination, .. } => {
            let header: &Ipv4 = view(frame, packet, start)?;
            let length = u32::from(header.version_ihl & 0xf) * 4;
            if header.version_ihl >> 4 != 4
                || length < ipv4::MIN_HEADER
                || header.fragment.get() & ipv4::FRAGMENT_OFFSET != 0
            {
                return Err(DropReason::IcmpMalformed);
            }
            let addresses = Addresses::V4 {
                source: header.source.get(),
                destination: header.destination.get(),
            };
            if header.source.get() != destination {
                return Err(DropReason::IcmpUnrelated);
            }
            (addresses, header.protocol, start + length, false)
        }
        Addresses::V6 { destination, .. } => {
            let header: &Ipv6 = view(frame, packet, start)?;
            if header.version_class_flow.get() >> 28 != 6 {
                return Err(DropReason::IcmpMalformed);
            }
            let source = [header.source[0].get(), header.source[1].get()];
            let addresses = Addresses::V6 {
                source,
                destination: [header.destination[0].get(), header.destination[1].get()],
            };
            if (source[0] ^ destination[0]) | (source[1] ^ destination[1]) != 0 {
                return Err(DropReason::IcmpUnrelated);
            }
            let upper = start + size_of::<Ipv6>() as u32;
            if header.next_header == protocol::FRAGMENT {
                let first = view::<_, ipv6::Extension>(frame, packet, upper)?
                    .of_first_fragment()
                    .ok_or(DropReason::IcmpMalformed)?;
                (addresses, first, upper + ipv6::MIN_EXTENSION, true)
            } else {
                (addresses, header.next_header, upper, true)
            }
        }
    };
    let bytes: &[u8; 8] = view(frame, packet, frame.any_offset(upper))?;
    let (transport, identifier, sequence) =
        Transport::quoted(protocol, ipv6, bytes).ok_or(DropReason::IcmpMalformed)?;
    Ok(Quoted {
        addresses,
        transport,
        identifier,
        sequence,
    })
}

/// The `T` at `offset`, which must lie before the end of the ICMP message.
#[inline(always)]
fn view<'a, F: Frame + ?Sized, T: Wire>(
    frame: &'a F,
    packet: &Packet,
    offset: u32,
) -> Result<&'a T, DropReason> {
    if offset + size_of::<T>() as u32 > packet.upper.end {
        return Err(DropReason::IcmpMalformed);
    }
    frame.view(offset).ok_or(DropReason::IcmpMalformed)
}
