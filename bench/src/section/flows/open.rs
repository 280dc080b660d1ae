//! Packets of flows that are open, both ways.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use firewall_common::{
    abi::{flow::State, reason::PassReason},
    parse::protocol,
};

use super::table::{Packets, Runs, Tables};
use super::{MANY, Row, different};
use crate::{
    abi::lru,
    conversation::{Flow, Form},
    random::Random,
    report::shown,
    section::Bench,
};

/// An answer to one of 64k flows.
const AIM_ANSWER: f64 = 40.0;

/// A protocol and its packets.
pub(super) struct Protocol {
    name: &'static str,
    number: u8,
    /// What opens a flow and brings it into `state`.
    opening: [Form; 3],
    state: State,
    answer: Form,
    goes_on: Form,
}

pub(super) const TCP: Protocol = Protocol {
    name: "TCP",
    number: protocol::TCP,
    opening: [Form::SynOut, Form::SynAckIn, Form::AckOut],
    state: State::Established,
    answer: Form::AckIn,
    goes_on: Form::AckOut,
};

pub(super) const UDP: Protocol = Protocol {
    name: "UDP",
    number: protocol::UDP,
    opening: [Form::UdpOut, Form::UdpIn, Form::UdpOut],
    state: State::UdpStream,
    answer: Form::UdpIn,
    goes_on: Form::UdpOut,
};

/// Packets of flows that are open, both ways.
pub(super) fn measure(
    bench: &mut Bench,
    tables: &mut Tables,
    protocol: &Protocol,
    count: usize,
    laps: u32,
) -> Result<()> {
    let size = count * laps as usize;
    let mut random = Random::new(size as u64);
    let flows = different(count, &mut random, Flow::random);
    let packets = |form, flows| Packets {
        form,
        flows,
        laps,
        runs: Runs::Long,
    };
    for form in protocol.opening {
        tables.send(&mut bench.harness, &packets(form, &flows))?;
    }
    // A bucket here and there has had more flows than slots; those that lost theirs are left out.
    let records = tables.records()?;
    let open: HashSet<_> = records
        .iter()
        .filter(|record| record.state() == protocol.state)
        .map(|record| record.key)
        .collect();
    let is_open =
        |flow: &&Flow| (0..laps).all(|lap| open.contains(&flow.key(protocol.number, lap)));
    let mut found: Vec<_> = flows.iter().filter(is_open).copied().collect();
    ensure!(
        found.len() > flows.len() / 4 * 3,
        "of {} flows only {} are open",
        flows.len(),
        found.len()
    );

    // The LRU hash has its entries in the order in which flows were opened, which the caches would profit from.
    random.shuffle(&mut found);

    let name = protocol.name;
    let case = format!("{name} answer, {} flows", shown(size as f64));
    let row = Row {
        case: &case,
        packets: packets(protocol.answer, &found),
        slots: &[PassReason::Answer.counter()],
        lru: Some(lru::HITS),
        aim: (size == MANY).then_some(AIM_ANSWER),
    };
    row.measure(bench, tables)?;
    if size != MANY {
        return Ok(());
    }
    let case = format!("{name} leaves, open flow, {} flows", shown(size as f64));
    let row = Row {
        case: &case,
        packets: packets(protocol.goes_on, &found),
        slots: &[PassReason::EgressDefault.counter()],
        lru: Some(lru::HITS),
        aim: None,
    };
    let sent = |tables: &mut Tables| -> Result<u64> {
        let records = tables.records()?;
        Ok(records
            .iter()
            .map(|record| u64::from(record.sent.packets))
            .sum())
    };
    let before = sent(tables)?;
    let measured = row.measure(bench, tables)?;
    let expected = measured.map_or(0, |measured| measured.packets);
    let counted = sent(tables)? - before;
    ensure!(
        counted == expected,
        "{case}: the flows counted {counted} of {expected} packets"
    );
    Ok(())
}
