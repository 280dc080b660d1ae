//! The rules in force on an interface, as a rule set.

use std::path::Path;

use anyhow::{Result, bail};

use crate::kernel::guard::Guard;
use crate::policy;
use crate::rules::{self, Loaded};

/// The rule file in force, as it was when it was applied.
///
/// # Errors
///
/// The file, or an address list that it names, is not what it was then.
pub(crate) fn loaded(guard: &Guard) -> Result<Loaded> {
    let description = &guard.description;
    let file = &description.file;
    let changed = || {
        format!(
            "the rules in force come from {file}, which is not what it was when it was applied; write the new rules to another \
             file, or say with `--against OLDFILE` what to compare them with"
        )
    };
    let Ok(loaded) = rules::load(Path::new(file)) else {
        bail!(changed());
    };
    // The image's hash covers the address lists; the slots of counters that it names are those it has.
    let prepared = policy::prepare(&loaded, Some(&description.policy))?;
    if prepared.policy != description.policy {
        bail!(changed());
    }
    Ok(loaded)
}
