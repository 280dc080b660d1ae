//! One command at a time changes anything; others may look on meanwhile.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError, set_permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A folder that nobody else can enter: whoever could open the file could lock it, and keep everybody waiting.
const FOLDER: &str = "/run/firewall";
const LOCK: &str = "/run/firewall/lock";
/// What stands in it before the name of an interface that the firewall is taken off.
const DETACH: &str = "detach ";

/// How long a command waits for its turn. An apply takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// How often somebody asks who has no time to wait.
const SHORT_POLL: Duration = Duration::from_millis(2);

/// Waits for its turn; the turn ends when the file is dropped.
pub(crate) fn exclusive() -> Result<File> {
    let turn = wait(File::try_lock)?;
    // What somebody who was killed has announced is not going to happen.
    turn.set_len(0)
        .with_context(|| format!("emptying {LOCK}"))?;
    Ok(turn)
}

/// Takes its turn if that comes within so short a time.
pub(crate) fn exclusive_within(patience: Duration) -> Result<Option<File>> {
    let file = open()?;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(SHORT_POLL);
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {LOCK}"));
            }
        }
    }
    file.set_len(0)
        .with_context(|| format!("emptying {LOCK}"))?;
    Ok(Some(file))
}

/// Tells whoever holds what guards an interface that it is to be taken off in this turn.
pub(crate) fn announce_detach(mut turn: &File, name: &str) -> Result<()> {
    writeln!(turn, "{DETACH}{name}").with_context(|| format!("writing to {LOCK}"))
}

/// Whether somebody whose turn it is takes the firewall off this interface.
pub(crate) fn is_being_detached(name: &str) -> Result<bool> {
    let file = open()?;
    match file.try_lock_shared() {
        Ok(()) => return Ok(false),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("locking {LOCK}"));
        }
    }
    let announced = fs::read_to_string(LOCK).with_context(|| format!("reading {LOCK}"))?;
    let mut names = announced
        .lines()
        .filter_map(|line| line.strip_prefix(DETACH));
    Ok(names.any(|announced| announced == name))
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
