//! What limits and bans cost: a bucket for all, buckets for many sources, floods of sources that nobody has seen, and bans.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use firewall_common::abi::{
    ban::Prefix,
    counter::Counter,
    flow::Key,
    limit::{Line, MAP_LIMITS},
};
use firewall_user::counters::Sums;

use super::Bench;
use crate::{
    abi::FRAMES,
    frame::{Frames, Packet, Service, frames},
    hook::Hook,
    policy::Policy,
    random::Random,
    report::{Better, FIREWALL, Section},
    statistics::Spread,
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "limits",
    title: "Limits and bans",
    unit: "ns/packet",
    note: "Above an empty XDP program, 65,536 different packets from as many sources at most. A million sources: the table holds as many, \
           65,536 of them send. Beside it, what the same packets cost under the same rule without limit.",
    better: Better::Lower,
};

/// The cost of a flood beside what it costs where the table is empty.
pub(crate) const RATIO: Section = Section {
    id: "limits-flood",
    title: "Sources that were never seen, table full of others that are near their limit, beside an empty table",
    unit: "ratio",
    note: "1 is as cheap. The aim is at most 1.5.",
    better: Better::Lower,
};

const FREE: &str = "without limit";
const AIM_SOURCES: f64 = 45.0;
const AIM_BAN: f64 = 25.0;
const AIM_FLOOD: f64 = 1.5;
const MANY: usize = 1 << 16;
const BANS: usize = 100_000;
const SERVED: Service = Service::Udp(443);
/// Of these no limit holds anything back while it is measured.
const NEVER_OVER: &str = "rate = \"1000000000/s\", burst = 1000000000";
/// Of these each source has enough for a few runs, and nothing comes back meanwhile.
const SLOW: &str = "rate = \"1000/d\", burst = 1000";

fn file(size: usize, limit: Option<&str>) -> String {
    let mut text = format!(
        "version = 1\n[limits]\nsize = {size}\n[bans]\nsize = {BANS}\n[[rule]]\nname = \"served\"\naction = \"accept\"\n\
         protocol = \"udp\"\nports = [443]\n"
    );
    if let Some(limit) = limit {
        text += &format!("limit = {{ {limit} }}\n");
    }
    text
}

/// 2^24 addresses, each block of 65,536 of them in one network.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 | (number & 0xff_ffff))
}

/// Frames of `sources` sources in turn, numbered from `first`.
fn from_sources(first: u32, sources: u32) -> Result<Frames> {
    let mut number = 0;
    frames(&mut Random::new(1), |_| {
        // In an order that no prefetcher guesses.
        let index = u32::wrapping_mul(number, 40_503) % sources;
        number += 1;
        Packet {
            source: IpAddr::V4(source(first + index)),
            service: SERVED,
            vlan: None,
        }
    })
}

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let path = bench.file("free.toml", &file(MANY, None))?;
    let mut free = Policy::load(&path)?;
    let cases: [(&str, &str, usize, Option<f64>); 4] = [
        ("a limit for all together", "rule", 1 << 10, None),
        ("a limit each, 1,024 sources", "source", 1 << 10, None),
        (
            "a limit each, 65,536 sources",
            "source",
            MANY,
            Some(AIM_SOURCES),
        ),
        ("a limit each, 1,048,576 sources", "source", 1 << 20, None),
    ];
    for (name, per, sources, aim) in cases {
        if bench.quick && sources > MANY || !bench.wants(name) {
            continue;
        }
        let limit = format!("{NEVER_OVER}, per = \"{per}\"");
        let path = bench.file("limited.toml", &file(sources, Some(&limit)))?;
        let mut policy = Policy::load(&path)?;
        for first in (0..sources as u32).step_by(FRAMES) {
            let frames = from_sources(first, (sources as u32).min(FRAMES as u32))?;
            counts(bench, &mut policy, &frames, Outcome::Accepted).context(name)?;
        }
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FIREWALL, spread);
        bench.report.aim(aim);
        let frames = from_sources(0, (sources as u32).min(FRAMES as u32))?;
        counts(bench, &mut free, &frames, Outcome::Accepted).context(name)?;
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FREE, spread);
    }

    let name = "over its limit, 65,536 sources";
    if bench.wants(name) {
        let limit = "rate = \"1/d\", burst = 1, per = \"source\"";
        let path = bench.file("limited.toml", &file(4 * MANY, Some(limit)))?;
        let mut policy = Policy::load(&path)?;
        let frames = from_sources(0, FRAMES as u32)?;
        bench.harness.send(&frames)?;
        bench.harness.measure(&policy.program_at(Hook::Ingress)?)?;
        bench.harness.once()?;
        counts(bench, &mut policy, &frames, Outcome::Limited).context(name)?;
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FIREWALL, spread);
    }
    floods(bench)?;
    bans(bench, &mut free)
}

