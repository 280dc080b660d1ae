//! What kernel and user space must agree on: versions, map names, record layouts and limits.

pub mod ban;
pub mod control;
pub mod counter;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod handoff;
pub mod image;
pub mod knock;
pub mod limit;
pub mod question;
pub mod reason;
pub mod shadow;
pub mod terms;
mod words;

/// Version of everything pinned: map names, records and the policy image. A `firewall` of another version refuses to
/// touch what it finds.
pub const ABI_VERSION: u32 = 5;

/// Generations of a size class that can be loaded at the same time: the active one, the one before it, a candidate that is only
/// looked at, and one being filled.
pub const SLOTS: u32 = 4;

/// Name of the map that holds the one [`control::Control`] record.
pub const MAP_CONTROL: &str = "CONTROL";
/// Name of the per-CPU array of [`counter::Counter`], indexed as [`counter`] says. It is pinned with a number behind: one
/// that became too small stays beside its successor, and a count is the sum over all of them.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Names of the arrays of maps that hold policy images, one for each [`image::SIZE_CLASSES`].
pub const MAP_IMAGES: [&str; image::SIZE_CLASSES.len()] =
    ["IMAGE_0", "IMAGE_1", "IMAGE_2", "IMAGE_3", "IMAGE_4"];
/// Flags of the map that holds an image: `BPF_F_MMAPABLE` (linux/bpf.h). It puts the value at the start of a page; in a
/// plain array it begins 56 bytes into a cache line, and each line of the image would lie in two.
pub const IMAGE_MAP_FLAGS: u32 = 1 << 10;
/// Name of the XDP program.
pub const PROGRAM_INGRESS: &str = "firewall_ingress";
/// Name of the XDP program that goes on with fragments.
pub const PROGRAM_INGRESS_FRAGMENT: &str = "ingress_fragment";
/// Name of the XDP program that goes on with what rules refuse.
pub const PROGRAM_INGRESS_REFUSED: &str = "ingress_refused";
/// Name of the tcx program.
pub const PROGRAM_EGRESS: &str = "firewall_egress";
/// Name of the tcx program that goes on with what opens a flow.
pub const PROGRAM_EGRESS_OPENS: &str = "egress_opens";
/// Name of the map from [`fragment::FragmentKey`] to [`fragment::Remembered`].
pub const MAP_FRAGMENTS: &str = "FRAGMENTS";
/// Name of the program array of [`INGRESS_NEXT_REFUSED`], [`INGRESS_NEXT_FRAGMENT`], [`INGRESS_NEXT_TERMS`],
/// [`INGRESS_NEXT_COOKIE`], [`INGRESS_NEXT_STRIKE`], [`INGRESS_NEXT_SHADOW`] and [`INGRESS_NEXT_EVENT`].
pub const MAP_INGRESS_NEXT: &str = "INGRESS_NEXT";
/// Index of [`PROGRAM_INGRESS_REFUSED`].
pub const INGRESS_NEXT_REFUSED: u32 = 0;
/// Index of [`PROGRAM_INGRESS_FRAGMENT`].
pub const INGRESS_NEXT_FRAGMENT: u32 = 1;
/// Name of the XDP program that goes on with what comes under a rule with terms.
pub const PROGRAM_INGRESS_TERMS: &str = "ingress_terms";
/// Index of [`PROGRAM_INGRESS_TERMS`].
pub const INGRESS_NEXT_TERMS: u32 = 2;
/// Name of the XDP program that counts what is dropped towards a ban.
pub const PROGRAM_INGRESS_STRIKE: &str = "ingress_strike";
/// Index of [`PROGRAM_INGRESS_STRIKE`].
pub const INGRESS_NEXT_STRIKE: u32 = 4;
/// Name of the XDP program that answers SYNs with cookies.
pub const PROGRAM_INGRESS_COOKIE: &str = "ingress_cookie";
/// Index of [`PROGRAM_INGRESS_COOKIE`].
pub const INGRESS_NEXT_COOKIE: u32 = 3;
/// Name of the XDP program that asks a candidate policy about what has been decided.
pub const PROGRAM_INGRESS_SHADOW: &str = "ingress_shadow";
/// Index of [`PROGRAM_INGRESS_SHADOW`].
pub const INGRESS_NEXT_SHADOW: u32 = 5;
/// Name of the tcx program that asks a candidate policy about what has been decided.
pub const PROGRAM_EGRESS_SHADOW: &str = "egress_shadow";
/// Index of [`PROGRAM_EGRESS_SHADOW`].
pub const EGRESS_NEXT_SHADOW: u32 = 2;
/// Name of the XDP program that tells user space of what has been decided.
pub const PROGRAM_INGRESS_EVENT: &str = "ingress_event";
/// Index of [`PROGRAM_INGRESS_EVENT`].
pub const INGRESS_NEXT_EVENT: u32 = 6;
/// Name of the tcx program that tells user space of what has been decided.
pub const PROGRAM_EGRESS_EVENT: &str = "egress_event";
/// Index of [`PROGRAM_EGRESS_EVENT`].
pub const EGRESS_NEXT_EVENT: u32 = 3;
/// Name of the tcx program that goes on with fragments.
pub const PROGRAM_EGRESS_FRAGMENT: &str = "egress_fragment";
/// Name of the program array of [`EGRESS_NEXT_OPENS`], [`EGRESS_NEXT_FRAGMENT`], [`EGRESS_NEXT_SHADOW`] and [`EGRESS_NEXT_EVENT`].
pub const MAP_EGRESS_NEXT: &str = "EGRESS_NEXT";
/// Index of [`PROGRAM_EGRESS_OPENS`].
pub const EGRESS_NEXT_OPENS: u32 = 0;
/// Index of [`PROGRAM_EGRESS_FRAGMENT`].
pub const EGRESS_NEXT_FRAGMENT: u32 = 1;
/// Name of the program that says the kernel's jiffies. It is attached to nothing: user space, which has no other way to know them,
/// runs it.
pub const PROGRAM_CLOCK: &str = "firewall_clock";
