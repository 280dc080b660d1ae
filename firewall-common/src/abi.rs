//! What kernel and user space must agree on: versions, map names, record layouts and limits.

pub mod control;
pub mod counter;
pub mod image;
pub mod reason;

/// Version of everything pinned: map names, records and the policy image. A `firewall` of another version refuses to
/// touch what it finds.
pub const ABI_VERSION: u32 = 1;

/// Generations that can be loaded at the same time: the active one, the one before it, and one being filled.
pub const SLOTS: u32 = 4;

/// Name of the map that holds the one [`control::Control`] record.
pub const MAP_CONTROL: &str = "CONTROL";
/// Name of the per-CPU array of [`counter::Counter`], indexed as [`counter`] says.
pub const MAP_COUNTERS: &str = "COUNTERS";
/// Names of the arrays of maps that hold policy images, one for each [`image::SIZE_CLASSES`].
pub const MAP_IMAGES: [&str; image::SIZE_CLASSES.len()] =
    ["IMAGE_0", "IMAGE_1", "IMAGE_2", "IMAGE_3", "IMAGE_4"];
/// Name of the XDP program.
pub const PROGRAM_INGRESS: &str = "firewall_ingress";
