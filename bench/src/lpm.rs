//! The minimal filter on the kernel's LPM trie, filled with the same CIDRs.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, LpmTrie, MapData, lpm_trie::Key},
    programs::ProgramFd,
};

use crate::{
    abi::{ANY_SERVICE, LPM_ACCEPT, LPM_COUNTERS, LpmRule, OPEN_ENTRIES, service},
    cidr::{Cidr, Family},
    frame::Service,
    harness::{OBJECT, load},
    rule_list::Rule,
};

#[expect(
    unsafe_code,
    reason = "aya asks for this marker on what it copies into maps"
)]
// SAFETY: integers without padding, so that any bytes are a valid value.
unsafe impl Pod for LpmRule {}

/// Subject of its values in the report.
pub(crate) const LPM: &str = "LPM trie";

/// The filter, loaded and filled.
#[derive(Debug)]
pub(crate) struct Lpm {
    ebpf: Ebpf,
    family: Family,
}

impl Lpm {
    /// Accepts by these rules, drops the rest. Where CIDRs overlap, the longest one decides and not the first, which is all
    /// that a trie can do.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn of_rules(rules: &[Rule]) -> Result<Self> {
        let entries = rules.iter().enumerate().map(|(number, rule)| {
            let service = match rule.service {
                Service::Tcp(port) => service(6, port),
                Service::Udp(port) => service(17, port),
                Service::Echo => ANY_SERVICE,
            };
            let outcome = LPM_ACCEPT | (number as u32 % (LPM_COUNTERS - 1));
            (rule.from, LpmRule { service, outcome })
        });
        Self::fill(Family::V4, entries)
    }

    /// Drops what comes from these CIDRs, accepts what else comes for `open` TCP ports.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn of_group(family: Family, refused: &[Cidr], open: &[u16]) -> Result<Self> {
        let refuse = LpmRule {
            service: ANY_SERVICE,
            outcome: 0,
        };
        let mut lpm = Self::fill(family, refused.iter().map(|&cidr| (cidr, refuse)))?;
        let mut table = Box::new([0u8; OPEN_ENTRIES]);
        for &port in open {
            table[service(6, port) as usize % OPEN_ENTRIES] = 1;
        }
        let map = lpm.ebpf.map_mut("OPEN").context("no such map")?;
        let mut map: Array<&mut MapData, [u8; OPEN_ENTRIES]> = Array::try_from(map)?;
        let table: &[u8; OPEN_ENTRIES] = &table;
        map.set(0, table, 0)?;
        Ok(lpm)
    }

    fn fill(
        family: Family,
        entries: impl ExactSizeIterator<Item = (Cidr, LpmRule)>,
    ) -> Result<Self> {
        let (map, program) = match family {
            Family::V4 => ("LPM_V4", "lpm_v4"),
            Family::V6 => ("LPM_V6", "lpm_v6"),
        };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(map, entries.len() as u32)
            .load(OBJECT)?;
        load(&mut ebpf, program)?;
        let map = ebpf.map_mut(map).context("no such map")?;
        match family {
            Family::V4 => {
                let mut trie: LpmTrie<&mut MapData, [u8; 4], LpmRule> = LpmTrie::try_from(map)?;
                for (cidr, rule) in entries {
                    let key = Key::new(u32::from(cidr.length), (cidr.first as u32).to_be_bytes());
                    trie.insert(&key, rule, 0)?;
                }
            }
            Family::V6 => {
                let mut trie: LpmTrie<&mut MapData, [u8; 16], LpmRule> = LpmTrie::try_from(map)?;
                for (cidr, rule) in entries {
                    trie.insert(
                        &Key::new(u32::from(cidr.length), cidr.first.to_be_bytes()),
                        rule,
                        0,
                    )?;
                }
            }
        }
        Ok(Self { ebpf, family })
    }

    /// The program, to be measured.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub(crate) fn program(&mut self) -> Result<ProgramFd> {
        let name = match self.family {
            Family::V4 => "lpm_v4",
            Family::V6 => "lpm_v6",
        };
        let program: &aya::programs::Xdp = self
            .ebpf
            .program(name)
            .context("no such program")?
            .try_into()?;
        Ok(program.fd()?.try_clone()?)
    }
}
