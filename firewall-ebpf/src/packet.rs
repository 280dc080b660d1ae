//! The frame in the driver's buffer. With [`crate::tables`], one of the two places where the kernel's memory is read.
#![expect(
    unsafe_code,
    reason = "packet pointers are checked against the packet's end here, for everybody else"
)]

use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use firewall_common::frame::{Frame, MAX_OFFSET, Wire};

/// A frame as XDP hands it over; [`Frame::len`] covers its first buffer.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
}

impl<'a> XdpFrame<'a> {
    /// The frame of `context`.
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        (self.context.data_end() - self.context.data()) as u32
    }

    #[inline(always)]
    fn full_len(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed to this program.
        unsafe { bpf_xdp_get_buff_len(self.context.ctx) as u32 }
    }

    #[inline(always)]
    fn any_offset(&self, offset: u32) -> u32 {
        // SAFETY: as above.
        let unknown = unsafe { (*self.context.ctx).rx_queue_index };
        forget(offset, unknown) & MAX_OFFSET
    }

    #[inline(always)]
    fn view<T: Wire>(&self, offset: u32) -> Option<&T> {
        // No offset is larger; a comparison would tell the verifier the same, but make it follow every offset apart.
        let start = self.context.data() + (offset & MAX_OFFSET) as usize;
        if end_of::<T>(start) > self.context.data_end() {
            return None;
        }
        // SAFETY: the bytes lie between data and data_end, T may be any bytes at any address, and nothing in this
        // program writes to the packet.
        Some(unsafe { &*(start as *const T) })
    }
}

/// The end of a `T` at `start`, hidden from the compiler. It would turn `start + 1 > end` into `start >= end`, from which the verifier
/// learns nothing (find_good_pkt_pointers, kernel/bpf/verifier.c), and compute the sum and the pointer apart.
#[inline(always)]
fn end_of<T>(start: usize) -> usize {
    let end;
    // SAFETY: one addition.
    unsafe {
        core::arch::asm!(
            "{end} = {start}",
            "{end} += {size}",
            start = in(reg) start,
            end = out(reg) end,
            size = const size_of::<T>(),
            options(pure, nomem, nostack),
        );
    }
    end
}

/// `value` itself. The verifier does not see that both exclusive ors cancel out.
#[inline(always)]
fn forget(value: u32, unknown: u32) -> u32 {
    let mut result = u64::from(value);
    // SAFETY: two exclusive ors.
    unsafe {
        core::arch::asm!(
            "{result} ^= {unknown}",
            "{result} ^= {unknown}",
            result = inout(reg) result,
            unknown = in(reg) u64::from(unknown),
            options(pure, nomem, nostack),
        );
    }
    result as u32
}
