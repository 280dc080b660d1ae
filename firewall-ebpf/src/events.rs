//! Events: the way from a decided packet to whoever reads of it. Most packets do not get past the first question.
#![expect(
    unsafe_code,
    reason = "map values are written through pointers, and helpers copy frames into them"
)]

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    cty::c_void,
    helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_skb_load_bytes,
        bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::{TcContext, XdpContext},
};
use firewall_common::abi::event::{
    ALL_RULES, BUDGETS, Budget, Event, LOST_BASE, PLACES, READERS, RULES_AT_ONCE, RULES_BASE, SNAP,
};
use firewall_common::abi::image::Outcome;
use firewall_common::abi::{EGRESS_NEXT_EVENT, INGRESS_NEXT_EVENT};
use firewall_common::word::Word as _;

use crate::diagnostics::{self, RING_IS_FULL, TELLS};
use crate::handoff::{decide, go_on};
use crate::maps::{
    CONTROL, EGRESS_HANDOFF, EGRESS_NEXT, EVENT, EVENT_BUDGETS, EVENT_SETTINGS, EVENTS,
    INGRESS_HANDOFF, INGRESS_NEXT,
};
use crate::packet::{define_saved, defined, forget};

/// An event with its frame, before it goes into the ring buffers.
#[repr(C)]
pub struct Scratch {
    event: Event,
    frame: [u8; SNAP as usize],
}

/// Goes on with a packet that is decided in the program that tells of it, if there is budget for that and somebody who reads. Comes
/// back otherwise.
#[inline(always)]
pub fn hand_over<const CAREFUL: bool>(context: *mut c_void, outcome: Outcome, is_egress: bool) {
    let chosen = firewall_choose(outcome.0.into(), is_egress.into());
    if defined::<CAREFUL, _>(chosen) == 0 {
        return;
    }
    if is_egress {
        go_on(
            &TcContext::new(context.cast()),
            &EGRESS_NEXT,
            EGRESS_NEXT_EVENT,
        );
    } else {
        go_on(
            &XdpContext::new(context.cast()),
            &INGRESS_NEXT,
            INGRESS_NEXT_EVENT,
        );
    }
}

/// Whether a packet with this outcome is told of, 1 or 0; the outcome is then where the program finds it that does so. A global
/// function, which the verifier looks at once and not for each of what leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_choose(outcome: u64, is_egress: u64) -> u64 {
    define_saved();
    let outcome = Outcome(outcome as u32);
    let is_egress = is_egress != 0;
    if choose(outcome, is_egress).is_none() {
        return 0;
    }
    decide(
        if is_egress {
            &EGRESS_HANDOFF
        } else {
            &INGRESS_HANDOFF
        },
        outcome,
    );
    1
}

#[inline(always)]
fn choose(outcome: Outcome, is_egress: bool) -> Option<()> {
    let settings = EVENT_SETTINGS.get(0)?;
    // SAFETY: takes nothing.
    let now = unsafe { bpf_jiffies64() };
    if !settings.is_read(now) {
        return None;
    }
    let most = settings.most.load();
    let tick = (now >> (settings.tick_shift.load() & 63)) as u32;
    let index = Budget::index(outcome, is_egress);
    take(index, tick, most)?;
    if index >= RULES_BASE {
        take(ALL_RULES, tick, most.wrapping_mul(RULES_AT_ONCE))?;
    }
    Some(())
}

#[inline(always)]
fn take(index: u32, tick: u32, most: u64) -> Option<()> {
    if index >= BUDGETS {
        return None;
    }
    let budget = EVENT_BUDGETS.get_ptr_mut(index)?;
    // SAFETY: the record is this CPU's own, as those of counters are.
    unsafe { (*budget).take(tick, most) }.then_some(())
}

/// Tells of what arrives. What cannot be read is not told of.
#[inline(always)]
pub fn tell_of_frame(context: &XdpContext, outcome: Outcome) {
    let ctx = context.ctx;
    // SAFETY: the context is the program's own, and there is room for so many bytes.
    unsafe {
        let (interface, bytes) = ((*ctx).ingress_ifindex, bpf_xdp_get_buff_len(ctx) as u32);
        let load = |to, bytes| bpf_xdp_load_bytes(ctx, 0, to, bytes) == 0;
        let _ = tell(outcome, false, interface, bytes, load);
    }
}

/// Tells of what leaves.
#[inline(always)]
pub fn tell_of_buffer(context: &TcContext, outcome: Outcome) {
    let skb = context.skb.skb;
    // SAFETY: as above.
    unsafe {
        let (interface, bytes) = ((*skb).ifindex, (*skb).len);
        let load = |to, bytes| bpf_skb_load_bytes(skb.cast(), 0, to, bytes) == 0;
        let _ = tell(outcome, true, interface, bytes, load);
    }
}

/// Tells all readers of a packet. `load` copies so many of its first bytes to a place, and returns whether it could.
#[inline(always)]
fn tell(
    outcome: Outcome,
    is_egress: bool,
    interface: u32,
    frame_bytes: u32,
    load: impl FnOnce(*mut c_void, u32) -> bool,
) -> Option<()> {
    let settings = defined::<true, _>(EVENT_SETTINGS.get(0))?;
    let scratch = defined::<true, _>(EVENT.get_ptr_mut(0))?;
    // SAFETY: they take nothing.
    let (now, at_ns) = unsafe { (bpf_jiffies64(), bpf_ktime_get_ns()) };
    let place = defined::<true, _>(CONTROL.get(0))?.deciding(now).byte();
    let generation = if usize::from(place) < PLACES {
        settings.generations[usize::from(place)].load()
    } else {
        0
    };
    if frame_bytes == 0 {
        return None;
    }
    // From one to all bytes, which the verifier has to see: the compiler would leave out what it knows itself.
    let last = forget(frame_bytes.min(SNAP) - 1, interface);
    let captured = (last & (SNAP - 1)) + 1;
    // SAFETY: the record is this CPU's own, and nothing else of this hook runs on it meanwhile.
    unsafe {
        (*scratch).event = Event {
            at_ns,
            generation,
            outcome: outcome.0,
            interface,
            frame_bytes,
            captured: captured as u16,
            place,
            is_egress: is_egress.into(),
        };
        if !load((&raw mut (*scratch).frame).cast(), captured) {
            return None;
        }
    }
    let bytes = size_of::<Event>() as u64 + u64::from(captured);
    for reader in 0..READERS {
        if settings.readers[reader as usize].until.load() <= now {
            continue;
        }
        let Some(ring) = EVENTS.get(reader) else {
            continue;
        };
        // SAFETY: the ring is one, the record is there and as long, and readers look by themselves: no packet wakes them up.
        let full = unsafe {
            bpf_ringbuf_output(
                core::ptr::from_ref(ring).cast_mut().cast(),
                scratch.cast(),
                bytes,
                BPF_RB_NO_WAKEUP.into(),
            )
        };
        if full != 0
            && let Some(lost) = EVENT_BUDGETS.get_ptr_mut(LOST_BASE + reader)
        {
            // SAFETY: as above.
            unsafe { (*lost).lost = (*lost).lost.wrapping_add(1) };
            diagnostics::say(RING_IS_FULL, reader.into());
        }
    }
    diagnostics::say(TELLS, outcome.0.into());
    Some(())
}
