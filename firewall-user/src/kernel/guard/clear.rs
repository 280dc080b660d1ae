//! Clearing away what is pinned for an interface, once the kernel has let go of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::program_at;
use crate::kernel::bans::{BanTable, LiveBan};
use crate::kernel::interface::Interface;
use crate::kernel::pins::{self, Hook, Pins};
use crate::kernel::{interface, told};

/// How long the kernel may take to let go of a link; 6 to 20 ms were seen.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is asked whether it has.
const DETACH_POLL: Duration = Duration::from_millis(2);

/// The bans that are pinned with an interface which is not guarded any more.
///
/// # Errors
///
/// What the kernel says.
pub fn stale_bans(name: &str) -> Result<Vec<LiveBan>> {
    Ok(BanTable::open(&Pins::of(name))?.live())
}

/// Removes pins whose program is on no interface.
///
/// # Errors
///
/// What cannot be removed; and nothing is, if the program is on the interface all the same: another process holds its link.
pub fn remove_stale(name: &str) -> Result<()> {
    let pins = Pins::of(name);
    let program = pins.program(Hook::Ingress);
    if pins::exists(&program)?
        && let Some(interface) = interface::find(name)?
    {
        let id = program_at(&program)?.id();
        if interface.xdp.iter().any(|&(_, at_work)| at_work == id) {
            bail!(
                "{name} is still guarded: another process holds the link; `bpftool link` shows it"
            );
        }
    }
    clear(&pins, name)
}

/// Removes the pins of an interface on which XDP is off. The kernel empties program arrays that nobody holds at once, so the
/// program for what leaves has to be off before they go, or it would find nothing to go on with.
///
/// # Errors
///
/// What cannot be removed, or that another process holds that program's link.
pub(super) fn clear(pins: &Pins, name: &str) -> Result<()> {
    let mut programs = Vec::new();
    for path in [pins.program(Hook::Egress), pins.program_next(Hook::Egress)] {
        if pins::exists(&path)? {
            programs.push(program_at(&path)?.id());
        }
    }
    pins::remove_file(&pins.link(Hook::Egress))?;
    let is_at_work = |found: &Interface| {
        if programs.is_empty() {
            return Ok(false);
        }
        let attached = told::egress_programs(found.index)?;
        Ok(attached.iter().any(|program| programs.contains(program)))
    };
    if !wait_until_gone(name, is_at_work)? {
        bail!(
            "{name} lets everything in, but another process holds the link of the program for what leaves; `bpftool link` \
             shows it"
        );
    }
    pins.remove()
}

/// Whether the kernel lets go within [`DETACH_TIMEOUT`] of what `is_there` finds on the interface called `name`.
pub(super) fn wait_until_gone(
    name: &str,
    is_there: impl Fn(&Interface) -> Result<bool>,
) -> Result<bool> {
    let deadline = Instant::now() + DETACH_TIMEOUT;
    while let Some(found) = interface::find(name)? {
        if !is_there(&found)? {
            break;
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(DETACH_POLL);
    }
    Ok(true)
}
