//! `firewall detach`: take the firewall off an interface.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::bans;
use super::serve::good;
use crate::kernel::guard::{Found, Guard, remove_stale};
use crate::kernel::{interface, pins, standing};
use crate::output::Output;
use crate::{lock, privilege};

/// What to take it off.
#[derive(Args, Debug)]
pub(crate) struct Detach {
    /// Network interface; may be given several times.
    #[arg(
        short,
        long = "interface",
        value_name = "IFACE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    interface: Vec<String>,
    /// All that are guarded, and what is left of those that are gone.
    #[arg(long)]
    all: bool,
}

pub(crate) fn run(detach: &Detach, output: &Output) -> Result<()> {
    privilege::require()?;
    let turn = lock::exclusive()?;
    let names = if detach.all {
        pins::interfaces()?
    } else {
        detach.interface.clone()
    };
    if names.is_empty() {
        output.text("nothing to do, no interface is guarded")?;
    }
    let mut results = Vec::new();
    for name in &names {
        lock::announce_detach(&turn, name)?;
        let detached = detach_from(name)?;
        bans::saved::forget(name)?;
        good::forget(name)?;
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
fn detach_from(name: &str) -> Result<bool> {
    match interface::find(name)? {
        None if pins::interfaces()?.iter().any(|pinned| pinned == name) => {
            remove_stale(name)?;
            Ok(true)
        }
        None => anyhow::bail!("there is no interface {name}; `ip link` lists those there are"),
        Some(interface) => match Guard::find(&interface)? {
            // What an interrupted apply or detach has left may see what leaves.
            Found::Nothing | Found::Stale => {
                standing::refuse_renamed(&interface)?;
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
