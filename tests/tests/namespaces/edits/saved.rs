//! When, where and as what edits get into the files.

use std::fs;

use anyhow::{Result, ensure};

use super::game::{FILE, GUESTS, Game};

const NEW: &str =
    "\n[[rule]]\nname = \"udp 7103\"\naction = \"accept\"\nprotocol = \"udp\"\nports = [7103]\n";

#[test]
fn what_is_to_be_confirmed_is_saved_when_it_is() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    // Nobody confirms: whoever reads the file next must not find it there.
    for end in ["rollback", "wait"] {
        let time = if end == "wait" { "2s" } else { "1h" };
        let said = game.run(&format!("rule|add|accept udp 7103|--save|--confirm|{time}"))?;
        said.success()?;
        ensure!(game.seen()?[2] == (true, true), "{:?}", game.seen()?);
        ensure!(game.text()? == FILE, "{}", game.text()?);
        match end {
            "rollback" => drop(game.run("rollback")?.success()?),
            _ => std::thread::sleep(std::time::Duration::from_millis(2100)),
        }
        ensure!(game.seen()? == Game::AT_FIRST, "{:?}", game.seen()?);
        ensure!(game.text()? == FILE, "{}", game.text()?);
    }

    let said = game
        .run("rule|add|accept udp 7103|--save|--confirm|1h")?
        .success()?;
    ensure!(said.contains("keeps that, and saves it"), "{said}");
    let said = game.run("confirm")?.success()?;
    ensure!(
        said.contains("stays") && said.contains(&format!("saved in {}", game.file.display())),
        "{said}"
    );
    ensure!(game.text()? == format!("{FILE}{NEW}"), "{}", game.text()?);
    ensure!(game.seen()?[2] == (true, true), "{:?}", game.seen()?);
    // That was all.
    game.edit("rule|remove|udp 7103|--confirm|1h")?;
    game.run("confirm")?.success()?;
    ensure!(game.text()? == format!("{FILE}{NEW}"), "{}", game.text()?);

    // Of a list as well, and beside what was written there meanwhile.
    game.edit("group|add|guests|192.0.2.1|--save|--confirm|1h")?;
    ensure!(game.guests()? == GUESTS, "{}", game.guests()?);
    game.lab
        .write("guests.txt", &format!("{GUESTS}203.0.113.9\n"))?;
    game.run("confirm")?.success()?;
    let expected = format!("{GUESTS}203.0.113.9\n192.0.2.1\n");
    ensure!(game.guests()? == expected, "{}", game.guests()?);

    // What cannot be saved any more stays, and is told.
    game.edit("group|add|guests|192.0.2.2|--save|--confirm|1h")?;
    fs::write(&game.file, "version = 1\n")?;
    let said = game.run("confirm")?.failure(1)?;
    ensure!(
        said.contains("it stays, and is not saved") && said.contains("no group `guests`"),
        "{said}"
    );
    // It can be saved once that is mended.
    fs::write(&game.file, FILE)?;
    let said = game.run("confirm")?.success()?;
    ensure!(said.contains("was confirmed already"), "{said}");
    let expected = format!("{expected}192.0.2.2\n");
    ensure!(game.guests()? == expected, "{}", game.guests()?);
    let said = game.run("confirm")?.failure(1)?;
    ensure!(said.contains("nothing to be confirmed"), "{said}");
    Ok(())
}

/// Interfaces may have one file, and be confirmed one after the other.
#[test]
fn what_several_have_in_one_file_is_saved_once() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let (lab, second) = (&game.lab, format!("{}2", game.lab.inside.interface()));
    lab.inside
        .ip(&format!("link add {second} type veth peer name {second}p"))?;
    lab.apply_file(&game.file, &["-i", &second])?;
    for (edit, text, guests) in [
        ("rule|add|accept udp 7103", format!("{FILE}{NEW}"), GUESTS),
        ("rule|remove|udp 7103", FILE.to_owned(), GUESTS),
        (
            "group|remove|guests|198.51.100.7",
            FILE.to_owned(),
            "# Who may talk.\n",
        ),
    ] {
        let line = format!("{edit}|--save|--confirm|1h|-i|{second}");
        game.run(&line)?.success()?;
        game.run("confirm")?.success()?;
        ensure!(game.text()? == text && game.guests()? == guests, "{edit}");
        let said = lab.inside.firewall(&["confirm"])?.success()?;
        ensure!(said.contains(&second), "{said}");
        ensure!(game.text()? == text && game.guests()? == guests, "{edit}");
    }
    lab.inside.firewall(&["detach", "-i", &second])?.success()?;
    Ok(())
}

