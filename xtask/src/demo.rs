//! The demonstration: what a visitor and an attacker see of a web server, without the firewall and with it.

mod firewall;
mod namespace;
mod probe;
mod report;
mod server;
mod stage;

use std::path::Path;

use anyhow::{Result, bail};

use crate::{build, interrupt, paths::Workspace, shell};

use firewall::Firewall;
use probe::{Check, Sight};
use server::Server;
use stage::Stage;

/// The rule file that the server is guarded with, below the workspace.
const RULES: &str = "rules/web.toml";

/// Fails where the demonstration cannot run.
pub(crate) fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the demonstration makes network namespaces and loads a program into the kernel, which takes root: \
             run it as root, as with `sudo -E env PATH=\"$PATH\" cargo xtask demo`"
        );
    }
    Ok(())
}

/// Runs the demonstration with the built `firewall`; cleans up whatever happens.
///
/// # Errors
///
/// If a step fails, or if anybody sees what they should not, or does not see what they should.
pub(crate) fn run(workspace: &Workspace, firewall: &Path) -> Result<()> {
    let tools = build::path(workspace);
    let rules = workspace.root().join(RULES);

    shell::title("the stage: four network namespaces, joined like machines on a switch");
    let stage = Stage::set(&tools)?;
    stage.describe();
    let server = Server::start(&stage)?;
    server.describe();
    let firewall = Firewall::new(firewall, &stage);
    let checks = probe::checks();

    shell::title("before: the server has no firewall");
    let before = look(&stage, &checks)?;

    shell::title("the firewall is attached to the server's interface");
    firewall.apply(&rules)?;

    shell::title("after: the same again");
    let after = look(&stage, &checks)?;
    let stats = firewall.stats()?;

    report::before_and_after(&checks, &before, &after);
    report::counters(&stats);
    report::status(&firewall.status()?);

    shell::title("detaching the firewall and cleaning up");
    firewall.detach()?;
    let mut failures = failures(&checks, &before, &after);
    failures.extend(stats.missing());
    failures.extend(firewall.leftovers()?);
    drop(server);
    drop(stage);
    conclude(&failures)
}

/// Makes every check, telling the result of each as it comes.
fn look(stage: &Stage, checks: &[Check]) -> Result<Vec<Sight>> {
    let mut sights = Vec::with_capacity(checks.len());
    for check in checks {
        interrupt::check()?;
        let sight = check.make(stage)?;
        shell::note(&format!(
            "{:<8}  {:<38}  {}",
            check.person.name(),
            check.what,
            sight.text
        ));
        sights.push(sight);
    }
    Ok(sights)
}

/// What is otherwise than it should be, a sentence each.
fn failures(checks: &[Check], before: &[Sight], after: &[Sight]) -> Vec<String> {
    let mut failures = Vec::new();
    for ((check, before), after) in checks.iter().zip(before).zip(after) {
        let who = format!("{}, {}", check.person.name(), check.what);
        if !before.reached {
            failures.push(format!(
                "{who}: reached nothing even without the firewall: {}",
                before.text
            ));
        }
        if after.reached != check.person.is_welcome() {
            let verb = if after.reached { "still" } else { "no longer" };
            failures.push(format!(
                "{who}: {verb} reached the server behind the firewall: {}",
                after.text
            ));
        }
    }
    failures
}

fn conclude(failures: &[String]) -> Result<()> {
    if !failures.is_empty() {
        bail!("not all is as it should be:\n  {}", failures.join("\n  "));
    }
    shell::title("as it should be: the visitor noticed nothing, and the attacker found nothing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sights(reached: impl Fn(&Check) -> bool) -> Vec<Sight> {
        let sight = |check| Sight {
            reached: reached(check),
            text: "seen".to_owned(),
        };
        probe::checks().iter().map(sight).collect()
    }

    #[test]
    fn a_visitor_let_in_and_an_attacker_kept_out_is_success() {
        let (before, after) = (sights(|_| true), sights(|check| check.person.is_welcome()));
        assert_eq!(failures(&probe::checks(), &before, &after), [""; 0]);
    }

    #[test]
    fn anything_else_is_told() {
        let checks = probe::checks();
        let (all, nothing) = (sights(|_| true), sights(|_| false));
        let open = failures(&checks, &all, &all);
        assert!(
            !open.is_empty()
                && open
                    .iter()
                    .all(|text| text.contains("attacker") && text.contains("still")),
            "{open:?}"
        );
        let shut = failures(&checks, &all, &nothing);
        assert!(
            !shut.is_empty()
                && shut
                    .iter()
                    .all(|text| text.contains("client") && text.contains("no longer")),
            "{shut:?}"
        );
        let dead = failures(&checks, &nothing, &nothing);
        assert!(dead.len() > checks.len(), "{dead:?}");
    }
}
