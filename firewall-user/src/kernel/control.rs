//! The word that says which generation decides, in this process's memory: a store of it is seen whole by every program.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use firewall_common::abi::MAP_CONTROL;
use firewall_common::abi::control::Control;

use super::mapped::{Access, Mapped};
use super::pins::Pins;

/// The word of an interface.
#[derive(Debug)]
pub(super) struct ControlWord(Mapped<AtomicU64>);

impl ControlWord {
    /// The one that is pinned with an interface.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let data =
            MapData::from_pin(pins.map(MAP_CONTROL)).context("opening the pinned control map")?;
        Self::of(&data)
    }

    /// The one in this map.
    pub(super) fn of(map: &MapData) -> Result<Self> {
        Ok(Self(Mapped::new(map, 1, Access::Write)?))
    }

    pub(super) fn load(&self) -> Control {
        Control {
            word: self.word().load(Ordering::Acquire),
        }
    }

    /// Puts `new` in the place of `old`. Returns whether it was still there.
    pub(super) fn replace(&self, old: Control, new: Control) -> bool {
        let replaced =
            (self.word()).compare_exchange(old.word, new.word, Ordering::AcqRel, Ordering::Acquire);
        replaced.is_ok()
    }

    /// Puts `new` there, whatever is there.
    pub(super) fn store(&self, new: Control) {
        self.word().store(new.word, Ordering::Release);
    }

    fn word(&self) -> &AtomicU64 {
        &self.0[0]
    }
}
