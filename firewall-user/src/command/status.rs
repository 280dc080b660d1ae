//! `firewall status`: which interfaces are guarded, how, since when, by which file.

use anyhow::Result;
use serde::Serialize;

use crate::kernel::description::Description;
use crate::kernel::flows::Fill;
use crate::kernel::guard::{Found, Guard, Trial};
use crate::kernel::interface::{self, Interface};
use crate::kernel::{offload, pins, programs};
use crate::output::{Output, count, utc};
use crate::{lock, privilege};

#[derive(Debug, Serialize)]
struct Status {
    interface: String,
    /// `guarded`, `unguarded`, `stale` or `missing`.
    state: &'static str,
    mode: Option<&'static str>,
    program_id: Option<u32>,
    /// The program for what leaves; none if somebody has taken it off.
    egress_program_id: Option<u32>,
    generation: Option<u64>,
    applied_at: Option<String>,
    /// Whether everything is let in, because the first generation was not confirmed.
    open: Option<bool>,
    /// Seconds in which the generation has to be confirmed, if it has.
    confirm_in_s: Option<u64>,
    /// The generation that was not confirmed in time, if that is why this one is in force again.
    not_confirmed: Option<u64>,
    file: Option<String>,
    file_sha256: Option<String>,
    /// Whether the file still is what was applied.
    file_changed: Option<bool>,
    rules: Option<usize>,
    table_bytes: Option<u64>,
    flows: Option<Fill>,
    /// Switches of the card, as `ethtool -K` calls them, with which `[vlans]` does not hold.
    vlans_hidden_by: Vec<&'static str>,
    /// Programs of others on the same interface.
    others: Vec<String>,
}

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _look = lock::shared()?;
    let pinned = pins::interfaces()?;
    let interfaces = interface::all()?;
    let names: Vec<String> = if names.is_empty() {
        pinned.clone()
    } else {
        names.to_vec()
    };
    let mut all = Vec::new();
    for name in &names {
        let status = match interfaces.iter().find(|interface| interface.name == *name) {
            Some(interface) => status(interface)?,
            None if pinned.contains(name) => empty(name, "missing"),
            None => anyhow::bail!("there is no interface {name}; `ip link` lists those there are"),
        };
        show(&status, output)?;
        all.push(status);
    }
    if all.is_empty() {
        output.text("no interface is guarded; `firewall apply FILE -i IFACE` guards one")?;
    }
    output.json(&all)
}

fn empty(name: &str, state: &'static str) -> Status {
    Status {
        interface: name.to_owned(),
        state,
        mode: None,
        program_id: None,
        egress_program_id: None,
        generation: None,
        applied_at: None,
        open: None,
        confirm_in_s: None,
        not_confirmed: None,
        file: None,
        file_sha256: None,
        file_changed: None,
        rules: None,
        table_bytes: None,
        flows: None,
        vlans_hidden_by: Vec::new(),
        others: Vec::new(),
    }
}

fn status(interface: &Interface) -> Result<Status> {
    let mut status = match Guard::find(interface)? {
        Found::Nothing => empty(&interface.name, "unguarded"),
        Found::Stale => empty(&interface.name, "stale"),
        Found::Guard(guard) => {
            let flows = guard.flow_fill()?;
            let (confirm_in_s, not_confirmed) = match guard.trial {
                Trial::Over => (None, None),
                Trial::Waits(left) => (Some(left), None),
                Trial::Lapsed => (None, guard.before()?.map(|lapsed| lapsed.generation)),
            };
            let description = guard.description;
            let vlans_hidden_by = hidden_by(interface, &description);
            let now = std::fs::read(&description.file)
                .ok()
                .map(|bytes| crate::policy::sha256(&bytes));
            Status {
                mode: Some(guard.mode.as_str()),
                program_id: Some(guard.program_id),
                egress_program_id: guard.egress_id,
                flows: Some(flows),
                vlans_hidden_by,
                generation: Some(description.generation),
                applied_at: Some(utc(description.applied_at_s)),
                open: Some(description.policy.is_open),
                confirm_in_s,
                not_confirmed,
                file_changed: Some(now.as_ref() != Some(&description.policy.file_sha256)),
                file: Some(description.file),
                file_sha256: Some(description.policy.file_sha256),
                rules: Some(description.policy.rules.len()),
                table_bytes: Some(description.policy.image_bytes),
                ..empty(&interface.name, "guarded")
            }
        }
    };
    let ours: Vec<u32> = [status.program_id, status.egress_program_id]
        .into_iter()
        .flatten()
        .collect();
    let others = programs::others(interface, &ours);
    status.others = others.iter().map(ToString::to_string).collect();
    Ok(status)
}

/// What takes VLAN tags out of frames, where the policy lists VLANs: it may have been switched on since the apply.
fn hidden_by(interface: &Interface, description: &Description) -> Vec<&'static str> {
    if description.policy.lists_vlans {
        offload::vlan_stripping(&interface.name).unwrap_or_default()
    } else {
        Vec::new()
    }
}

fn show(status: &Status, output: &Output) -> Result<()> {
    let name = &status.interface;
    match status.state {
        "guarded" => {
            output.text(format_args!(
                "{name}: guarded in {} mode by program {}, generation {} since {}",
                status.mode.unwrap_or_default(),
                status.program_id.unwrap_or_default(),
                status.generation.unwrap_or_default(),
                status.applied_at.as_deref().unwrap_or_default(),
            ))?;
            if let Some(left) = status.confirm_in_s {
                output.text(format_args!(
                    "  to be confirmed within {left} s: `firewall confirm` keeps it, `firewall rollback -i {name}` goes back"
                ))?;
            }
            if let Some(lapsed) = status.not_confirmed {
                output.text(format_args!("  generation {lapsed} was not confirmed in time"))?;
            }
            if status.open == Some(true) {
                output.text("  EVERYTHING is let in: there is no policy before the one that was not confirmed; apply again")?;
            }
            output.text(match status.egress_program_id {
                Some(id) => format!("  what leaves is seen by program {id}"),
                None => "  what leaves is NOT seen: somebody took that program off; apply again".to_owned(),
            })?;
            if let Some(Fill { used, size }) = status.flows {
                output.text(format_args!("  flows: {} of {}", count(used.into()), count(size.into())))?;
            }
            if !status.vlans_hidden_by.is_empty() {
                let off: Vec<_> = status.vlans_hidden_by.iter().map(|on| format!("{on} off")).collect();
                output.text(format_args!(
                    "  [vlans] does NOT hold: {name} takes tags out of frames; `ethtool -K {name} {}`",
                    off.join(" ")
                ))?;
            }
            let hash = status.file_sha256.as_deref().unwrap_or_default();
            let changed = status.file_changed == Some(true);
            output.text(format_args!(
                "  {} rules from {}, sha256 {}{}",
                status.rules.unwrap_or_default(),
                status.file.as_deref().unwrap_or_default(),
                &hash[..hash.len().min(16)],
                if changed { "; the file is another now" } else { "" },
            ))?;
        }
        "stale" => output.text(format_args!(
            "{name}: NOT guarded: the interface was removed or made again after the firewall was attached; apply again"
        ))?,
        "missing" => output.text(format_args!("{name}: there is no such interface in this network namespace"))?,
        _ => output.text(format_args!("{name}: not guarded"))?,
    }
    for other in &status.others {
        output.text(format_args!("  also there: {other}"))?;
    }
    Ok(())
}
