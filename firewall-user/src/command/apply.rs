//! `firewall apply`: put a rule file in force.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;

use super::confirm::OnTrial;
use super::plan::{self, Asked};
use super::{bans, interface, warn_who_is_shut_out};
use crate::cli::Interfaces;
use crate::kernel::attach::{self, ModeChoice};
use crate::kernel::cookies::{self, Made};
use crate::kernel::description::Policy;
use crate::kernel::flows::Wanted;
use crate::kernel::guard::{FirstTrial, Found, Guard, Start, Trial, remove_stale};
use crate::kernel::interface::{Interface, Kind, Mode};
use crate::kernel::state::Sizes;
use crate::kernel::{offload, pins};
use crate::live::{self, Live};
use crate::output::{self, Format, Output, Refused};
use crate::rules::model::Flows;
use crate::rules::{self, Loaded, compile};
use crate::{lock, policy, privilege};

/// What is recorded of where a generation came from.
const CHANGE: &str = "apply";

/// What became of one interface.
#[derive(Debug, Serialize)]
struct Applied {
    interface: String,
    /// Whether there is a new generation.
    changed: bool,
    /// The rule file that is recorded.
    file: String,
    /// The one that was recorded until now, where the rules are the same and only their file is another.
    file_was: Option<String>,
    /// Whether it is only asked beside what is in force.
    is_candidate: bool,
    mode: Mode,
    generation: u64,
    /// Seconds in which it has to be confirmed, if it has.
    confirm_in_s: Option<u64>,
    /// The one that was in force before, if there was one.
    generation_before: Option<u64>,
    rules: usize,
    table_bytes: u64,
}

/// How a file is to be applied.
#[derive(Args, Debug)]
pub(crate) struct Apply {
    /// The rule file.
    file: PathBuf,
    #[command(flatten)]
    interfaces: Interfaces,
    /// Where the program runs; auto is native where the driver can, else generic.
    #[arg(long, value_enum, default_value_t)]
    mode: ModeChoice,
    #[command(flatten)]
    trial: OnTrial,
    /// Do not put it in force, but have the programs ask it beside what is, and count where it differs; `firewall shadow` shows that.
    #[arg(long, conflicts_with = "confirm")]
    shadow: bool,
    /// Change nothing, and tell what would change, as `plan` does.
    #[arg(long, conflicts_with_all = ["confirm", "shadow"])]
    dry_run: bool,
}

pub(crate) fn run(apply: &Apply, output: &Output) -> Result<()> {
    let file = &apply.file;
    if apply.dry_run {
        let asked = Asked::dry_run(file.clone(), apply.interfaces.names());
        return plan::run(&asked, output);
    }
    let loaded = rules::load(file).or_else(|report| {
        match output.format {
            Format::Text => output.aside(report.render(output::colour(), output::width()))?,
            Format::Json => output
                .json(&serde_json::json!({ "file": file, "ok": false, "diagnostics": report }))?,
        }
        Err(anyhow::Error::from(Refused))
    })?;
    privilege::require()?;
    let _turn = lock::exclusive()?;
    pins::ensure_bpffs()?;
    if answers_syns(&loaded) {
        refuse_useless_cookies(output)?;
    }
    // All must be fit to be guarded before the first is touched.
    let order = Order {
        file,
        mode: apply.mode,
        trial: apply.trial.lasts(),
        shadow: apply.shadow,
    };
    let mut targets: Vec<(Interface, Found)> = Vec::new();
    for name in &apply.interfaces.names() {
        let interface = interface(name)?;
        let found = fit(&interface, apply.shadow)?;
        targets.push((interface, found));
    }
    let mut applied: Vec<Applied> = Vec::new();
    for (interface, found) in targets {
        let first = applied.is_empty();
        let one =
            put_in_force(&order, &loaded, &interface, found, first, output).with_context(|| {
                let done: Vec<&str> = applied.iter().map(|one| &one.interface[..]).collect();
                match done[..] {
                    [] => format!("{} is as it was", interface.name),
                    _ => format!(
                        "{} is as it was; {} has the new policy already",
                        interface.name,
                        done.join(", ")
                    ),
                }
            })?;
        output.text(describe(&one))?;
        applied.push(one);
    }
    output.json(&applied)
}

