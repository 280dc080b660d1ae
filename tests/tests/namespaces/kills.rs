//! Commands that change what is in force, killed at any moment: the old policy or the new one, and the next command goes on from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData};
use firewall_common::abi::control::Place;
use firewall_common::abi::image::{Line, SIZE_CLASSES};
use firewall_common::abi::{MAP_IMAGES, SLOTS};
use firewall_tests::net::traffic::wait_until;
use firewall_tests::net::{Lab, rules};
use firewall_user::kernel::image::{self, Images};
use serde_json::Value;

use crate::faults::{kill_after, moments};
use crate::probe::{InForce, PORTS, Probe, TCP, policy};

/// How often a command is killed.
const KILLS: u32 = 20;
/// The same where programs are loaded, which takes the verifier a second or more each time.
const FEW_KILLS: u32 = 6;
/// A trial that does not end meanwhile.
const LONG: &str = "1h";

/// A guarded interface on which commands are killed.
struct Victim {
    lab: Lab,
    probe: Probe,
    a: PathBuf,
    b: PathBuf,
}

impl Victim {
    /// One with the first policy in force.
    fn new() -> Result<Option<Self>> {
        let Some(lab) = Lab::new()? else {
            return Ok(None);
        };
        let victim = Self {
            a: lab.write("a.toml", &policy(InForce::A))?,
            b: lab.write("b.toml", &policy(InForce::B))?,
            probe: Probe::new(&lab)?,
            lab,
        };
        victim.apply(&victim.a, &[])?;
        Ok(Some(victim))
    }

    fn apply(&self, file: &Path, more: &[&str]) -> Result<()> {
        self.lab.apply_file(file, more).map(drop)
    }

    fn run(&self, command: &[&str]) -> Result<String> {
        let interface = ["-i", self.lab.inside.interface()];
        let ran = self.lab.inside.firewall(&[command, &interface].concat())?;
        ran.success()
            .with_context(|| format!("firewall {}", command.join(" ")))
    }

    /// Kills `command` at `kills` moments, each time after `prepare`, and has `check` look at what is left. At last it is left to
    /// itself, and the firewall taken off.
    fn kill(
        &self,
        kills: u32,
        command: &[&str],
        prepare: impl Fn() -> Result<()>,
        check: impl Fn(InForce) -> Result<()>,
    ) -> Result<()> {
        let whole = || -> Result<Duration> {
            prepare()?;
            let started = Instant::now();
            self.run(command)?;
            Ok(started.elapsed())
        };
        // Others are at work beside: the shorter one is nearer to what it takes by itself.
        let whole = whole()?.min(whole()?);
        let mut killed = 0;
        for moment in moments(whole, kills) {
            let at = || format!("after {killed} kills, now at {moment:?} of {whole:?}");
            prepare().with_context(at)?;
            let was_killed = kill_after(&self.lab, command, moment)?;
            let in_force = self.probe.in_force().with_context(at)?;
            ensure!(self.lab.inside.attached()?.is_some(), "open {}", at());
            self.history().with_context(at)?;
            check(in_force).with_context(at)?;
            killed += u32::from(was_killed);
            if killed == kills {
                break;
            }
        }
        ensure!(killed == kills, "it was over {killed} times only");
        prepare()?;
        self.run(command)?;
        self.detach()
    }

    /// What each generation is that is kept, the latest first: exactly one is in force, that which counters say.
    fn history(&self) -> Result<Vec<String>> {
        let said: Value = serde_json::from_str(&self.run(&["history", "--format", "json"])?)?;
        let kept = said[0]["generations"]
            .as_array()
            .context("no generations")?;
        let number = |one: &Value| one["generation"].as_u64();
        ensure!(
            kept.is_sorted_by(|later, earlier| number(later) > number(earlier)),
            "{said}"
        );
        let is_in_force =
            |one: &&Value| one["state"] == "in force" || one["state"] == "to be confirmed";
        let in_force: Vec<_> = kept.iter().filter(is_in_force).map(number).collect();
        ensure!(in_force == [Some(self.lab.stats()?.generation)], "{said}");
        let state = |one: &Value| one["state"].as_str().unwrap_or("?").to_owned();
        Ok(kept.iter().map(state).collect())
    }

    /// Whether what is in force waits to be confirmed.
    fn waits(&self) -> Result<bool> {
        Ok(self.history()?.contains(&"to be confirmed".to_owned()))
    }

