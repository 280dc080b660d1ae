//! Whether this process may do what it is about to.

use anyhow::{Result, bail};

/// Refuses early, before anything is touched, where the kernel would refuse half-way.
///
/// # Errors
///
/// A sentence, if this is not root. Capabilities alone do not suffice: bpffs belongs to root.
pub(crate) fn require() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("no permission: this command must be run as root (for example with sudo)");
    }
    Ok(())
}