#[test]
fn lines_end_as_they_did() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let returned = |text: &str| text.replace('\n', "\r\n");
    fs::write(&game.file, returned(FILE))?;
    game.lab
        .write("guests.txt", &format!("\u{feff}{}", returned(GUESTS)))?;
    game.lab.apply_file(&game.file, &[])?;
    game.edit("rule|add|accept udp 7103|--save")?;
    game.edit("group|add|guests|192.0.2.1|--save")?;
    let expected = returned(&format!("{FILE}{NEW}"));
    ensure!(game.text()? == expected, "{:?}", game.text()?);
    let expected = format!("\u{feff}{}", returned(&format!("{GUESTS}192.0.2.1\n")));
    ensure!(game.guests()? == expected, "{:?}", game.guests()?);
    let said = game.lab.apply_file(&game.file, &[])?;
    ensure!(said.contains("nothing to do"), "{said}");
    Ok(())
}

#[test]
fn an_edit_is_saved_where_the_rules_are_kept_now() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    let elsewhere = game.lab.directory().join("elsewhere");
    fs::create_dir(&elsewhere)?;
    fs::write(elsewhere.join("rules.toml"), FILE)?;
    fs::write(elsewhere.join("guests.txt"), GUESTS)?;
    let said = game.lab.apply_file(&elsewhere.join("rules.toml"), &[])?;
    ensure!(said.contains("recorded as their file"), "{said}");
    game.edit("rule|add|accept udp 7103|--save")?;
    game.edit("group|add|guests|192.0.2.1|--save")?;
    ensure!(game.text()? == FILE, "{}", game.text()?);
    ensure!(game.guests()? == GUESTS, "{}", game.guests()?);
    let [rules, guests] =
        ["rules.toml", "guests.txt"].map(|name| fs::read_to_string(elsewhere.join(name)));
    ensure!(rules? == format!("{FILE}{NEW}"));
    ensure!(guests? == format!("{GUESTS}192.0.2.1\n"));
    fs::remove_dir_all(elsewhere)?;
    Ok(())
}

#[test]
fn a_rule_has_one_name_in_force_and_in_the_file() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    game.edit("rule|add|accept udp 7103")?;
    game.edit("rule|add|accept udp 7103|--save")?;
    let text = game.text()?;
    ensure!(text.contains("name = \"udp 7103 2\""), "{text}");
    game.edit("rule|remove|udp 7103 2|--save")?;
    ensure!(game.text()? == FILE, "{}", game.text()?);
    Ok(())
}

/// However an address is spelled, it is one: what is revoked is so in force and in the list.
#[test]
fn an_address_is_the_same_however_it_is_spelled() -> Result<()> {
    let Some(game) = Game::new()? else {
        return Ok(());
    };
    game.edit("group|add|guests|192.0.2.1|--save")?;
    ensure!(game.seen()?[1] == (true, true), "{:?}", game.seen()?);
    let said = game
        .run("group|add|guests|192.0.2.1/32|192.0.2.1|--save")?
        .success()?;
    ensure!(said.contains("nothing to do"), "{said}");
    game.edit("group|remove|guests|192.0.2.1/32|--save")?;
    ensure!(game.seen()?[1] == (false, true), "{:?}", game.seen()?);
    ensure!(game.guests()? == GUESTS, "{}", game.guests()?);

    // What was read from the file, out and in again.
    game.edit("group|remove|guests|198.51.100.7/32")?;
    ensure!(game.seen()?[1] == (false, false), "{:?}", game.seen()?);
    game.edit("group|add|guests|198.51.100.7")?;
    ensure!(game.seen()?[1] == (false, true), "{:?}", game.seen()?);

    game.edit("group|add|guests|2001:DB8:0::99|--save")?;
    let said = game.run("group|add|guests|2001:db8::99/128")?.success()?;
    ensure!(said.contains("nothing to do"), "{said}");
    ensure!(game.guests()? == format!("{GUESTS}2001:db8::99\n"));
    Ok(())
}