/// What an interface is to be given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    /// The rule file.
    pub(crate) file: &'a Path,
    /// Where the program runs.
    pub(crate) mode: ModeChoice,
    /// How long it is on trial, if it is.
    pub(crate) trial: Option<Duration>,
    /// Whether it is only asked beside what is in force.
    pub(crate) shadow: bool,
}

impl Order<'_> {
    /// Puts the file, as it was `loaded`, in force on one interface. It has to be the caller's turn. Returns what is to be told.
    ///
    /// # Errors
    ///
    /// A sentence; the interface is as it was.
    pub(crate) fn carry_out(
        &self,
        loaded: &Loaded,
        interface: &Interface,
        output: &Output,
    ) -> Result<String> {
        pins::ensure_bpffs()?;
        if answers_syns(loaded) {
            refuse_useless_cookies(output)?;
        }
        let found = fit(interface, self.shadow)?;
        put_in_force(self, loaded, interface, found, true, output).map(|one| describe(&one))
    }
}

/// What is on an interface, if it can be given a policy.
fn fit(interface: &Interface, shadow: bool) -> Result<Found> {
    let name = &interface.name;
    let found = Guard::find(interface)?;
    match &found {
        Found::Guard(guard) => {
            guard.refuse_in_trial(name)?;
            if !shadow {
                guard.refuse_in_shadow(name)?;
            }
        }
        Found::Nothing | Found::Stale if shadow => {
            bail!("{name} is not guarded: there is nothing that a candidate could be asked beside")
        }
        Found::Nothing | Found::Stale => attach::check(interface)?,
    }
    Ok(found)
}

fn put_in_force(
    apply: &Order<'_>,
    loaded: &Loaded,
    interface: &Interface,
    found: Found,
    first: bool,
    output: &Output,
) -> Result<Applied> {
    let (before, newest) = match &found {
        Found::Guard(guard) => (Some(&guard.description), guard.newest()?),
        Found::Nothing | Found::Stale => (None, 0),
    };
    let prepared = policy::prepare(loaded, before.map(|before| &before.policy), usize::MAX)?;
    if first && output.format == Format::Text {
        for warning in loaded.warnings.iter().chain(&prepared.warnings) {
            output.aside(warning.render(output::colour(), output::width()))?;
        }
    }
    warn_who_is_shut_out(&prepared.image, output)?;
    if loaded.rule_set.vlans.is_some() {
        refuse_hidden_tags(interface, output)?;
    }
    let wanted = wanted(&loaded.rule_set.flows);
    let sizes = Sizes {
        ban_buckets: loaded.rule_set.bans.buckets(),
        limit_lines: loaded.rule_set.limits.lines(),
    };
    let (image, description) = prepared.describe(apply.file, newest + 1)?;
    let trial = apply.trial;
    let generation_before = before.map(|before| before.generation);
    let mut file_was = None;
    let (guard, changed) = match found {
        Found::Guard(mut guard) => {
            refuse_other_mode(&guard, interface, apply.mode)?;
            // Before the rules: what fails here has changed nothing else.
            if !apply.shadow {
                set_up_flows(&guard, interface, &wanted, output)?;
            }
            warn_of_sizes(&guard, interface, sizes, output)?;
            if guard.complete(interface)? {
                output.aside(format_args!(
                    "note: the program for what leaves through {} had been taken off; it is there again",
                    interface.name,
                ))?;
            }
            if apply.shadow {
                let next = live::next(loaded, image, description, CHANGE.to_owned());
                guard.cast_shadow(next)?;
                (guard, false)
            } else if guard.description.policy.is_same(&description.policy)
                || is_patched_into(&guard, loaded, &description.policy)
            {
                if guard.description.file != description.file {
                    file_was = Some(guard.description.file.clone());
                    guard
                        .record_file(&live::source(loaded, &description, CHANGE.to_owned()).kept)?;
                }
                (guard, false)
            } else {
                let next = live::next(loaded, image, description, CHANGE.to_owned());
                guard.switch(next, trial)?;
                (guard, true)
            }
        }
        Found::Stale | Found::Nothing => {
            let is_stale = matches!(found, Found::Stale);
            let bans = bans::inherited(interface, is_stale)?;
            if is_stale {
                remove_stale(&interface.name)?;
            }
            let start = Start {
                next: live::next(loaded, image, description, CHANGE.to_owned()),
                trial: trial.map(|lasts| FirstTrial {
                    lasts,
                    open: compile::open(),
                }),
                wanted: &wanted,
                sizes,
                bans: &bans,
            };
            let guard = Guard::attach(interface, apply.mode, start)?;
            set_up_flows(&guard, interface, &wanted, output)?;
            (guard, true)
        }
    };
    if answers_syns(loaded) && guard.mode == Mode::Native {
        warn_of_lost_tags(interface, output)?;
    }
    Ok(Applied {
        interface: interface.name.clone(),
        changed,
        file_was,
        is_candidate: apply.shadow,
        mode: guard.mode,
        generation: guard.description.generation,
        generation_before,
        confirm_in_s: match guard.trial {
            Trial::Waits(left) => Some(left),
            Trial::Over | Trial::Lapsed => None,
        },
        file: guard.description.file,
        rules: guard.description.policy.rules.len(),
        table_bytes: guard.description.policy.image_bytes,
    })
}

