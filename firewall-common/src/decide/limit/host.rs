//! A table of token buckets in plain memory, for tests.

use core::sync::atomic::AtomicU64;

use super::Limits;
use crate::abi::limit::{Line, Settings};

/// A table of token buckets in plain memory.
#[derive(Debug)]
pub struct HostLimits<'a> {
    /// Its settings.
    pub settings: Settings,
    /// Its lines.
    pub lines: &'a [Line<AtomicU64>],
}

impl Limits for HostLimits<'_> {
    type Word = AtomicU64;

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn line(&self, index: u32) -> Option<&Line<AtomicU64>> {
        self.lines.get(index as usize)
    }
}
