//! As little as a filter on the kernel's LPM trie can do: parse, look up the source, compare protocol and port, count.
//! It checks nothing else, has no VLANs, no options and no extension headers.
#![expect(
    unsafe_code,
    reason = "packet pointers are checked against the packet's end here"
)]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
    programs::XdpContext,
};

use crate::abi::{ANY_SERVICE, LPM_ACCEPT, LPM_COUNTERS, LpmRule, OPEN_ENTRIES, service};

/// Rules by IPv4 source; user space sets the real size.
#[btf_map]
pub static LPM_V4: LpmTrie<[u8; 4], LpmRule, 1> = LpmTrie::new();

/// Rules by IPv6 source; user space sets the real size.
#[btf_map]
pub static LPM_V6: LpmTrie<[u8; 16], LpmRule, 1> = LpmTrie::new();

/// Ports that are open to sources without a rule.
#[btf_map]
pub static OPEN: Array<Open, 1> = Array::new();

/// One byte a port, 1 if it is open.
#[repr(C)]
pub struct Open {
    /// By the protocol's lowest bit and the port.
    pub ports: [u8; OPEN_ENTRIES],
}

/// Packets and bytes by rule.
#[btf_map]
pub static LPM_COUNTS: PerCpuArray<Count, { LPM_COUNTERS as usize }> = PerCpuArray::new();

/// Packets and bytes.
#[repr(C)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Decides an IPv4 packet.
#[inline(always)]
pub(crate) fn v4(context: &XdpContext) -> Option<u32> {
    if u16::from_be(*view(context, 12)?) != 0x0800 || *view::<u8>(context, ETHERNET)? != 0x45 {
        return Some(xdp_action::XDP_DROP);
    }
    let protocol = *view(context, ETHERNET + 9)?;
    let source: [u8; 4] = *view(context, ETHERNET + 12)?;
    let service = service_of(context, protocol, ETHERNET + IPV4)?;
    decide(context, LPM_V4.get(&Key::new(32, source)), service)
}

/// Decides an IPv6 packet.
#[inline(always)]
pub(crate) fn v6(context: &XdpContext) -> Option<u32> {
    if u16::from_be(*view(context, 12)?) != 0x86dd {
        return Some(xdp_action::XDP_DROP);
    }
    let protocol = *view(context, ETHERNET + 6)?;
    let source: [u8; 16] = *view(context, ETHERNET + 8)?;
    let service = service_of(context, protocol, ETHERNET + IPV6)?;
    decide(context, LPM_V6.get(&Key::new(128, source)), service)
}

/// Protocol and destination port of TCP or UDP.
#[inline(always)]
fn service_of(context: &XdpContext, protocol: u8, transport: usize) -> Option<u32> {
    let port = u16::from_be(*view(context, transport + 2)?);
    Some(service(protocol, port))
}

#[inline(always)]
fn decide(context: &XdpContext, rule: Option<&LpmRule>, service: u32) -> Option<u32> {
    let outcome = match rule {
        Some(rule) if rule.service == service || rule.service == ANY_SERVICE => rule.outcome,
        _ => {
            let open = OPEN.get(0)?.ports[service as usize & (OPEN_ENTRIES - 1)];
            u32::from(open) << 31 | (LPM_COUNTERS - 1)
        }
    };
    let count = LPM_COUNTS.get_ptr_mut(outcome & !LPM_ACCEPT)?;
    // SAFETY: the slot is this CPU's own, and a program is not interrupted by another on the same CPU.
    unsafe {
        (*count).packets += 1;
        (*count).bytes += (context.data_end() - context.data()) as u64;
    }
    Some(if outcome & LPM_ACCEPT != 0 {
        xdp_action::XDP_PASS
    } else {
        xdp_action::XDP_DROP
    })
}

#[inline(always)]
fn view<T>(context: &XdpContext, offset: usize) -> Option<&T> {
    let start = context.data() + offset;
    if start + size_of::<T>() > context.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between data and data_end; T is plain integers.
    Some(unsafe { &*(start as *const T) })
}