    fn has_candidate(&self) -> Result<bool> {
        let said: Value = serde_json::from_str(
            &self
                .lab
                .inside
                .firewall(&["shadow", "--format", "json"])?
                .success()?,
        )?;
        let all = said.as_array().context("no list")?;
        Ok(all
            .iter()
            .any(|one| one["interface"] == self.lab.inside.interface()))
    }

    /// Has the second policy asked beside what is in force, unless it is still.
    fn cast_shadow(&self) -> Result<()> {
        if self.has_candidate()? {
            return Ok(());
        }
        self.apply(&self.b, &["--shadow"])
    }

    /// Takes the firewall off, of which nothing is left.
    fn detach(&self) -> Result<()> {
        self.run(&["detach"])?;
        let inside = &self.lab.inside;
        ensure!(inside.attached()?.is_none(), "XDP is still there");
        ensure!(!inside.pins().exists(), "pins are still there");
        wait_until("nothing sees what leaves", || {
            Ok(inside.egress()?.is_empty())
        })?;
        ensure!(
            self.probe.in_force()? == InForce::Nothing,
            "it still refuses"
        );
        Ok(())
    }
}

#[test]
fn a_killed_rule_add_has_added_it_or_not() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    let [_, _, b, neither] = PORTS;
    let rule = format!("accept udp {b},{neither}");
    let prepare = || -> Result<()> {
        // Also what was added must be there to be removed again.
        if victim.probe.in_force()? == InForce::Nothing {
            victim.run(&["rule", "remove", "more"])?;
        }
        ensure!(victim.probe.in_force()? == InForce::A, "not removed");
        Ok(())
    };
    // With the rule all ports are open; that it is still guarded is asked apart.
    victim.kill(
        KILLS,
        &["rule", "add", &rule, "--name", "more"],
        prepare,
        |found| {
            ensure!(found != InForce::B, "{found:?}");
            Ok(())
        },
    )
}

#[test]
fn what_a_killed_edit_has_begun_is_given_back_by_the_next() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    // Tables that nothing describes, of each size in a place that nothing needs: what is in force is in one of the first size.
    let images = |class: usize| {
        let path = victim.lab.inside.state().join(MAP_IMAGES[class]);
        MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
    };
    let is_there = |place: Place| -> Result<bool> {
        let images = Images::of(images(place.class() as usize)?)?;
        Ok(images.id(place.slot())?.is_some())
    };
    let places = (0..).zip(SIZE_CLASSES);
    let places: Vec<Place> = places
        .map(|(class, _)| Place::new(class, SLOTS - 1))
        .collect();
    for &place in &places {
        let class = place.class() as usize;
        let least = if class == 0 {
            0
        } else {
            SIZE_CLASSES[class - 1]
        };
        let lines = vec![Line::default(); least / size_of::<Line>() + 1];
        image::install(&mut Map::ArrayOfMaps(images(class)?), place, lines.into())?.wait()?;
        ensure!(is_there(place)?, "{place:?} is not there");
    }
    victim.run(&["rule", "add", "accept udp 9"])?;
    for place in places {
        ensure!(!is_there(place)?, "{place:?} is still there");
    }
    ensure!(victim.probe.in_force()? == InForce::A, "another policy");
    victim.detach()
}

