//! What the command refuses, and what it says: the machine stays as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::programs::xdp::XdpMode;
use firewall_tests::net::{Lab, PINS, firewall};
use firewall_user::kernel::instance::Instance;

use crate::probe::{InForce, Probe, policy};
use crate::rules;

/// A user without any rights; Debian calls it nobody.
const NOBODY: u32 = 65534;

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path that is not UTF-8")
}

#[test]
fn an_interface_that_does_not_exist_is_named() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let absent = format!("{}x", lab.inside.interface());
    for arguments in [
        &["apply", path(&file)?, "-i", &absent] as &[_],
        &["stats", "-i", &absent],
        &["rules", "-i", &absent],
        &["detach", "-i", &absent],
    ] {
        let said = lab.inside.firewall(arguments)?.failure(1)?;
        ensure!(said.contains(&absent), "{arguments:?}: {said:?}");
    }
    ensure!(
        !Path::new(PINS).join(&absent).exists(),
        "pins for no interface"
    );
    Ok(())
}

/// What a tunnel carries begins with an IP header, and would be read as an Ethernet header: an address as an ethertype.
#[test]
fn an_interface_without_ethernet_frames_is_refused() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let tunnel = "ip tuntap add name tunnel mode tun".split(' ');
    let made = lab.inside.run(Command::new("ip").args(tunnel.skip(1)))?;
    made.success()?;
    for mode in ["auto", "generic"] {
        let apply = ["apply", path(&file)?, "-i", "tunnel", "--mode", mode];
        let said = lab.inside.firewall(&apply)?.failure(1)?;
        ensure!(said.contains("no Ethernet frames"), "{mode}: {said:?}");
    }
    ensure!(
        !Path::new(PINS).join("tunnel").exists(),
        "pins for a tunnel"
    );
    Ok(())
}

/// Pins would go with the mount namespace, and that with the command.
#[test]
fn where_pins_would_not_last_nothing_is_attached() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let script = format!(
        "umount /sys/fs/bpf && exec {} apply {} -i {}",
        firewall()?.display(),
        path(&file)?,
        lab.inside.interface()
    );
    let said = lab
        .inside
        .run(Command::new("unshare").args(["--mount", "sh", "-c", &script]))?
        .failure(1)?;
    ensure!(said.contains("nsenter"), "{said:?}");
    ensure!(lab.inside.attached()?.is_none(), "a program is attached");
    Ok(())
}

/// Whoever could open the lock could hold it, and keep every command waiting.
#[test]
fn another_user_cannot_take_the_lock() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.inside.firewall(&["status"])?.success()?;
    let mut open = Command::new("cat");
    open.arg("/run/firewall/lock").uid(NOBODY).gid(NOBODY);
    ensure!(
        !open.output()?.status.success(),
        "anybody can open the lock"
    );
    Ok(())
}

#[test]
fn with_one_interface_missing_none_is_touched() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let absent = format!("{}x", lab.inside.interface());
    let interface = lab.inside.interface();
    let said = lab
        .inside
        .firewall(&["apply", path(&file)?, "-i", interface, "-i", &absent])?
        .failure(1)?;
    ensure!(said.contains(&absent), "{said:?}");
    ensure!(
        lab.inside.attached()?.is_none() && !lab.inside.pins().exists(),
        "the other one is guarded"
    );
    Ok(())
}

#[test]
fn a_program_of_somebody_else_stays() -> Result<()> {
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let file = lab.write("a.toml", &policy(InForce::A))?;
        let interface = lab.inside.interface();
        // Our own program, but without our pins, is as foreign as any. It drops everything, having no policy.
        let mut foreign = Instance::load(0)?;
        let link = lab
            .inside
            .enter(|| Ok(foreign.program().attach(interface, mode)?))?;
        let before = lab.inside.attached()?;
        ensure!(before.is_some(), "nothing is attached");

        for asked in ["auto", "native", "generic"] {
            let arguments = ["apply", path(&file)?, "-i", interface, "--mode", asked];
            let said = lab.inside.firewall(&arguments)?.failure(1)?;
            ensure!(said.contains(interface), "{said:?}");
        }
        lab.inside
            .firewall(&["detach", "-i", interface])?
            .success()?;
        ensure!(
            lab.inside.attached()? == before,
            "it was replaced or removed"
        );
        ensure!(
            !lab.inside.pins().exists(),
            "{} was made",
            lab.inside.pins().display()
        );
        let status = lab.inside.firewall(&["status", "-i", interface])?;
        let number = before
            .map(|attached| attached.program.to_string())
            .unwrap_or_default();
        ensure!(
            status.stdout.contains(&number),
            "status does not tell of it: {status}"
        );

        foreign.program().detach(link)?;
        lab.apply_file(&file, &[])?;
        ensure!(
            Probe::new(&lab)?.in_force()? == InForce::A,
            "it is gone, and ours is in force"
        );
    }
    Ok(())
}

