//! SYNs in a flood are answered here, with the cookie that the kernel makes.
#![expect(
    unsafe_code,
    reason = "helpers look sockets up, make cookies and write to the frame"
)]

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_fib_lookup as Route},
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie,
        bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    macros::xdp,
    programs::XdpContext,
};
use firewall_common::decide::connection::{self, Local};
use firewall_common::decide::cookie::{
    self, Headers, IPV4_HEADER, IPV6_HEADER, MAX_WORDS, Place, SynAck,
};
use firewall_common::frame::Frame as _;
use firewall_common::parse::{Addresses, Packet};

use crate::handoff;
use crate::maps::INGRESS_HANDOFF;
use crate::packet::{Context as _, KernelFrame};
use crate::world::{KernelWorld, state, tuple, words};
use crate::{NO_NEXT, xdp_action};

/// The interface's hardware address, as [`cookie::hardware_address`] has it; the loader sets it.
#[unsafe(no_mangle)]
static HARDWARE_ADDRESS: u64 = 0;

/// Address families (linux/socket.h).
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What `bpf_fib_lookup` returns for what is not to be forwarded, and where nothing is (linux/bpf.h).
const NOT_FORWARDED: i64 = 4;
const FORWARDS_NOTHING: i64 = 5;

/// Answers a SYN to a listening socket, if the kernel makes a cookie for it. What is not answered goes on as the rule says.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_cookie(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::new(context.ctx, context.unknown());
    let asked = handoff.to_asked();
    match prepare(&context, &asked.packet).map(|answer| write(&context, &answer)) {
        None | Some(Written::Not) => xdp_action(cookie::not_answered(&asked, &world)),
        Some(Written::Whole) => {
            cookie::answered(&asked, &world);
            xdp_action::XDP_TX
        }
        Some(Written::InPart) => xdp_action(NO_NEXT),
    }
}

/// What the frame is to become.
struct Answer {
    syn_ack: SynAck,
    /// Destination and source of the Ethernet header.
    hardware_addresses: [[u8; 6]; 2],
    /// Where the IP header begins.
    start: u32,
    /// Bytes of the SYN's frame.
    length: u32,
}

/// The answer to the SYN in the frame; `None` if the kernel has to see that.
#[inline(always)]
fn prepare(context: &XdpContext, packet: &Packet) -> Option<Answer> {
    let frame = KernelFrame::new(context);
    // SAFETY: the word is there; the loader may have changed it before it froze it, so it is not what stands here.
    let own = unsafe { (&raw const HARDWARE_ADDRESS).read_volatile() };
    let place = cookie::place(&frame, packet, own)?;
    let length = frame.len();
    // What lies in several buffers cannot be cut to size.
    if frame.full_len() != length {
        return None;
    }
    let [destination, source] = *frame.view::<[[u8; 6]; 2]>(0)?;
    let headers = load(context, packet, &place)?;
    let sequence = cookie::sequence(packet, &headers, place.tcp_bytes)?;
    if is_forwarded(context, packet) {
        return None;
    }
    let (cookie, mss) = make(context, packet, &headers, place.tcp_bytes)?;
    Some(Answer {
        syn_ack: SynAck::new(packet, sequence, cookie, mss, mtu(context)),
        hardware_addresses: [source, destination],
        start: place.start,
        length,
    })
}

/// The SYN's headers.
#[inline(always)]
fn load(context: &XdpContext, packet: &Packet, place: &Place) -> Option<Headers> {
    let mut headers: Headers = [0; MAX_WORDS];
    let bytes = place.tcp_bytes + ip_bytes(packet);
    // SAFETY: as many bytes are written as the array has, or fewer.
    let error =
        unsafe { bpf_xdp_load_bytes(context.ctx, place.start, headers.as_mut_ptr().cast(), bytes) };
    (error == 0).then_some(headers)
}

