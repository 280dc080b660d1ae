//! Upgrades that are killed.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::Lab;
use firewall_tests::net::old::{Old, Version};
use firewall_tests::net::traffic::{reaches, udp, udp_from};

use super::GAME;

/// No rule names this port.
const NOBODYS: u16 = 7999;

/// How often an upgrade is killed, and how often of these once its pins appear.
const KILLS: u32 = 30;
const LATE: u32 = 22;

/// Longer than it takes any upgrade to load its programs, other tests being at work beside.
const LONGEST: Duration = Duration::from_secs(60);

#[test]
fn a_killed_upgrade_leaves_the_interface_guarded_and_another_ends_it() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let new = lab.inside.state();
    let [mut v3, mut v4] = [Old::load(Version::V3, None)?, Old::load(Version::V4, None)?];
    let start = |old: &mut Old, version: Version| {
        old.guard(&lab.inside, interface, "native", &version.rules())
    };
    let receivers = [udp(&lab.inside, GAME)?, udp(&lab.inside, NOBODYS)?];
    let visitor = udp_from(&lab.outside, lab.outside.v4)?;
    let arrives = |port: u16, receiver: &UdpSocket| {
        reaches(
            &visitor,
            SocketAddr::new(lab.inside.v4.into(), port),
            receiver,
        )
    };
    let detach = || lab.inside.firewall(&["detach", "-i", interface])?.success();

    start(&mut v4, Version::V4)?;
    let started = Instant::now();
    let mut undisturbed = lab.inside.start_firewall(&["upgrade"])?;
    wait_for(&new)?;
    let (staging, appeared) = (started.elapsed(), Instant::now());
    ensure!(undisturbed.wait()?.success());
    let finishing = appeared.elapsed();
    detach()?;

    // What each version's programs have counted stays with them.
    let (mut between, mut games) = (0, [0; 2]);
    for kill in 0..KILLS {
        let [of_v3, of_v4] = &mut games;
        let (old, version, game) = match kill % 2 {
            0 => (&mut v3, Version::V3, of_v3),
            _ => (&mut v4, Version::V4, of_v4),
        };
        start(old, version)?;
        let mut upgrade = lab.inside.start_firewall(&["upgrade"])?;
        if let Some(late) = kill.checked_sub(KILLS - LATE) {
            wait_for(&new)?;
            thread::sleep(finishing * late / LATE);
        } else {
            thread::sleep(staging * kill / (KILLS - LATE));
        }
        upgrade.kill()?;
        upgrade.wait()?;
        between += u32::from(new.exists() && version.state(interface).exists());
        let at = format!("kill {kill}");
        ensure!(lab.inside.attached()?.is_some(), "{at}: open");
        ensure!(
            lab.inside.egress()?.len() == 1,
            "{at}: what leaves is unseen"
        );
        ensure!(arrives(GAME, &receivers[0])?, "{at}: served, and refused");
        ensure!(!arrives(NOBODYS, &receivers[1])?, "{at}: let in");
        *game += 1;

        let again = lab.inside.firewall(&["upgrade"])?.success();
        again.with_context(|| at.clone())?;
        ensure!(!version.state(interface).exists(), "{at}: not ended");
        let attached = lab.inside.attached()?.context("open")?;
        ensure!(attached.program != old.program()?, "{at}: the old program");
        ensure!(
            arrives(GAME, &receivers[0])?,
            "{at}: served, and refused then"
        );
        *game += 1;
        let counted = lab.stats()?.rule("game");
        ensure!(counted == Some(*game), "{at}: {counted:?} of {game}");
        detach()?;
    }
    // Otherwise nothing was shown.
    ensure!(between >= 5, "{between} of {KILLS} were killed half way");
    Ok(())
}

/// Looks without a pause, because what follows takes milliseconds.
fn wait_for(path: &Path) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    while !path.exists() {
        ensure!(Instant::now() < deadline, "never: {}", path.display());
        std::hint::spin_loop();
    }
    Ok(())
}
