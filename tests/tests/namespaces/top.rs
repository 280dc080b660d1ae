//! `firewall top` on a terminal, with keys typed into it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use firewall_tests::net::traffic::{udp, udp_from};
use firewall_tests::net::{Lab, Terminal};

const FILE: &str = "version = 1\n[[rule]]\nname = \"only-rule\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [80]\n";

#[test]
fn who_is_talked_with_or_refused_is_shown_and_banned_by_a_key() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(FILE, "auto")?;
    let socket = udp(&lab.inside, 40_000)?;
    socket.send_to(b"question", SocketAddr::from(([192, 0, 2, 1], 53)))?;

    let mut top = Terminal::start(&lab.inside, &["top", "-i", lab.inside.interface()])?;
    top.wait_for("only-rule")?;
    ensure!(top.is_alternate(), "it draws over what was there");
    // From the first drawing on it is told of packets.
    let stranger = lab.stranger().to_string();
    let sender = udp_from(&lab.outside, lab.stranger())?;
    for _ in 0..3 {
        sender.send_to(b"knock", (lab.inside.v4, 9000))?;
    }
    top.press("2", "no-rule")?;
    top.press("5", &stranger)?;
    let shown = top.shown();
    ensure!(
        shown.contains("no-rule: udp 9000"),
        "{stranger} knocked at 9000:\n{shown}"
    );
    top.press("b", &format!("ban {stranger} for 10m everywhere? y/n"))?;
    top.press("n", "nothing was done")?;
    top.press("b", "everywhere? y/n")?;
    top.press("y", &format!("{stranger} is banned"))?;
    top.press("4", "192.0.2.1")?;
    top.press("b", "ban 192.0.2.1 for 10m everywhere? y/n")?;
    top.press("y", "192.0.2.1 is banned")?;
    top.press("6", "BANS")?;
    top.wait_for(&stranger)?;
    top.type_in("q")?;
    let status = top.wait()?;
    ensure!(status.success(), "{status}:\n{}", top.shown());
    ensure!(!top.is_alternate(), "what was there is not back");

    let bans = lab.inside.firewall(&["bans"])?.success()?;
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
