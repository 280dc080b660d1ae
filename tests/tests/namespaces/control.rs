//! What the command does to an interface, over its life: apply, apply again, count, detach.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::Lab;
use firewall_tests::net::traffic::{drain, reaches, udp, udp_from};

use crate::probe::{InForce, Probe, policy};
use crate::{MODES, rules};

#[test]
fn the_same_file_again_changes_nothing_and_says_so() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let first = lab.apply_file(&file, &[])?;
    let (program, generation) = (lab.inside.attached()?, lab.stats()?.generation);
    let again = lab.apply_file(&file, &[])?;
    ensure!(
        again != first && again.contains("nothing to do"),
        "first: {first:?}, again: {again:?}"
    );
    ensure!(
        lab.inside.attached()? == program && lab.stats()?.generation == generation,
        "something changed"
    );

    let moved = lab.write("moved.toml", &policy(InForce::A))?;
    let said = lab.apply_file(&moved, &[])?;
    ensure!(
        said.contains("nothing to do") && said.contains("moved.toml") && said.contains("a.toml"),
        "{said:?}"
    );
    let status = || lab.inside.firewall(&["status"])?.success();
    ensure!(status()?.contains("moved.toml"), "{:?}", status());
    ensure!(
        lab.inside.attached()? == program && lab.stats()?.generation == generation,
        "only the name changed"
    );
    ensure!(lab.apply_file(&moved, &[])? == again, "it is recorded");

    let other = lab.write("b.toml", &policy(InForce::B))?;
    let changed = lab.apply_file(&other, &[])?;
    ensure!(!changed.contains("nothing to do"), "{changed:?}");
    ensure!(
        lab.stats()?.generation == generation + 1,
        "one more generation"
    );
    ensure!(
        Probe::new(&lab)?.in_force()? == InForce::B,
        "the other file"
    );
    Ok(())
}

#[test]
fn a_changed_list_of_addresses_is_applied() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.write("guests.txt", "# nobody yet\n")?;
    let text = "version = 1\n\n[groups]\nguests = { file = \"guests.txt\" }\n\n[[rule]]\nname = \"game\"\n\
                action = \"accept\"\nprotocol = \"udp\"\nports = [7000]\nfrom = [\"guests\"]\n";
    let file = lab.write("rules.toml", text)?;
    lab.apply_file(&file, &[])?;
    let receiver = udp(&lab.inside, 7000)?;
    let sender = udp_from(&lab.outside, lab.stranger())?;
    let target = SocketAddr::new(lab.inside.v4.into(), 7000);
    ensure!(!reaches(&sender, target, &receiver)?, "the list is empty");

    lab.write(
        "guests.txt",
        &format!("{}  # the stranger\n", lab.stranger()),
    )?;
    let said = lab.apply_file(&file, &[])?;
    ensure!(
        !said.contains("nothing to do"),
        "the same rule file, but another list: {said:?}"
    );
    ensure!(
        reaches(&sender, target, &receiver)?,
        "the stranger is on the list"
    );
    Ok(())
}

#[test]
fn detaching_leaves_nothing() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let interface = lab.inside.interface();
        lab.apply(&policy(InForce::A), mode)?;
        Probe::new(&lab)?.in_force()?;
        ensure!(
            lab.stats()?.rule("udp") > Some(0),
            "{mode}: nothing was counted"
        );
        ensure!(
            lab.inside.pins().is_dir(),
            "no pins at {}",
            lab.inside.pins().display()
        );
        let program = lab
            .inside
            .attached()?
            .context("nothing is attached")?
            .program;

        lab.inside
            .firewall(&["detach", "-i", interface])?
            .success()?;
        ensure!(
            lab.inside.attached()?.is_none(),
            "{mode}: a program is still attached"
        );
        ensure!(
            !lab.inside.pins().exists(),
            "{mode}: {} is still there",
            lab.inside.pins().display()
        );
        ensure!(
            Probe::new(&lab)?.in_force()? == InForce::Nothing,
            "{mode}: something is still refused"
        );
        // The kernel frees a program a moment after its last user is gone.
        let freed = || {
            let shown = lab.inside.run(std::process::Command::new("bpftool").args([
                "prog",
                "show",
                "id",
                &program.to_string(),
            ]))?;
            Ok(shown.code != Some(0))
        };
        firewall_tests::net::traffic::wait_until("the program is freed", freed)?;

        let again = lab.inside.firewall(&["detach", "-i", interface])?;
        ensure!(
            again.to_string().contains(interface),
            "detaching twice names the interface: {again}"
        );
        lab.apply(&policy(InForce::B), mode)?;
        // Of the rule, since neighbours and routers may have spoken already.
        ensure!(
            lab.stats()?.rule("udp") == Some(0),
            "{mode}: counters do not begin anew"
        );
    }
    Ok(())
}

