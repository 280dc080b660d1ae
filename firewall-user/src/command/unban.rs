//! `firewall unban`: lift bans.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::bans::Target;
use super::guards;
use crate::kernel::bans::contains;
use crate::output::Output;
use crate::{lock, privilege};

/// Whose bans to lift.
#[derive(Args, Debug)]
pub(crate) struct Unban {
    /// Addresses, or networks: then every ban inside is lifted.
    #[arg(required = true, value_name = "ADDR|CIDR")]
    targets: Vec<Target>,
    /// Only on this interface; may be given several times. On all guarded ones unless told.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    /// Only bans that were given for just this reason.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Unbanned<'a> {
    interface: &'a str,
    prefix: &'a Target,
    /// Bans that were lifted.
    lifted: usize,
}

pub(crate) fn run(unban: &Unban, output: &Output) -> Result<()> {
    privilege::require()?;
    let _turn = lock::exclusive()?;
    for (name, guard) in guards(&unban.interface)? {
        let mut table = guard.bans()?;
        for target in &unban.targets {
            let lifted = table.lift(&target.prefix(), unban.reason.as_deref())?;
            let wider = table.live();
            let wider = wider
                .iter()
                .find(|ban| contains(&ban.prefix, &target.prefix()));
            output.text(match lifted[..] {
                [] => format!(
                    "{name}: nothing to do, {target} was not banned{}",
                    match unban.reason {
                        Some(_) => " for that reason",
                        None => "",
                    }
                ),
                [one] if one == target.prefix() => {
                    format!("{name}: {target} is not banned any more")
                }
                _ => format!("{name}: {} bans in {target} are lifted", lifted.len()),
            })?;
            if let Some(wider) = wider {
                output.aside(format_args!(
                    "note: {name}: {target} is still cut, {} is banned",
                    Target::from(&wider.prefix)
                ))?;
            }
            output.json_line(&Unbanned {
                interface: &name,
                prefix: target,
                lifted: lifted.len(),
            })?;
        }
        table.settle(guard.description.policy.bans_by_rule);
    }
    Ok(())
}
