//! The candidate policy beside the one in force: asked about packets that are decided, where the loader has said that there is one.
#![expect(
    unsafe_code,
    reason = "a constant of the loader is read, and map values are written through pointers"
)]

use core::hint::cold_path;

use aya_ebpf::cty::c_void;
use aya_ebpf::programs::{TcContext, XdpContext};
use firewall_common::abi::control::Control;
use firewall_common::abi::handoff::Handoff;
use firewall_common::abi::image::Outcome;
use firewall_common::abi::question::Question;
use firewall_common::abi::shadow::Sample;
use firewall_common::abi::{EGRESS_NEXT_SHADOW, INGRESS_NEXT_SHADOW};
use firewall_common::decide::Decision;
use firewall_common::decide::connection::{Local, key};
use firewall_common::decide::shadow::{Verdict, answer, differs, is_asked, otherwise};
use firewall_common::parse::Packet;

use crate::handoff::{decide, give, go_on};
use crate::maps::{
    EGRESS_HANDOFF, EGRESS_NEXT, INGRESS_HANDOFF, INGRESS_NEXT, SHADOW, SHADOW_COUNTERS,
    SHADOW_SAMPLES,
};
use crate::packet::{apart, define_saved, defined};
use crate::tables::KernelTables;
use crate::world::{KernelWorld, now_ns};

/// Whether there is a candidate. The verifier knows that the loader has left it 0, and takes what asks for it out.
#[unsafe(no_mangle)]
static SHADOW_IS_ON: u64 = 0;

/// Where its image lies, as the word of a [`Control`]. The verifier knows what the loader has set, and takes the other places out.
#[unsafe(no_mangle)]
static SHADOW_PLACE: u64 = 0;

/// What is to be asked about.
pub enum Subject<'a> {
    /// This packet.
    Packet(&'a Packet),
    /// The one that was handed over to this program, and is still where it was put.
    HandedOver,
    /// The same, and what the program needs of the stack leaves no room to ask.
    HandedOverToBeAsked,
}

/// Asks the candidate about a packet that is decided and counted. Where it differs, goes on in the program that counts that. Comes back
/// where it does not, or there is none.
#[inline(always)]
pub fn ask(context: *mut c_void, subject: Subject<'_>, outcome: Outcome, is_egress: bool) {
    // SAFETY: the word is there; the loader may have changed it before it froze it, so it is not what stands here.
    if unsafe { (&raw const SHADOW_IS_ON).read_volatile() } == 0 {
        return;
    }
    // For those that ask nothing: what is asked need not be at hand elsewhere.
    cold_path();
    let place = if is_egress {
        &EGRESS_HANDOFF
    } else {
        &INGRESS_HANDOFF
    };
    if let Subject::Packet(packet) = subject {
        if !is_asked(packet, outcome) {
            return;
        }
        let mut question = Question::new(packet);
        question.what = apart(question.what);
        if otherwise(&question, outcome, is_egress, candidate).is_none() {
            return;
        }
        give(place, Handoff::decided(packet, outcome));
    } else {
        let Some(handed) = defined::<true, _>(place.get(0)) else {
            return;
        };
        let packet = handed.packet();
        if !is_asked(&packet, outcome) {
            return;
        }
        let has_room = matches!(subject, Subject::HandedOver);
        if has_room && otherwise(&Question::new(&packet), outcome, is_egress, candidate).is_none() {
            return;
        }
        decide(place, outcome);
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
    let (difference, number) = differs(packet, outcome, is_egress, candidate, world)?;
    let shadow = defined::<CAREFUL, _>(SHADOW.get(0))?;
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

/// What the candidate says.
#[inline(always)]
fn candidate(question: &Question) -> Option<Verdict> {
    let [[a, b], [c, d]] = question.addresses;
    let said = defined::<true, _>(firewall_candidate(a, b, c, d, question.what));
    (said & IS_SAID != 0).then_some(Verdict {
        accepts: said & ACCEPTS != 0,
        number: (said >> NUMBER_SHIFT) as u32,
    })
}

const IS_SAID: u64 = 1;
const ACCEPTS: u64 = 2;
const NUMBER_SHIFT: u32 = 2;

/// The candidate's answer to a [`Question`], as `number 32 | accepts 1 | is said 1`. A global function, which the verifier looks at once
/// and not for each of what leads to it, and which takes numbers only: nothing need be put where another program finds it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_candidate(
    source_upper: u64,
    source_lower: u64,
    destination_upper: u64,
    destination_lower: u64,
    what: u64,
) -> u64 {
    define_saved();
    // SAFETY: as for [`SHADOW_IS_ON`].
    let word = unsafe { (&raw const SHADOW_PLACE).read_volatile() };
    let Some(tables) = KernelTables::at::<true>(Control { word }.active()) else {
        return 0;
    };
    let question = Question {
        addresses: [
            [source_upper, source_lower],
            [destination_upper, destination_lower],
        ],
        what,
    };
    match answer(&question, &tables) {
        Some(Verdict { accepts, number }) => {
            IS_SAID | u64::from(accepts) * ACCEPTS | u64::from(number) << NUMBER_SHIFT
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
