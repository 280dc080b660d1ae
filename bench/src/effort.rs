//! How long to measure.

use std::time::Duration;

use crate::abi::{FRAMES, INTERVAL};

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds; each runs the program once and the empty program before and after.
    pub(crate) rounds: usize,
    /// Packets a run.
    pub(crate) packets: u32,
    /// Time that one run of a slow program may take.
    pub(crate) run_limit: Duration,
}

impl Effort {
    /// For a first look, and for CI.
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        packets: FRAMES as u32,
        run_limit: Duration::from_millis(20),
    };
    /// For numbers to publish.
    pub(crate) const FULL: Self = Self {
        rounds: 21,
        packets: 4 * FRAMES as u32,
        run_limit: Duration::from_millis(60),
    };

    /// Packets for a program that takes `nanoseconds` a packet.
    pub(crate) fn packets_at(self, nanoseconds: f64) -> u32 {
        let limit = self.run_limit.as_nanos() as f64 / nanoseconds.max(1.0);
        self.packets.min(limit as u32).max(2 * INTERVAL as u32)
    }
}
