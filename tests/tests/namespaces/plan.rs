//! What `firewall plan` says would change, and that an apply then changes just that.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, reaches, tcp, udp, udp_from};
use firewall_tests::net::{Lab, Outcome};
use serde_json::Value;

use crate::rules;

const SSH: u16 = 2222;
const ADMIN: u16 = 8443;
const WEB: u16 = 8080;
const GAME: u16 = 7000;
const RESOLVER: u16 = 5300;

/// Exit code where something would change.
const DIFFERS: i32 = 3;

const WEB_RULE: &str = r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#;
const GAME_RULE: &str = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#;

fn before() -> String {
    let ssh = r#"name = "ssh"; action = "accept"; protocol = "tcp"; ports = [2222]"#;
    rules(&[ssh, WEB_RULE, GAME_RULE])
}

/// No SSH, an admin port for the one network, no game for the stranger, and nothing may leave but for a resolver.
fn after(lab: &Lab) -> String {
    let admin = r#"name = "admin"; action = "accept"; protocol = "tcp"; ports = [8443]; from = ["192.0.2.0/24"]"#;
    let stranger = format!(
        r#"name = "stranger"; action = "drop"; protocol = "udp"; from = ["{}"]"#,
        lab.stranger()
    );
    let out =
        r#"name = "out"; action = "accept"; direction = "egress"; protocol = "udp"; ports = [53]"#;
    rules(&[WEB_RULE, admin, &stranger, GAME_RULE, out]) + "\n[defaults]\negress = \"drop\"\n"
}

fn plan(lab: &Lab, file: &Path, more: &[&str]) -> Result<Outcome> {
    let file = file.to_str().context("a path that is not UTF-8")?;
    let arguments = [&["plan", file, "-i", lab.inside.interface()], more].concat();
    lab.inside.firewall(&arguments)
}

/// What gets through, in one order.
fn reached(lab: &Lab) -> Result<[bool; 5]> {
    let address = IpAddr::from(lab.inside.v4);
    let to = |port| SocketAddr::new(address, port);
    let game = udp(&lab.inside, GAME)?;
    let [visitor, stranger] = [
        udp(&lab.outside, 0)?,
        udp_from(&lab.outside, lab.stranger())?,
    ];
    Ok([
        tcp(&lab.outside, to(SSH), 1)?,
        tcp(&lab.outside, to(ADMIN), 1)?,
        tcp(&lab.outside, to(WEB), 1)?,
        reaches(&visitor, to(GAME), &game)?,
        reaches(&stranger, to(GAME), &game)?,
    ])
}

#[test]
fn an_apply_changes_what_the_plan_has_said() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let servers = [SSH, ADMIN, WEB].map(|port| Echo::start(&lab.inside, port));
    let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    lab.apply(&before(), "native")?;
    ensure!(reached(&lab)? == [true, false, true, true, true]);
    // A conversation of this host's own, which the new rules have no place for.
    let (asker, resolver) = (udp(&lab.inside, 0)?, udp(&lab.outside, RESOLVER)?);
    let question = SocketAddr::new(lab.outside.v4.into(), RESOLVER);
    ensure!(reaches(&asker, question, &resolver)?);

    let same = plan(&lab, &lab.write("same.toml", &before())?, &[])?.success()?;
    ensure!(same == "nothing changes\n", "{same}");

    let new = lab.write("new.toml", &after(&lab))?;
    let told = plan(&lab, &new, &[])?;
    ensure!(told.code == Some(DIFFERS), "{told}");
    for line in [
        "+ newly accepted: tcp 8443 from 192.0.2.0/24 to any ",
        "- newly refused: tcp 2222 from any to any ",
        &format!("- newly refused: udp 7000 from {} to any ", lab.stranger()),
        "- newly refused on its way out: any protocol but udp 53 from any to any ",
        "so far rule `ssh` has accepted ",
        "so far rule `game` has accepted 2 packets ",
        "1 conversation that this host has opened is cut:",
        &format!("  udp {}:", lab.inside.v4),
    ] {
        let mut lines = told.stdout.lines();
        ensure!(lines.any(|found| found.starts_with(line)), "{line}: {told}");
    }
    let dry = lab.inside.firewall(&[
        "apply",
        new.to_str().context("a path")?,
        "-i",
        lab.inside.interface(),
        "--dry-run",
    ])?;
    ensure!(dry == told, "{dry}");
    ensure!(
        reached(&lab)? == [true, false, true, true, true],
        "a plan has changed something"
    );

    lab.apply_file(&new, &["--mode", "native"])?;
    ensure!(reached(&lab)? == [false, true, true, true, false]);
    ensure!(!reaches(&asker, question, &resolver)?, "it was not cut");
    let done = plan(&lab, &new, &["--format", "json"])?.success()?;
    let done: Value = serde_json::from_str(&done)?;
    ensure!(done[0]["changes"] == false && done[0]["live"]["cut"] == Value::Array(Vec::new()));
    Ok(())
}

#[test]
fn a_plan_goes_by_what_is_in_force_whatever_the_file_is_now() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let new = lab.write("new.toml", &after(&lab))?;
    // Without a firewall everything is let in: what would be refused is all but what rules accept.
    let told = plan(&lab, &new, &[])?;
    ensure!(told.code == Some(DIFFERS), "{told}");
    ensure!(told.stderr.contains("is not guarded"), "{told}");
    ensure!(told.stdout.contains("was accepted by default"), "{told}");

    lab.apply(&before(), "native")?;
    let file = lab.write("rules.toml", &after(&lab))?;
    let told = plan(&lab, &new, &[])?;
    ensure!(told.code == Some(DIFFERS), "{told}");
    let against = ["plan", path(&new)?, "--against", path(&file)?];
    lab.inside.firewall(&against)?.success()?;
    Ok(())
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path that is not UTF-8")
}
