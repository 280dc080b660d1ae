//! Words that several CPUs use at once. The BPF target has no usable atomic types, so the kernel's shell brings its own; on the
//! host, and in tables that user space maps, they are `AtomicU64`.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// A 64-bit word that several CPUs use at once.
pub trait Word {
    /// Its value; never torn, never merged with another load.
    fn load(&self) -> u64;

    /// Changes its value.
    fn store(&self, value: u64);

    /// Changes it from `from` to `to`, or returns `false` if it is not `from`. All loads and stores before are done
    /// before, all after it after.
    fn swap(&self, from: u64, to: u64) -> bool;

    /// Sets these bits.
    fn set(&self, bits: u64);

    /// Loads before this are done before loads after it. Where the machine keeps loads in order, as x86 does, it is
    /// enough to keep the compiler from changing theirs.
    fn barrier();
}

#[cfg(not(target_arch = "bpf"))]
impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn swap(&self, from: u64, to: u64) -> bool {
        let swapped = self
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        // The stores that follow must not be seen before the swap is.
        fence(Ordering::SeqCst);
        swapped
    }

    #[inline(always)]
    fn set(&self, bits: u64) {
        self.fetch_or(bits, Ordering::SeqCst);
    }

    #[inline(always)]
    fn barrier() {
        fence(Ordering::Acquire);
    }
}
