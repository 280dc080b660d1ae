//! One command at a time changes anything; others may look on meanwhile.

use std::fs::{DirBuilder, File, Permissions, TryLockError, set_permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A folder that nobody else can enter: whoever could open the file could lock it, and keep everybody waiting.
const FOLDER: &str = "/run/firewall";
const LOCK: &str = "/run/firewall/lock";

/// How long a command waits for its turn. An apply takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Waits for its turn; the turn ends when the file is dropped.
pub(crate) fn exclusive() -> Result<File> {
    wait(File::try_lock)
}

/// Waits until nobody is changing anything.
pub(crate) fn shared() -> Result<File> {
    wait(File::try_lock_shared)
}

fn wait(lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<File> {
    let file = open()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lock(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => bail!(
                "another `firewall` has held {LOCK} for {} s; `fuser -v {LOCK}` shows it",
                PATIENCE.as_secs()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {LOCK}"));
            }
        }
    }
}

fn open() -> Result<File> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(FOLDER);
    created.with_context(|| format!("creating {FOLDER}"))?;
    set_permissions(Path::new(FOLDER), Permissions::from_mode(0o700))
        .with_context(|| format!("closing {FOLDER} to others"))?;
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(LOCK)
        .with_context(|| format!("opening {LOCK}"))
}
