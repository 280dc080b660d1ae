//! The kernel shell of the firewall: entry points. What happens to a packet is in `firewall_common::decide`.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod clock;
mod cookie;
mod diagnostics;
mod events;
mod flows;
mod handoff;
mod maps;
mod packet;
mod shadow;
mod state;
mod tables;
mod word;
mod world;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use firewall_common::abi::{
    EGRESS_NEXT_FRAGMENT, EGRESS_NEXT_OPENS, INGRESS_NEXT_COOKIE, INGRESS_NEXT_FRAGMENT,
    INGRESS_NEXT_REFUSED, INGRESS_NEXT_STRIKE, INGRESS_NEXT_TERMS, handoff::Handoff,
    reason::DropReason,
};
use firewall_common::decide::{self, Asked, Decision, egress, fragment, terms};
use firewall_common::parse::Packet;
use firewall_common::tables::World as _;

use maps::{EGRESS_HANDOFF, EGRESS_NEXT, INGRESS_HANDOFF, INGRESS_NEXT};
use packet::{Context as _, KernelFrame, define_registers};
use world::KernelWorld;

/// Goes on to the next program of the hook (`TCX_NEXT`, linux/bpf.h).
const TCX_NEXT: i32 = -1;

/// Decides every frame that arrives in one piece, as far as rules do.
#[xdp(frags)]
#[inline(always)]
pub fn firewall_ingress(context: XdpContext) -> u32 {
    define_registers();
    let world = KernelWorld::<false>::new(context.ctx, context.unknown());
    let fragment = |packet: &Packet| {
        handoff::give(&INGRESS_HANDOFF, Handoff::packet_alone(packet));
        handoff::go_on(&context, &INGRESS_NEXT, INGRESS_NEXT_FRAGMENT);
        NO_NEXT
    };
    let frame = KernelFrame::new(&context);
    let refused = |asked: &Asked| ask(&context, asked, INGRESS_NEXT_REFUSED);
    let terms = |asked: &Asked| ask(&context, asked, INGRESS_NEXT_TERMS);
    xdp_action(decide::by_rules(&frame, &world, fragment, refused, terms))
}

/// Decides fragments, as far as rules and earlier fragments do.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_fragment(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::of_handed_over(context.ctx, context.unknown());
    let packet = handoff.packet();
    let frame = KernelFrame::new(&context);
    let refused = |asked: &Asked| ask(&context, asked, INGRESS_NEXT_REFUSED);
    let terms = |asked: &Asked| ask(&context, asked, INGRESS_NEXT_TERMS);
    xdp_action(fragment::decide(&frame, &packet, &world, refused, terms))
}

/// Decides what rules refuse.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_refused(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::of_handed_over(context.ctx, context.unknown());
    let asked = handoff.to_asked();
    // What was handed over is still there.
    let strike = |_: &Asked| go_on(&context, INGRESS_NEXT_STRIKE);
    let frame = KernelFrame::new(&context);
    xdp_action(decide::beyond_rules(&frame, &asked, &world, strike))
}

/// Decides what comes under a rule with terms.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_terms(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::of_handed_over(context.ctx, context.unknown());
    let asked = handoff.to_asked();
    let refused = |asked: &Asked| ask(&context, asked, INGRESS_NEXT_REFUSED);
    let cookie = |_: &Asked| go_on(&context, INGRESS_NEXT_COOKIE);
    let strike = |asked: &Asked| ask(&context, asked, INGRESS_NEXT_STRIKE);
    xdp_action(terms::arriving(&asked, &world, refused, cookie, strike))
}

/// Counts what is dropped towards a ban, and decides it.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_strike(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::of_handed_over(context.ctx, context.unknown());
    let asked = handoff.to_asked();
    xdp_action(terms::struck(&asked, &world))
}

/// Counts where a candidate differs about what has been decided.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_shadow(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::of_handed_over(context.ctx, context.unknown());
    let decision = shadow::compare(handoff, false, &world);
    world.report(decision.outcome(), false);
    xdp_action(decision)
}

/// Tells user space of what has been decided.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_event(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let outcome = handoff.outcome();
    events::tell_of_frame(&context, outcome);
    xdp_action(Decision::by_rules(0, outcome))
}

