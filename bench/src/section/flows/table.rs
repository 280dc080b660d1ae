//! The firewall with a flow table, and the kernel's LRU hash with the same room: filled alike, given the same packets, and
//! measured only as long as every packet takes the path that it should.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use firewall_common::{
    abi::{
        counter::{Counter, NAMED_BASE},
        flow::{BUCKET_WORDS, BucketWords, FlowRecord, MAP_FLOWS},
    },
    decide::decide,
    tables::HostWorld,
};
use firewall_user::kernel::instance::Instance;

use super::super::{Bench, served};
use crate::{
    abi::FRAMES,
    conversation::{Flow, Form},
    harness::Harness,
    hook::Laps,
    lru::Lru,
    policy::Policy,
    statistics::Spread,
};

/// Ten rules without addresses, with this flow table. No flow is to time out while others are measured.
fn file(size: usize) -> String {
    let mut text = format!(
        "{}\n[flows]\nsize = {size}\n\n[flows.timeouts]\n",
        served::OPEN
    );
    for state in [
        "tcp-syn-sent",
        "tcp-established",
        "tcp-closing",
        "tcp-closed",
        "udp",
        "udp-stream",
        "icmp",
        "other",
    ] {
        text += &format!("{state} = \"1d\"\n");
    }
    text
}

/// Both tables.
#[derive(Debug)]
pub(super) struct Tables {
    policy: Policy,
    lru: Lru,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packets<'a> {
    pub(super) form: Form,
    /// Of these flows in turn.
    pub(super) flows: &'a [Flow],
    /// Times as many flows.
    pub(super) laps: u32,
    /// How.
    pub(super) runs: Runs,
}

/// How packets are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// As ever.
    Long,
    /// In runs so short that they hardly fill a table for 64k flows, and never the same packets twice.
    Short,
    /// The same, each into an empty table.
    IntoEmpty,
}

/// In this many new flows in an empty table there may be one whose bucket is full nevertheless. With a flow a bucket on
/// average, it is one in a million.
const OVERFLOWS: u64 = 10_000;

impl Runs {
    const fn most(self) -> u32 {
        match self {
            Self::Long => u32::MAX,
            Self::Short | Self::IntoEmpty => FRAMES as u32 / 4,
        }
    }
}

impl Packets<'_> {
    /// Sends them from now on.
    fn put(&self, harness: &mut Harness) -> Result<()> {
        let laps = Laps {
            count: self.laps,
            hook: self.form.hook(),
        };
        harness.send_in_laps(&self.form.frames(self.flows)?, laps)
    }
}

impl Tables {
    /// Empty ones, for `size` flows: as in the firewall's rule files, there is room for at least twice as many.
    pub(super) fn new(bench: &Bench, size: usize) -> Result<Self> {
        let path = bench.file("flows.toml", &file(size))?;
        let policy = Policy::load(&path)?;
        let lru = Lru::load(policy.wanted.slots())?;
        Ok(Self { policy, lru })
    }

    /// Sends each of these packets once, to both.
    pub(super) fn send(&mut self, harness: &mut Harness, packets: &Packets<'_>) -> Result<()> {
        packets.put(harness)?;
        let hook = packets.form.hook();
        for program in [
            self.policy.program_at(hook)?,
            self.lru.program(hook).try_clone()?,
        ] {
            harness.measure_at(hook, &program)?;
            harness.once()?;
        }
        Ok(())
    }

    /// Nanoseconds of the firewall on these packets.
    pub(super) fn firewall(
        &mut self,
        harness: &mut Harness,
        packets: &Packets<'_>,
        slots: &[u32],
    ) -> Result<Spread> {
        packets.put(harness)?;
        let hook = packets.form.hook();
        harness.measure_at(hook, &self.policy.program_at(hook)?)?;
        let before = self.policy.instance.counters()?;
        let spread = harness.nanoseconds_in_runs(packets.runs.most(), || match packets.runs {
            Runs::IntoEmpty => clear(&mut self.policy.instance),
            Runs::Long | Runs::Short => Ok(()),
        })?;
        let after = self.policy.instance.counters()?;
        let strays = match packets.runs {
            Runs::IntoEmpty => harness.driven() / OVERFLOWS,
            Runs::Long | Runs::Short => 0,
        };
        all_counted(&before, &after, slots, harness.driven(), strays)?;
        Ok(spread)
    }

