//! An interface that is guarded goes, and comes back: it is guarded again, and nothing is forgotten.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::Lab;
use firewall_tests::net::traffic::{SILENCE, udp, udp_from};

use super::{Service, wait_until};
use crate::MODES;
use crate::probe::{InForce, PORTS, Probe, policy};
use crate::switching::join;

const BANNED: &str = "203.0.113.7";

/// What came in that is refused, while the interface was not guarded.
#[derive(Debug, Default)]
struct Leak {
    sent: u64,
    /// When the first and the last one came.
    came: Option<(Instant, Instant)>,
    count: u64,
}

#[test]
fn what_is_back_is_guarded_and_nothing_is_forgotten() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let interface = lab.inside.interface();
        let of_interface = [("interface", interface)];
        lab.apply(&policy(InForce::B), mode)?;
        lab.apply(&policy(InForce::A), mode)?;
        lab.inside
            .firewall(&["ban", BANNED, "--for", "1h"])?
            .success()?;
        let probe = Probe::new(&lab)?;
        ensure!(probe.in_force()? == InForce::A);
        drop(probe);
        let service = Service::start(&lab, &[])?;
        let before = service.metrics()?;
        let sum = before.sum("firewall_packets_total", &of_interface);
        ensure!(sum > 0.0);

        let done = AtomicBool::new(false);
        let leak = thread::scope(|scope| -> Result<_> {
            let leak = scope.spawn(|| refused(&lab, &done));
            thread::sleep(Duration::from_millis(200));
            let back = || -> Result<()> {
                lab.disconnect()?;
                wait_until("it is told", || Ok(service.get("/healthz")?.status == 503))?;
                lab.connect()?;
                wait_until("it is guarded again", || {
                    Ok(lab.inside.attached()?.is_some())
                })?;
                thread::sleep(Duration::from_millis(500));
                Ok(())
            };
            let back = back();
            done.store(true, Ordering::Relaxed);
            let leak = join(leak)?;
            back.map(|()| leak)
        })?;
        ensure!(leak.sent > 1000, "{leak:?}");
        let (came, window) = (leak.count, leak.came.map(|(first, last)| last - first));
        eprintln!("{mode}: {came} datagrams came in while it was not guarded, within {window:?}");
        ensure!(
            window.unwrap_or_default() < Duration::from_secs(1),
            "{leak:?}"
        );

        let attached = lab.inside.attached()?.context("open")?;
        ensure!(attached.mode == mode && lab.inside.egress()?.len() == 1);
        ensure!(Probe::new(&lab)?.in_force()? == InForce::A, "{mode}");
        let after = service.metrics()?;
        let fell = after.backwards(&before, |_| false);
        ensure!(fell.is_empty(), "{mode}: {fell:#?}");
        ensure!(after.sum("firewall_packets_total", &of_interface) > sum);
        for (name, expected) in [
            ("firewall_reattachments_total", 1.0),
            ("firewall_bans", 1.0),
            ("firewall_policy_generation", 2.0),
        ] {
            let value = after.value(name, &of_interface)?;
            ensure!(value == expected, "{mode}: {name} {value}");
        }
        wait_until("it is well", || Ok(service.get("/healthz")?.status == 200))?;
        // Whatever was in force before can be had again.
        lab.inside
            .firewall(&["rollback", "-i", interface])?
            .success()?;
        ensure!(Probe::new(&lab)?.in_force()? == InForce::B, "{mode}");
    }
    Ok(())
}

/// Sends datagrams that are refused all the time, whether or not there is a way, and sees which come in.
fn refused(lab: &Lab, done: &AtomicBool) -> Result<Leak> {
    let receiver = udp(&lab.inside, PORTS[3])?;
    receiver.set_nonblocking(true)?;
    let mut sender: Option<UdpSocket> = None;
    let mut leak = Leak::default();
    while !done.load(Ordering::Relaxed) {
        match &sender {
            Some(socket) if socket.send_to(b"?", (lab.inside.v4, PORTS[3])).is_ok() => {
                leak.sent += 1
            }
            // Its address has gone with the interface.
            _ => sender = udp_from(&lab.outside, lab.outside.v4).ok(),
        }
        let mut buffer = [0; 8];
        while receiver.recv(&mut buffer).is_ok() {
            let now = Instant::now();
            let first = leak.came.map_or(now, |(first, _)| first);
            leak.came = Some((first, now));
            leak.count += 1;
        }
    }
    thread::sleep(SILENCE);
    Ok(leak)
}

#[test]
fn a_name_that_is_lost_for_a_while_loses_no_guard() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    lab.apply(&policy(InForce::A), "native")?;
    let before = lab.inside.attached()?.context("open")?;
    let service = Service::start(&lab, &[])?;
    let other = format!("{interface}x");
    for (from, to, status) in [
        (interface, other.as_str(), 503),
        (other.as_str(), interface, 200),
    ] {
        lab.inside.ip(&format!("link set {from} down"))?;
        lab.inside.ip(&format!("link set {from} name {to}"))?;
        lab.inside.ip(&format!("link set {to} up"))?;
        wait_until("it is told", || {
            Ok(service.get("/healthz")?.status == status)
        })?;
        // The kernel guards it under any name.
        let of_xdp = [
            ("interface", interface),
            ("hook", "xdp"),
            ("mode", "native"),
        ];
        ensure!(service.metrics()?.value("firewall_attached", &of_xdp)? == 1.0);
    }
    ensure!(lab.inside.attached()?.context("open")? == before);
    let of_interface = [("interface", interface)];
    let again = service
        .metrics()?
        .value("firewall_reattachments_total", &of_interface)?;
    ensure!(again == 0.0);
    Ok(())
}
