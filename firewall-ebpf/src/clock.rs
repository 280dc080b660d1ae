//! The kernel's time, for user space.
#![expect(unsafe_code, reason = "a helper is called")]

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::classifier, programs::TcContext};

/// Writes jiffies, which the other programs take for the time, over the first eight bytes of its packet. Attached to nothing: user
/// space runs it.
#[classifier]
pub fn firewall_clock(context: TcContext) -> i32 {
    // SAFETY: the helper reads a counter.
    let jiffies = unsafe { bpf_jiffies64() };
    match context.store(0, &jiffies, 0) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}
