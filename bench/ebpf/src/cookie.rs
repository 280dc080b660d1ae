//! As little as answering a SYN with a cookie can do: find the listening socket and have the kernel make the cookie. No checksum
//! is looked at, no rate, no route, and nothing is written.
#![expect(
    unsafe_code,
    reason = "packet pointers are checked against the packet's end here, and helpers take pointers"
)]

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock_tuple, xdp_action},
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie},
    macros::btf_map,
    programs::XdpContext,
};

/// SYNs for which there was a listening socket and, where one was asked for, a cookie; and SYN+ACKs.
#[btf_map]
pub static COOKIES: PerCpuArray<u64, 1> = PerCpuArray::new();

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// A header with one option, the maximum segment size.
const TCP: usize = 24;
const FLAGS: usize = 13;
const SYN_ACK: u8 = 0x12;
/// Bytes of what a socket is looked up by.
const TUPLE_V4: u32 = 12;
const TUPLE_V6: u32 = 36;

/// Looks the socket up, and makes a cookie if `MAKE`. The frame has the headers said above.
#[inline(always)]
pub(crate) fn v4<const MAKE: bool>(context: &XdpContext) -> Option<u32> {
    let ip = context.data() + ETHERNET;
    if ip + IPV4 + TCP > context.data_end() {
        return None;
    }
    // SAFETY: plain integers, for which zeroes are a value; and the bytes lie between start and end.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    unsafe {
        let [source, destination] = *((ip + 12) as *const [u32; 2]);
        let [source_port, destination_port] = *((ip + IPV4) as *const [u16; 2]);
        tuple.__bindgen_anon_1.ipv4.saddr = source;
        tuple.__bindgen_anon_1.ipv4.daddr = destination;
        tuple.__bindgen_anon_1.ipv4.sport = source_port;
        tuple.__bindgen_anon_1.ipv4.dport = destination_port;
    }
    ask::<MAKE, IPV4>(context, &mut tuple, TUPLE_V4, ip)
}

/// The same over IPv6.
#[inline(always)]
pub(crate) fn v6<const MAKE: bool>(context: &XdpContext) -> Option<u32> {
    let ip = context.data() + ETHERNET;
    if ip + IPV6 + TCP > context.data_end() {
        return None;
    }
    // SAFETY: as above.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    unsafe {
        let [source, destination] = *((ip + 8) as *const [[u32; 4]; 2]);
        let [source_port, destination_port] = *((ip + IPV6) as *const [u16; 2]);
        tuple.__bindgen_anon_1.ipv6.saddr = source;
        tuple.__bindgen_anon_1.ipv6.daddr = destination;
        tuple.__bindgen_anon_1.ipv6.sport = source_port;
        tuple.__bindgen_anon_1.ipv6.dport = destination_port;
    }
    ask::<MAKE, IPV6>(context, &mut tuple, TUPLE_V6, ip)
}

#[inline(always)]
fn ask<const MAKE: bool, const HEADER: usize>(
    context: &XdpContext,
    tuple: &mut bpf_sock_tuple,
    size: u32,
    ip: usize,
) -> Option<u32> {
    // SAFETY: the tuple is as long as `size` says, the headers were checked to be in the frame, and the socket is given back.
    let made = unsafe {
        let socket = bpf_skc_lookup_tcp(
            context.ctx.cast(),
            tuple,
            size,
            BPF_F_CURRENT_NETNS as u64,
            0,
        );
        if socket.is_null() {
            return None;
        }
        let made = if MAKE {
            bpf_tcp_gen_syncookie(
                socket.cast(),
                ip as *mut _,
                HEADER as u32,
                (ip + HEADER) as *mut _,
                TCP as u32,
            )
        } else {
            0
        };
        bpf_sk_release(socket.cast());
        made
    };
    if made < 0 {
        return None;
    }
    count();
    Some(xdp_action::XDP_TX)
}

/// Counts a SYN+ACK, over IPv4 or IPv6 without options and extensions.
#[inline(always)]
pub(crate) fn count_answer(start: usize, end: usize) {
    if start + ETHERNET > end {
        return;
    }
    // SAFETY: these bytes lie between start and end.
    let kind = unsafe { *((start + 12) as *const u16) };
    let flags = match u16::from_be(kind) {
        0x0800 => flags::<IPV4>(start, end),
        0x86dd => flags::<IPV6>(start, end),
        _ => return,
    };
    if flags == Some(SYN_ACK) {
        count();
    }
}

#[inline(always)]
fn flags<const HEADER: usize>(start: usize, end: usize) -> Option<u8> {
    let at = start + ETHERNET + HEADER + FLAGS;
    if at + 1 > end {
        return None;
    }
    // SAFETY: the byte lies between start and end.
    Some(unsafe { *(at as *const u8) })
}

#[inline(always)]
fn count() {
    if let Some(counter) = COOKIES.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *counter += 1 };
    }
}
