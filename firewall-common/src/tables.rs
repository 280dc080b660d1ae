//! What a decision may ask of the world: the policy image, and to be counted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::abi::image::{Line, Record};

/// Everything outside the packet that a decision depends on or changes.
pub trait World {
    /// The policy image in force.
    type Tables: Tables;

    /// The active image. Asked once for a packet and only behind the parser, so that one packet is decided by one
    /// generation. `None` where there is none.
    fn tables(&self) -> Option<Self::Tables>;

    /// Adds one packet of `bytes` to the counter in `slot`.
    fn count(&self, slot: u32, bytes: u32);
}

/// Read access to a policy image.
///
/// Every read is bounds-checked against the image. `None` means that the image is inconsistent, and the decision then is
/// to drop ([`crate::abi::reason::DropReason::BrokenTables`]).
pub trait Tables {
    /// The `u16` at `index`, in `u16` units from the start of the image.
    fn u16(&self, index: u32) -> Option<u16>;

    /// The `u32` at `index`, in `u32` units.
    fn u32(&self, index: u32) -> Option<u32>;

    /// The `u64` at `index`, in `u64` units.
    fn u64(&self, index: u32) -> Option<u64>;

    /// The record at `index`, in 16-byte units.
    fn record(&self, index: u32) -> Option<&Record>;

    /// The line at `index`, in 64-byte units.
    fn line(&self, index: u32) -> Option<&Line>;
}

/// A world in plain memory: an image, and a function that is told what to count.
#[derive(Debug)]
pub struct HostWorld<'a, C> {
    image: &'a [Line],
    count: C,
}

impl<'a, C: Fn(u32, u32)> HostWorld<'a, C> {
    /// Decides by `image`, calls `count` with slot and bytes.
    pub const fn new(image: &'a [Line], count: C) -> Self {
        Self { image, count }
    }
}

impl<'a, C: Fn(u32, u32)> World for HostWorld<'a, C> {
    type Tables = HostTables<'a>;

    fn tables(&self) -> Option<HostTables<'a>> {
        Some(HostTables(self.image))
    }

    fn count(&self, slot: u32, bytes: u32) {
        (self.count)(slot, bytes);
    }
}

/// An image in plain memory.
#[derive(Clone, Copy, Debug)]
pub struct HostTables<'a>(&'a [Line]);

impl<'a> HostTables<'a> {
    fn get<T: FromBytes + Immutable + KnownLayout>(&self, index: u32) -> Option<&'a T> {
        let size = size_of::<T>();
        let bytes = self.0.as_bytes();
        let start = (index as usize).checked_mul(size)?;
        let bytes = bytes.get(start..start.checked_add(size)?)?;
        T::ref_from_bytes(bytes).ok()
    }
}

impl Tables for HostTables<'_> {
    fn u16(&self, index: u32) -> Option<u16> {
        self.get(index).copied()
    }

    fn u32(&self, index: u32) -> Option<u32> {
        self.get(index).copied()
    }

    fn u64(&self, index: u32) -> Option<u64> {
        self.get(index).copied()
    }

    fn record(&self, index: u32) -> Option<&Record> {
        self.get(index)
    }

    fn line(&self, index: u32) -> Option<&Line> {
        self.0.get(index as usize)
    }
}