/// The cookie and the MSS that the kernel answers this SYN with; `None` where nobody listens, or it makes no cookie: it needs none, or
/// the socket has more connections than it takes.
#[inline(always)]
fn make(
    context: &XdpContext,
    packet: &Packet,
    headers: &Headers,
    tcp_bytes: u32,
) -> Option<(u32, u16)> {
    let key = connection::key(&packet.addresses, &packet.transport, 0, Local::Destination);
    let (mut tuple, size) = tuple(&key)?;
    let ip_bytes = ip_bytes(packet);
    // SAFETY: the context is the program's own, the tuple is as long as `size` says, the headers as long as is said, and the
    // socket is given back.
    let made = unsafe {
        let socket = bpf_skc_lookup_tcp(
            context.ctx.cast(),
            &raw mut tuple,
            size,
            BPF_F_CURRENT_NETNS as u64,
            0,
        );
        if socket.is_null() {
            return None;
        }
        let made = if (*socket).state == state::LISTEN {
            let ip = headers.as_ptr().cast_mut();
            bpf_tcp_gen_syncookie(
                socket.cast(),
                ip.cast(),
                ip_bytes,
                ip.byte_add(ip_bytes as usize).cast(),
                tcp_bytes,
            )
        } else {
            // A connection that is being made or that has just ended, which the kernel knows more about.
            -1
        };
        bpf_sk_release(socket.cast());
        made
    };
    (made >= 0).then_some((made as u32, (made >> 32) as u16))
}

/// Whether this host hands on to another what comes for that address; the socket that listens is then not the one meant.
#[inline(always)]
fn is_forwarded(context: &XdpContext, packet: &Packet) -> bool {
    // SAFETY: plain integers, for which zeroes are a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    // SAFETY: the context is the one that the kernel passed to this program.
    route.ifindex = unsafe { (*context.ctx).ingress_ifindex };
    match packet.addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            route.family = AF_INET;
            route.__bindgen_anon_3.ipv4_src = source.to_be();
            route.__bindgen_anon_4.ipv4_dst = destination.to_be();
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            route.family = AF_INET6;
            route.__bindgen_anon_3.ipv6_src = words(source);
            route.__bindgen_anon_4.ipv6_dst = words(destination);
        }
    }
    // SAFETY: the context is the program's own, and the record is as long as is said.
    let found = unsafe {
        bpf_fib_lookup(
            context.ctx.cast(),
            &raw mut route,
            size_of::<Route>() as i32,
            0,
        )
    };
    !matches!(found, NOT_FORWARDED | FORWARDS_NOTHING)
}

/// Largest packet that goes through the interface.
#[inline(always)]
fn mtu(context: &XdpContext) -> u32 {
    let mut mtu = 0;
    // SAFETY: the helper writes one number. It says too whether the frame is larger, which does not matter.
    unsafe { bpf_check_mtu(context.ctx.cast(), 0, &raw mut mtu, 0, 0) };
    mtu
}

/// What became of an answer.
enum Written {
    /// The frame is the answer.
    Whole,
    /// The frame is what it was.
    Not,
    /// The frame is neither, which nobody has seen.
    InPart,
}

/// Makes the frame the answer.
#[inline(always)]
fn write(context: &XdpContext, answer: &Answer) -> Written {
    match answer.syn_ack.addresses {
        Addresses::V4 {
            source,
            destination,
        } => write_over(context, answer, &answer.syn_ack.v4(source, destination)),
        Addresses::V6 {
            source,
            destination,
        } => write_over(context, answer, &answer.syn_ack.v6(source, destination)),
    }
}

#[inline(always)]
fn write_over<const BYTES: usize>(
    context: &XdpContext,
    answer: &Answer,
    packet: &[u8; BYTES],
) -> Written {
    let change = answer.start as i32 + BYTES as i32 - answer.length as i32;
    // SAFETY: no reference into the frame is used behind this.
    if unsafe { bpf_xdp_adjust_tail(context.ctx, change) } != 0 {
        return Written::Not;
    }
    let store = |at: u32, bytes: &[u8]| {
        // SAFETY: as many bytes are read as there are.
        let error = unsafe {
            bpf_xdp_store_bytes(
                context.ctx,
                at,
                bytes.as_ptr().cast_mut().cast(),
                bytes.len() as u32,
            )
        };
        error == 0
    };
    if store(0, answer.hardware_addresses.as_flattened()) && store(answer.start, packet) {
        Written::Whole
    } else {
        Written::InPart
    }
}

/// Bytes of the IP header, which has no options.
#[inline(always)]
const fn ip_bytes(packet: &Packet) -> u32 {
    match packet.addresses {
        Addresses::V4 { .. } => IPV4_HEADER,
        Addresses::V6 { .. } => IPV6_HEADER,
    }
}
