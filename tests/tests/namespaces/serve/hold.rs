//! The service holds what is pinned, and changes nothing for packets by being there or not.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::{Attached, Lab};
use rustix::process::Signal;

use super::{Service, wait_until};
use crate::MODES;
use crate::probe::{InForce, Probe, policy};
use crate::switching::{accepted_by_both, join};

fn attached(lab: &Lab) -> Result<Attached> {
    lab.inside.attached()?.context("open")
}

#[test]
fn a_pin_that_is_lost_opens_nothing_and_is_put_back() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "native")?;
    let service = Service::start(&lab, &[])?;
    let (before, state) = (attached(&lab)?, lab.inside.state());
    let probe = Probe::new(&lab)?;
    for lost in ["link", "link-egress"] {
        let pin = state.join(lost);
        fs::remove_file(&pin)?;
        wait_until("the pin is there again", || Ok(pin.exists()))?;
        ensure!(attached(&lab)? == before, "{lost}: it was never off");
        ensure!(lab.inside.egress()?.len() == 1, "{lost}");
    }
    // Everything at once, as by whoever cleans up.
    let all = || -> Result<Vec<_>> {
        let mut names = fs::read_dir(&state)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let names = all()?;
    fs::remove_dir_all(lab.inside.pins())?;
    wait_until("all pins are there again", || {
        Ok(state.join("link").exists())
    })?;
    ensure!(attached(&lab)? == before && all()? == names);
    ensure!(probe.in_force()? == InForce::A);
    let of_interface = [("interface", lab.inside.interface())];
    let repinned = service
        .metrics()?
        .value("firewall_repinned_total", &of_interface)?;
    ensure!(repinned == 3.0, "{repinned}");
    ensure!(service.get("/healthz")?.status == 200);
    // Commands go on with what was put back.
    lab.apply(&policy(InForce::B), "native")?;
    ensure!(probe.in_force()? == InForce::B && attached(&lab)? == before);
    Ok(())
}

#[test]
fn detaching_goes_on_while_the_service_holds_the_links() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let interface = lab.inside.interface();
        lab.apply(&policy(InForce::A), mode)?;
        let service = Service::start(&lab, &[])?;
        let began = Instant::now();
        lab.inside
            .firewall(&["detach", "-i", interface])?
            .success()?;
        let took = began.elapsed();
        ensure!(lab.inside.attached()?.is_none() && lab.inside.egress()?.is_empty());
        ensure!(!lab.inside.pins().exists(), "{mode}: detached, but pinned");
        // Nor does it come back by itself.
        thread::sleep(Duration::from_millis(1500));
        ensure!(lab.inside.attached()?.is_none() && !lab.inside.pins().exists());
        let of_xdp = [("interface", interface), ("hook", "xdp"), ("mode", "none")];
        ensure!(service.metrics()?.value("firewall_attached", &of_xdp)? == 0.0);
        eprintln!("{mode}: detached in {took:?} while the service runs");

        // Guarded again, it is held again.
        lab.apply(&policy(InForce::A), mode)?;
        let link = lab.inside.state().join("link");
        let of_xdp = [("interface", interface), ("hook", "xdp"), ("mode", mode)];
        wait_until("it is seen", || {
            let is_attached = service.metrics()?.find("firewall_attached", &of_xdp) == Some(1.0);
            Ok(is_attached && service.get("/healthz")?.status == 200)
        })?;
        thread::sleep(Duration::from_millis(1500));
        // The look that has seen it holds it too.
        fs::remove_file(&link)?;
        wait_until("the pin is there again", || Ok(link.exists()))?;
        ensure!(attached(&lab)?.mode == mode);
    }
    Ok(())
}

#[test]
fn killing_the_service_changes_nothing_for_packets() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(InForce::A), "native")?;
    let before = attached(&lab)?;
    let done = AtomicBool::new(false);
    let flow = thread::scope(|scope| -> Result<_> {
        let flow = scope.spawn(|| accepted_by_both(&lab, &done));
        let killing = (0..3).try_for_each(|_| {
            let service = Service::start(&lab, &[])?;
            for _ in 0..20 {
                ensure!(service.get("/metrics")?.status == 200);
            }
            service.daemon.signal(Signal::KILL)?;
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        let flow = join(flow)?;
        killing.map(|()| flow)
    })?;
    ensure!(flow.lost == 0 && flow.sent > 100, "{flow:?}");
    ensure!(attached(&lab)? == before);
    let state = lab.inside.state();
    ensure!(state.join("link").exists() && state.join("link-egress").exists());
    Ok(())
}