#[test]
fn a_killed_edit_leaves_each_file_whole_and_saves_only_what_is_in_force() -> Result<()> {
    for in_list in [false, true] {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let [both, a, b, _] = PORTS;
        let moved = rules(&[
            &format!(
                r#"name = "moved"; action = "drop"; protocol = "udp"; ports = [{a}]; from = ["moved"]"#
            ),
            &format!(r#"name = "all"; action = "accept"; protocol = "udp"; ports = [{both}, {a}]"#),
            &format!(
                r#"name = "theirs"; action = "accept"; protocol = "udp"; ports = [{b}]; from = ["moved"]"#
            ),
            &format!(r#"name = "tcp"; action = "accept"; protocol = "tcp"; ports = [{TCP}]"#),
        ]);
        // One member more is the second policy.
        let group = if in_list {
            "{ file = \"moved.txt\" }"
        } else {
            "[]"
        };
        let text = moved.replacen('\n', &format!("\n[groups]\nmoved = {group}\n"), 1);
        let file = lab.write("a.toml", &text)?;
        let list = lab.write("moved.txt", "# Who has moved.\n")?;
        let victim = Victim {
            probe: Probe::new(&lab)?,
            a: file.clone(),
            b: file.clone(),
            lab,
        };
        victim.apply(&file, &[])?;
        let outside = victim.lab.outside.v4.to_string();
        let saved = if in_list { &list } else { &file };
        let old = fs::read_to_string(saved)?;
        let new = if in_list {
            format!("{old}{outside}\n")
        } else {
            text.replace("moved = []", &format!("moved = [\"{outside}\"]"))
        };
        let prepare = || -> Result<()> {
            // Of what was killed between the two, either may be there alone.
            victim.apply(&file, &[])?;
            if victim.probe.in_force()? == InForce::B {
                victim.run(&["group", "remove", "moved", &outside, "--save"])?;
            }
            ensure!(
                fs::read_to_string(saved)? == old,
                "not taken out of the file"
            );
            ensure!(victim.probe.in_force()? == InForce::A, "not taken out");
            Ok(())
        };
        let add = ["group", "add", "moved", &outside, "--save"];
        victim.kill(KILLS, &add, prepare, |found| {
            let text = fs::read_to_string(saved)?;
            ensure!(
                text == old || (text == new && found == InForce::B),
                "{found:?}: {text}"
            );
            ensure!(found != InForce::Nothing, "open");
            Ok(())
        })?;
        ensure!(fs::read_to_string(saved)? == new, "not saved in the end");
    }
    Ok(())
}

#[test]
fn a_killed_rollback_has_gone_back_or_not() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    let other = victim.lab.write("c.toml", &policy(InForce::Nothing))?;
    victim.apply(&other, &[])?;
    victim.apply(&victim.b, &[])?;
    // The tables of the one before are still in memory; those of the first one are not, and are made again.
    let prepare = || -> Result<()> {
        for to in ["2", "3"] {
            if victim.lab.stats()?.generation.to_string() != to {
                victim.run(&["rollback", "--to", to])?;
            }
        }
        ensure!(victim.probe.in_force()? == InForce::B, "not where it was");
        Ok(())
    };
    victim.kill(KILLS, &["rollback", "--to", "1"], prepare, |found| {
        ensure!(found != InForce::Nothing, "neither of the two");
        Ok(())
    })
}

#[test]
fn a_killed_confirm_or_apply_on_trial_is_on_trial_or_confirmed_or_not_applied() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    let on_trial = ["--confirm", LONG];
    let apply = [
        &["apply", victim.b.to_str().context("UTF-8")?],
        &on_trial[..],
    ]
    .concat();
    let first = || -> Result<()> {
        if victim.waits()? {
            victim.run(&["rollback"])?;
        }
        victim.apply(&victim.a, &[])
    };
    victim.kill(KILLS, &apply, first, |found| {
        ensure!(
            (found == InForce::B) == victim.waits()?,
            "what is to be confirmed stays without that, or the other does not: {found:?}"
        );
        Ok(())
    })?;
    victim.apply(&victim.a, &[])?;
    let second = || {
        first()?;
        victim.apply(&victim.b, &on_trial)
    };
    victim.kill(KILLS, &["confirm"], second, |found| {
        ensure!(found == InForce::B, "{found:?}");
        Ok(())
    })
}

#[test]
fn a_killed_apply_of_a_candidate_enforces_nothing_else() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    let shadow = ["apply", victim.b.to_str().context("UTF-8")?, "--shadow"];
    let prepare = || victim.run(&["shadow", "drop"]).map(drop);
    victim.kill(FEW_KILLS, &shadow, prepare, |found| {
        ensure!(found == InForce::A, "{found:?}");
        victim.has_candidate().map(drop)
    })
}

#[test]
fn a_killed_drop_of_a_candidate_enforces_nothing_else() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    let prepare = || victim.cast_shadow();
    victim.kill(FEW_KILLS, &["shadow", "drop"], prepare, |found| {
        ensure!(found == InForce::A, "{found:?}");
        victim.has_candidate().map(drop)
    })
}

#[test]
fn a_killed_promotion_puts_the_candidate_in_force_or_not() -> Result<()> {
    let Some(victim) = Victim::new()? else {
        return Ok(());
    };
    let prepare = || {
        if victim.probe.in_force()? == InForce::B {
            victim.run(&["shadow", "drop"])?;
            victim.apply(&victim.a, &[])?;
        }
        victim.cast_shadow()
    };
    victim.kill(FEW_KILLS, &["shadow", "promote"], prepare, |found| {
        ensure!(found != InForce::Nothing, "{found:?}");
        ensure!(
            found == InForce::B || victim.has_candidate()?,
            "it is not in force, and lost"
        );
        Ok(())
    })
}
