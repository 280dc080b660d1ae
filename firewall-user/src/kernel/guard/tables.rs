//! The image that decides, as the kernel has it.

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use firewall_common::abi::control::Place;

use super::{Guard, Trial};
use crate::kernel::image::{self, Draft, Tables};

impl Guard {
    /// The image that decides. Behind its end the tables are zero.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn tables(&self) -> Result<Tables> {
        let place = self.place();
        Tables::of(&self.image(place)?, place.class())
    }

    /// The first `lines` of the image that decides as a draft of the next one; or nothing where that has to be written down first which
    /// the programs have done by themselves.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn draft(&self, lines: usize) -> Result<Option<Draft>> {
        if self.trial == Trial::Lapsed {
            return Ok(None);
        }
        let place = self.free_place(image::class_of_lines(lines))?;
        let mut draft = Draft::begin(self.open(image::map_name(place))?, place)?;
        let fits = draft.extend_by(&self.tables()?[..lines]);
        Ok(fits.then_some(draft))
    }

    /// The map with the image in `place`.
    pub(super) fn image(&self, place: Place) -> Result<MapData> {
        // The system call is that of an array of u32: each is the id of a map.
        let images = Map::Array(self.open(image::map_name(place))?);
        let images: Array<MapData, u32> = Array::try_from(images)?;
        let id = images.get(&place.slot(), 0);
        let id = id.context("asking for the policy's tables")?;
        MapData::from_id(id).context("opening the policy's tables")
    }
}
