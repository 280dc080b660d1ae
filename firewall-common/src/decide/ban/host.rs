//! A table of bans in plain memory, for tests and for user space, which maps the kernel's.

use core::sync::atomic::AtomicU64;

use super::Bans;
use crate::abi::ban::{Bucket, Filter, Settings};

/// A table of bans in plain memory.
#[derive(Clone, Copy, Debug)]
pub struct HostBans<'a> {
    /// Its settings.
    pub settings: &'a Settings<AtomicU64>,
    /// Its filters.
    pub filters: &'a [Filter<AtomicU64>],
    /// Its buckets.
    pub buckets: &'a [Bucket<AtomicU64>],
}

impl Bans for HostBans<'_> {
    type Word = AtomicU64;

    fn settings(&self) -> Option<&Settings<AtomicU64>> {
        Some(self.settings)
    }

    fn filter(&self, index: u32) -> Option<&Filter<AtomicU64>> {
        self.filters.get(index as usize)
    }

    fn bucket(&self, index: u32) -> Option<&Bucket<AtomicU64>> {
        self.buckets.get(index as usize)
    }
}
