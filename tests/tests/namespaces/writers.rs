//! Several people at work on one interface at once: each edit goes on from the one before it, and none is lost.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::Lab;
use serde_json::Value;

use crate::rules;

/// Rules that a writer adds; every other one is removed again. All generations then are still kept.
const RULES: usize = 3;
const GUESTS: [&str; 3] = ["192.0.2.7", "198.51.100.0/24", "2001:db8::/32"];

const GAME: &str = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#;
const CHAT: &str =
    r#"name = "chat"; action = "accept"; protocol = "udp"; ports = [7001]; from = ["guests"]"#;

#[test]
fn edits_at_once_are_all_there_in_the_end() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("rules.toml", &text("[]"))?;
    lab.apply_file(&file, &[])?;
    let rule_writer = |writer: &str| -> Result<Vec<u64>> {
        let mut made = Vec::new();
        for number in 0..RULES {
            let name = format!("{writer} {number}");
            let rule = format!("accept tcp {}", 8000 + number);
            made.push(edit(
                &lab,
                &["rule", "add", &rule, "--name", &name, "--save"],
            )?);
            if number % 2 == 1 {
                made.push(edit(&lab, &["rule", "remove", &name, "--save"])?);
            }
        }
        Ok(made)
    };
    let group_writer = || -> Result<Vec<u64>> {
        let mut guests = GUESTS.iter();
        guests.try_fold(Vec::new(), |mut made, guest| {
            made.push(edit(&lab, &["group", "add", "guests", guest, "--save"])?);
            Ok(made)
        })
    };
    let made = thread::scope(|scope| -> Result<Vec<u64>> {
        let writers = [
            scope.spawn(|| rule_writer("Ann")),
            scope.spawn(|| rule_writer("Bob")),
            scope.spawn(group_writer),
        ];
        let mut made = Vec::new();
        for writer in writers {
            made.extend(
                writer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        Ok(made)
    })?;

    // Each was the next generation, and nobody else's.
    let generations: BTreeSet<u64> = made.iter().copied().collect();
    let expected: BTreeSet<u64> = (2..=made.len() as u64 + 1).collect();
    ensure!(generations == expected, "{made:?}");
    ensure!(
        made.len() == 2 * (RULES + RULES / 2) + GUESTS.len(),
        "{made:?}"
    );
    ensure!(history(&lab)? == expected.into_iter().rev().chain([1]).collect::<Vec<_>>());
    let names: BTreeSet<String> = rule_names(&lab)?;
    let expected = ["Ann 0", "Ann 2", "Bob 0", "Bob 2", "chat", "game"];
    ensure!(names.iter().eq(expected.iter()), "{names:?}");
    // And in the file, which comes to the same rules.
    let text = std::fs::read_to_string(&file)?;
    for guest in GUESTS {
        ensure!(text.matches(guest).count() == 1, "{guest}: {text}");
    }
    for (name, count) in [("Ann 0", 1), ("Ann 1", 0), ("Bob 1", 0), ("Bob 2", 1)] {
        let name = format!("name = \"{name}\"");
        ensure!(text.matches(&name).count() == count, "{name}: {text}");
    }
    let said = lab.apply_file(&file, &[])?;
    ensure!(
        said.contains("nothing to do"),
        "the file is another: {said}"
    );
    Ok(())
}

/// An apply puts the whole of a file in force, whatever was edited before; what is edited behind it stays.
#[test]
fn edits_and_applies_at_once_follow_each_other() -> Result<()> {
    const ROUNDS: usize = 6;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let files = [
        lab.write("a.toml", &text("[\"192.0.2.1\"]"))?,
        lab.write("b.toml", &text("[\"192.0.2.2\"]"))?,
    ];
    lab.apply_file(&files[0], &[])?;
    let applies = || -> Result<()> {
        (1..=ROUNDS).try_for_each(|round| lab.apply_file(&files[round % 2], &[]).map(drop))
    };
    let edits = || -> Result<Vec<u64>> {
        let add = |round| {
            edit(
                &lab,
                &[
                    "rule",
                    "add",
                    "accept tcp 80",
                    "--name",
                    &format!("r{round}"),
                ],
            )
        };
        (0..ROUNDS).map(add).collect()
    };
    let made = thread::scope(|scope| -> Result<Vec<u64>> {
        let applying = scope.spawn(applies);
        let made = edits();
        applying
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        made
    })?;
    // Of what was added last, everything is there that came behind the last apply, in order.
    let said: Value = serde_json::from_str(&run(&lab, &["history", "--format", "json"])?)?;
    let kept = said[0]["generations"]
        .as_array()
        .context("no generations")?;
    ensure!(kept.len() == 1 + 2 * ROUNDS, "{said}");
    let expected: Vec<u64> = (1..=kept.len() as u64).rev().collect();
    ensure!(history(&lab)? == expected, "{said}");
    let is_apply = |one: &&Value| one["change"] == "apply";
    let last_apply = kept.iter().find(is_apply).context("no apply")?;
    let last_apply = last_apply["generation"].as_u64().context("no number")?;
    let mut expected = BTreeSet::from(["chat".to_owned(), "game".to_owned()]);
    let behind = made
        .iter()
        .enumerate()
        .filter(|(_, generation)| **generation > last_apply);
    expected.extend(behind.map(|(round, _)| format!("r{round}")));
    let names = rule_names(&lab)?;
    ensure!(names == expected, "{names:?}, and not {expected:?}: {said}");
    Ok(())
}

/// A rule file whose guests are these.
fn text(guests: &str) -> String {
    rules(&[GAME, CHAT]).replacen('\n', &format!("\n[groups]\nguests = {guests}\n"), 1)
}

fn run(lab: &Lab, command: &[&str]) -> Result<String> {
    let interface = ["-i", lab.inside.interface()];
    lab.inside
        .firewall(&[command, &interface].concat())?
        .success()
}

/// Makes an edit. Returns the generation that it became.
fn edit(lab: &Lab, command: &[&str]) -> Result<u64> {
    let said = run(lab, &[command, &["--format", "json"]].concat())?;
    let said: Value = serde_json::from_str(&said)?;
    ensure!(said[0]["changed"] == true, "{command:?}: {said}");
    said[0]["generation"].as_u64().context("no generation")
}

/// Generations that are kept, the latest first.
fn history(lab: &Lab) -> Result<Vec<u64>> {
    let said: Value = serde_json::from_str(&run(lab, &["history", "--format", "json"])?)?;
    let kept = said[0]["generations"]
        .as_array()
        .context("no generations")?;
    Ok(kept
        .iter()
        .filter_map(|one| one["generation"].as_u64())
        .collect())
}

fn rule_names(lab: &Lab) -> Result<BTreeSet<String>> {
    Ok(lab
        .stats()?
        .rules
        .into_iter()
        .map(|rule| rule.name)
        .collect())
}
