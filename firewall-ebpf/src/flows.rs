//! The flow table in its map.
#![expect(
    unsafe_code,
    reason = "several CPUs use the table's words at once, which the BPF target has no atomic types for"
)]

use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::helpers::generated::bpf_jiffies64;
use firewall_common::abi::flow::{Bucket, Ports, Settings};
use firewall_common::decide::flow::{Flows, Word};

use crate::maps::{FLOW_PORTS, FLOW_SETTINGS, FLOWS};
use crate::packet::{defined, forget};

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

/// The table of this network namespace.
pub struct KernelFlows {
    /// A number of which the verifier knows nothing.
    pub unknown: u32,
}

impl Flows for KernelFlows {
    type Word = KernelWord;

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        defined::<true, _>(FLOW_SETTINGS.get(0))
    }

    #[inline(always)]
    fn ports(&self) -> Option<&Ports<KernelWord>> {
        defined::<true, _>(FLOW_PORTS.get(0))
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<KernelWord>> {
        defined::<true, _>(FLOWS.get(index))
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        let shift = self.settings().map_or(0, |settings| settings.tick_shift);
        // SAFETY: takes nothing. The verifier puts a load in place of the call.
        (unsafe { bpf_jiffies64() } >> (shift & 63)) as u32
    }

    #[inline(always)]
    fn any_slot(&self, slot: u32) -> u32 {
        forget(slot, self.unknown)
    }
}
