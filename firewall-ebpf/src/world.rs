//! The kernel's side of a decision: counters, connections, first fragments, and how many packets of some kinds may pass.
#![expect(
    unsafe_code,
    reason = "counters are written through pointers, and sockets are looked up by helpers"
)]

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_CURRENT_NETNS, bpf_sock_tuple},
    cty::c_void,
    helpers::generated::{
        bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_sk_release,
        bpf_skc_lookup_tcp, bpf_tcp_raw_check_syncookie_ipv4, bpf_tcp_raw_check_syncookie_ipv6,
    },
};
use firewall_common::abi::event::is_event;
use firewall_common::abi::image::Outcome;
use firewall_common::abi::knock;
use firewall_common::abi::{
    ban::Prefix,
    limit::Kind,
    terms::{BanAfter, Terms},
};
use firewall_common::abi::{
    flow::Key as FlowKey,
    fragment::{FragmentKey, Remembered},
};
use firewall_common::decide::ban;
use firewall_common::decide::flow::Flows as _;
use firewall_common::decide::limit::{self, Demand, Key};
use firewall_common::decide::terms::{self, Simply};
use firewall_common::parse::{IpHeader, Packet, Transport, transport::TCP_HEADER};
use firewall_common::tables::{Limited, Tally, World};

use crate::diagnostics::{self, BANS};
use crate::events;
use crate::flows::KernelFlows;
use crate::maps::{ADMITTED, COUNTERS, FRAGMENTS, KNOCKS, TEST_CLOCK};
use crate::packet::{define_saved, defined};
use crate::shadow::{self, Subject};
use crate::state::{KernelBans, KernelLimits};
use crate::tables::KernelTables;

/// TCP states in which a socket is no end of a connection (include/net/tcp_states.h).
pub mod state {
    pub(super) const SYN_SENT: u32 = 2;
    pub(super) const CLOSE: u32 = 7;
    pub const LISTEN: u32 = 10;
    /// A SYN has come and was answered, and there is no more than what says so (`struct request_sock`).
    pub(super) const NEW_SYN_RECV: u32 = 12;
}

/// Bits of `jiffies` that make a period: a second and a little at 1000 Hz, four at 250 Hz, ten at 100 Hz.
const PERIOD_SHIFT: u32 = 10;

/// Whether [`TEST_CLOCK`] has the time. The verifier knows that the loader has left it 0, and takes what asks for it out.
#[unsafe(no_mangle)]
static CLOCK_IS_SET: u64 = 0;

/// What a CPU remembers of what it has let in.
#[repr(C)]
pub struct Admitted {
    /// Current period.
    pub period: u32,
    /// Packets let in during it.
    pub count: u32,
}

/// The world as a program sees it; for `CAREFUL` see [`defined`].
pub struct KernelWorld<const CAREFUL: bool> {
    context: *mut c_void,
    flows: KernelFlows,
    /// Whether the packet came from another program, and still is where that one put it.
    was_handed_over: bool,
    /// Whether the stack has room to ask a candidate.
    has_room: bool,
}

impl<const CAREFUL: bool> KernelWorld<CAREFUL> {
    /// The world of the program that was given `context`; `unknown` is a number of which the verifier knows nothing.
    #[inline(always)]
    pub fn new<T>(context: *mut T, unknown: u32) -> Self {
        Self {
            context: context.cast(),
            flows: KernelFlows { unknown },
            was_handed_over: false,
            has_room: true,
        }
    }

    /// The same, of a packet that came from another program.
    #[inline(always)]
    pub fn of_handed_over<T>(context: *mut T, unknown: u32) -> Self {
        Self {
            was_handed_over: true,
            ..Self::new(context, unknown)
        }
    }

    /// The same, of a program that needs most of the stack.
    #[inline(always)]
    pub fn without_room<T>(context: *mut T, unknown: u32) -> Self {
        Self {
            has_room: false,
            ..Self::of_handed_over(context, unknown)
        }
    }

    /// Time in ticks of one to two seconds, however long the flow table's are while it has no settings.
    #[inline(always)]
    fn ticks(&self) -> u64 {
        let shift = match self.flows.settings() {
            Some(settings) if settings.tick_shift != 0 => settings.tick_shift,
            _ => PERIOD_SHIFT,
        };
        // SAFETY: takes nothing.
        (unsafe { bpf_jiffies64() }) >> (shift & 63)
    }
}