#[test]
fn counters_go_on_while_a_rule_keeps_its_name() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let game = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#;
    let moved = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000, 7005]"#;
    let chat = r#"name = "chat"; action = "accept"; protocol = "udp"; ports = [7001]"#;
    let first = r#"name = "first"; action = "drop"; protocol = "udp"; ports = [7009]"#;
    let receivers = [udp(&lab.inside, 7000)?, udp(&lab.inside, 7001)?];
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let send = |port: u16, count: usize| -> Result<()> {
        (0..count).try_for_each(|_| sender.send_to(b"x", (lab.inside.v4, port)).map(drop))?;
        receivers
            .iter()
            .try_for_each(|receiver| drain(receiver).map(drop))
    };

    lab.apply(&rules(&[game, chat]), "auto")?;
    send(7000, 10)?;
    send(7001, 5)?;
    send(7002, 3)?;
    lab.apply(&rules(&[first, moved]), "auto")?;
    send(7000, 20)?;
    send(7001, 1)?;
    let stats = lab.stats()?;
    ensure!(
        stats.rule("game") == Some(30),
        "it moved down and names more ports: {stats:#?}"
    );
    ensure!(
        stats.rule("first") == Some(0),
        "a new rule begins at 0: {stats:#?}"
    );
    ensure!(
        stats.rule("chat").is_none(),
        "a removed rule is not listed: {stats:#?}"
    );
    ensure!(
        stats.port("udp", 7000).map(|count| count.packets) == Some(30),
        "{stats:#?}"
    );
    ensure!(
        stats.dropped("no-rule") == 4,
        "reasons outlive policies: {stats:#?}"
    );
    Ok(())
}

#[test]
fn every_role_s_rules_apply() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let directory = firewall_tests::net::workspace().join("rules");
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        lab.apply_file(&file, &[])
            .with_context(|| file.display().to_string())?;
        let text = fs::read_to_string(&file)?;
        let stats = lab.stats()?;
        ensure!(
            stats.rules.len() == text.matches("\n[[rule]]").count(),
            "{}: {stats:#?}",
            file.display()
        );
        count += 1;
    }
    ensure!(count >= 6, "only {count} rule files in rules/");
    Ok(())
}

#[test]
fn several_interfaces_are_guarded_at_once() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let second = format!("{}2", lab.inside.interface());
    lab.inside
        .ip(&format!("link add {second} type veth peer name {second}p"))?;
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &["-i", &second])?;
    let status = lab
        .inside
        .firewall(&["status", "--format", "json"])?
        .success()?;
    let twice = lab.apply_file(&file, &["-i", &second, "-i", &second])?;
    ensure!(
        twice.lines().count() == 2 && twice.lines().all(|line| line.contains("nothing to do")),
        "an interface that is named twice is one: {twice:?}"
    );
    for (command, generation) in [
        (&["rule", "add", "accept udp 9"][..], 2),
        (&["rollback"], 1),
    ] {
        let command = [command, &["-i", &second, "-i", &second]].concat();
        let said = lab.inside.firewall(&command)?.success()?;
        ensure!(
            said.lines().count() == 1 && said.contains(&format!("generation {generation}")),
            "{command:?}: {said}"
        );
    }
    for interface in [lab.inside.interface(), &second] {
        ensure!(
            status.contains(&format!("\"{interface}\"")),
            "{interface} is missing: {status}"
        );
        let shown = lab.inside.ip(&format!("link show dev {interface}"))?;
        ensure!(shown.contains("prog/xdp"), "{interface}: {shown}");
    }
    lab.inside
        .firewall(&["detach", "-i", lab.inside.interface(), "-i", &second])?
        .success()?;
    let shown = lab.inside.ip("link show")?;
    ensure!(!shown.contains("prog/xdp"), "{shown}");
    Ok(())
}

#[test]
fn the_mode_is_what_was_asked_for_or_the_best_there_is() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let mode = || Ok::<_, anyhow::Error>(lab.inside.attached()?.map(|attached| attached.mode));
    for (asked, obtained) in [
        ("auto", "native"),
        ("generic", "generic"),
        ("native", "native"),
    ] {
        lab.inside
            .firewall(&["detach", "-i", lab.inside.interface()])?;
        lab.apply_file(&file, &["--mode", asked])?;
        ensure!(
            mode()? == Some(obtained),
            "asked for {asked}: {:?}",
            mode()?
        );
        ensure!(lab.stats()?.mode == obtained, "asked for {asked}");
    }

    // A bridge has no native XDP.
    let bridge = format!("{}b", lab.inside.interface());
    lab.inside.ip(&format!("link add {bridge} type bridge"))?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let said = lab
        .inside
        .firewall(&["apply", file, "-i", &bridge, "--mode", "native"])?
        .failure(1)?;
    ensure!(
        said.contains(&bridge) && said.contains("generic"),
        "it says what would work: {said:?}"
    );
    ensure!(
        !lab.inside
            .ip(&format!("link show dev {bridge}"))?
            .contains("prog/xdp"),
        "nothing is attached"
    );
    lab.inside
        .firewall(&["apply", file, "-i", &bridge])?
        .success()?;
    let shown = lab.inside.ip(&format!("link show dev {bridge}"))?;
    ensure!(shown.contains("xdpgeneric"), "{shown}");
    lab.inside.firewall(&["detach", "-i", &bridge])?.success()?;
    Ok(())
}
