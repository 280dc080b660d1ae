//! A flow table in plain memory, for tests and for user space.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::{Flows, Word};
use crate::abi::flow::{Bucket, PORT_WORDS, Ports, Settings};

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

/// A flow table in plain memory, with a clock that is set by hand.
#[derive(Debug)]
pub struct HostFlows<'a> {
    buckets: &'a [Bucket<AtomicU64>],
    ports: Ports<AtomicU64>,
    settings: Settings,
    now: AtomicU32,
}

impl<'a> HostFlows<'a> {
    /// A table in `buckets`, of which there are as many as `settings` say.
    pub const fn new(buckets: &'a [Bucket<AtomicU64>], settings: Settings) -> Self {
        Self {
            buckets,
            ports: Ports {
                words: [const { AtomicU64::new(0) }; PORT_WORDS],
            },
            settings,
            now: AtomicU32::new(0),
        }
    }

    /// Sets the clock, in ticks.
    pub fn set_now(&self, now: u32) {
        self.now.store(now, Ordering::Relaxed);
    }
}

impl Flows for HostFlows<'_> {
    type Word = AtomicU64;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn ports(&self) -> Option<&Ports<AtomicU64>> {
        Some(&self.ports)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<AtomicU64>> {
        self.buckets.get(index as usize)
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }
}
