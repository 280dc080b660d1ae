//! What the programs say of themselves to whoever looks for a fault in them. Without the feature `diagnostics` they say nothing,
//! and nothing of this is in them.

/// There is no program to go on with, which the loader never lets happen.
pub const NO_PROGRAM: u64 = 0;
/// The tables of the policy are missing or inconsistent.
pub const BROKEN_TABLES: u64 = 1;
/// A packet is told of; its outcome.
pub const TELLS: u64 = 2;
/// A reader's ring buffer is full; which one.
pub const RING_IS_FULL: u64 = 3;
/// A rule bans somebody; the rule's counter slot.
pub const BANS: u64 = 4;

/// Says one of these things, with its number.
#[cfg(not(feature = "diagnostics"))]
#[inline(always)]
pub const fn say(_: u64, _: u64) {}

/// Says one of these things, with its number.
#[cfg(feature = "diagnostics")]
#[inline(always)]
pub fn say(what: u64, number: u64) {
    crate::packet::defined::<true, _>(firewall_say(what, number));
}

/// A global function, which the verifier looks at once and not at every place that says something.
#[cfg(feature = "diagnostics")]
#[expect(unsafe_code, reason = "a function that the loader finds by its name")]
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_say(what: u64, number: u64) -> u64 {
    use aya_log_ebpf::{debug, error, info, warn};

    crate::packet::define_saved();
    match what {
        NO_PROGRAM => error!((), "no program {} to go on with", number),
        BROKEN_TABLES => error!((), "broken tables, of place {}", number),
        TELLS => debug!((), "tells of a packet with outcome {:x}", number),
        RING_IS_FULL => warn!((), "reader {} has no room for an event", number),
        BANS => info!((), "the rule with counter {} bans somebody", number),
        _ => {}
    }
    0
}