impl<const CAREFUL: bool> World for KernelWorld<CAREFUL> {
    type Tables = KernelTables;
    type Flows = KernelFlows;
    type Bans = KernelBans<CAREFUL>;
    type Limits = KernelLimits;

    #[inline(always)]
    fn tables(&self) -> Option<KernelTables> {
        KernelTables::active::<CAREFUL>()
    }

    #[inline(always)]
    fn count(&self, slot: u32, tally: Tally) -> u32 {
        if let Some(counter) = defined::<CAREFUL, _>(COUNTERS.get_ptr_mut(slot)) {
            // SAFETY: the slot is this CPU's own; ingress and egress run in softirq context, one at a time, but for packets
            // that a process sends, whose count an interrupt could at worst overwrite by one.
            unsafe {
                (*counter).add(tally.bytes, tally.opens);
                return (*counter).packets as u32;
            }
        }
        0
    }

    #[inline(always)]
    fn knock(&self, transport: &Transport, tally: Tally, sequence: u32) {
        if transport.selector.is_none() {
            return;
        }
        let key = knock::port_key(transport.protocol, transport.value);
        if let Some(set) = defined::<CAREFUL, _>(KNOCKS.get_ptr_mut(knock::Set::index(key))) {
            // SAFETY: as for counters.
            unsafe { (*set).count(key, sequence, tally.bytes, tally.opens) };
        }
    }

    #[inline(always)]
    fn compare(&self, packet: &Packet, outcome: Outcome, is_egress: bool) {
        // What is there already need not be kept at hand to be put there again.
        let subject = match (self.was_handed_over, self.has_room) {
            (false, _) => Subject::Packet(packet),
            (true, true) => Subject::HandedOver,
            (true, false) => Subject::HandedOverToBeAsked,
        };
        shadow::ask(self.context, subject, outcome, is_egress);
    }

    #[inline(always)]
    fn report(&self, outcome: Outcome, is_egress: bool) {
        if is_event(outcome) {
            events::hand_over::<CAREFUL>(self.context, outcome, is_egress);
        }
    }

    #[inline(always)]
    fn now_ns(&self, precise: bool) -> u64 {
        defined::<CAREFUL, _>(now_ns(precise))
    }

    #[inline(always)]
    fn bans(&self) -> &KernelBans<CAREFUL> {
        &KernelBans
    }

    #[inline(always)]
    fn has_ban(&self, address: [u64; 2], length: u32) -> bool {
        let [upper, lower] = address;
        defined::<CAREFUL, _>(firewall_has_ban(upper, lower, length.into())) != 0
    }

    #[inline(always)]
    fn strike(&self, prefix: &Prefix, rule: u32, ban: &BanAfter) -> bool {
        let [upper, lower] = prefix.address;
        let whose = u64::from(rule) | u64::from(prefix.length) << 32;
        let struck = firewall_strike(upper, lower, whose, ban.when());
        defined::<CAREFUL, _>(struck) != 0
    }

    #[inline(always)]
    fn give_ban(&self, prefix: &Prefix, rule: u32, for_ns: u64) {
        let [upper, lower] = prefix.address;
        let length = prefix.length.into();
        defined::<CAREFUL, _>(firewall_give_ban(upper, lower, length, rule.into(), for_ns));
    }

    #[inline(always)]
    fn simply(&self, source: [u64; 2], number: u32, bytes: u32) -> Simply {
        let [upper, lower] = source;
        let simply = firewall_simply(upper, lower, number.into(), bytes.into());
        Simply::from_word(defined::<CAREFUL, _>(simply))
    }

    #[inline(always)]
    fn take(&self, demand: &Demand) -> bool {
        let Demand {
            key,
            cost_ns,
            tolerance_ns,
        } = demand;
        let [upper, lower] = key.source;
        // What tells shared buckets apart is small, and others have nothing there.
        let whose = u64::from(key.rule) | (key.kind as u64) << 32 | key.more << 40;
        defined::<CAREFUL, _>(firewall_take(upper, lower, whose, *cost_ns, *tolerance_ns)) != 0
    }

