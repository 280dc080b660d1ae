//! As little as following flows in the kernel's LRU hash can do: parse IPv4 with TCP or UDP, look up the flow, count. It
//! checks no state, sequence or time, has no VLANs, no options and no IPv6.
#![expect(
    unsafe_code,
    reason = "packet pointers are checked against the packet's end here, and map values are written through pointers"
)]

use aya_ebpf::{
    bindings::BPF_ANY,
    btf_maps::{LruHashMap, PerCpuArray},
    macros::btf_map,
};

use crate::abi::{LruKey, LruValue, lru};

/// The flows; user space sets the real size.
#[btf_map]
pub static LRU: LruHashMap<LruKey, LruValue, 1024> = LruHashMap::new();

/// Packets by what happened to them.
#[btf_map]
pub static LRU_COUNTS: PerCpuArray<u64, { lru::COUNTERS }> = PerCpuArray::new();

const ETHERNET: usize = 14;
const IPV4: usize = 20;

/// Words of a value.
const SENT: usize = 0;
const RECEIVED: usize = 1;

/// Whether what arrives answers a flow.
#[inline(always)]
pub(crate) fn answers(start: usize, end: usize) -> bool {
    let Some(ends) = ends(start, end) else {
        return false;
    };
    let found = add(&ends.key(ends.destination, ends.source), RECEIVED);
    count(if found { lru::HITS } else { lru::MISSES });
    found
}

/// Goes on with the flow of what leaves, or begins it.
#[inline(always)]
pub(crate) fn record(start: usize, end: usize) {
    let Some(ends) = ends(start, end) else {
        return;
    };
    let key = ends.key(ends.source, ends.destination);
    if add(&key, SENT) {
        return count(lru::HITS);
    }
    if LRU.insert(&key, [1, 0, 0], u64::from(BPF_ANY)).is_ok() {
        count(lru::INSERTED);
    }
}

/// Counts a packet of the flow, if it is there.
#[inline(always)]
fn add(key: &LruKey, direction: usize) -> bool {
    let Some(value) = LRU.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the map's values stay; one program runs at a time here.
    unsafe { (*value)[direction] += 1 };
    true
}

#[inline(always)]
fn count(slot: u32) {
    if let Some(counter) = LRU_COUNTS.get_ptr_mut(slot) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *counter += 1 };
    }
}

/// Where a packet comes from and goes to.
struct Ends {
    protocol: u8,
    source: End,
    destination: End,
}

#[derive(Clone, Copy)]
struct End {
    address: u32,
    port: u16,
}

impl Ends {
    #[inline(always)]
    fn key(&self, local: End, remote: End) -> LruKey {
        let mapped = |end: End| 0xffff << 32 | u64::from(end.address);
        let selector =
            u64::from(self.protocol) << 32 | u64::from(local.port) << 16 | u64::from(remote.port);
        [0, mapped(local), 0, mapped(remote), selector]
    }
}

#[inline(always)]
fn ends(start: usize, end: usize) -> Option<Ends> {
    if start + ETHERNET + IPV4 + size_of::<[u16; 2]>() > end {
        return None;
    }
    // SAFETY: these bytes lie between start and end.
    unsafe {
        let ip = start + ETHERNET;
        let (kind, version) = (*((start + 12) as *const u16), *(ip as *const u8));
        if u16::from_be(kind) != 0x0800 || version != 0x45 {
            return None;
        }
        let protocol = *((ip + 9) as *const u8);
        let [source, destination] = *((ip + 12) as *const [u32; 2]);
        let [source_port, destination_port] = *((ip + IPV4) as *const [u16; 2]);
        let end = |address: u32, port: u16| End {
            address: u32::from_be(address),
            port: u16::from_be(port),
        };
        Some(Ends {
            protocol,
            source: end(source, source_port),
            destination: end(destination, destination_port),
        })
    }
}
