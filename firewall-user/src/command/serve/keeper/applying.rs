//! Rule files of interfaces are put in force, and where one is broken, what was in force last.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use tracing::{error, info, warn};

use super::{Keeper, State, TURN};
use crate::command::apply::Order;
use crate::command::serve::good;
use crate::kernel::guard::{Found, Guard, Trial};
use crate::kernel::interface::Interface;
use crate::live::Live;
use crate::lock;
use crate::output::{Format, Output, width};
use crate::rules::{Loaded, Report};

/// How often it is tried to guard an interface whose rule file could not be applied.
const RETRY: Duration = Duration::from_secs(60);

impl Keeper {
    /// Applies the interface's rule file if it is to be.
    pub(super) fn apply_if_due(
        &mut self,
        name: &str,
        interface: &Interface,
        mut is_guarded: bool,
    ) -> Result<State> {
        let Some(file) = self.policies.get_mut(name) else {
            return Ok(State::Well);
        };
        let wants = match is_guarded {
            true => file.is_due && !file.only_unguarded,
            // Whatever kept it from being guarded may be over.
            false => file.is_due || file.failed_at.is_some_and(|at| at.elapsed() > RETRY),
        };
        if !wants {
            if is_guarded {
                file.is_due = false;
                return Ok(State::Well);
            }
            bail!("not guarded: {} could not be applied", file.path.display());
        }
        let Some(_turn) = lock::exclusive_within(TURN)? else {
            return Ok(State::Waits);
        };
        if is_guarded && is_on_trial(interface)? {
            file.is_held = true;
            return Ok(State::Well);
        }
        let refused = match file.is_held && is_guarded {
            true => was_refused(interface, &file.path)?,
            false => None,
        };
        (file.is_due, file.is_held) = (false, false);
        if let Some(generation) = refused {
            warn!(
                "{name}: {} is not applied again: it was generation {generation}, which nobody confirmed; change it, or \
                 `firewall apply` it",
                file.path.display()
            );
            // Its lists are watched all the same; it has been without mistakes.
            let _ = file.load();
            return Ok(State::Well);
        }
        file.only_unguarded = false;
        let order = Order {
            file: &file.path.clone(),
            mode: self.mode,
            // Nobody may be there to confirm what is in force first.
            trial: self.trial.filter(|_| is_guarded),
            shadow: false,
        };
        let output = Output::new(Format::Text);
        let applied = match file.load() {
            Ok(loaded) => order.carry_out(&loaded, interface, &output),
            Err(report) => bail_with(&report),
        };
        match applied {
            Ok(done) => {
                info!("{done}");
                file.failed_at = None;
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                self.tally.of(name, |one| {
                    one.reloaded_at_s = Some(now.unwrap_or_default().as_secs());
                });
            }
            Err(wrong) => {
                // Better what was in force before the machine went down than nothing.
                let instead = match is_guarded {
                    true => Ok(Some("what is in force stays so".to_owned())),
                    false => good::load(name, &file.path).and_then(|loaded| {
                        let put = |loaded: Loaded| order.carry_out(&loaded, interface, &output);
                        let done = loaded.map(put).transpose()?;
                        Ok(done.map(|done| format!("what was in force last is so again ({done})")))
                    }),
                };
                is_guarded |= matches!(instead, Ok(Some(_)));
                let stays = match instead {
                    Ok(Some(what)) => what,
                    Ok(None) => "it is NOT guarded".to_owned(),
                    Err(error) => format!(
                        "it is NOT guarded, and what was in force last cannot be either ({error:#})"
                    ),
                };
                error!(
                    "{name}: {} is not applied, {stays}: {wrong:#}",
                    file.path.display()
                );
                file.failed_at = Some(Instant::now());
                self.tally.of(name, |one| one.reload_failures += 1);
            }
        }
        if let Some(kept) = self.kept.get_mut(name) {
            kept.held.look()?;
            if let Err(error) = good::keep(name, &file.path, &mut kept.good) {
                warn!("{name}: what is in force was not kept for the next start: {error:#}");
            }
        }
        match file.failed_at {
            Some(_) if !is_guarded => {
                bail!("not guarded: {} could not be applied", file.path.display())
            }
            _ => Ok(State::Well),
        }
    }
}

/// While something waits to be confirmed nothing else is put in force.
fn is_on_trial(interface: &Interface) -> Result<bool> {
    Ok(match Guard::find(interface)? {
        Found::Guard(guard) => matches!(guard.trial, Trial::Waits(_)),
        Found::Nothing | Found::Stale => false,
    })
}

/// The generation that was on trial last, where nobody confirmed it and the rule file still is what it was: put in force by itself it would be
/// so for good, and perhaps shut out whoever could not confirm it.
fn was_refused(interface: &Interface, file: &Path) -> Result<Option<u64>> {
    let Found::Guard(guard) = Guard::find(interface)? else {
        return Ok(None);
    };
    let lapsed = match guard.trial {
        Trial::Lapsed => guard.before()?.map(|lapsed| lapsed.generation),
        Trial::Over | Trial::Waits(_) => None,
    };
    // A file with mistakes has never been on trial.
    let Ok(now) = Live::read(file) else {
        return Ok(None);
    };
    let newest = guard.newest()?;
    for kept in guard.archive().all()? {
        let is_later = (guard.description.generation + 1..=newest).contains(&kept.generation);
        if is_later
            && (kept.lapsed || Some(kept.generation) == lapsed)
            && Live::of_generation(&guard, kept.generation)?.is_alike(&now)?
        {
            return Ok(Some(kept.generation));
        }
    }
    Ok(None)
}

/// All that is wrong with a rule file, as it is shown to whoever types a command.
fn bail_with(report: &Report) -> Result<String> {
    bail!("\n{}", report.render(false, width()))
}
