//! What rules refuse, what opens a flow and what is served: with an empty table, then with a full one.

use anyhow::{Result, ensure};
use firewall_common::abi::{
    counter::{FLOWS_CREATED, FLOWS_EVICTED},
    reason::PassReason,
};

use super::table::{Packets, Runs, Tables};
use super::{LAPS, RATIO, Row, different};
use crate::{
    abi::{FRAMES, lru},
    conversation::{Flow, Form},
    hook::Hook,
    random::Random,
    report::FIREWALL,
    section::Bench,
    statistics::Spread,
};

/// Refused with a full table beside an empty one.
const AIM_REFUSED: f64 = 1.5;
/// A served port's packet: the same, but for noise.
const AIM_SERVED: f64 = 1.1;

/// Laps in which no flow comes again while new ones are measured.
const NEW_LAPS: u32 = 64;
/// A port that the rules serve.
const SERVED: u16 = 443;

/// What rules refuse, what opens a flow and what is served: with an empty table, then with a full one.
pub(super) fn measure(bench: &mut Bench, tables: &mut Tables) -> Result<()> {
    let mut random = Random::new(1);
    let strangers = different(FRAMES, &mut random, Flow::random);
    let clients = different(FRAMES, &mut random, |random| Flow::to_port(SERVED, random));
    let cases = [
        Case::refused("TCP SYN refused", Form::SynIn),
        Case::refused("TCP ACK refused, sockets searched", Form::AckIn),
        Case::refused("UDP refused", Form::UdpIn),
        Case::opening("TCP SYN leaves, new flow", Form::SynOut),
        Case::opening("UDP leaves, new flow", Form::UdpOut),
        Case::served("TCP SYN to a served port", Form::SynIn),
        Case::served("TCP leaves a served port", Form::AckOut),
    ];

    // Nothing has left yet: what comes for a port that no flow was opened from is refused without a look at the table.
    for case in [
        Case::refused("TCP SYN refused, port never used", Form::SynIn),
        Case::refused("UDP refused, port never used", Form::UdpIn),
    ] {
        case.measure(bench, tables, Fill::Empty, &strangers, &clients)?;
    }
    // From here on flows have been opened from all ports, with the empty table as with the full one.
    for form in [Form::SynOut, Form::UdpOut] {
        let packets = Packets {
            form,
            flows: &strangers,
            laps: LAPS,
            runs: Runs::Long,
        };
        tables.send(&mut bench.harness, &packets)?;
    }
    tables.clear()?;

    let mut empty = Vec::new();
    for case in &cases {
        empty.push(case.measure(bench, tables, Fill::Empty, &strangers, &clients)?);
    }
    tables.clear()?;
    let filling = Packets {
        form: Form::UdpOut,
        flows: &different(FRAMES, &mut random, Flow::random),
        laps: LAPS,
        runs: Runs::Long,
    };
    tables.send(&mut bench.harness, &filling)?;
    let (found, slots) = (tables.records()?.len(), tables.slots());
    ensure!(
        found == slots,
        "the full table has {found} flows in {slots} slots"
    );
    for (case, empty) in cases.iter().zip(empty) {
        let full = case.measure(bench, tables, Fill::Full, &strangers, &clients)?;
        if let (Some(full), Some(empty)) = (full, empty) {
            let ratio = Spread::exactly(full / empty);
            bench.report.add(&RATIO, case.name, FIREWALL, ratio);
            bench.report.aim(case.aim);
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Empty,
    /// Of flows that were not answered.
    Full,
}

/// A packet that belongs to no open flow.
struct Case {
    name: &'static str,
    form: Form,
    kind: Kind,
    /// What the price with a full table should be at most, beside that with an empty one.
    aim: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Refused,
    Opening,
    Served,
}

impl Case {
    const fn refused(name: &'static str, form: Form) -> Self {
        Self {
            name,
            form,
            kind: Kind::Refused,
            aim: Some(AIM_REFUSED),
        }
    }

    const fn opening(name: &'static str, form: Form) -> Self {
        Self {
            name,
            form,
            kind: Kind::Opening,
            aim: None,
        }
    }

    const fn served(name: &'static str, form: Form) -> Self {
        Self {
            name,
            form,
            kind: Kind::Served,
            aim: Some(AIM_SERVED),
        }
    }

    /// Measures it with such a table, which then has as many flows as before.
    fn measure(
        &self,
        bench: &mut Bench,
        tables: &mut Tables,
        fill: Fill,
        strangers: &[Flow],
        clients: &[Flow],
    ) -> Result<Option<f64>> {
        let (flows, laps) = match self.kind {
            Kind::Refused => (strangers, LAPS),
            Kind::Opening => (strangers, NEW_LAPS),
            Kind::Served => (clients, 1),
        };
        let runs = match (self.kind, fill) {
            (Kind::Opening, Fill::Empty) => Runs::IntoEmpty,
            (Kind::Opening, Fill::Full) => Runs::Short,
            _ => Runs::Long,
        };
        let packets = Packets {
            form: self.form,
            flows,
            laps,
            runs,
        };
        let left = PassReason::EgressDefault.counter();
        let (slots, lru) = match (self.kind, self.form.hook(), fill) {
            (Kind::Opening, _, Fill::Empty) => (vec![left, FLOWS_CREATED], Some(lru::INSERTED)),
            (Kind::Opening, _, Fill::Full) => (vec![left, FLOWS_EVICTED], Some(lru::INSERTED)),
            (Kind::Served, Hook::Egress, _) => (vec![PassReason::EgressReply.counter()], None),
            (Kind::Served, Hook::Ingress | Hook::Syn(_), _) => {
                (vec![tables.by_rules(&packets)?], None)
            }
            (Kind::Refused, ..) => (vec![tables.by_rules(&packets)?], Some(lru::MISSES)),
        };
        let table = match fill {
            Fill::Empty => "empty table",
            Fill::Full => "full table",
        };
        let row = Row {
            case: &format!("{}, {table}", self.name),
            packets,
            slots: &slots,
            lru,
            aim: None,
        };
        let measured = row.measure(bench, tables)?;
        if runs == Runs::IntoEmpty {
            tables.clear()?;
        }
        Ok(measured.map(|measured| measured.nanoseconds))
    }
}
