//! Bans are saved, and an interface that is guarded anew begins with what is left of them.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::Lab;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Service, wait_until};
use crate::probe::{InForce, policy};

const SAVED: &str = "/var/lib/firewall/bans.json";

fn saved(interface: &str) -> Result<Option<Value>> {
    let Ok(text) = fs::read_to_string(SAVED) else {
        return Ok(None);
    };
    let all: Value = serde_json::from_str(&text)?;
    Ok(all.get(interface).cloned())
}

/// Who is banned, and for how many seconds still.
fn banned(lab: &Lab) -> Result<Vec<(String, Option<f64>)>> {
    let text = lab
        .inside
        .firewall(&["bans", "--format", "json"])?
        .success()?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    lines
        .map(|line| {
            let line = line?;
            let prefix = line["prefix"].as_str().context("no prefix")?;
            Ok((prefix.to_owned(), line["expires_s"].as_f64()))
        })
        .collect()
}

#[test]
fn bans_outlive_what_is_pinned() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let guard = format!("{interface}={}", file.display());
    let mut service = Service::start(&lab, &["--guard", &guard])?;
    for ban in [
        &[
            "ban",
            "198.51.100.0/24",
            "--for",
            "1h",
            "--reason",
            "ticket 4711",
        ][..],
        &["ban", "203.0.113.7"],
        &["ban", "203.0.113.8", "--for", "30s"],
    ] {
        lab.inside.firewall(ban)?.success()?;
    }
    service.daemon.signal(Signal::TERM)?;
    ensure!(service.daemon.wait()?.success());
    drop(service);
    let found = saved(interface)?.context("nothing is saved")?;
    let bans = found["bans"].as_array().context("no bans")?;
    ensure!(bans.len() == 2, "what ends soon is not saved: {found}");

    // As if the machine had been down for ten minutes: another boot, and the clock has gone on.
    fs::remove_dir_all(lab.inside.pins())?;
    wait_until("it is off", || Ok(lab.inside.attached()?.is_none()))?;
    let mut all: Value = serde_json::from_str(&fs::read_to_string(SAVED)?)?;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    all[interface]["at"] = json!({ "boot": "another", "monotonic_s": 1, "wall_s": now_s - 600 });
    fs::write(SAVED, all.to_string())?;
    let service = Service::start(&lab, &["--guard", &guard])?;
    let bans = banned(&lab)?;
    ensure!(bans.len() == 2, "{bans:?}");
    for (prefix, left_s) in &bans {
        match (prefix.as_str(), left_s) {
            ("203.0.113.7/32" | "203.0.113.7", None) => {}
            ("198.51.100.0/24", Some(left_s)) => {
                ensure!((2900.0..3001.0).contains(left_s), "{left_s}");
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(service.metrics()?.sum("firewall_bans", &[]) == 2.0);

    // They go with the firewall.
    lab.inside
        .firewall(&["detach", "-i", interface])?
        .success()?;
    ensure!(saved(interface)?.is_none());
    drop(service);
    ensure!(saved(interface)?.is_none());
    lab.apply(&policy(InForce::A), "native")?;
    ensure!(banned(&lab)?.is_empty());
    Ok(())
}