    #[inline(always)]
    fn limits(&self) -> &KernelLimits {
        &KernelLimits
    }

    #[inline(always)]
    fn flows(&self) -> &KernelFlows {
        &self.flows
    }

    #[inline(always)]
    fn has_connection(&self, key: &FlowKey, half_open: bool) -> bool {
        let Some((mut tuple, size)) = tuple(key) else {
            return false;
        };
        // SAFETY: the context is the program's own, the tuple is as long as `size` says, and the socket is given back.
        unsafe {
            let socket = bpf_skc_lookup_tcp(
                self.context,
                &raw mut tuple,
                size,
                BPF_F_CURRENT_NETNS as u64,
                0,
            );
            if socket.is_null() {
                return false;
            }
            let state = (*socket).state;
            bpf_sk_release(socket.cast());
            !matches!(state, state::LISTEN | state::CLOSE | state::SYN_SENT)
                && (half_open || state != state::NEW_SYN_RECV)
        }
    }

    #[inline(always)]
    fn acknowledges_cookie(&self, ip: IpHeader<'_>, tcp: &[u8; TCP_HEADER]) -> bool {
        let tcp = tcp.as_ptr().cast_mut().cast();
        // SAFETY: the helpers read 20 or 40 bytes of IP header and 20 of TCP's, which the slices have.
        let error = unsafe {
            match ip {
                IpHeader::V4(ip) => {
                    bpf_tcp_raw_check_syncookie_ipv4(ip.as_ptr().cast_mut().cast(), tcp)
                }
                IpHeader::V6(ip) => {
                    bpf_tcp_raw_check_syncookie_ipv6(ip.as_ptr().cast_mut().cast(), tcp)
                }
            }
        };
        error == 0
    }

    #[inline(always)]
    fn admits(&self, kind: Limited) -> bool {
        // SAFETY: takes nothing.
        let period = (unsafe { bpf_jiffies64() } >> PERIOD_SHIFT) as u32;
        let Some(admitted) = ADMITTED.get_ptr_mut(kind.index()) else {
            return false;
        };
        // SAFETY: the record is this CPU's own.
        let admitted = unsafe { &mut *admitted };
        if admitted.period != period {
            admitted.period = period;
            admitted.count = 0;
        }
        admitted.count = admitted.count.saturating_add(1);
        admitted.count <= kind.in_a_period()
    }

    #[inline(always)]
    fn first_fragment(&self, key: &FragmentKey) -> Option<bool> {
        let remembered = FRAGMENTS.get_ptr(key)?;
        // SAFETY: one aligned word, which another CPU writes at once. Where the entry has been given to another datagram in
        // between, it says what was decided of that one: a refused datagram's first fragment has not come in all the same.
        let remembered = unsafe { remembered.read_volatile() };
        remembered.accepts(key, self.ticks())
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, accepts: bool) {
        let remembered = Remembered::new(self.ticks(), accepts);
        // It fails only where every entry is in use by other CPUs; the later fragments then are early ones.
        let _ = FRAGMENTS.insert(key, remembered, u64::from(BPF_ANY));
    }
}

/// Monotonic time in ns.
#[inline(always)]
pub fn now_ns(precise: bool) -> u64 {
    // SAFETY: the word is there; the loader may have changed it before it froze it, so it is not what stands here.
    if unsafe { (&raw const CLOCK_IS_SET).read_volatile() } != 0 {
        return TEST_CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: they take nothing.
    unsafe {
        if precise {
            bpf_ktime_get_ns()
        } else {
            bpf_ktime_get_coarse_ns()
        }
    }
}

/// Whether the prefix of this length that an address is in is banned, 1 or 0. The verifier looks at a global function once, and not on
/// every path that leads to it (`do_check_subprogs`, kernel/bpf/verifier.c): with it inlined it had more than a million instructions to look at.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_has_ban(upper: u64, lower: u64, length: u64) -> u64 {
    define_saved();
    let prefix = Prefix::of([upper, lower], length as u32);
    let bans = KernelBans::<true>;
    u64::from(ban::has(&prefix, || now_ns(false), &bans))
}

