//! The programs that measure: each puts the next of many frames into the buffer, then goes on to what is measured. And
//! minimal filters on the kernel's LPM trie and LRU hash, to compare with.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod abi;
mod cookie;
mod lpm;
mod lru;
mod source;

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    btf_maps::ProgramArray,
    helpers::generated::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::abi::{ANSWER_V4, ANSWER_V6, FRAME_BYTES};

/// The program that [`baseline`] goes on to.
#[btf_map]
pub static BARE: ProgramArray<1> = ProgramArray::new();

/// The program that [`driver`] goes on to. Both have their array, so that both tail calls are direct jumps.
#[btf_map]
pub static MEASURED: ProgramArray<1> = ProgramArray::new();

/// The program that [`tc_baseline`] goes on to: an array takes programs of one kind.
#[btf_map]
pub static TC_BARE: ProgramArray<1> = ProgramArray::new();

/// The program that [`tc_driver`] goes on to.
#[btf_map]
pub static TC_MEASURED: ProgramArray<1> = ProgramArray::new();

/// Runs the program under test on the next frame.
#[xdp(frags)]
pub fn driver(context: XdpContext) -> u32 {
    go_on::<FRAME_BYTES, _>(&context, context.data(), context.data_end(), &MEASURED);
    xdp_action::XDP_ABORTED
}

/// The same with frames as long as the answer to a SYN over IPv4.
#[xdp(frags)]
pub fn driver_v4(context: XdpContext) -> u32 {
    go_on::<ANSWER_V4, _>(&context, context.data(), context.data_end(), &MEASURED);
    xdp_action::XDP_ABORTED
}

/// The same with frames as long as the answer to a SYN over IPv6.
#[xdp(frags)]
pub fn driver_v6(context: XdpContext) -> u32 {
    go_on::<ANSWER_V6, _>(&context, context.data(), context.data_end(), &MEASURED);
    xdp_action::XDP_ABORTED
}

/// Runs the empty program on the next frame.
#[xdp(frags)]
pub fn baseline(context: XdpContext) -> u32 {
    go_on::<FRAME_BYTES, _>(&context, context.data(), context.data_end(), &BARE);
    xdp_action::XDP_ABORTED
}

/// The same with frames as long as the answer to a SYN over IPv4.
#[xdp(frags)]
pub fn baseline_v4(context: XdpContext) -> u32 {
    go_on::<ANSWER_V4, _>(&context, context.data(), context.data_end(), &BARE);
    xdp_action::XDP_ABORTED
}

/// The same with frames as long as the answer to a SYN over IPv6.
#[xdp(frags)]
pub fn baseline_v6(context: XdpContext) -> u32 {
    go_on::<ANSWER_V6, _>(&context, context.data(), context.data_end(), &BARE);
    xdp_action::XDP_ABORTED
}

/// Runs the tc program under test on the next frame.
#[classifier]
pub fn tc_driver(context: TcContext) -> i32 {
    go_on::<FRAME_BYTES, _>(&context, context.data(), context.data_end(), &TC_MEASURED);
    TC_ACT_SHOT
}

/// Runs the empty tc program on the next frame.
#[classifier]
pub fn tc_baseline(context: TcContext) -> i32 {
    go_on::<FRAME_BYTES, _>(&context, context.data(), context.data_end(), &TC_BARE);
    TC_ACT_SHOT
}

/// Comes back only where something is missing.
#[inline(always)]
#[expect(unsafe_code, reason = "a tail call does not come back")]
fn go_on<const BYTES: usize, C: EbpfContext>(
    context: &C,
    start: usize,
    end: usize,
    to: &ProgramArray<1>,
) {
    if source::next::<BYTES>(start, end).is_some() {
        // SAFETY: nothing here has a destructor.
        unsafe { to.tail_call(context, 0) };
    }
}

/// Drops.
#[xdp(frags)]
pub fn empty(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Lets everything out.
#[classifier]
pub fn tc_empty(_: TcContext) -> i32 {
    TC_ACT_OK
}

/// Sends the next frame out of an interface, for a run with live frames.
#[xdp(frags)]
#[expect(unsafe_code, reason = "a helper")]
pub fn sender(context: XdpContext) -> u32 {
    match source::next::<FRAME_BYTES>(context.data(), context.data_end()) {
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

/// Lets in what answers a flow in the kernel's LRU hash.
#[xdp(frags)]
pub fn lru_ingress(context: XdpContext) -> u32 {
    if lru::answers(context.data(), context.data_end()) {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

/// Records the flow of what leaves in the kernel's LRU hash.
#[classifier]
pub fn lru_egress(context: TcContext) -> i32 {
    lru::record(context.data(), context.data_end());
    TC_ACT_OK
}

/// Finds the socket that a SYN over IPv4 is for, and has the kernel make a cookie.
#[xdp(frags)]
pub fn cookie_v4(context: XdpContext) -> u32 {
    cookie::v4::<true>(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// The same over IPv6.
#[xdp(frags)]
pub fn cookie_v6(context: XdpContext) -> u32 {
    cookie::v6::<true>(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Finds the socket, and that is all.
#[xdp(frags)]
pub fn look_up_v4(context: XdpContext) -> u32 {
    cookie::v4::<false>(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// The same over IPv6.
#[xdp(frags)]
pub fn look_up_v6(context: XdpContext) -> u32 {
    cookie::v6::<false>(&context).unwrap_or(xdp_action::XDP_ABORTED)
}

/// Counts SYN+ACKs, and drops all.
#[xdp(frags)]
pub fn count_answers(context: XdpContext) -> u32 {
    cookie::count_answer(context.data(), context.data_end());
    xdp_action::XDP_DROP
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
