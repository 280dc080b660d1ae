//! The maps, by the names that `firewall_common::abi` gives them.

use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, PerCpuArray},
    macros::btf_map,
};
use firewall_common::abi::{
    SLOTS,
    control::Control,
    counter::{Counter, MIN_SLOTS},
    image::{Line, SIZE_CLASSES},
};

/// A policy image of one size class.
#[repr(C)]
pub struct Image<const LINES: usize> {
    /// The image's lines.
    pub lines: [Line; LINES],
}

/// Generations of one size class.
pub type Images<const LINES: usize> = ArrayOfMaps<Array<Image<LINES>, 1>, { SLOTS as usize }>;

/// Lines in an image of size class `class`.
pub const fn lines(class: usize) -> usize {
    SIZE_CLASSES[class] / size_of::<Line>()
}

/// Which generation is active.
#[btf_map]
pub static CONTROL: Array<Control, 1> = Array::new();

/// Packets and bytes by reason, rule and port; user space sets the real number of slots when it loads the program.
#[btf_map]
pub static COUNTERS: PerCpuArray<Counter, { MIN_SLOTS as usize }> = PerCpuArray::new();

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
