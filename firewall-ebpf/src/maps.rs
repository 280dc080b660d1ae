//! The maps, by the names that `firewall_common::abi` gives them.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use firewall_common::abi::{
    IMAGE_MAP_FLAGS, SLOTS,
    ban::{self, BAN_MAP_FLAGS},
    control::{CONTROL_MAP_FLAGS, Control},
    counter::{Counter, MIN_SLOTS},
    event::{self, BUDGETS, Budget, EVENT_MAP_FLAGS, Event, READERS, RING_BYTES},
    flow::{Bucket, FLOW_MAP_FLAGS, MIN_BUCKETS, Ports, Settings},
    fragment::{FragmentKey, MAX_DATAGRAMS, Remembered},
    handoff::Handoff,
    image::{Line, SIZE_CLASSES},
    knock,
    limit::{self, LIMIT_MAP_FLAGS},
    shadow::{SAMPLES, Sample, Shadow},
};
use firewall_common::tables::Limited;

use crate::cookie::Scratch;
use crate::events;
use crate::word::KernelWord;
use crate::world::Admitted;

/// A policy image of one size class.
#[repr(C)]
pub struct Image<const LINES: usize> {
    /// The image's lines.
    pub lines: [Line; LINES],
}

/// The map of one image.
pub type ImageMap<const LINES: usize> = Array<Image<LINES>, 1, { IMAGE_MAP_FLAGS as usize }>;

/// Generations of one size class.
pub type Images<const LINES: usize> = ArrayOfMaps<ImageMap<LINES>, { SLOTS as usize }>;

/// Lines in an image of size class `class`.
pub const fn lines(class: usize) -> usize {
    SIZE_CLASSES[class] / size_of::<Line>()
}

/// Which generation is active.
#[btf_map]
pub static CONTROL: Array<Control, 1, { CONTROL_MAP_FLAGS as usize }> = Array::new();

/// Packets and bytes by reason, rule and port; user space sets the real number of slots when it loads the program.
#[btf_map]
pub static COUNTERS: PerCpuArray<Counter, { MIN_SLOTS as usize }> = PerCpuArray::new();

/// The flows that this host has opened; user space makes the table, of the size that is wanted, and all programs of a
/// network namespace share it.
#[btf_map]
pub static FLOWS: Array<
    Bucket<KernelWord>,
    { MIN_BUCKETS as usize },
    { IMAGE_MAP_FLAGS as usize },
> = Array::new();

/// What the programs must know of the flow table.
#[btf_map]
pub static FLOW_SETTINGS: Array<Settings, 1> = Array::new();

/// The ports that flows were opened from.
#[btf_map]
pub static FLOW_PORTS: Array<Ports<KernelWord>, 1> = Array::new();

/// A packet on its way to [`INGRESS_NEXT`].
#[btf_map]
pub static INGRESS_HANDOFF: PerCpuArray<Handoff, 1> = PerCpuArray::new();

/// A packet on its way to [`EGRESS_NEXT`].
#[btf_map]
pub static EGRESS_HANDOFF: PerCpuArray<Handoff, 1> = PerCpuArray::new();

/// The programs that go on with what rules refuse, with fragments, with what comes on terms, with SYNs in a flood, with
/// what counts towards a ban, with what a candidate is asked about, and with what user space is told of.
#[btf_map]
pub static INGRESS_NEXT: ProgramArray<7> = ProgramArray::new();

/// The programs that go on with what may open a flow, with fragments, with what a candidate is asked about, and with what user space
/// is told of.
#[btf_map]
pub static EGRESS_NEXT: ProgramArray<4> = ProgramArray::new();

/// How many packets have been let in lately from each budget of [`Limited`].
#[btf_map]
pub static ADMITTED: PerCpuArray<Admitted, { Limited::COUNT }> = PerCpuArray::new();

/// What is at hand for a SYN that is answered.
#[btf_map]
pub static SYN: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// The bans of this interface; user space makes the table, of the size that is wanted.
#[btf_map]
pub static BANS: Array<
    ban::Bucket<KernelWord>,
    { ban::MIN_BUCKETS as usize },
    { BAN_MAP_FLAGS as usize },
> = Array::new();

/// What the programs must know of that table.
#[btf_map]
pub static BAN_SETTINGS: Array<ban::Settings<KernelWord>, 1, { BAN_MAP_FLAGS as usize }> =
    Array::new();

/// What most packets do not get past on the way to that table.
#[btf_map]
pub static BAN_FILTERS: Array<
    ban::Filter<KernelWord>,
    { ban::FILTERS as usize },
    { BAN_MAP_FLAGS as usize },
> = Array::new();

/// The token buckets of this interface; user space makes the table, of the size that is wanted.
#[btf_map]
pub static LIMITS: Array<
    limit::Line<KernelWord>,
    { limit::MIN_LINES as usize },
    { LIMIT_MAP_FLAGS as usize },
> = Array::new();

/// What the programs must know of that table.
#[btf_map]
pub static LIMIT_SETTINGS: Array<limit::Settings, 1> = Array::new();

/// Ports that packets come for although no rule names them.
#[btf_map]
pub static KNOCKS: PerCpuArray<knock::Set, { knock::SETS as usize }> = PerCpuArray::new();

/// The time, where a test has set it.
#[btf_map]
pub static TEST_CLOCK: Array<u64, 1> = Array::new();

/// The candidate policy, where there is one.
#[btf_map]
pub static SHADOW: Array<Shadow, 1> = Array::new();

/// Where it differs; user space sets the real number of slots.
#[btf_map]
pub static SHADOW_COUNTERS: PerCpuArray<Counter, 2> = PerCpuArray::new();

/// Packets that it differs about.
#[btf_map]
pub static SHADOW_SAMPLES: PerCpuArray<Sample, { SAMPLES as usize }> = PerCpuArray::new();

/// The ring buffers of those who read events.
#[btf_map]
pub static EVENTS: ArrayOfMaps<RingBuf<Event, { RING_BYTES as usize }>, { READERS as usize }> =
    ArrayOfMaps::new();

/// Who reads events, and how many.
#[btf_map]
pub static EVENT_SETTINGS: Array<event::Settings<KernelWord>, 1, { EVENT_MAP_FLAGS as usize }> =
    Array::new();

/// How many events there have been.
#[btf_map]
pub static EVENT_BUDGETS: PerCpuArray<Budget, { BUDGETS as usize }> = PerCpuArray::new();

/// What is at hand for an event.
#[btf_map]
pub static EVENT: PerCpuArray<events::Scratch, 1> = PerCpuArray::new();

/// What was decided of first fragments.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Remembered, { MAX_DATAGRAMS as usize }> =
    LruHashMap::new();

#[btf_map]
pub static IMAGE_0: Images<{ lines(0) }> = ArrayOfMaps::new();
#[btf_map]
pub static IMAGE_1: Images<{ lines(1) }> = ArrayOfMaps::new();
#[btf_map]
pub static IMAGE_2: Images<{ lines(2) }> = ArrayOfMaps::new();
#[btf_map]
pub static IMAGE_3: Images<{ lines(3) }> = ArrayOfMaps::new();
#[btf_map]
pub static IMAGE_4: Images<{ lines(4) }> = ArrayOfMaps::new();
