//! A flow table in plain memory, for tests and for user space.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::Flows;
use crate::abi::flow::{Bucket, PORT_WORDS, Ports, Settings};

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
