//! The kernel shell of the firewall: entry points. What happens to a packet is in `firewall_common::decide`.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod maps;
mod packet;
mod tables;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use firewall_common::decide::decide;

/// Decides every frame that arrives.
#[xdp(frags)]
pub fn firewall_ingress(context: XdpContext) -> u32 {
    if decide(&packet::XdpFrame::new(&context), &tables::KernelWorld).accepts() {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
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
