//! The programs that measure: each puts the next of many frames into the buffer, then goes on to what is measured. And a
//! minimal filter on the kernel's LPM trie, to compare with.

#![no_std]
#![no_main]

mod abi;
mod lpm;
mod source;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::ProgramArray,
    helpers::generated::bpf_redirect,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// The program that [`baseline`] goes on to.
#[btf_map]
pub static BARE: ProgramArray<1> = ProgramArray::new();

/// The program that [`driver`] goes on to. Both have their array, so that both tail calls are direct jumps.
#[btf_map]
pub static MEASURED: ProgramArray<1> = ProgramArray::new();

/// Runs the program under test on the next frame.
#[xdp(frags)]
pub fn driver(context: XdpContext) -> u32 {
    go_on(&context, &MEASURED)
}

/// Runs the empty program on the next frame.
#[xdp(frags)]
pub fn baseline(context: XdpContext) -> u32 {
    go_on(&context, &BARE)
}

#[inline(always)]
#[expect(unsafe_code, reason = "a tail call does not come back")]
fn go_on(context: &XdpContext, to: &ProgramArray<1>) -> u32 {
    if source::next(context).is_some() {
        // SAFETY: nothing here has a destructor.
        unsafe { to.tail_call(context, 0) };
    }
    xdp_action::XDP_ABORTED
}

/// Drops.
#[xdp(frags)]
pub fn empty(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Sends the next frame out of an interface, for a run with live frames.
#[xdp(frags)]
#[expect(unsafe_code, reason = "a helper")]
pub fn sender(context: XdpContext) -> u32 {
    match source::next(&context) {
        // SAFETY: takes two numbers.
        Some(interface) => unsafe { bpf_redirect(interface as u32, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

/// A minimal filter on the kernel's LPM trie for IPv4.
#[xdp(frags)]
pub fn lpm_v4(context: XdpContext) -> u32 {
    lpm::v4(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// A minimal filter on the kernel's LPM trie for IPv6.
#[xdp(frags)]
pub fn lpm_v6(context: XdpContext) -> u32 {
    lpm::v6(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[expect(unsafe_code, reason = "the loader reads the licence from this section")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
