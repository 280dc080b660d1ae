//! The verbs of the command line, one a file.

pub(crate) mod apply;
pub(crate) mod check;
pub(crate) mod detach;
pub(crate) mod flows;
pub(crate) mod rules;
pub(crate) mod stats;
pub(crate) mod status;

use anyhow::{Context as _, Result, bail};

use crate::kernel::guard::{Found, Guard};
use crate::kernel::interface::{self, Interface};

/// The interface called `name`.
fn interface(name: &str) -> Result<Interface> {
    interface::find(name)?
        .with_context(|| format!("there is no interface {name}; `ip link` lists those there are"))
}

/// The guard on the interface called `name`.
fn guard(name: &str) -> Result<(Interface, Guard)> {
    let interface = interface(name)?;
    match Guard::find(&interface)? {
        Found::Guard(guard) => Ok((interface, *guard)),
        Found::Nothing => bail!("{name} is not guarded; `firewall apply FILE -i {name}` guards it"),
        Found::Stale => bail!(
            "{name} is NOT guarded any more: its interface was removed or made again after the firewall was attached; \
             `firewall apply FILE -i {name}` guards it again"
        ),
    }
}
