//! The minimal programs on the kernel's LRU hash, which follow the same flows.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray},
    programs::ProgramFd,
};

use crate::{
    abi::{LruKey, LruValue, lru},
    harness::{OBJECT, load},
    hook::Hook,
};

/// Subject of its values in the report.
pub(crate) const LRU: &str = "LRU hash";

/// The programs, loaded.
#[derive(Debug)]
pub(crate) struct Lru {
    ebpf: Ebpf,
    ingress: ProgramFd,
    egress: ProgramFd,
}

impl Lru {
    /// With an empty hash of `entries`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn load(entries: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("LRU", entries)
            .load(OBJECT)?;
        let ingress = load(&mut ebpf, "lru_ingress")?;
        let egress = load(&mut ebpf, "lru_egress")?;
        Ok(Self {
            ebpf,
            ingress,
            egress,
        })
    }

    /// The program at `hook`, to be measured.
    pub(crate) const fn program(&self, hook: Hook) -> &ProgramFd {
        match hook {
            Hook::Ingress | Hook::Syn(_) => &self.ingress,
            Hook::Egress => &self.egress,
        }
    }

    /// Packets by what happened to them, by slot of [`lru`].
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn counters(&self) -> Result<[u64; lru::COUNTERS]> {
        let map = self.ebpf.map("LRU_COUNTS").context("no such map")?;
        let counters: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
        let mut sums = [0; lru::COUNTERS];
        for (slot, sum) in (0..).zip(&mut sums) {
            *sum = counters.get(&slot, 0)?.iter().sum();
        }
        Ok(sums)
    }

    /// Forgets all flows.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let map = self.ebpf.map_mut("LRU").context("no such map")?;
        let mut flows: HashMap<&mut MapData, LruKey, LruValue> = HashMap::try_from(map)?;
        let keys = flows.keys().collect::<Result<Vec<_>, _>>()?;
        for key in keys {
            flows.remove(&key)?;
        }
        Ok(())
    }
}
