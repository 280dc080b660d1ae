//! Memory by map, and what the verifier had to look at.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::maps::{ArrayOfMaps, MapData, MapFd, MapInfo};
use firewall_common::abi::MAP_IMAGES;

use super::{Bench, large::Large, served};
use crate::{
    policy::Policy,
    report::{Better, Section},
    statistics::Spread,
};

/// Memory by map.
pub(crate) const SECTION: Section = Section {
    id: "memory",
    title: "Memory by map",
    unit: "KiB",
    note: "As the kernel accounts it (`memlock` in fdinfo), on all processors together. An apply holds two policy images for \
           as long as the older one is kept.",
    better: Better::Lower,
};

/// The verifier's count.
pub(crate) const VERIFIER: Section = Section {
    id: "verifier",
    title: "The programs",
    unit: "count",
    note: "Instructions that the verifier processed (the kernel refuses at 1,000,000), instructions of the program, bytes of \
           machine code, and milliseconds from the object to the loaded programs.",
    better: Better::Lower,
};

const INSTRUCTION_BYTES: f64 = 8.0;

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let path = bench.file("served.toml", served::OPEN)?;
    let mut policy = Policy::load(&path)?;
    by_map(bench, "10 rules", &mut policy)?;

    for (name, program) in policy.instance.ebpf().programs() {
        let info = program.info()?;
        let mut add = |subject: &str, value: f64| {
            bench
                .report
                .add(&VERIFIER, name, subject, Spread::exactly(value));
        };
        let processed = info
            .verified_instruction_count()
            .context("the kernel does not tell")?;
        add("verifier", f64::from(processed));
        add(
            "instructions",
            f64::from(info.size_translated().unwrap_or(0)) / INSTRUCTION_BYTES,
        );
        add("machine code", f64::from(info.size_jitted()));
    }
    let load = Spread::exactly(policy.times.load);
    bench.report.add(&VERIFIER, "all", "load ms", load);

    // For a first look the apply section is enough.
    if bench.quick {
        return Ok(());
    }
    for large in Large::wanted(bench) {
        let path = large.write(bench)?;
        by_map(bench, &large.name(bench), &mut Policy::load(&path)?)?;
    }
    Ok(())
}

fn by_map(bench: &mut Bench, case: &str, policy: &mut Policy) -> Result<()> {
    let mut sum = 0;
    let mut slots = 0;
    let mut add = |subject: &str, bytes: u64| {
        sum += bytes;
        bench.report.add(
            &SECTION,
            case,
            subject,
            Spread::exactly(bytes as f64 / 1024.0),
        );
    };
    let images = policy
        .instance
        .ebpf()
        .map(MAP_IMAGES[policy.place.class() as usize])
        .context("no images")?;
    let images: ArrayOfMaps<&MapData> = ArrayOfMaps::try_from(images)?;
    let image: MapData = images.get(&policy.place.slot(), 0)?;
    add("policy image", memlock(image.fd())?);

    let mut ids = BTreeSet::new();
    for (_, program) in policy.instance.ebpf().programs() {
        let of_program = program.info()?.map_ids()?;
        ids.extend(of_program.context("the kernel does not tell the maps")?);
    }
    for id in ids {
        let info = MapInfo::from_id(id)?;
        let (name, bytes) = (
            info.name_as_str().unwrap_or_default(),
            memlock(&info.fd()?)?,
        );
        if MAP_IMAGES.contains(&name) {
            slots += bytes;
        } else {
            add(name, bytes);
        }
    }
    add("slots for images", slots);
    bench
        .report
        .add(&SECTION, case, "sum", Spread::exactly(sum as f64 / 1024.0));
    Ok(())
}

/// Bytes that the kernel accounts to a map.
fn memlock(map: &MapFd) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .context("the kernel does not tell")?;
    Ok(value.trim().parse()?)
}
