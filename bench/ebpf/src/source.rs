//! The next frame, and now and then a look at the clock.
#![expect(
    unsafe_code,
    reason = "map values and the packet are written through pointers"
)]

use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_ktime_get_ns, macros::btf_map};

use crate::abi::{CLOCKS, FRAME_BYTES, FRAMES, INTERVAL, PORTS_WORD, Run};

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

/// Puts the first `BYTES` of the next frame into the buffer from `start` to `end`; the interface it may be redirected to.
#[inline(always)]
pub(crate) fn next<const BYTES: usize>(start: usize, end: usize) -> Option<u64> {
    let run = RUN.get_ptr_mut(0)?;
    // SAFETY: the pointer is checked, and only one program runs at a time: user space sees to that.
    let run = unsafe { &mut *run };
    let number = run.sent;
    run.sent = number + 1;
    if number % INTERVAL == 0 {
        // SAFETY: takes nothing.
        run.clocks_ns[(number / INTERVAL) as usize % CLOCKS] = unsafe { bpf_ktime_get_ns() };
    }
    let lap = (run.lap + number / FRAMES as u64) & run.lap_mask;
    let ports = lap << (run.lap_shift & 63);

    let frame = &SOURCE.get(0)?.frames[number as usize & (FRAMES - 1)];
    if start + BYTES > end {
        return None;
    }
    let buffer = start as *mut u64;
    for (index, &word) in frame.iter().enumerate().take(BYTES / 8) {
        let word = if index == PORTS_WORD {
            word ^ ports
        } else {
            word
        };
        // SAFETY: the bytes lie between start and end, and this machine stores words at any address. Volatile,
        // because otherwise the compiler makes it a call of a function that copies byte by byte.
        unsafe { buffer.add(index).write_volatile(word) };
    }
    if BYTES % 8 != 0 {
        let word = frame[BYTES / 8];
        let at = start + BYTES / 8 * 8;
        // SAFETY: as above.
        unsafe {
            match BYTES % 8 {
                4 => (at as *mut u32).write_volatile(word as u32),
                _ => {
                    (at as *mut u32).write_volatile(word as u32);
                    ((at + 4) as *mut u16).write_volatile((word >> 32) as u16);
                }
            }
        }
    }
    // SAFETY: adds to a word of the map's value.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({at} + 0) += {one}",
            at = in(reg) &raw mut run.drain,
            one = in(reg) 1u64,
            options(nostack),
        );
    }
    Some(run.interface)
}