/// Whether live edits have made of what is in force what `loaded` is: they save what they have put in force already.
fn is_patched_into(guard: &Guard, loaded: &Loaded, next: &Policy) -> bool {
    let policy = &guard.description.policy;
    if !policy.is_patched() || policy.file_sha256 != next.file_sha256 {
        return false;
    }
    let now = Live::of_file(loaded);
    // What cannot be read is put in force anew.
    let is_alike = Live::of(guard).and_then(|live| live.is_alike(&now));
    is_alike.unwrap_or(false)
}

/// What a file asks of the flow table.
pub(super) fn wanted(flows: &Flows) -> Wanted {
    Wanted {
        buckets: flows.buckets(),
        timeouts: flows.timeouts,
    }
}

/// Gives the flow table the timeouts of this file: of several interfaces that share it, the last applied one's hold.
pub(super) fn set_up_flows(
    guard: &Guard,
    interface: &Interface,
    wanted: &Wanted,
    output: &Output,
) -> Result<()> {
    let mut table = guard.flow_table()?;
    table.set_timeouts(&wanted.timeouts)?;
    if table.size() != wanted.slots() {
        output.aside(format_args!(
            "warning: {}: the flow table keeps its {} slots, and gets the {} that this file asks for when it is made anew: \
             after the last guarded interface of this network namespace is detached",
            interface.name,
            output::count(table.size().into()),
            output::count(wanted.slots().into()),
        ))?;
    }
    Ok(())
}

/// Whether a rule has `syn-cookies`.
fn answers_syns(loaded: &Loaded) -> bool {
    let mut rules = loaded.rule_set.rules.iter();
    rules.any(|rule| rule.terms.syn_cookies.is_some())
}

/// `syn-cookies` needs a kernel that makes them, and says when.
fn refuse_useless_cookies(output: &Output) -> Result<()> {
    match cookies::made()? {
        Made::Never => bail!(
            "a rule has syn-cookies, but with net.ipv4.tcp_syncookies = 0 the kernel makes none; run \
             `sysctl -w net.ipv4.tcp_syncookies=2`, or remove syn-cookies from the file"
        ),
        Made::InNeed => output.aside(
            "note: with net.ipv4.tcp_syncookies = 1 SYNs above the rate of syn-cookies are answered with them only while the \
             queue of the listening socket is full; `sysctl -w net.ipv4.tcp_syncookies=2` has that begin at the rate",
        ),
        Made::Always => Ok(()),
    }
}

/// What a program in the driver sends has no VLAN tag where the card has taken it out of what came.
fn warn_of_lost_tags(interface: &Interface, output: &Output) -> Result<()> {
    let name = &interface.name;
    match cookies::untagged_vlans(interface) {
        Ok(vlans) if vlans.is_empty() => Ok(()),
        Ok(vlans) => output.aside(format_args!(
            "warning: {name} takes VLAN tags out of frames, and answers of syn-cookies leave without them: who connects through \
             {} in a flood gets none; switch that off with `ethtool -K {name} rxvlan off`",
            vlans.join(", "),
        )),
        Err(error) => output.aside(format_args!(
            "warning: answers of syn-cookies reach VLANs only if {name} leaves their tags in frames, and the kernel does not tell \
             whether it does ({error:#}); see `ethtool -k {name}`, rx-vlan-offload",
        )),
    }
}

