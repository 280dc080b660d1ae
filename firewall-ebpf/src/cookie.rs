//! SYNs in a flood are answered here, with the cookie that the kernel makes.
#![expect(
    unsafe_code,
    reason = "helpers look sockets up, make cookies and write to the frame"
)]

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, bpf_fib_lookup as Route},
    helpers::generated::{
        bpf_check_mtu, bpf_fib_lookup, bpf_jiffies64, bpf_sk_release, bpf_skc_lookup_tcp,
        bpf_tcp_gen_syncookie, bpf_xdp_adjust_tail,
    },
    macros::xdp,
    programs::XdpContext,
};
use firewall_common::abi::flow::Key;
use firewall_common::decide::connection::{self, Local};
use firewall_common::decide::cookie::{
    self, ANSWER_V4, ANSWER_V6, Headers, Place, SynAck, V4_WORDS, V6_WORDS,
};
use firewall_common::frame::Frame as _;
use firewall_common::parse::{Addresses, Packet};

use crate::handoff;
use crate::maps::{INGRESS_HANDOFF, SYN};
use crate::packet::{self, Context as _, KernelFrame, define_arguments, defined};
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

/// What a CPU has at hand for the SYN that it answers.
#[repr(C)]
pub struct Scratch {
    /// The SYN's headers.
    headers: Headers,
    /// What is known of its destination.
    own: Own,
}

/// The address that was last found to be this host's own, and when.
#[repr(C)]
struct Own {
    destination: [u64; 2],
    period: u64,
}

/// Bits of `jiffies` for which an address is believed to be this host's own: a quarter of a second at 1000 Hz, 2.5 s at 100 Hz. To
/// look that up takes the kernel half as long as to make a cookie.
const PERIOD_SHIFT: u32 = 8;

/// Answers a SYN to a listening socket, if the kernel makes a cookie for it. What is not answered goes on as the rule says.
#[xdp(frags)]
#[inline(always)]
pub fn ingress_cookie(context: XdpContext) -> u32 {
    let Some(handoff) = handoff::take(&INGRESS_HANDOFF) else {
        return xdp_action::XDP_DROP;
    };
    let world = KernelWorld::<true>::without_room(context.ctx, context.unknown());
    let asked = handoff.to_asked();
    let answer = match asked.packet.addresses {
        Addresses::V4 { .. } => prepare::<V4_WORDS>(&context, &asked.packet),
        Addresses::V6 { .. } => prepare::<V6_WORDS>(&context, &asked.packet),
    };
    match answer.map(|answer| write(&context, &answer)) {
        None | Some(Written::Not) => xdp_action(cookie::not_answered(&asked, &world)),
        Some(Written::Whole) => {
            cookie::answered(&asked, &world);
            xdp_action::XDP_TX
        }
        Some(Written::InPart) => xdp_action(NO_NEXT),
    }
}

/// The answer to a SYN.
struct Answer {
    syn_ack: SynAck,
    place: Place,
    /// Bytes of the SYN's frame.
    length: u32,
}

/// The answer to the SYN in the frame, whose IP header has so many words; `None` if the kernel has to see it.
#[inline(always)]
fn prepare<const IP_WORDS: usize>(context: &XdpContext, packet: &Packet) -> Option<Answer> {
    let frame = KernelFrame::new(context);
    // SAFETY: the word is there; the loader may have changed it before it froze it, so it is not what stands here.
    let own = unsafe { (&raw const HARDWARE_ADDRESS).read_volatile() };
    let place = cookie::place(&frame, packet, own)?;
    let length = frame.len();
    // What lies in several buffers cannot be cut to size.
    if frame.full_len() != length {
        return None;
    }
    let scratch = defined::<true, _>(SYN.get_ptr_mut(0))?;
    // SAFETY: the record is this CPU's own.
    let Scratch { headers, own } = unsafe { &mut *scratch };
    let sequence = headers.read::<IP_WORDS, _>(&frame, packet, &place)?;
    if !own.is_own(context, packet) {
        return None;
    }
    let (cookie, mss) = make::<IP_WORDS>(context, packet, headers, &place)?;
    Some(Answer {
        syn_ack: SynAck::new(packet, sequence, cookie, mss, mtu(context)),
        place,
        length,
    })
}

