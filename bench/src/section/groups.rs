//! A group of CIDRs to refuse, up to a million of them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use firewall_common::abi::image::{Line, SIZE_CLASSES};

use super::Bench;
use crate::{
    cidr::{Cidr, Cover, Mix},
    frame::{Packet, Service, frames},
    lpm::{LPM, Lpm},
    policy::Policy,
    random::Random,
    report::{Better, FIREWALL, Section},
    statistics::Spread,
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "groups",
    title: "A group of CIDRs to refuse, then a web server: hit (dropped) and miss (accepted)",
    unit: "ns/packet",
    note: "Above an empty XDP program, 65,536 different sources. Threat list: 80 % /32, 15 % /24, 5 % /16-/31. Spread: in \
           2000::/3, 10 % /128, 90 % /32-/64. Clustered: in 300 /32s, 10 % /128, 30 % /64, 15 % /56, 45 % /48; IPv6 misses \
           share 32 bits with a CIDR.",
    better: Better::Lower,
};

/// Size of the tables.
pub(crate) const SIZE: Section = Section {
    id: "groups-size",
    title: "Size of the policy image of those groups",
    unit: "MiB",
    note: "Bytes that are used, and the value of the map that holds them.",
    better: Better::Lower,
};

/// Compiling and loading them.
pub(crate) const LOAD: Section = Section {
    id: "groups-load",
    title: "Compiling and loading those groups",
    unit: "ms",
    note: "Compiling, and putting the tables into the kernel and in force.",
    better: Better::Lower,
};

const MIXES: [Mix; 4] = [Mix::Threats, Mix::Even, Mix::Spread, Mix::Clustered];
const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
const OPEN: [u16; 2] = [80, 443];
const MEBIBYTE: f64 = 1_048_576.0;

/// Aims at a million CIDRs; IPv6 may cost twice as much, in time and in memory.
const AIM_HIT: f64 = 40.0;
const AIM_MISS: f64 = 25.0;
const AIM_SIZE: f64 = 16.0;

/// A rule file with a group of CIDRs to refuse, and the list that it names.
///
/// # Errors
///
/// If it cannot be written.
pub(crate) fn write(bench: &Bench, cidrs: &[Cidr]) -> Result<std::path::PathBuf> {
    let mut list = String::with_capacity(cidrs.len() * 24);
    for cidr in cidrs {
        let _ = writeln!(list, "{cidr}");
    }
    bench.file("refused.txt", &list)?;
    bench.file(
        "group.toml",
        "version = 1\n\n[groups]\nrefused = { file = \"refused.txt\" }\n\n\
         [[rule]]\nname = \"refused\"\naction = \"drop\"\nfrom = [\"refused\"]\n\n\
         [[rule]]\nname = \"web\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [80, 443]\n",
    )
}

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (mixes, sizes): (&[Mix], &[usize]) = if bench.quick {
        (&[Mix::Threats, Mix::Clustered], &SIZES[1..2])
    } else {
        (&MIXES, &SIZES)
    };
    for &mix in mixes {
        for &count in sizes {
            one(bench, mix, count)?;
        }
    }
    Ok(())
}

fn one(bench: &mut Bench, mix: Mix, count: usize) -> Result<()> {
    let mut random = Random::new(count as u64);
    let cidrs = mix.take(count, &mut random);
    let path = write(bench, &cidrs)?;
    let mut policy = Policy::load(&path)?;
    let name = format!("{}, {count}", mix.name());
    let largest = count == SIZES[2];

    let factor = match mix {
        Mix::Spread | Mix::Clustered => 2.0,
        Mix::Rules | Mix::Threats | Mix::Even => 1.0,
    };
    let used = policy.compiled.image.len() * size_of::<Line>();
    bench.report.add(
        &SIZE,
        &name,
        "used",
        Spread::exactly(used as f64 / MEBIBYTE),
    );
    let class = SIZE_CLASSES[policy.place.class() as usize] as f64 / MEBIBYTE;
    bench
        .report
        .add(&SIZE, &name, "loaded", Spread::exactly(class));
    bench.report.aim(largest.then_some(AIM_SIZE * factor));
    let times = policy.times;
    bench
        .report
        .add(&LOAD, &name, "compile", Spread::exactly(times.compile));
    bench.report.add(
        &LOAD,
        &name,
        "load",
        Spread::exactly(times.install + times.activate),
    );

    let cover = Cover::of(&cidrs);
    let hits = frames(&mut random, |random| {
        let cidr = cidrs[random.below(cidrs.len() as u64) as usize];
        Packet::new(
            cidr.member(random),
            Service::Tcp(OPEN[random.below(2) as usize]),
        )
    })?;
    let misses = frames(&mut random, |random| {
        Packet::new(
            cover.outside(random),
            Service::Tcp(OPEN[random.below(2) as usize]),
        )
    })?;
    let mut lpm = Lpm::of_group(mix.family(), &cidrs, &OPEN)?;
    for (frames, accept, outcome, aim) in [
        (hits, false, "hit", AIM_HIT),
        (misses, true, "miss", AIM_MISS),
    ] {
        let case = format!("{name}, {outcome}");
        policy
            .prepare(&mut bench.harness, &frames, accept)
            .with_context(|| case.clone())?;
        bench
            .report
            .add(&SECTION, &case, FIREWALL, bench.harness.nanoseconds()?);
        bench.report.aim(largest.then_some(aim * factor));
        bench.harness.measure(&lpm.program()?)?;
        bench
            .report
            .add(&SECTION, &case, LPM, bench.harness.nanoseconds()?);
    }
    Ok(())
}
