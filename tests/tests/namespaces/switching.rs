//! Policies change under traffic: what both accept loses nothing, what neither accepts never passes.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Result, ensure};
use firewall_tests::net::Lab;
use firewall_tests::net::traffic::{Echo, SILENCE, drain, exchange, udp, udp_from};

use crate::probe::{InForce, PORTS, Probe, TCP, policy};

/// How often the policy changes.
const SWITCHES: usize = 200;

/// Datagrams on their way at a time: far below veth's queue of 256, which would lose what does not fit.
const WINDOW: u64 = 32;

#[test]
fn switching_loses_nothing_and_lets_nothing_slip_native() -> Result<()> {
    switching_loses_nothing_and_lets_nothing_slip("native")
}

#[test]
fn switching_loses_nothing_and_lets_nothing_slip_generic() -> Result<()> {
    switching_loses_nothing_and_lets_nothing_slip("generic")
}

fn switching_loses_nothing_and_lets_nothing_slip(mode: &str) -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (a, b) = (
        lab.write("a.toml", &policy(InForce::A))?,
        lab.write("b.toml", &policy(InForce::B))?,
    );
    lab.apply_file(&b, &["--mode", mode])?;
    let generation = lab.stats()?.generation;
    let done = AtomicBool::new(false);

    let (accepted, refused, exchanged) = thread::scope(|scope| -> Result<_> {
        let accepted = scope.spawn(|| accepted_by_both(&lab, &done));
        let refused = scope.spawn(|| accepted_by_neither(&lab, &done));
        let exchanged = scope.spawn(|| one_connection(&lab, &done));
        let switching = (0..SWITCHES).try_for_each(|number| {
            let file = if number % 2 == 0 { &a } else { &b };
            lab.apply_file(file, &["--mode", mode]).map(drop)
        });
        done.store(true, Ordering::Relaxed);
        let results = (join(accepted)?, join(refused)?, join(exchanged)?);
        switching.map(|()| results)
    })?;

    ensure!(
        lab.stats()?.generation == generation + SWITCHES as u64,
        "each apply is a switch"
    );
    ensure!(
        accepted.lost == 0,
        "{mode}: lost {} of {} that both policies accept",
        accepted.lost,
        accepted.sent
    );
    ensure!(
        refused.received == 0,
        "{mode}: {} of {} that neither accepts passed",
        refused.received,
        refused.sent
    );
    // Otherwise nothing was shown.
    ensure!(
        accepted.sent > 20 * SWITCHES as u64 && refused.sent > 5 * SWITCHES as u64,
        "{accepted:?} {refused:?}"
    );
    ensure!(
        exchanged > SWITCHES,
        "{exchanged} exchanges over the connection"
    );
    ensure!(
        Probe::new(&lab)?.in_force()? == InForce::B,
        "the last one applied"
    );
    Ok(())
}

/// What came of a flow.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
}

/// Sends datagrams window by window, and waits for each window to arrive.
pub(crate) fn accepted_by_both(lab: &Lab, done: &AtomicBool) -> Result<Flow> {
    // Another socket on a port of this flow would take its datagrams; the probe comes later.
    let receiver = udp(&lab.inside, PORTS[0])?;
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let mut flow = Flow::default();
    while !done.load(Ordering::Relaxed) {
        let window = flow.sent..flow.sent + WINDOW;
        for number in window.clone() {
            sender.send_to(&number.to_be_bytes(), (lab.inside.v4, PORTS[0]))?;
        }
        flow.sent = window.end;
        let mut buffer = [0; 8];
        let arrived = window
            .filter(|_| receiver.recv(&mut buffer).is_ok())
            .count() as u64;
        flow.received += arrived;
        flow.lost += WINDOW - arrived;
    }
    Ok(flow)
}

/// Sends datagrams all the time, and sees whether any arrives.
fn accepted_by_neither(lab: &Lab, done: &AtomicBool) -> Result<Flow> {
    let receiver = udp(&lab.inside, PORTS[3])?;
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let mut flow = Flow::default();
    receiver.set_read_timeout(Some(Duration::from_millis(1)))?;
    while !done.load(Ordering::Relaxed) {
        for _ in 0..WINDOW / 4 {
            sender.send_to(b"never", (lab.inside.v4, PORTS[3]))?;
            flow.sent += 1;
        }
        flow.received += drain(&receiver)?;
    }
    receiver.set_read_timeout(Some(SILENCE))?;
    flow.received += drain(&receiver)?;
    Ok(flow)
}

/// Uses one connection all the time; how often.
pub(crate) fn one_connection(lab: &Lab, done: &AtomicBool) -> Result<usize> {
    let _echo = Echo::start(&lab.inside, TCP)?;
    let address = SocketAddr::new(lab.inside.v6.into(), TCP);
    let mut stream = lab.outside.enter(|| Ok(TcpStream::connect(address)?))?;
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        exchange(&mut stream, 10_000)?;
        count += 1;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(count)
}

pub(crate) fn join<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match handle.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
