//! The image that decides, as the kernel has it.

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use firewall_common::abi::control::Place;

use super::{Guard, Trial};
use crate::kernel::image::{self, Draft, Images, Tables};

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

    /// A draft of the next image, of the size class of the one that decides and as yet without lines; or nothing where it cannot be made
    /// ahead: where that has to be written down first which the programs have done by themselves, or there are no threads left.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn draft(&self) -> Result<Option<Draft>> {
        if self.trial == Trial::Lapsed {
            return Ok(None);
        }
        let place = self.free_place(self.place().class())?;
        Draft::begin(self.open(image::map_name(place))?, place)
    }

    /// The map with the image in `place`.
    pub(super) fn image(&self, place: Place) -> Result<MapData> {
        let images = Images::of(self.open(image::map_name(place))?)?;
        let id = (images.id(place.slot())?).context("the policy's tables are not there")?;
        MapData::from_id(id).context("opening the policy's tables")
    }
}
