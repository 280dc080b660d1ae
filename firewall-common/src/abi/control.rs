//! The one record that the program reads first: which generation decides.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SLOTS, image::SIZE_CLASSES};

/// Which policy image is in force.
///
/// The number fits one byte, so that user space switches generations in a store that no reader can see half of: a packet
/// sees wholly the old or wholly the new one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Control {
    /// `size class * SLOTS + slot`, see [`Control::new`].
    pub active: u64,
}

impl Control {
    /// The generation in `slot` of the images of `class` decides.
    pub const fn new(class: u32, slot: u32) -> Self {
        assert!(
            slot < SLOTS && class < SIZE_CLASSES.len() as u32,
            "no such image"
        );
        Self {
            active: (class * SLOTS + slot) as u64,
        }
    }

    /// Index into [`SIZE_CLASSES`] of the active image.
    pub const fn class(self) -> u32 {
        self.active as u32 / SLOTS
    }

    /// Index of the active image in the array of maps of its class.
    pub const fn slot(self) -> u32 {
        self.active as u32 % SLOTS
    }
}

const _: () = assert!(size_of::<Control>() == 8);
const _: () = assert!(SIZE_CLASSES.len() as u32 * SLOTS < 256);
