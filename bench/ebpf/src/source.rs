//! The next frame, and now and then a look at the clock.
#![expect(
    unsafe_code,
    reason = "map values and the packet are written through pointers"
)]

use aya_ebpf::{
    btf_maps::Array, helpers::generated::bpf_ktime_get_ns, macros::btf_map, programs::XdpContext,
};

use crate::abi::{CLOCKS, FRAME_BYTES, FRAMES, INTERVAL, Run};

/// The measurement that is going on.
#[btf_map]
pub static RUN: Array<Run, 1> = Array::new();

/// All frames, in one value: so reading one costs no call.
#[btf_map]
pub static SOURCE: Array<Source, 1> = Array::new();

/// A frame's bytes, as words so that copying takes few instructions.
type Frame = [u64; FRAME_BYTES / 8];

/// The kernel takes no bare array as a map's value type.
#[repr(C)]
pub struct Source {
    /// One after the other.
    pub frames: [Frame; FRAMES],
}

/// Puts the next frame into the buffer; the interface it may be redirected to.
#[inline(always)]
pub(crate) fn next(context: &XdpContext) -> Option<u64> {
    let run = RUN.get_ptr_mut(0)?;
    // SAFETY: the pointer is checked, and only one program runs at a time: user space sees to that.
    let run = unsafe { &mut *run };
    let number = run.sent;
    run.sent = number + 1;
    if number % INTERVAL == 0 {
        // SAFETY: takes nothing.
        run.clocks_ns[(number / INTERVAL) as usize % CLOCKS] = unsafe { bpf_ktime_get_ns() };
    }

    let frame = &SOURCE.get(0)?.frames[number as usize & (FRAMES - 1)];
    let start = context.data();
    if start + FRAME_BYTES > context.data_end() {
        return None;
    }
    let buffer = start as *mut u64;
    for (index, &word) in frame.iter().enumerate() {
        // SAFETY: the bytes lie between data and data_end, and this machine stores words at any address. Volatile,
        // because otherwise the compiler makes it a call of a function that copies byte by byte.
        unsafe { buffer.add(index).write_volatile(word) };
    }
    Some(run.interface)
}