    /// Nanoseconds of the LRU hash on these packets.
    pub(super) fn lru(
        &mut self,
        harness: &mut Harness,
        packets: &Packets<'_>,
        slot: u32,
    ) -> Result<Spread> {
        packets.put(harness)?;
        let hook = packets.form.hook();
        harness.measure_at(hook, self.lru.program(hook))?;
        let before = self.lru.counters()?;
        let spread = harness.nanoseconds_in_runs(packets.runs.most(), || match packets.runs {
            Runs::IntoEmpty => self.lru.clear(),
            Runs::Long | Runs::Short => Ok(()),
        })?;
        let slot = slot as usize;
        let (counted, driven) = (self.lru.counters()?[slot] - before[slot], harness.driven());
        ensure!(
            counted == driven,
            "of {driven} packets the LRU programs counted {counted} in slot {slot}"
        );
        Ok(spread)
    }

    /// Forgets all flows.
    pub(super) fn clear(&mut self) -> Result<()> {
        clear(&mut self.policy.instance)?;
        self.lru.clear()
    }

    /// The counter of what the rules say of such packets, which is the same for all of them.
    pub(super) fn by_rules(&self, packets: &Packets<'_>) -> Result<u32> {
        let world = HostWorld::new(&self.policy.compiled.image, |_, _| ());
        let frames = packets.form.frames(packets.flows)?;
        let decided = frames
            .iter()
            .map(|frame| decide(frame.as_slice(), &world).outcome().counter());
        let slots: HashSet<_> = decided.collect();
        ensure!(slots.len() == 1, "several counters: {slots:?}");
        slots.into_iter().next().context("no frames")
    }

    /// The flows in the firewall's table.
    pub(super) fn records(&mut self) -> Result<Vec<FlowRecord>> {
        let map = self.policy.instance.ebpf().map(MAP_FLOWS);
        let buckets: Array<&MapData, [u64; BUCKET_WORDS]> =
            Array::try_from(map.context("no flow table")?)?;
        let mut records = Vec::new();
        for words in buckets.iter() {
            records.extend(BucketWords { words: words? }.records());
        }
        Ok(records)
    }

    /// Slots of either table.
    pub(super) const fn slots(&self) -> usize {
        self.policy.wanted.slots() as usize
    }
}

/// Empties every bucket that has been used.
fn clear(instance: &mut Instance) -> Result<()> {
    let map = instance
        .ebpf()
        .map_mut(MAP_FLOWS)
        .context("no flow table")?;
    let mut buckets: Array<&mut MapData, [u64; BUCKET_WORDS]> = Array::try_from(map)?;
    for index in 0..buckets.len() {
        if buckets.get(&index, 0)? != [0; BUCKET_WORDS] {
            buckets.set(index, [0; BUCKET_WORDS], 0)?;
        }
    }
    Ok(())
}

/// Whether each packet but for `strays` was counted in each of `slots`, and in no other that stands for a path through the
/// programs.
fn all_counted(
    before: &[Counter],
    after: &[Counter],
    slots: &[u32],
    packets: u64,
    strays: u64,
) -> Result<()> {
    for (slot, (before, after)) in (0..).zip(before.iter().zip(after)) {
        let counted = after.packets - before.packets;
        let expected = if slots.contains(&slot) {
            packets
        } else if slot < NAMED_BASE {
            0
        } else {
            continue;
        };
        ensure!(
            counted.abs_diff(expected) <= strays,
            "of {packets} packets the firewall counted {counted} in slot {slot} instead of {expected}"
        );
    }
    Ok(())
}
