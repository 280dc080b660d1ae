//! The one record that the program reads first: which generation decides, and until when.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{SLOTS, image::SIZE_CLASSES};

/// Flags of the map that holds the record: `BPF_F_MMAPABLE` (linux/bpf.h). User space changes it in its own memory, because a
/// store of one word is seen whole, which of the system call is not said.
pub const CONTROL_MAP_FLAGS: u32 = 1 << 10;

/// Which policy image is in force, as one word that is stored at once: a packet sees wholly the old or wholly the new one.
///
/// | bits | |
/// |---|---|
/// | 0 to 7 | the generation that decides, a [`Place`] |
/// | 8 to 15 | the one before, a [`Place`], or [`Place::NONE`] |
/// | 16 to 63 | where the first has to be confirmed, the time from which on the second decides, in jiffies; else 0 |
///
/// So it takes nobody to go back: once the time has come every packet is decided by the one before. Jiffies, which are those of
/// `bpf_jiffies64`, cost a program one read; 48 bits of them are 8,900 years at 1000 Hz.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Control {
    /// The word.
    pub word: u64,
}

/// Where an image lies: size class and slot of its array of maps, in a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(u8);

impl Place {
    /// No image.
    pub const NONE: Self = Self(u8::MAX);

    /// The image in `slot` of the images of size class `class`.
    pub const fn new(class: u32, slot: u32) -> Self {
        assert!(
            slot < SLOTS && class < SIZE_CLASSES.len() as u32,
            "no such image"
        );
        Self((class * SLOTS + slot) as u8)
    }

    /// The byte, which of every place but [`Self::NONE`] is below [`super::event::PLACES`].
    #[inline(always)]
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// The place with this [`byte`](Self::byte), if there is one.
    pub const fn of_byte(byte: u8) -> Option<Self> {
        if (byte as usize) < super::event::PLACES {
            Some(Self(byte))
        } else {
            None
        }
    }

    /// Index into [`SIZE_CLASSES`]; of [`Self::NONE`] no such.
    #[inline(always)]
    pub const fn class(self) -> u32 {
        self.0 as u32 / SLOTS
    }

    /// Index into the array of maps of its class.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        self.0 as u32 % SLOTS
    }
}

impl Control {
    const BEFORE_SHIFT: u32 = 8;
    const DEADLINE_SHIFT: u32 = 16;

    /// The generation in `active` decides, and after it was the one in `before`.
    pub const fn new(active: Place, before: Place) -> Self {
        Self {
            word: active.0 as u64 | (before.0 as u64) << Self::BEFORE_SHIFT,
        }
    }

    /// The same until the time `deadline`, in jiffies and not 0; from then on it is the generation before that decides.
    pub const fn until(self, deadline: u64) -> Self {
        assert!(
            deadline != 0 && deadline >> (u64::BITS - Self::DEADLINE_SHIFT) == 0,
            "no such time"
        );
        Self {
            word: self.word & ((1 << Self::DEADLINE_SHIFT) - 1) | deadline << Self::DEADLINE_SHIFT,
        }
    }

    /// When the generation before decides again, in jiffies; 0 for never.
    #[inline(always)]
    pub const fn deadline(self) -> u64 {
        self.word >> Self::DEADLINE_SHIFT
    }

    /// What was made active last.
    #[inline(always)]
    pub const fn active(self) -> Place {
        Place(self.word as u8)
    }

    /// What was so before.
    #[inline(always)]
    pub const fn before(self) -> Place {
        Place((self.word >> Self::BEFORE_SHIFT) as u8)
    }

    /// What decides at the time `now`, in jiffies. Without a branch, of which the verifier would follow each side through all that comes
    /// behind: where there is no deadline, what is left until then is more than any time.
    #[inline(always)]
    pub const fn deciding(self, now: u64) -> Place {
        let last = self.deadline().wrapping_sub(1) & (u64::MAX >> 1);
        let is_over = last.wrapping_sub(now) >> (u64::BITS - 1);
        Place((self.word >> (is_over * Self::BEFORE_SHIFT as u64)) as u8)
    }
}

const _: () = assert!(size_of::<Control>() == 8);
const _: () = assert!((SIZE_CLASSES.len() as u32 * SLOTS) < u8::MAX as u32);

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Place = Place::new(4, 3);
    const NEW: Place = Place::new(0, 1);

    #[test]
    fn what_is_not_confirmed_in_time_gives_way_to_what_was_before() {
        let waiting = Control::new(NEW, OLD).until(1000);
        for (now, decides) in [(0, NEW), (999, NEW), (1000, OLD), (1 << 48, OLD)] {
            assert_eq!(waiting.deciding(now), decides, "{now}");
        }
        assert_eq!((waiting.active(), waiting.before()), (NEW, OLD));
        assert_eq!(waiting.until(2000).deciding(1000), NEW);
        let longest = waiting.until((1 << 48) - 1);
        assert_eq!(longest.deciding((1 << 48) - 2), NEW);
        assert_eq!(longest.deciding((1 << 48) - 1), OLD);
    }

    #[test]
    fn what_is_confirmed_stays_at_any_time() {
        let control = Control::new(NEW, Place::NONE);
        for now in [0, 1, 1000, 1 << 48, 1 << 62] {
            assert_eq!(control.deciding(now), NEW, "{now}");
        }
        assert_eq!((NEW.class(), NEW.slot()), (0, 1));
        assert_eq!((OLD.class(), OLD.slot()), (4, 3));
        assert!(Place::NONE.class() >= SIZE_CLASSES.len() as u32);
    }
}
