//! The flow table's clock, for user space.
#![expect(unsafe_code, reason = "a helper is called")]

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::classifier, programs::TcContext};

use crate::maps::FLOW_SETTINGS;

/// Returns the tick that flows are stamped with; 0 without settings. Attached to nothing: user space runs it once and knows
/// what the other programs take for now.
#[classifier]
pub fn firewall_clock(_: TcContext) -> i32 {
    let Some(settings) = FLOW_SETTINGS.get(0) else {
        return 0;
    };
    // SAFETY: the helper reads a counter.
    let jiffies = unsafe { bpf_jiffies64() };
    (jiffies >> (settings.tick_shift & 31)) as i32
}
