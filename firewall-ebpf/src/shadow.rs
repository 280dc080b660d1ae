//! The candidate policy beside the one in force: asked about packets that are decided, where the loader has said that there is one.
#![expect(
    unsafe_code,
    reason = "a constant of the loader is read, and map values are written through pointers"
)]

use aya_ebpf::cty::c_void;
use aya_ebpf::programs::{TcContext, XdpContext};
use firewall_common::abi::control::Control;
use firewall_common::abi::handoff::Handoff;
use firewall_common::abi::image::{Outcome, header};
use firewall_common::abi::shadow::Sample;
use firewall_common::abi::{EGRESS_NEXT_SHADOW, INGRESS_NEXT_SHADOW};
use firewall_common::decide::Decision;
use firewall_common::decide::connection::{Local, key};
use firewall_common::decide::shadow::{Candidate, differs, find};
use firewall_common::parse::Packet;

use crate::handoff::{decide, give, go_on};
use crate::maps::{
    EGRESS_HANDOFF, EGRESS_NEXT, INGRESS_HANDOFF, INGRESS_NEXT, SHADOW, SHADOW_COUNTERS,
    SHADOW_SAMPLES,
};
use crate::packet::{define_saved, defined};
use crate::tables::KernelTables;
use crate::world::{KernelWorld, now_ns};

/// Whether there is a candidate. The verifier knows that the loader has left it 0, and takes what asks for it out.
#[unsafe(no_mangle)]
static SHADOW_IS_ON: u64 = 0;

/// Goes on with a packet that is decided and counted in the program that asks the candidate about it; without one, with what was
/// handed over to this program. Comes back where there is none.
#[inline(always)]
pub fn hand_over(context: *mut c_void, packet: Option<&Packet>, outcome: Outcome, is_egress: bool) {
    // SAFETY: the word is there; the loader may have changed it before it froze it, so it is not what stands here.
    if unsafe { (&raw const SHADOW_IS_ON).read_volatile() } == 0 {
        return;
    }
    let place = if is_egress {
        &EGRESS_HANDOFF
    } else {
        &INGRESS_HANDOFF
    };
    match packet {
        Some(packet) => give(place, Handoff::decided(packet, outcome)),
        None => decide(place, outcome),
    }
    if is_egress {
        go_on(
            &TcContext::new(context.cast()),
            &EGRESS_NEXT,
            EGRESS_NEXT_SHADOW,
        );
    } else {
        go_on(
            &XdpContext::new(context.cast()),
            &INGRESS_NEXT,
            INGRESS_NEXT_SHADOW,
        );
    }
}

/// Counts what the candidate would do otherwise with a packet that is `decided`. Returns what was decided.
#[inline(always)]
pub fn compare<const CAREFUL: bool>(
    decided: &Handoff,
    is_egress: bool,
    world: &KernelWorld<CAREFUL>,
) -> Decision {
    let outcome = decided.outcome();
    // Nothing of it changes the decision.
    let _ = count(&decided.packet(), outcome, is_egress, world);
    Decision::by_rules(0, outcome)
}

/// `None` where there is no difference to be counted.
#[inline(always)]
fn count<const CAREFUL: bool>(
    packet: &Packet,
    outcome: Outcome,
    is_egress: bool,
    world: &KernelWorld<CAREFUL>,
) -> Option<()> {
    let shadow = defined::<CAREFUL, _>(SHADOW.get(0))?;
    let candidate = KernelCandidate { is_egress };
    let (difference, number) = differs(packet, outcome, is_egress, &candidate, world)?;
    let slot = shadow.slot(is_egress, number, difference);
    let counter = defined::<CAREFUL, _>(SHADOW_COUNTERS.get_ptr_mut(slot))?;
    // SAFETY: the slot is this CPU's own, as those of all counters are.
    let count = unsafe {
        (*counter).add(packet.frame_bytes, packet.transport.opens_connection());
        (*counter).packets as u32
    };
    if let Some(place) = Sample::place(slot, count) {
        sample(packet, outcome, slot, place);
    }
    Some(())
}

/// The candidate, asked about the packet that was handed over.
struct KernelCandidate {
    is_egress: bool,
}

impl Candidate for KernelCandidate {
    type Tables = KernelTables;

    #[inline(always)]
    fn tables(&self) -> Option<KernelTables> {
        let shadow = defined::<true, _>(SHADOW.get(0))?;
        KernelTables::at::<true>(Control { word: shadow.place }.active())
    }

    #[inline(always)]
    fn find(&self, _: &Packet, at: u32, answered: bool) -> Option<(bool, u32)> {
        let found = firewall_candidate(self.is_egress.into(), at.into(), answered.into());
        let found = defined::<true, _>(found);
        (found & IS_FOUND != 0).then_some((found & ACCEPTS != 0, (found >> NUMBER_SHIFT) as u32))
    }
}

const IS_FOUND: u64 = 1;
const ACCEPTS: u64 = 2;
const NUMBER_SHIFT: u32 = 2;

/// What [`Candidate::find`] says, as `number 32 | accepts 1 | is found 1`. A global function, which the verifier looks at once and not
/// for each of what leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_candidate(is_egress: u64, at: u64, answered: u64) -> u64 {
    define_saved();
    let handed = if is_egress != 0 {
        EGRESS_HANDOFF.get(0)
    } else {
        INGRESS_HANDOFF.get(0)
    };
    let candidate = KernelCandidate { is_egress: false };
    let (Some(handoff), Some(tables)) = (defined::<true, _>(handed), candidate.tables()) else {
        return 0;
    };
    // Two numbers that it may be, and not any for the verifier.
    let at = if at == u64::from(header::EGRESS) {
        header::EGRESS
    } else {
        header::INGRESS
    };
    match find(&handoff.packet(), at, answered != 0, &tables) {
        Some((accepts, number)) => {
            IS_FOUND | u64::from(accepts) * ACCEPTS | u64::from(number) << NUMBER_SHIFT
        }
        None => 0,
    }
}

/// Remembers a packet.
#[inline(always)]
fn sample(packet: &Packet, outcome: Outcome, slot: u32, place: u32) {
    let Some(sample) = defined::<true, _>(SHADOW_SAMPLES.get_ptr_mut(place)) else {
        return;
    };
    let transport = &packet.transport;
    let ends = key(&packet.addresses, transport, 0, Local::Source);
    // SAFETY: the record is this CPU's own. It is written field by field, because the stack has little room.
    unsafe {
        (*sample).at_ns = now_ns(false);
        (*sample).source = ends.local;
        (*sample).destination = ends.remote;
        (*sample).slot = slot;
        (*sample).decided = outcome.counter();
        (*sample).ports = [transport.source_port, transport.value];
        (*sample).flags_protocol =
            u32::from(transport.tcp_flags) << 8 | u32::from(transport.protocol);
    }
}
