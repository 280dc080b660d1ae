//! The kernel's time in jiffies, as the programs know it.
//!
//! Nothing tells user space what jiffies are: they follow CLOCK_MONOTONIC at a distance that depends on how the machine
//! booted. So the kernel runs a program that says them.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use rustix::time::{ClockId, clock_getres};

use super::pins::Pins;

/// Longest frame header, and as much again: the kernel runs no packet program without a packet.
const FRAME: [u8; 64] = [0; 64];

/// Jiffies now.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn jiffies(pins: &Pins) -> Result<u64> {
    let mut frame = FRAME;
    let ran = SchedClassifier::from_pin(pins.clock()).and_then(|clock| {
        clock.test_run(TestRunOptions {
            data_in: Some(&FRAME),
            data_out: Some(&mut frame),
            ..TestRunOptions::new()
        })
    });
    ran.context("asking the kernel for its time")?;
    let (jiffies, _) = frame.split_first_chunk().expect("the frame is longer");
    Ok(u64::from_ne_bytes(*jiffies))
}

/// Jiffies a second: the coarse clock goes from one to the next (`KTIME_LOW_RES`, include/linux/hrtimer.h).
pub(super) fn hz() -> Result<u32> {
    let jiffy = clock_getres(ClockId::MonotonicCoarse);
    let jiffy_ns = u32::try_from(jiffy.tv_nsec).unwrap_or(0);
    ensure!(
        jiffy.tv_sec == 0 && jiffy_ns > 0,
        "the kernel's coarse clock has a resolution of {jiffy:?}"
    );
    Ok((1_000_000_000 + jiffy_ns / 2) / jiffy_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jiffies_are_as_many_as_a_kernel_can_have() {
        assert!([100, 250, 300, 1000].contains(&hz().unwrap()));
    }
}
