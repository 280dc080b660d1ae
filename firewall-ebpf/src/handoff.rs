//! From one program to the next: the packet goes through memory, control through a tail call.
#![expect(unsafe_code, reason = "map values are written through pointers")]

use aya_ebpf::{
    EbpfContext,
    btf_maps::{PerCpuArray, ProgramArray},
};
use firewall_common::abi::{handoff::Handoff, image::Outcome};

use crate::diagnostics::{self, NO_PROGRAM};
use crate::packet::define_registers;

/// Puts a packet where the next program finds it.
#[inline(always)]
pub fn give(map: &PerCpuArray<Handoff, 1>, handoff: Handoff) {
    if let Some(place) = map.get_ptr_mut(0) {
        // SAFETY: the value is this CPU's own; between here and the next program nothing else of this hook runs on it.
        unsafe { place.write(handoff) };
    }
}

/// Writes down what was decided of the packet that is there.
#[inline(always)]
pub fn decide(map: &PerCpuArray<Handoff, 1>, outcome: Outcome) {
    if let Some(place) = map.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*place).decide(outcome) };
    }
}

/// What the program before has put there.
#[inline(always)]
pub fn take(map: &PerCpuArray<Handoff, 1>) -> Option<&Handoff> {
    let handoff = map.get(0)?;
    // The look-up has made the registers undefined that it may use for itself.
    define_registers();
    Some(handoff)
}

/// Goes on with the program at `index`. Comes back only where there is none.
#[inline(always)]
pub fn go_on<C: EbpfContext, const N: usize>(context: &C, next: &ProgramArray<N>, index: u32) {
    // SAFETY: nothing here has a destructor.
    unsafe {
        next.tail_call(context, index);
    }
    diagnostics::say(NO_PROGRAM, index.into());
}
