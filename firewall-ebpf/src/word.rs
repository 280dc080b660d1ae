//! Words that several CPUs use at once.
#![expect(
    unsafe_code,
    reason = "the BPF target has no atomic types for what its instructions can do"
)]

use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering, compiler_fence};

use firewall_common::word::Word;

/// A word that several CPUs use at once.
#[repr(transparent)]
pub struct KernelWord(UnsafeCell<u64>);

// SAFETY: every access is one volatile load or store, or one atomic instruction.
unsafe impl Sync for KernelWord {}

impl Word for KernelWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the word is valid for as long as the reference to it.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) }
    }

    #[inline(always)]
    fn swap(&self, from: u64, to: u64) -> bool {
        let old: u64;
        // SAFETY: as above; the instruction compares with r0 and leaves there what it found (BPF_CMPXCHG).
        unsafe {
            core::arch::asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {to})",
                word = in(reg) self.0.get(),
                to = in(reg) to,
                inout("r0") from => old,
                options(nostack),
            );
        }
        old == from
    }

    #[inline(always)]
    fn set(&self, bits: u64) {
        // SAFETY: as above; one instruction (BPF_ATOMIC | BPF_OR).
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({word} + 0) |= {bits}",
                word = in(reg) self.0.get(),
                bits = in(reg) bits,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    fn barrier() {
        compiler_fence(Ordering::Acquire);
    }
}
