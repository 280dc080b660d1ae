//! Live edits, seen by packets and in the files: each does what it says, or nothing at all and says why.

mod game;
mod known;
mod random;
mod saved;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use game::{FILE, GUESTS, Game};

#[test]
fn rules_come_and_go_in_force_and_in_the_file() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    ensure!(game.seen()? == Game::AT_FIRST, "{:?}", game.seen()?);
    let saved = game.edit("rule|add|accept udp 7103|--name|new|--comment|since today|--save")?;
    ensure!(saved == [game.file.to_str().context("UTF-8")?], "{saved:?}");
    ensure!(game.seen()?[2] == (true, true), "the new rule comes last");
    let new = "\n[[rule]]\nname = \"new\"\naction = \"accept\"\nprotocol = \"udp\"\nports = [7103]\ncomment = \"since today\"\n";
    let with_new = FILE.to_owned() + new;
    ensure!(game.text()? == with_new, "{}", game.text()?);

    game.edit("rule|add|drop udp 7103 from 192.0.2.1|--before|new|--save")?;
    ensure!(
        game.seen()?[2] == (false, true),
        "the one before it decides"
    );
    let before = "\n[[rule]]\nname = \"udp 7103 from 192.0.2.1\"\naction = \"drop\"\nprotocol = \"udp\"\nports = [7103]\n\
                  from = [\"192.0.2.1\"]\n";
    let with_both = FILE.to_owned() + before + new;
    ensure!(game.text()? == with_both, "{}", game.text()?);

    // Not saved: the file stays, and then does not have what is to be removed.
    ensure!(
        game.edit("rule|add|drop any from 198.51.100.7|--after|open|--name|no strangers")?
            .is_empty()
    );
    ensure!(
        game.seen()? == [(true, false), (false, false), (false, false)],
        "{:?}",
        game.seen()?
    );
    ensure!(game.text()? == with_both, "{}", game.text()?);
    game.refused(
        "rule|remove|no strangers|--save",
        &["nothing is changed", "there is no rule `no strangers`"],
    )?;
    game.edit("rule|remove|no strangers")?;
    game.edit("rule|remove|udp 7103 from 192.0.2.1|--save")?;
    ensure!(game.text()? == with_new, "{}", game.text()?);
    ensure!(game.seen()?[2] == (true, true), "{:?}", game.seen()?);
    game.edit("rule|remove|new|--save")?;
    ensure!(game.text()? == FILE, "{}", game.text()?);
    ensure!(game.seen()? == Game::AT_FIRST, "{:?}", game.seen()?);

    // A rule goes with the comment above it, and the heading of its section stays.
    game.edit("rule|remove|game|--save")?;
    let start = FILE.find("# The game.").context("a comment")?;
    let end = FILE.find("# Talk.").context("another")?;
    let without = format!("{}{}", &FILE[..start], &FILE[end..]);
    ensure!(game.text()? == without, "{}", game.text()?);
    ensure!(game.seen()?[0] == (false, false), "{:?}", game.seen()?);
    ensure!(game.guests()? == GUESTS, "{}", game.guests()?);
    let kept = game.kept()?;
    ensure!(
        kept[0] == "8 \"in force\" \"rule remove game\"" && kept.len() == 8,
        "{kept:?}"
    );
    Ok(())
}

#[test]
fn members_come_and_go_in_force_and_where_they_stand() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    game.edit("group|add|players|198.51.100.7|--save")?;
    let two = FILE.replace("# Ann\n]", "# Ann\n    \"198.51.100.7\",\n]");
    ensure!(game.text()? == two, "{}", game.text()?);
    ensure!(game.seen()?[0] == (true, true), "{:?}", game.seen()?);
    game.edit("group|remove|players|192.0.2.1/32|--save")?;
    let one = two.replace("    \"192.0.2.1\", # Ann\n", "");
    ensure!(game.text()? == one, "{}", game.text()?);
    ensure!(game.seen()?[0] == (false, true), "{:?}", game.seen()?);

    // Of a list, only the list changes.
    let saved = game.edit("group|add|guests|192.0.2.0/24|2001:db8::/32|--save")?;
    ensure!(
        saved.len() == 1 && saved[0].ends_with("/guests.txt"),
        "{saved:?}"
    );
    let more = format!("{GUESTS}192.0.2.0/24\n2001:db8::/32\n");
    ensure!(game.guests()? == more, "{}", game.guests()?);
    ensure!(game.seen()?[1] == (true, true), "{:?}", game.seen()?);
    game.edit("group|remove|guests|198.51.100.7|--save")?;
    let less = more.replace("198.51.100.7  # the stranger\n", "");
    ensure!(game.guests()? == less, "{}", game.guests()?);
    ensure!(game.seen()?[1] == (true, false), "{:?}", game.seen()?);
    ensure!(game.text()? == one, "{}", game.text()?);

    // Without --save neither.
    game.edit("group|add|guests|198.51.100.0/24")?;
    ensure!(game.seen()?[1] == (true, true), "{:?}", game.seen()?);
    ensure!(game.guests()? == less, "{}", game.guests()?);
    let before = game.generation()?;
    let said = game.run("group|add|guests|198.51.100.0/24")?.success()?;
    ensure!(said.contains("nothing to do"), "{said}");
    ensure!(game.generation()? == before, "a generation for nothing");
    Ok(())
}

