//! The records of ABI version 4: those of now, without the maps of events.

use std::path::Path;

use anyhow::{Context as _, Result};
use firewall_common::abi::control::Place;

use super::Step;
use crate::kernel::blob;
use crate::kernel::control::ControlWord;
use crate::kernel::description::Description;
use crate::kernel::events;
use crate::kernel::guard::Trial;
use crate::kernel::pins::{self, Pins};

/// How version 4 is read.
pub(super) const STEP: Step = Step {
    from: 4,
    in_force,
    description,
    anew: &events::MAPS,
    keeps_sources: true,
    losses,
};

/// The generation that decides; one that is on trial may give way meanwhile, and does so under the new programs too.
fn in_force(pins: &Pins) -> Result<Place> {
    let control = ControlWord::open(pins)?.load();
    Ok(Trial::of(control, pins)?.deciding(control))
}

/// A description is JSON.
fn description(path: &Path) -> Result<Description> {
    serde_json::from_slice(&blob::read(path)?)
        .with_context(|| format!("reading {}", path.display()))
}

fn losses(pins: &Pins) -> Result<Vec<String>> {
    Ok(match pins::exists(&pins.shadow())? {
        true => vec![
            "the candidate is not asked any more: `firewall apply --shadow FILE` does that again"
                .to_owned(),
        ],
        false => Vec::new(),
    })
}
