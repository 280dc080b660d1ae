//! `firewall detach`: take the firewall off an interface.

use anyhow::Result;
use serde_json::json;

use crate::kernel::guard::{Found, Guard, remove_stale};
use crate::kernel::{interface, pins};
use crate::output::Output;
use crate::{lock, privilege};

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    let mut results = Vec::new();
    for name in names {
        let detached = detach(name)?;
        output.text(format_args!(
            "{name}: {}",
            if detached {
                "the firewall is off, everything is let in"
            } else {
                "nothing to do, it was not guarded"
            }
        ))?;
        results.push(json!({ "interface": name, "changed": detached }));
    }
    output.json(&results)
}

/// Whether there was anything to remove. The interface itself may be gone, and its pins still be there.
fn detach(name: &str) -> Result<bool> {
    match interface::find(name)? {
        None if pins::interfaces()?.iter().any(|pinned| pinned == name) => {
            remove_stale(name)?;
            Ok(true)
        }
        None => anyhow::bail!("there is no interface {name}; `ip link` lists those there are"),
        Some(interface) => match Guard::find(&interface)? {
            // What an interrupted apply or detach has left may see what leaves.
            Found::Nothing | Found::Stale => {
                let has_pins = pins::interfaces()?.iter().any(|pinned| pinned == name);
                remove_stale(name)?;
                Ok(has_pins)
            }
            Found::Guard(guard) => {
                guard.detach(name)?;
                Ok(true)
            }
        },
    }
}