#[test]
fn other_changes_of_the_file_stay_and_are_not_put_in_force() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let changed = FILE
        .replace("# A game server.", "# A game server, soon another.")
        .replace("ports = [7102]", "ports = [7102, 7103]")
        .replace(
            "name = \"open\"\n",
            "name = \"open\"\ncomment = \"for all\"\n",
        );
    fs::write(&game.file, &changed)?;
    let list = format!("192.0.2.1\n{GUESTS}");
    game.lab.write("guests.txt", &list)?;
    game.edit("group|add|players|198.51.100.7|--save")?;
    ensure!(
        game.seen()? == [(true, true), (false, true), (false, false)],
        "{:?}",
        game.seen()?
    );
    let expected = changed.replace("# Ann\n]", "# Ann\n    \"198.51.100.7\",\n]");
    ensure!(game.text()? == expected, "{}", game.text()?);
    game.edit("group|add|guests|203.0.113.9|--save")?;
    ensure!(
        game.seen()?[1] == (false, true),
        "a guest of the changed list: {:?}",
        game.seen()?
    );
    ensure!(
        game.guests()? == format!("{list}203.0.113.9\n"),
        "{}",
        game.guests()?
    );
    Ok(())
}

#[test]
fn what_cannot_be_saved_is_not_done() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let add = "rule|add|accept udp 7103|--name|new|--save";
    let named = FILE.replace("name = \"open\"", "name = \"new\"");
    let elsewhere = FILE
        .replace("players = [", "others = [")
        .replace("[\"players\"]", "[\"others\"]");
    for (text, line, says) in [
        (&named[..], add, "there is a rule `new` already"),
        (
            &elsewhere,
            "group|add|players|198.51.100.7|--save",
            "there is no group `players`",
        ),
        ("version = 1\n[[rule]\n", add, "rules.toml"),
        (
            &elsewhere,
            "rule|add|accept udp 7103 from players|--save",
            "players",
        ),
    ] {
        fs::write(&game.file, text)?;
        game.refused(line, &["nothing is changed", says])?;
    }
    fs::remove_file(&game.file)?;
    game.refused(add, &["nothing is changed", "rules.toml"])?;
    // What is in force is not what is in files.
    game.edit("rule|add|accept udp 7103|--name|new")?;
    ensure!(game.seen()?[2] == (true, true), "{:?}", game.seen()?);
    ensure!(!game.file.exists(), "a file that was removed is back");
    Ok(())
}

#[test]
fn what_is_wrong_is_told_and_changes_nothing() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    for (line, says) in [
        ("rule|add|accept udp 99999", "99999"),
        ("rule|add|accept udp 7103 from nobody", "nobody"),
        ("rule|add|accept udp 7103 from 192.0.2.1/24", "192.0.2.0/24"),
        ("rule|add|accept udp 7103 limit many", "many"),
        (
            "rule|add|accept udp 7103|--name|game",
            "there is a rule `game` already",
        ),
        (
            "rule|add|accept udp 7103|--before|gone",
            "there is no rule `gone`",
        ),
        (
            "rule|add|accept udp 7103|--after|gone",
            "there is no rule `gone`",
        ),
        (
            "rule|remove|gone",
            "there is no rule `gone`; `firewall rule list`",
        ),
        (
            "group|add|nobody|192.0.2.7",
            "the groups are players, guests",
        ),
        (
            "group|remove|nobody|192.0.2.7",
            "there is no group `nobody`",
        ),
        ("group|add|guests|192.0.2.7/24", "192.0.2.0/24"),
        (
            "group|remove|players|192.0.2.7",
            "group `players` does not have 192.0.2.7",
        ),
        (
            "group|remove|guests|198.51.100.7|192.0.2.7",
            "does not have 192.0.2.7 written so",
        ),
    ] {
        game.refused(line, &[says])?;
        game.refused(&format!("{line}|--save"), &[says])?;
    }
    // What is no rule at all is wrong usage.
    let said = game.run("rule|add|allow udp 7103")?.failure(2)?;
    ensure!(said.contains("accept or drop"), "{said}");
    Ok(())
}

