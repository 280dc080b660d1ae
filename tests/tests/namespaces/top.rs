//! `firewall top` on a terminal, with keys typed into it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{udp, udp_from};
use firewall_tests::net::{Lab, firewall};

const FILE: &str = "version = 1\n[[rule]]\nname = \"only-rule\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [80]\n";

/// What a key needs to be seen to.
const KEY: Duration = Duration::from_millis(300);

#[test]
fn who_is_talked_with_or_refused_is_shown_and_banned_by_a_key() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(FILE, "auto")?;
    let socket = udp(&lab.inside, 40_000)?;
    socket.send_to(b"question", SocketAddr::from(([192, 0, 2, 1], 53)))?;

    // `script` (util-linux) gives it a terminal, and passes on what is typed.
    let line = format!(
        "stty columns 100 rows 30 && exec {} top -i {}",
        firewall()?.display(),
        lab.inside.interface()
    );
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut top = lab.inside.start(&mut command)?;
    let mut keys = top.stdin.take().context("keys are piped")?;
    // The first key is typed when the terminal is ready for it.
    thread::sleep(Duration::from_secs(2));
    let stranger = udp_from(&lab.outside, lab.stranger())?;
    for _ in 0..3 {
        stranger.send_to(b"knock", (lab.inside.v4, 9000))?;
    }
    // Until it looks again.
    thread::sleep(Duration::from_millis(2500));
    for key in ["4", "b", "y", "5", "b", "y", "6", "q"] {
        keys.write_all(key.as_bytes())?;
        thread::sleep(KEY);
    }
    let ended = top.wait_with_output()?;
    let seen = String::from_utf8_lossy(&ended.stdout);
    ensure!(ended.status.success(), "{}: {seen}", ended.status);
    let stranger = lab.stranger().to_string();
    for part in [
        "only-rule",
        "192.0.2.1",
        "everywhere?",
        "no-rule:",
        "9000",
        &stranger[2..],
    ] {
        ensure!(seen.contains(part), "no {part:?} in {seen:?}");
    }
    // The screen that was there before is there again (xterm's mode 1049).
    ensure!(seen.contains("\x1b[?1049l"), "{seen:?}");

    let bans = lab.inside.firewall(&["bans"])?.success()?;
    let stranger = lab.stranger().to_string();
    for part in ["192.0.2.1", &stranger, "firewall top"] {
        ensure!(bans.contains(part), "{bans}");
    }
    Ok(())
}

#[test]
fn without_a_terminal_it_says_what_to_use() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let said = lab.inside.firewall(&["top"])?.failure(1)?;
    ensure!(said.contains("firewall stats --watch"), "{said}");
    Ok(())
}
