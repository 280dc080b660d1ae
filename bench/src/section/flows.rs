//! What this host opens, what answers it, and what rules refuse: all that involves the flow table, beside the kernel's LRU
//! hash.

mod fill;
mod open;
mod table;

use std::collections::HashSet;

use anyhow::{Context as _, Result};

use self::{
    open::{TCP, UDP},
    table::{Packets, Tables},
};
use super::Bench;
use crate::{
    abi::FRAMES,
    conversation::Flow,
    lru::LRU,
    random::Random,
    report::{Better, FIREWALL, Section},
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "flows",
    title: "Flows that this host opens, and what no rule accepts",
    unit: "ns/packet",
    note: "Above an empty program of the same kind, XDP for what arrives and tc for what leaves. Ten rules without addresses, \
           IPv4, packets of all the flows in turn. A table has room for twice as many flows as are named; empty and full ones \
           are of 131,072 slots, and flows have been opened from the ports, unless a row says otherwise. The LRU hash has keys \
           of 40 bytes and as many slots, and looks at nothing else. Each measured packet was counted as what the row says.",
    better: Better::Lower,
};

/// What a full table makes of prices.
pub(crate) const RATIO: Section = Section {
    id: "flows-ratio",
    title: "With a full flow table beside an empty one",
    unit: "ratio",
    note: "1 is as cheap. The aim is at most 1.5 for what is refused, and that a served port's packet costs the same.",
    better: Better::Lower,
};

/// Flows that are open.
const FEW: usize = 1_024;
const MANY: usize = FRAMES;
/// Times as many are the most. Also enough new flows to take every slot of a table for [`MANY`]: 64 for each bucket of 8.
const LAPS: u32 = 16;

/// Measures the section.
///
/// # Errors
///
/// What failed, also if a packet did not take the path that its row names.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    if !bench.quick {
        let mut tables = Tables::new(bench, FEW)?;
        open::measure(bench, &mut tables, &TCP, FEW, 1)?;
    }
    let mut tables = Tables::new(bench, MANY)?;
    for protocol in [&TCP, &UDP] {
        tables.clear()?;
        open::measure(bench, &mut tables, protocol, MANY, 1)?;
    }
    fill::measure(bench, &mut Tables::new(bench, MANY)?)?;
    if !bench.quick {
        let mut tables = Tables::new(bench, MANY * LAPS as usize)?;
        open::measure(bench, &mut tables, &TCP, MANY, LAPS)?;
    }
    Ok(())
}

/// A row of the table.
struct Row<'a> {
    case: &'a str,
    packets: Packets<'a>,
    /// Counters of the firewall that each packet adds one to.
    slots: &'a [u32],
    /// The counter of the LRU programs, if they are to be measured.
    lru: Option<u32>,
    aim: Option<f64>,
}

struct Measured {
    /// Median.
    nanoseconds: f64,
    /// Packets that the firewall got.
    packets: u64,
}

impl Row<'_> {
    /// `None` if it is not wanted.
    fn measure(&self, bench: &mut Bench, tables: &mut Tables) -> Result<Option<Measured>> {
        if !bench.wants(self.case) {
            return Ok(None);
        }
        let harness = &mut bench.harness;
        let spread = tables
            .firewall(harness, &self.packets, self.slots)
            .with_context(|| self.case.to_owned())?;
        let measured = Measured {
            nanoseconds: spread.median,
            packets: harness.driven(),
        };
        bench.report.add(&SECTION, self.case, FIREWALL, spread);
        bench.report.aim(self.aim);
        if let Some(slot) = self.lru {
            let spread = tables
                .lru(&mut bench.harness, &self.packets, slot)
                .with_context(|| self.case.to_owned())?;
            bench.report.add(&SECTION, self.case, LRU, spread);
        }
        Ok(Some(measured))
    }
}

/// So many different flows.
fn different(count: usize, random: &mut Random, flow: impl Fn(&mut Random) -> Flow) -> Vec<Flow> {
    let mut seen = HashSet::with_capacity(count);
    let mut flows = Vec::with_capacity(count);
    while flows.len() < count {
        let flow = flow(random);
        if seen.insert(flow.key(0, 0)) {
            flows.push(flow);
        }
    }
    flows
}
