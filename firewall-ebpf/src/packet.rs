//! The frame in the driver's buffer. With [`crate::tables`], one of the two places where the kernel's memory is read.
#![expect(
    unsafe_code,
    reason = "packet pointers are checked against the packet's end here, for everybody else"
)]

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_xdp_get_buff_len,
    programs::{TcContext, XdpContext},
};
use firewall_common::frame::{Frame, MAX_OFFSET, Wire};

/// What both kinds of program are given.
pub trait Context {
    /// As [`Frame::MAY_BE_CUT_UP`].
    const MAY_BE_CUT_UP: bool;

    /// Address of the first byte.
    fn start(&self) -> usize;

    /// Address behind the last byte that can be reached.
    fn end(&self) -> usize;

    /// Bytes of the whole frame.
    fn full_len(&self) -> u32;

    /// A number of which the verifier knows nothing.
    fn unknown(&self) -> u32;
}

impl Context for XdpContext {
    const MAY_BE_CUT_UP: bool = false;

    #[inline(always)]
    fn start(&self) -> usize {
        address_at::<{ offset_of!(xdp_md, data) }, _>(self.ctx)
    }

    #[inline(always)]
    fn end(&self) -> usize {
        address_at::<{ offset_of!(xdp_md, data_end) }, _>(self.ctx)
    }

    #[inline(always)]
    fn full_len(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed to this program.
        let length = unsafe { bpf_xdp_get_buff_len(self.ctx) as u32 };
        define_arguments();
        length
    }

    #[inline(always)]
    fn unknown(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.ctx).rx_queue_index }
    }
}

impl Context for TcContext {
    const MAY_BE_CUT_UP: bool = true;

    #[inline(always)]
    fn start(&self) -> usize {
        address_at::<{ offset_of!(__sk_buff, data) }, _>(self.skb.skb)
    }

    #[inline(always)]
    fn end(&self) -> usize {
        address_at::<{ offset_of!(__sk_buff, data_end) }, _>(self.skb.skb)
    }

    #[inline(always)]
    fn full_len(&self) -> u32 {
        self.len()
    }

    #[inline(always)]
    fn unknown(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed to this program.
        unsafe { (*self.skb.skb).queue_mapping }
    }
}

/// A frame as the kernel hands it over; [`Frame::len`] covers its first buffer.
pub struct KernelFrame<'a, C> {
    context: &'a C,
}

impl<'a, C: Context> KernelFrame<'a, C> {
    /// The frame of `context`.
    #[inline(always)]
    pub fn new(context: &'a C) -> Self {
        Self { context }
    }
}

impl<C: Context> Frame for KernelFrame<'_, C> {
    const MAY_BE_CUT_UP: bool = C::MAY_BE_CUT_UP;

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.context.end() - self.context.start()) as u32
    }

    #[inline(always)]
    fn full_len(&self) -> u32 {
        self.context.full_len()
    }

    #[inline(always)]
    fn any_offset(&self, offset: u32) -> u32 {
        forget(offset, self.context.unknown()) & MAX_OFFSET
    }

    #[inline(always)]
    fn view<T: Wire>(&self, offset: u32) -> Option<&T> {
        let start = address_of::<T, _>(self.context, offset)?;
        // SAFETY: the bytes lie between start and end, T may be any bytes at any address, and what writes to the packet holds
        // no view of it ([`write`]).
        Some(unsafe { &*(start as *const T) })
    }
}

