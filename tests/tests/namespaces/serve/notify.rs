//! What the service tells systemd: ready, alive, reloading, ending.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::{Lab, rules};
use rustix::process::Signal;

use super::Service;

/// Waits until one of the datagrams has a line that begins so.
fn wait_for(socket: &UnixDatagram, line: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 512];
    loop {
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("no {line}"))?;
        let text = std::str::from_utf8(&buffer[..length])?;
        if text.lines().any(|told| told.starts_with(line)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no {line}");
    }
}

#[test]
fn systemd_is_told_how_it_stands() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[]), "native")?;
    let path = lab.directory().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut service = Service::start_on(&lab, &lab.inside, &[], |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000")
    })?;
    wait_for(&socket, "READY=1")?;
    let began = Instant::now();
    for _ in 0..5 {
        wait_for(&socket, "WATCHDOG=1")?;
    }
    // A quarter of what the watchdog allows, and not a second each.
    ensure!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    service.daemon.signal(Signal::HUP)?;
    wait_for(&socket, "RELOADING=1")?;
    wait_for(&socket, "READY=1")?;
    // One that hangs is not alive.
    service.daemon.signal(Signal::STOP)?;
    std::thread::sleep(Duration::from_millis(500));
    socket.set_nonblocking(true)?;
    while socket.recv(&mut [0; 512]).is_ok() {}
    std::thread::sleep(Duration::from_secs(1));
    ensure!(
        socket.recv(&mut [0; 512]).is_err(),
        "stopped, and told to be alive"
    );
    socket.set_nonblocking(false)?;
    service.daemon.signal(Signal::CONT)?;
    wait_for(&socket, "WATCHDOG=1")?;
    service.daemon.signal(Signal::TERM)?;
    wait_for(&socket, "STOPPING=1")?;
    ensure!(service.daemon.wait()?.success());
    ensure!(lab.inside.attached()?.is_some(), "the kernel guards on");
    Ok(())
}
