//! The active policy image in its map.
#![expect(
    unsafe_code,
    reason = "image pointers are checked against the image's size here, for everybody else"
)]

use aya_ebpf::helpers::generated::bpf_jiffies64;
use firewall_common::abi::control::Place;
use firewall_common::abi::image::{Line, Record};
use firewall_common::tables::Tables;

use crate::diagnostics::{self, BROKEN_TABLES};
use crate::maps::{CONTROL, IMAGE_0, IMAGE_1, IMAGE_2, IMAGE_3, IMAGE_4, Image, Images, lines};
use crate::packet::defined;

/// The image that was active when the packet arrived.
pub struct KernelTables {
    start: *const u8,
    size: u64,
}

impl KernelTables {
    /// Finds the active image. `None` if there is none, which user space never lets happen while a program is attached.
    #[inline(always)]
    pub fn active<const CAREFUL: bool>() -> Option<Self> {
        let control = *defined::<CAREFUL, _>(CONTROL.get(0))?;
        // SAFETY: the helper reads a counter.
        let now = defined::<CAREFUL, _>(unsafe { bpf_jiffies64() });
        let place = control.deciding(now);
        let tables = Self::at::<CAREFUL>(place);
        if tables.is_none() {
            diagnostics::say(BROKEN_TABLES, place.byte().into());
        }
        tables
    }

    /// The image in a place.
    #[inline(always)]
    pub fn at<const CAREFUL: bool>(place: Place) -> Option<Self> {
        let slot = place.slot();
        match place.class() {
            0 => Self::of::<CAREFUL, { lines(0) }>(&IMAGE_0, slot),
            1 => Self::of::<CAREFUL, { lines(1) }>(&IMAGE_1, slot),
            2 => Self::of::<CAREFUL, { lines(2) }>(&IMAGE_2, slot),
            3 => Self::of::<CAREFUL, { lines(3) }>(&IMAGE_3, slot),
            4 => Self::of::<CAREFUL, { lines(4) }>(&IMAGE_4, slot),
            _ => None,
        }
    }

    #[inline(always)]
    fn of<const CAREFUL: bool, const LINES: usize>(
        images: &Images<LINES>,
        slot: u32,
    ) -> Option<Self> {
        let image: &Image<LINES> = defined::<CAREFUL, _>(images.get_value(slot, &0))?;
        Some(Self {
            start: core::ptr::from_ref(image).cast(),
            size: size_of::<Image<LINES>>() as u64,
        })
    }

    /// The `T` at `index`, in units of `T`.
    #[inline(always)]
    fn get<T>(&self, index: u32) -> Option<&T> {
        let offset = u64::from(index) * size_of::<T>() as u64;
        if offset > self.size - size_of::<T>() as u64 {
            return None;
        }
        // SAFETY: the T lies wholly inside the image, which is aligned to 8 bytes at least as array map values are; the
        // machine reads unaligned lines and records as well, and every T here is plain integers.
        Some(unsafe { &*self.start.add(offset as usize).cast() })
    }
}

impl Tables for KernelTables {
    #[inline(always)]
    fn u8(&self, index: u32) -> Option<u8> {
        self.get(index).copied()
    }

    #[inline(always)]
    fn u16(&self, index: u32) -> Option<u16> {
        self.get(index).copied()
    }

    #[inline(always)]
    fn u32(&self, index: u32) -> Option<u32> {
        self.get(index).copied()
    }

    #[inline(always)]
    fn u64(&self, index: u32) -> Option<u64> {
        self.get(index).copied()
    }

    #[inline(always)]
    fn record(&self, index: u32) -> Option<&Record> {
        self.get(index)
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        self.get(index)
    }
}