#[test]
fn an_edit_of_two_interfaces_is_made_on_both_or_neither() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let (lab, second) = (&game.lab, format!("{}2", game.lab.inside.interface()));
    lab.inside
        .ip(&format!("link add {second} type veth peer name {second}p"))?;
    let other = lab.write("other.toml", &FILE.replace("\"game\"", "\"play\""))?;
    let apply = ["apply", path(&other)?, "-i", &second];
    lab.inside.firewall(&apply)?.success()?;
    let both = |line: &str| game.run(&format!("{line}|-i|{second}"));
    let generation = || -> Result<u64> {
        let stats = ["stats", "-i", &second, "--format", "json"];
        let said: Value = serde_json::from_str(&lab.inside.firewall(&stats)?.success()?)?;
        said["generation"].as_u64().context("no generation")
    };
    // The one has the rule and the other has not.
    for name in ["game", "play"] {
        let said = both(&format!("rule|remove|{name}|--save"))?.failure(1)?;
        ensure!(said.contains(&format!("no rule `{name}`")), "{said}");
        ensure!((game.generation()?, generation()?) == (1, 1), "{name}");
        ensure!(game.text()? == FILE, "{}", game.text()?);
    }
    let said = both("group|add|players|198.51.100.7|--save")?.success()?;
    ensure!(said.matches("generation 2").count() == 2, "{said}");
    ensure!((game.generation()?, generation()?) == (2, 2));
    for file in [&game.file, &other] {
        let text = fs::read_to_string(file)?;
        ensure!(text.contains("# Ann\n    \"198.51.100.7\",\n]"), "{text}");
    }
    // Where one has it already, the other gets it.
    game.edit("group|add|players|203.0.113.9")?;
    let said = both("group|add|players|203.0.113.9")?.success()?;
    ensure!(
        said.contains("nothing to do") && (game.generation()?, generation()?) == (3, 3),
        "{said}"
    );
    // A list that both files name is saved once.
    both("group|add|guests|192.0.2.1|--save")?.success()?;
    let expected = format!("{GUESTS}192.0.2.1\n");
    ensure!(game.guests()? == expected, "{}", game.guests()?);
    lab.inside.firewall(&["detach", "-i", &second])?.success()?;
    Ok(())
}

#[test]
fn nothing_is_edited_while_something_waits_and_what_nobody_confirms_goes_back() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let said = game
        .run("rule|add|accept udp 7103|--confirm|4s")?
        .success()?;
    ensure!(said.contains("`firewall confirm` within 4 s"), "{said}");
    ensure!(game.seen()?[2] == (true, true), "{:?}", game.seen()?);
    let said = game.run("group|add|players|198.51.100.7")?.failure(1)?;
    ensure!(said.contains("to be confirmed"), "{said}");
    let said = game.run("rule|remove|game|--save")?.failure(1)?;
    ensure!(said.contains("to be confirmed"), "{said}");
    thread::sleep(Duration::from_millis(4100));
    ensure!(game.seen()? == Game::AT_FIRST, "{:?}", game.seen()?);
    ensure!(
        game.kept()?[0].starts_with("2 \"not confirmed\""),
        "{:?}",
        game.kept()?
    );

    // It goes on from what is in force, under a number that was never used.
    let said = game.run("group|add|players|198.51.100.7")?.success()?;
    ensure!(said.contains("generation 3"), "{said}");
    ensure!(
        game.seen()? == [(true, true), (false, true), (false, false)],
        "{:?}",
        game.seen()?
    );
    game.lab.apply_file(&game.file, &["--shadow"])?;
    for line in [
        "rule|add|accept udp 7103",
        "rule|remove|game",
        "group|add|guests|192.0.2.1|--save",
        "group|remove|players|192.0.2.1",
    ] {
        game.refused(
            line,
            &["a candidate is being asked", "firewall shadow drop"],
        )?;
    }
    game.run("shadow|drop")?.success()?;
    game.edit("group|add|guests|192.0.2.1")?;
    ensure!(game.seen()?[1] == (true, true), "{:?}", game.seen()?);
    Ok(())
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path that is not UTF-8")
}