#[test]
fn without_permission_nothing_happens() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    // The user may neither read the target directory, perhaps, nor a temporary one.
    let program = lab.directory().join("firewall");
    fs::copy(firewall()?, &program)?;
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755))?;
    let interface = lab.inside.interface();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/");
        lab.inside.run(&mut command)
    };
    let said = as_nobody(&["apply", path(&file)?, "-i", interface])?.failure(1)?;
    ensure!(
        said.contains("root") || said.contains("CAP_"),
        "it says what is missing: {said:?}"
    );
    ensure!(
        lab.inside.attached()?.is_none() && !lab.inside.pins().exists(),
        "something happened"
    );
    // Looking at a rule file takes no rights, and the copy of the command no other file.
    as_nobody(&["check", path(&file)?])?.success()?;

    lab.apply_file(&file, &[])?;
    let attached = lab.inside.attached()?;
    as_nobody(&["detach", "-i", interface])?.failure(1)?;
    ensure!(lab.inside.attached()? == attached, "nobody detached it");
    Ok(())
}

#[test]
fn a_rule_file_with_errors_changes_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let good = lab.write("a.toml", &policy(InForce::A))?;
    let bad = lab.write(
        "b.toml",
        &policy(InForce::B)
            .replace("\"udp\"; ports", "\"udq\"; ports")
            .replace("[7000", "[0, 7000"),
    )?;
    let absent = lab.directory().join("absent.toml");
    lab.apply_file(&good, &[])?;
    let generation = lab.stats()?.generation;
    let interface = lab.inside.interface();
    for file in [&bad, &absent] {
        let said = lab
            .inside
            .firewall(&["apply", path(file)?, "-i", interface])?
            .failure(1)?;
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        ensure!(said.contains(&name), "{said:?}");
    }
    ensure!(lab.stats()?.generation == generation, "another generation");
    ensure!(
        Probe::new(&lab)?.in_force()? == InForce::A,
        "the old policy is not in force"
    );
    Ok(())
}

#[test]
fn wrong_usage_is_told_from_refusal() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let interface = lab.inside.interface();
    for arguments in [
        &["frobnicate"] as &[_],
        &["apply", path(&file)?],
        &["apply", path(&file)?, "-i", interface, "--mode", "fast"],
        &["stats", "-i", interface, "--format", "xml"],
        &["check"],
    ] {
        let said = lab.inside.firewall(arguments)?.failure(2)?;
        ensure!(said.contains("--help"), "{arguments:?}: {said:?}");
    }
    Ok(())
}

#[test]
fn every_command_speaks_json() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let interface = lab.inside.interface();
    for arguments in [
        &["check", path(&file)?] as &[_],
        &["apply", path(&file)?, "-i", interface],
        &["apply", path(&file)?, "-i", interface],
        &["status"],
        &["status", "-i", interface],
        &["rules", "-i", interface],
        &["stats", "-i", interface],
        &["flows", "-i", interface],
        &["doctor"],
        &["upgrade", "--dry-run"],
        &["detach", "-i", interface],
    ] {
        let text = lab
            .inside
            .firewall(&[arguments, &["--format", "json"]].concat())?
            .success()?;
        let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
        ensure!(read.is_ok(), "{arguments:?}: {text:?}");
        ensure!(!text.contains('\u{1b}'), "{arguments:?} has colours");
    }
    Ok(())
}

#[test]
fn who_could_not_log_in_again_is_warned() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let session = format!("{} 51234 {} 22", lab.outside.v4, lab.inside.v4);
    let apply = |rules: &str| -> Result<String> {
        let file = lab.write("rules.toml", rules)?;
        let mut command = Command::new(firewall()?);
        command
            .arg("apply")
            .arg(file)
            .args(["-i", lab.inside.interface()])
            .env("SSH_CONNECTION", &session);
        let outcome = lab.inside.run(&mut command)?;
        ensure!(outcome.code == Some(0), "{outcome}");
        Ok(outcome.stderr)
    };
    let warned = apply(&rules(&[]))?;
    let told = format!("nothing accepts tcp from {} to port 22", lab.outside.v4);
    ensure!(warned.contains(&told), "{warned}");
    // A rule for new connections alone is enough: they are then followed.
    let warned = apply(&rules(&[
        r#"name = "ssh"; action = "accept"; protocol = "tcp"; ports = [22]; tcp-flags = { set = ["syn"], clear = ["ack"] }"#,
    ]))?;
    ensure!(!warned.contains("log in"), "{warned}");
    let warned = apply(&rules(&[
        r#"name = "ssh"; action = "accept"; protocol = "tcp"; ports = [22]; from = ["198.51.100.0/24"]"#,
    ]))?;
    ensure!(warned.contains(&told), "{warned}");
    Ok(())
}
