//! What a packet costs that is dropped, while somebody is told of it, while all that could be told has been, and while nobody reads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use firewall_common::abi::control::Place;
use firewall_user::counters::Slots;
use firewall_user::kernel::events::Ring;
use firewall_user::kernel::{image, instance::Instance};
use firewall_user::rules::{self, compile::compile};

use super::{Bench, control::some, served};
use crate::{
    cidr::Family,
    report::{Better, FIREWALL, Section},
};

/// A packet.
pub(crate) const SECTION: Section = Section {
    id: "events",
    title: "A packet that is dropped, and who is told of it",
    unit: "ns/packet",
    note: "Above an empty XDP program, 65,536 different packets, ten rules without addresses. The firewall alone: nobody reads. \
           Withheld: somebody does, and has been told of as many as he wants. Told: of every packet, while another CPU reads.",
    better: Better::Lower,
};

/// How often another CPU looks whether something was told.
const POLL: Duration = Duration::from_micros(50);

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let file = bench.file("served.toml", served::OPEN)?;
    let loaded = rules::load(&file).map_err(|report| anyhow!(report.render(false, 100)))?;
    let image = compile(&loaded.rule_set, &Slots::default())?.image;
    let place = Place::new(image::class_of(&image), 0);
    for (name, port) in [("dropped by default", 3389), ("accepted, without log", 443)] {
        bench.harness.send(&some(Family::V4, port)?)?;
        for (subject, most) in [
            (FIREWALL, None),
            ("withheld", Some(0)),
            ("told", Some(u64::MAX)),
        ] {
            let mut instance = Instance::load(0)?;
            instance.install(place, image.clone())?;
            instance.activate(place)?;
            let ring = most.map(|most| instance.tell(most)).transpose()?;
            let program = instance.program().fd()?.try_clone()?;
            let spread = reading(ring, || {
                bench.harness.measure(&program)?;
                bench.harness.nanoseconds()
            })?;
            bench.report.add(&SECTION, name, subject, spread);
        }
    }
    Ok(())
}

/// Does `work`, while another CPU reads what is told.
fn reading<T>(ring: Option<Ring>, work: impl FnOnce() -> T) -> T {
    let Some(mut ring) = ring else {
        return work();
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                while ring.next().is_some() {}
                thread::sleep(POLL);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}