/// Tables of state keep their size for as long as the interface is guarded.
fn warn_of_sizes(
    guard: &Guard,
    interface: &Interface,
    wanted: Sizes,
    output: &Output,
) -> Result<()> {
    let found = guard.state_sizes()?;
    for (what, found, wanted) in [
        ("[bans]", found.ban_buckets, wanted.ban_buckets),
        ("[limits]", found.limit_lines, wanted.limit_lines),
    ] {
        if found != wanted {
            output.aside(format_args!(
                "warning: {}: the `size` of {what} takes effect when the interface is detached and guarded again",
                interface.name,
            ))?;
        }
    }
    Ok(())
}

/// `[vlans]` cannot hold where the card takes the tags away.
fn refuse_hidden_tags(interface: &Interface, output: &Output) -> Result<()> {
    let name = &interface.name;
    match interface.kind {
        Some(Kind::OverOthers) => bail!(
            "{name} stands on other interfaces, which may take VLAN tags out of frames before the firewall sees them, so [vlans] \
             cannot hold; guard those, or remove [vlans] from the file"
        ),
        Some(Kind::Veth) => output.aside(format_args!(
            "warning: [vlans] holds on {name} only if the interface at its other end has txvlan off (`ethtool -K`)"
        ))?,
        None => {}
    }
    match offload::vlan_stripping(name) {
        Ok(switches) if switches.is_empty() => Ok(()),
        Ok(switches) => {
            let switches: Vec<_> = switches.iter().map(|on| format!("{on} off")).collect();
            bail!(
                "{name} takes VLAN tags out of frames before the firewall sees them, so [vlans] cannot hold; switch that off \
                 with `ethtool -K {name} {}`, or remove [vlans] from the file",
                switches.join(" "),
            )
        }
        Err(error) => {
            output.aside(format_args!(
                "warning: [vlans] holds only if {name} leaves VLAN tags in frames, and the kernel does not tell whether it \
                 does ({error:#}); see `ethtool -k {name}`, rx-vlan-offload",
            ))
        }
    }
}

fn refuse_other_mode(guard: &Guard, interface: &Interface, mode: ModeChoice) -> Result<()> {
    let name = &interface.name;
    match (mode, guard.mode) {
        (ModeChoice::Native, Mode::Generic | Mode::Offloaded)
        | (ModeChoice::Generic, Mode::Native | Mode::Offloaded) => {
            bail!(
                "{name} is guarded in {} mode; to change that, `firewall detach -i {name}` first, which opens the \
                 interface until the next apply",
                guard.mode.as_str(),
            )
        }
        _ => Ok(()),
    }
}

fn describe(applied: &Applied) -> String {
    let Applied {
        interface,
        mode,
        generation,
        file,
        rules,
        ..
    } = applied;
    if applied.is_candidate {
        return format!(
            "{interface}: generation {generation} stays in force, and the candidate is asked beside it; `firewall shadow` shows where it differs"
        );
    }
    if !applied.changed {
        let recorded = applied
            .file_was
            .as_ref()
            .map(|old| format!("; {file} is recorded as their file, instead of {old}"))
            .unwrap_or_default();
        return format!(
            "{interface}: nothing to do, generation {generation} has these rules already{recorded}"
        );
    }
    let confirm = applied.confirm_in_s.map(|seconds| {
        format!(
            "\n{interface}: to be confirmed within {seconds} s: `firewall confirm` keeps it, else {}",
            match applied.generation_before {
                None | Some(0) => "everything is let in again".to_owned(),
                Some(before) => format!("generation {before} is in force again"),
            }
        )
    });
    format!(
        "{interface}: guarded in {} mode, generation {generation}, {rules} rules, {} of tables{}",
        mode.as_str(),
        output::bytes(applied.table_bytes),
        confirm.unwrap_or_default(),
    )
}
