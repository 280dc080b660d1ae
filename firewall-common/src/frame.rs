//! A received frame as bytes that can only be read with their bounds checked.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Furthest offset that a header can start at, all ones so that it is a mask too. The parser's own limits (two tags, an
/// IPv6 header and eight extension headers of 2 KiB make 16,446 bytes) stay below; the verifier needs a number.
pub const MAX_OFFSET: u32 = 0x7fff;

/// A header as it lies on the wire.
pub trait Wire: FromBytes + Immutable + KnownLayout + Unaligned {}
impl<T: FromBytes + Immutable + KnownLayout + Unaligned> Wire for T {}

/// A received frame, beginning with its Ethernet header.
pub trait Frame {
    /// Whether frames may be longer than any wire carries, because the card cuts them up: what leaves may. The verifier does
    /// not have to look at what then is only dead code.
    const MAY_BE_CUT_UP: bool = true;

    /// Bytes that [`Frame::view`] can reach: the whole frame, or the first buffer of a frame spread over several.
    fn len(&self) -> u32;

    /// Bytes of the whole frame, over all of its buffers. Asked only where [`Frame::len`] is not enough.
    fn full_len(&self) -> u32;

    /// The header of type `T` at `offset`, or `None` where the bytes do not reach that far.
    fn view<T: Wire>(&self, offset: u32) -> Option<&T>;

    /// `offset` itself. A loop that walks a chain of headers passes its offset through here, so that the verifier forgets
    /// what it knew of the value: otherwise it follows each chain of lengths apart, and there are too many.
    fn any_offset(&self, offset: u32) -> u32 {
        offset
    }

    /// Bytes from `offset` to the frame's end where they are more than a 16-bit length can say, else 0. Of what the card cuts
    /// up the length field may say 0 (`iph_totlen`, include/linux/ip.h); of all else 0 is a lie.
    #[inline(always)]
    fn big_tcp_length(&self, offset: u32) -> u32 {
        let length = self.full_len().saturating_sub(offset);
        if length > u32::from(u16::MAX) {
            length
        } else {
            0
        }
    }

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame in plain memory, all of it in one piece.
impl Frame for [u8] {
    fn len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }

    fn full_len(&self) -> u32 {
        <[u8]>::len(self) as u32
    }

    fn view<T: Wire>(&self, offset: u32) -> Option<&T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let rest = self.get(offset as usize..)?;
        T::ref_from_prefix(rest).ok().map(|(header, _)| header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::network_endian::U16;

    #[test]
    fn a_view_ends_with_the_bytes() {
        let frame: &[u8] = &[1, 2, 3];
        assert_eq!(frame.view::<U16>(1).map(|v| v.get()), Some(0x0203));
        assert!(frame.view::<U16>(2).is_none());
        assert!(frame.view::<U16>(3).is_none());
        assert!(frame.view::<U16>(u32::MAX).is_none());
    }
}
