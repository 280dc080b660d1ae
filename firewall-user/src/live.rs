//! The rules that are in force on an interface, as they were when they were applied.

use std::path::Path;

use anyhow::{Result, bail};

use crate::kernel::guard::Guard;
use crate::policy;
use crate::rules::{self, Loaded};

/// The rule file that is in force.
///
/// # Errors
///
/// The file, or a list that it names, is not there any more or has changed since.
pub(crate) fn loaded(guard: &Guard) -> Result<Loaded> {
    let description = &guard.description;
    let file = &description.file;
    let Ok(loaded) = rules::load(Path::new(file)) else {
        bail!("{file} cannot be read any more");
    };
    let prepared = policy::prepare(&loaded, Some(&description.policy))?;
    if prepared.policy.file_sha256 != description.policy.file_sha256
        || prepared.policy.image_sha256 != description.policy.image_sha256
    {
        bail!("{file} has changed since it was applied");
    }
    Ok(loaded)
}
