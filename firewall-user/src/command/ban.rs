//! `firewall ban`: refuse sources from the next packet on, whatever rules accept.

use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::bans::{Target, is_inside, overlaps};
use super::guards;
use crate::kernel::bans::{MAX_REASON, Outcome};
use crate::output::{Output, duration};
use crate::rules::ban_s;
use crate::session::Session;
use crate::{lock, privilege};

/// Whom to ban, and how.
#[derive(Args, Debug)]
pub(crate) struct Ban {
    /// Addresses, or networks such as 203.0.113.0/24.
    #[arg(required = true, value_name = "ADDR|CIDR")]
    targets: Vec<Target>,
    /// Only on this interface; may be given several times. On all guarded ones unless told, those to come too.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    /// For so long, such as 90s, 10m, 2h or 5d; until `unban` unless told.
    #[arg(long = "for", value_name = "TIME", value_parser = ban_s)]
    time_s: Option<u32>,
    /// Why, for those who read `bans`.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Leave a ban of the same address or network as it is, if that lasts longer.
    #[arg(long)]
    keep_longer: bool,
    /// Also if it is the address that you are logged in from.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Serialize)]
struct Banned<'a> {
    interface: &'a str,
    prefix: &'a Target,
    /// Whether it was not banned before.
    changed: bool,
    expires_s: Option<u32>,
}

pub(crate) fn run(ban: &Ban, output: &Output) -> Result<()> {
    privilege::require()?;
    if let Some(session) = Session::current()
        && let Some(own) = ban
            .targets
            .iter()
            .find(|target| target.holds(session.client.0))
        && !ban.force
    {
        bail!(
            "you are logged in from {}: banning {own} would cut your own session; `--force` does it all the same",
            session.client.0
        );
    }
    let _turn = lock::exclusive()?;
    let guards = guards(&ban.interface)?;
    // All must be possible before the first is done.
    for (name, guard) in &guards {
        for target in &ban.targets {
            let never = &guard.description.policy.never_banned;
            if never.iter().any(|range| is_inside(target, range)) {
                bail!("{target} is never banned on {name}: the rule file has it under never-ban");
            }
            if let Some((first, last)) = never.iter().find(|range| overlaps(target, range)) {
                output.aside(format_args!(
                    "note: {name}: of {target}, {} will not be cut: the rule file has it under never-ban",
                    range(*first, *last)
                ))?;
            }
        }
    }
    for (name, guard) in &guards {
        let mut table = guard.bans()?;
        table.settle(guard.description.policy.bans_by_rule);
        for target in &ban.targets {
            let time_ns = ban.time_s.map(|s| u64::from(s) * 1_000_000_000);
            if ban.keep_longer
                && let Some(left_ns) = table.left_ns(&target.prefix())
                && lasts_longer(left_ns, time_ns)
            {
                output.text(format_args!(
                    "{name}: {target} is banned for longer already"
                ))?;
                output.json_line(&Banned {
                    interface: name,
                    prefix: target,
                    changed: false,
                    expires_s: left_ns.map(|ns| ns.div_ceil(1_000_000_000) as u32),
                })?;
                continue;
            }
            let outcome = table.give(
                target.prefix(),
                time_ns,
                ban.interface.is_empty(),
                ban.reason.as_deref(),
            )?;
            let end = match ban.time_s {
                Some(seconds) => format!("for {}", duration(seconds.into())),
                None => "until it is unbanned".to_owned(),
            };
            output.text(format_args!(
                "{name}: {target} is {} {end}",
                match outcome {
                    Outcome::New => "banned",
                    Outcome::Renewed => "banned as before, from now on",
                },
            ))?;
            output.json_line(&Banned {
                interface: name,
                prefix: target,
                changed: outcome == Outcome::New,
                expires_s: ban.time_s,
            })?;
        }
    }
    Ok(())
}

/// Whether a ban that lasts for `left_ns` from now ends later than one for `time_ns`; `None` never ends.
fn lasts_longer(left_ns: Option<u64>, time_ns: Option<u64>) -> bool {
    match (left_ns, time_ns) {
        (None, Some(_)) => true,
        (Some(left), Some(time)) => left > time,
        (_, None) => false,
    }
}

fn range(first: IpAddr, last: IpAddr) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first} to {last}")
    }
}

fn reason(text: &str) -> Result<String, String> {
    if text.len() > MAX_REASON {
        return Err(format!(
            "this has {} bytes, more than the {MAX_REASON} that a reason may have",
            text.len()
        ));
    }
    if text.contains(char::is_control) {
        return Err("a reason has no control characters in it: it is printed in tables".to_owned());
    }
    Ok(text.to_owned())
}