/// What a limit says of a packet, if that is all, as the word of a [`Simply`]. A global function, as [`firewall_has_ban`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_simply(upper: u64, lower: u64, number: u64, bytes: u64) -> u64 {
    define_saved();
    let world = KernelWorld::<true>::new(core::ptr::null_mut::<c_void>(), 0);
    terms::simply([upper, lower], number as u32, bytes as u32, &world).to_word()
}

/// Whether a token bucket has what is asked of it, 1 or 0; `whose` is `more 24 | kind 8 | rule 32`. A global function, as
/// [`firewall_has_ban`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_take(
    upper: u64,
    lower: u64,
    whose: u64,
    cost_ns: u64,
    tolerance_ns: u64,
) -> u64 {
    define_saved();
    let demand = Demand {
        key: Key {
            source: [upper, lower],
            rule: whose as u32,
            more: whose >> 40,
            kind: if whose >> 32 & 0xff == Kind::Source as u64 {
                Kind::Source
            } else {
                Kind::Shared
            },
        },
        cost_ns,
        tolerance_ns,
    };
    let now_ns = now_ns(tolerance_ns < Terms::COARSE_TOLERANCE_NS);
    u64::from(limit::take(&demand, now_ns, &KernelLimits))
}

/// Counts a packet towards the ban of a prefix, and returns whether it is time, 1 or 0; `whose` is `length 8 | rule 32`, and `when` that of a [`BanAfter`]. A global function, as
/// [`firewall_has_ban`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_strike(upper: u64, lower: u64, whose: u64, when: u64) -> u64 {
    define_saved();
    let world = KernelWorld::<true>::new(core::ptr::null_mut::<c_void>(), 0);
    let prefix = Prefix {
        address: [upper, lower],
        length: (whose >> 32) as u8,
    };
    let ban = BanAfter::from_words(when, 0, prefix.length);
    u64::from(terms::strike_prefix(&prefix, whose as u32, &ban, &world))
}

/// Bans a prefix, by the rule with this counter slot. A global function, as [`firewall_has_ban`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn firewall_give_ban(
    upper: u64,
    lower: u64,
    length: u64,
    rule: u64,
    for_ns: u64,
) -> u64 {
    define_saved();
    let now_ns = now_ns(false);
    let prefix = Prefix {
        address: [upper, lower],
        length: length as u8,
    };
    let ban = ban::Ban::by_rule(prefix, rule as u32, for_ns, now_ns);
    diagnostics::say(BANS, rule);
    ban::give_by_rule(&ban, now_ns, &KernelBans::<true>) as u64
}

/// The ends of a connection as the kernel looks sockets up, and the size of what is used of that. `None` where they are not of
/// one family.
#[inline(always)]
pub fn tuple(key: &FlowKey) -> Option<(bpf_sock_tuple, u32)> {
    let lower = key.local[1];
    let is_v4 = FlowKey::is_mapped(key.local);
    if is_v4 != FlowKey::is_mapped(key.remote) {
        return None;
    }
    // SAFETY: a union of plain integers, for which zeroes are a value.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4 {
        tuple.__bindgen_anon_1.ipv4.saddr = (key.remote[1] as u32).to_be();
        tuple.__bindgen_anon_1.ipv4.daddr = (lower as u32).to_be();
        tuple.__bindgen_anon_1.ipv4.sport = key.remote_port.to_be();
        tuple.__bindgen_anon_1.ipv4.dport = key.local_port.to_be();
        12
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = words(key.remote);
        tuple.__bindgen_anon_1.ipv6.daddr = words(key.local);
        tuple.__bindgen_anon_1.ipv6.sport = key.remote_port.to_be();
        tuple.__bindgen_anon_1.ipv6.dport = key.local_port.to_be();
        36
    };
    Some((tuple, size))
}

/// An address as the kernel's records have it.
#[inline(always)]
pub const fn words(address: [u64; 2]) -> [u32; 4] {
    let [upper, lower] = address;
    [
        ((upper >> 32) as u32).to_be(),
        (upper as u32).to_be(),
        ((lower >> 32) as u32).to_be(),
        (lower as u32).to_be(),
    ]
}