/// New sources all the time, into an empty table and into one that is full.
fn floods(bench: &mut Bench) -> Result<()> {
    let names = [
        "sources never seen, table empty",
        "sources never seen, table full",
    ];
    if !names.iter().any(|name| bench.wants(name)) {
        return Ok(());
    }
    let limit = format!("{SLOW}, per = \"source\"");
    // Twice as many buckets as sources: half of a run's newcomers fill them.
    let path = bench.file("limited.toml", &file(FRAMES / 4, Some(&limit)))?;
    let mut medians = Vec::new();
    for (name, full) in names.into_iter().zip([false, true]) {
        let mut policy = Policy::load(&path)?;
        let frames = from_sources(1 << 20, FRAMES as u32)?;
        let filling = from_sources(2 << 20, FRAMES as u32)?;
        let program = policy.program_at(Hook::Ingress)?;
        if full {
            for _ in 0..2 {
                bench.harness.send(&filling)?;
                bench.harness.measure(&program)?;
                bench.harness.once()?;
            }
        }
        bench.harness.send(&frames)?;
        bench.harness.measure(&program)?;
        // So few that an empty table is not half full behind them.
        let most = (FRAMES / 8) as u32;
        let spread = if full {
            bench.harness.nanoseconds_in_runs(most, || Ok(()))?
        } else {
            bench
                .harness
                .nanoseconds_in_runs(most, || clear(&mut policy))?
        };
        medians.push(spread.median);
        bench.report.add(&SECTION, name, FIREWALL, spread);
    }
    let ratio = Spread::of(vec![medians[1] / medians[0]]);
    bench
        .report
        .add(&RATIO, "UDP datagrams of new sources", FIREWALL, ratio);
    bench.report.aim(Some(AIM_FLOOD));
    Ok(())
}

/// Forgets all buckets.
fn clear(policy: &mut Policy) -> Result<()> {
    const WORDS: usize = size_of::<Line<u64>>() / 8;
    let map = policy
        .instance
        .ebpf()
        .map_mut(MAP_LIMITS)
        .context("no such map")?;
    let mut lines: Array<&mut MapData, [u64; WORDS]> = Array::try_from(map)?;
    for index in 0..lines.len() {
        lines.set(index, [0; WORDS], 0)?;
    }
    Ok(())
}

/// Bans of many others, and of who sends.
fn bans(bench: &mut Bench, free: &mut Policy) -> Result<()> {
    let mut random = Random::new(7);
    let mut table = free.instance.bans()?;
    let prefix = |address: Ipv4Addr| Prefix {
        address: Key::mapped(address.to_bits()),
        length: 128,
    };
    let frames = from_sources(0, FRAMES as u32)?;
    for _ in 0..BANS - FRAMES {
        let other = Ipv4Addr::from_bits(0x2000_0000 | random.below(1 << 28) as u32);
        table.give(prefix(other), None, false, None)?;
    }
    let name = "source not among 34,464 bans";
    if bench.wants(name) {
        counts(bench, free, &frames, Outcome::Accepted).context(name)?;
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FIREWALL, spread);
    }
    for number in 0..FRAMES as u32 {
        table.give(prefix(source(number)), None, false, None)?;
    }
    let name = "source among 100,000 bans, refused";
    if bench.wants(name) {
        counts(bench, free, &frames, Outcome::Banned).context(name)?;
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FIREWALL, spread);
        bench.report.aim(Some(AIM_BAN));
    }
    let name = "1,024 sources among 100,000 bans, refused";
    if bench.wants(name) {
        let few = from_sources(0, 1 << 10)?;
        counts(bench, free, &few, Outcome::Banned).context(name)?;
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FIREWALL, spread);
        bench.report.aim(Some(AIM_BAN));
    }
    let name = "source not among 100,000 bans";
    if bench.wants(name) {
        let others = from_sources(4 << 20, FRAMES as u32)?;
        counts(bench, free, &others, Outcome::Accepted).context(name)?;
        let spread = bench.harness.nanoseconds()?;
        bench.report.add(&SECTION, name, FIREWALL, spread);
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Limited,
    Banned,
}

/// Has the harness measure this policy on `frames`, and sees that all of them come to `outcome`.
fn counts(bench: &mut Bench, policy: &mut Policy, frames: &Frames, outcome: Outcome) -> Result<()> {
    bench.harness.send(frames)?;
    bench.harness.measure(&policy.program_at(Hook::Ingress)?)?;
    let count = |policy: &Policy| -> Result<u64> {
        let counters = policy.instance.counters()?;
        let sums = Sums::read(&policy.compiled.slots, |slots| {
            let of = |&slot: &u32| counters.get(slot as usize).copied();
            Ok::<_, anyhow::Error>(slots.iter().filter_map(of).collect::<Vec<Counter>>())
        })?;
        let banned = firewall_common::abi::reason::DropReason::Banned.counter();
        Ok(match outcome {
            Outcome::Accepted => sums.rule("served").packets,
            Outcome::Limited => sums.over("served").packets,
            Outcome::Banned => sums.reason(banned).packets,
        })
    };
    let before = count(policy)?;
    bench.harness.once()?;
    let counted = count(policy)? - before;
    ensure!(
        (FRAMES as u64..=FRAMES as u64 + 2).contains(&counted),
        "{counted} of {FRAMES} frames are {outcome:?}"
    );
    Ok(())
}