/// The cookie and the MSS that the kernel answers this SYN with; `None` where nobody listens, or it makes no cookie: it needs none, or
/// the socket has more connections than it takes.
#[inline(always)]
fn make<const IP_WORDS: usize>(
    context: &XdpContext,
    packet: &Packet,
    headers: &Headers,
    place: &Place,
) -> Option<(u32, u16)> {
    let key = connection::key(&packet.addresses, &packet.transport, 0, Local::Destination);
    let (mut tuple, size) = tuple(&key)?;
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
        define_arguments();
        if socket.is_null() {
            return None;
        }
        let made = if (*socket).state == state::LISTEN {
            let ip = headers.as_ptr().cast_mut();
            bpf_tcp_gen_syncookie(
                socket.cast(),
                ip.cast(),
                4 * IP_WORDS as u32,
                ip.add(IP_WORDS).cast(),
                place.tcp_bytes,
            )
        } else {
            // A connection that is being made or that has just ended, which the kernel knows more about.
            -1
        };
        bpf_sk_release(socket.cast());
        define_arguments();
        made
    };
    (made >= 0).then_some((made as u32, (made >> 32) as u16))
}

impl Own {
    /// Whether what comes for that address comes for this host, as far as the routes say: what it hands on to another is not meant
    /// for the socket that listens here, even if that listens at all addresses.
    #[inline(always)]
    fn is_own(&mut self, context: &XdpContext, packet: &Packet) -> bool {
        let destination = match packet.addresses {
            Addresses::V4 { destination, .. } => Key::mapped(destination),
            Addresses::V6 { destination, .. } => destination,
        };
        // SAFETY: takes nothing.
        let period = unsafe { bpf_jiffies64() } >> PERIOD_SHIFT;
        let differs = self.destination[0] ^ destination[0]
            | self.destination[1] ^ destination[1]
            | self.period ^ period;
        if differs == 0 {
            return true;
        }
        if is_forwarded(context, packet) {
            return false;
        }
        *self = Self {
            destination,
            period,
        };
        true
    }
}

/// Whether this host hands on to another what comes for that address.
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
    define_arguments();
    !matches!(found, NOT_FORWARDED | FORWARDS_NOTHING)
}

/// Largest packet that goes through the interface.
#[inline(always)]
fn mtu(context: &XdpContext) -> u32 {
    let mut mtu = 0;
    // SAFETY: the helper writes one number. It says too whether the frame is larger, which does not matter.
    unsafe { bpf_check_mtu(context.ctx.cast(), 0, &raw mut mtu, 0, 0) };
    define_arguments();
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
        } => write_over::<ANSWER_V4, _>(context, answer, &answer.syn_ack.v4(source, destination)),
        Addresses::V6 {
            source,
            destination,
        } => write_over::<ANSWER_V6, _>(context, answer, &answer.syn_ack.v6(source, destination)),
    }
}

/// Cuts the frame to size and writes the first `BYTES` of `packet` to where the SYN's was.
#[inline(always)]
fn write_over<const BYTES: usize, const WORDS: usize>(
    context: &XdpContext,
    answer: &Answer,
    packet: &[u64; WORDS],
) -> Written {
    const { assert!(BYTES <= 8 * WORDS) };
    let change = answer.place.start as i32 + BYTES as i32 - answer.length as i32;
    // SAFETY: nothing refers to the frame's bytes.
    let error = unsafe { bpf_xdp_adjust_tail(context.ctx, change) };
    define_arguments();
    if error != 0 {
        return Written::Not;
    }
    let ethernet = answer.place.hardware.answered();
    // SAFETY: there are as many bytes.
    let written = unsafe {
        packet::write::<12, _>(context, 0, ethernet.as_ptr())
            && packet::write::<BYTES, _>(context, answer.place.start, packet.as_ptr())
    };
    if written {
        Written::Whole
    } else {
        Written::InPart
    }
}
