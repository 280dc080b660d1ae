//! One command at a time changes anything; others may look on meanwhile.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};

const LOCK: &str = "/run/firewall.lock";

/// Waits for its turn; the turn ends when the file is dropped.
pub(crate) fn exclusive() -> Result<File> {
    let file = open()?;
    file.lock().with_context(|| format!("locking {LOCK}"))?;
    Ok(file)
}

/// Waits until nobody is changing anything.
pub(crate) fn shared() -> Result<File> {
    let file = open()?;
    file.lock_shared()
        .with_context(|| format!("locking {LOCK}"))?;
    Ok(file)
}

fn open() -> Result<File> {
    let path = Path::new(LOCK);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("opening {LOCK}"))
}