/// Writes `BYTES` bytes from `source` on, which is aligned to 8, over those at `offset`; whether the frame reaches that far. Nobody
/// may hold a [`Frame::view`] of them. It goes by words, where the compiler would copy each byte by itself.
///
/// # Safety
///
/// There are so many bytes at `source`.
#[inline(always)]
pub unsafe fn write<const BYTES: usize, C: Context>(
    context: &C,
    offset: u32,
    source: *const u64,
) -> bool {
    let Some(start) = address_of::<[u8; BYTES], _>(context, offset) else {
        return false;
    };
    // SAFETY: the bytes lie between start and end, and nothing refers to them; the source has them too. The machine writes words
    // at any address.
    unsafe {
        let mut done = 0;
        while done + 8 <= BYTES {
            (start as *mut u64)
                .byte_add(done)
                .write_unaligned(source.byte_add(done).read());
            done += 8;
        }
        if done + 4 <= BYTES {
            let word = source.byte_add(done).cast::<u32>().read();
            (start as *mut u32).byte_add(done).write_unaligned(word);
            done += 4;
        }
        if done + 2 <= BYTES {
            let word = source.byte_add(done).cast::<u16>().read();
            (start as *mut u16).byte_add(done).write_unaligned(word);
        }
    }
    true
}

/// The address of a `T` at `offset`, if all of it lies in the frame's first buffer.
#[inline(always)]
fn address_of<T, C: Context>(context: &C, offset: u32) -> Option<usize> {
    // No offset is larger; a comparison would tell the verifier the same, but make it follow every offset apart.
    let start = context.start() + (offset & MAX_OFFSET) as usize;
    if end_of::<T>(start) > context.end() {
        return None;
    }
    // SAFETY: the kernel's packet does not begin at address 0.
    unsafe { core::hint::assert_unchecked(start != 0) };
    Some(start)
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
pub fn forget(value: u32, unknown: u32) -> u32 {
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

/// `value` itself. The compiler does not see what it is made of, and keeps none of that at hand for what is asked of it later.
#[inline(always)]
pub fn apart(value: u64) -> u64 {
    let mut result = value;
    // SAFETY: nothing at all.
    unsafe {
        core::arch::asm!("", inout("r1") result, options(nomem, nostack));
    }
    result
}

/// The packet pointer that the context has at `OFFSET`, whose fields are 32 bits wide for programs. A plain read would do,
/// but LLVM moves it away from where its value is widened to 64 bits, and what is then widened is no pointer to the verifier.
#[inline(always)]
fn address_at<const OFFSET: usize, T>(context: *mut T) -> usize {
    let address: u64;
    // SAFETY: reads a field of the context that the kernel passed to this program.
    unsafe {
        core::arch::asm!(
            "{address} = *(u32 *)({context} + {offset})",
            address = out(reg) address,
            context = in(reg) context,
            offset = const OFFSET,
            options(pure, readonly, nostack),
        );
    }
    address as usize
}

/// Writes all registers that a program may begin with undefined. LLVM spills registers whose value nobody will read, the
/// missing half of an enum for one, and the verifier refuses to read a register that was never written.
#[inline(always)]
pub fn define_registers() {
    define_arguments();
    define_saved();
}

/// Writes the registers that a function begins with undefined, but for its arguments, for the same reason.
#[inline(always)]
pub fn define_saved() {
    // SAFETY: registers that are said to be overwritten.
    unsafe {
        core::arch::asm!(
            "r6 = 0",
            "r7 = 0",
            "r8 = 0",
            "r9 = 0",
            out("r6") _,
            out("r7") _,
            out("r8") _,
            out("r9") _,
            options(nomem, nostack),
        );
    }
}

/// What a look-up has returned, with the registers written that it leaves undefined if the program is `CAREFUL`: one in which
/// LLVM spills some of them.
#[inline(always)]
pub fn defined<const CAREFUL: bool, T>(found: T) -> T {
    if CAREFUL {
        define_arguments();
    }
    found
}

/// Writes the registers that a call of a helper leaves undefined, for the same reason.
#[inline(always)]
pub fn define_arguments() {
    // SAFETY: registers that are said to be overwritten.
    unsafe {
        core::arch::asm!(
            "r1 = 0",
            "r2 = 0",
            "r3 = 0",
            "r4 = 0",
            "r5 = 0",
            out("r1") _,
            out("r2") _,
            out("r3") _,
            out("r4") _,
            out("r5") _,
            options(nomem, nostack),
        );
    }
}