/// Decides every frame that leaves, as far as rules for what arrives do.
#[classifier]
#[inline(always)]
pub fn firewall_egress(context: TcContext) -> i32 {
    define_registers();
    let world = KernelWorld::<true>::new(context.skb.skb, context.unknown());
    let frame = KernelFrame::new(&context);
    let fragment = |packet: &Packet| leaving(&context, packet, EGRESS_NEXT_FRAGMENT);
    let opens = |packet: &Packet| leaving(&context, packet, EGRESS_NEXT_OPENS);
    tcx_action(egress::by_ingress_rules(&frame, &world, fragment, opens))
}

/// Decides fragments that leave, as far as rules for what arrives and earlier fragments do.
#[classifier]
#[inline(always)]
pub fn egress_fragment(context: TcContext) -> i32 {
    let Some(handoff) = handoff::take(&EGRESS_HANDOFF) else {
        return TC_ACT_SHOT;
    };
    let world = KernelWorld::<true>::of_handed_over(context.skb.skb, context.unknown());
    let packet = handoff.packet();
    let frame = KernelFrame::new(&context);
    let opens = |packet: &Packet| leaving(&context, packet, EGRESS_NEXT_OPENS);
    tcx_action(egress::by_first_fragment(&frame, &packet, &world, opens))
}

/// Decides what may open a flow.
#[classifier]
#[inline(always)]
pub fn egress_opens(context: TcContext) -> i32 {
    let Some(handoff) = handoff::take(&EGRESS_HANDOFF) else {
        return TC_ACT_SHOT;
    };
    let world = KernelWorld::<true>::of_handed_over(context.skb.skb, context.unknown());
    let packet = handoff.packet();
    tcx_action(egress::what_opens(
        &KernelFrame::new(&context),
        &packet,
        &world,
    ))
}

/// Counts where a candidate differs about what has been decided.
#[classifier]
#[inline(always)]
pub fn egress_shadow(context: TcContext) -> i32 {
    let Some(handoff) = handoff::take(&EGRESS_HANDOFF) else {
        return TC_ACT_SHOT;
    };
    let world = KernelWorld::<true>::of_handed_over(context.skb.skb, context.unknown());
    let decision = shadow::compare(handoff, true, &world);
    world.report(decision.outcome(), true);
    tcx_action(decision)
}

/// Tells user space of what has been decided.
#[classifier]
#[inline(always)]
pub fn egress_event(context: TcContext) -> i32 {
    let Some(handoff) = handoff::take(&EGRESS_HANDOFF) else {
        return TC_ACT_SHOT;
    };
    let outcome = handoff.outcome();
    events::tell_of_buffer(&context, outcome);
    tcx_action(Decision::by_rules(0, outcome))
}

/// What happens where the next program is missing, which the loader never lets happen.
const NO_NEXT: Decision = Decision::dropped(DropReason::BrokenTables);

/// Goes on with a packet of which more is asked.
#[inline(always)]
fn ask(context: &XdpContext, asked: &Asked, next: u32) -> Decision {
    handoff::give(&INGRESS_HANDOFF, Handoff::asked(asked));
    handoff::go_on(context, &INGRESS_NEXT, next);
    NO_NEXT
}

/// Goes on with the packet that was handed over to this program.
#[inline(always)]
fn go_on(context: &XdpContext, next: u32) -> Decision {
    handoff::go_on(context, &INGRESS_NEXT, next);
    NO_NEXT
}

/// Goes on with what leaves.
#[inline(always)]
fn leaving(context: &TcContext, packet: &Packet, next: u32) -> Decision {
    handoff::give(&EGRESS_HANDOFF, Handoff::packet_alone(packet));
    handoff::go_on(context, &EGRESS_NEXT, next);
    NO_NEXT
}

#[inline(always)]
const fn xdp_action(decision: Decision) -> u32 {
    if decision.accepts() {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    }
}

#[inline(always)]
const fn tcx_action(decision: Decision) -> i32 {
    if decision.accepts() {
        TCX_NEXT
    } else {
        TC_ACT_SHOT
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
