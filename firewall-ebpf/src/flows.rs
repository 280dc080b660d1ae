//! The flow table in its map.
#![expect(unsafe_code, reason = "a helper is called")]

use aya_ebpf::helpers::generated::bpf_jiffies64;
use firewall_common::abi::flow::{Bucket, Ports, Settings};
use firewall_common::decide::flow::Flows;

use crate::maps::{FLOW_PORTS, FLOW_SETTINGS, FLOWS};
use crate::packet::{defined, forget};
use crate::word::KernelWord;

/// The table of this network namespace.
pub struct KernelFlows {
    /// A number of which the verifier knows nothing.
    pub unknown: u32,
}

impl Flows for KernelFlows {
    type Word = KernelWord;

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        defined::<true, _>(FLOW_SETTINGS.get(0))
    }

    #[inline(always)]
    fn ports(&self) -> Option<&Ports<KernelWord>> {
        defined::<true, _>(FLOW_PORTS.get(0))
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket<KernelWord>> {
        defined::<true, _>(FLOWS.get(index))
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        let shift = self.settings().map_or(0, |settings| settings.tick_shift);
        // SAFETY: takes nothing. The verifier puts a load in place of the call.
        (unsafe { bpf_jiffies64() } >> (shift & 63)) as u32
    }

    #[inline(always)]
    fn any_slot(&self, slot: u32) -> u32 {
        forget(slot, self.unknown)
    }
}
