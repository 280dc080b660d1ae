//! A rule set becomes a policy image: the tables that decide a packet at a cost that does not depend on the number of
//! rules.
//!
//! What the tables are is told in [`firewall_common::abi::image`]. How they come about:
//!
//! 1. `services` sweeps over ports, ICMP types and protocols: which rules name each of them;
//! 2. `addresses` sweeps over the address sets: a row for each distinct combination of sets;
//! 3. `cells` crosses the two and keeps only what neither knows by itself, packed into each other's gaps;
//! 4. `layout` puts everything into one piece of memory.

mod addresses;
mod cells;
mod layout;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use firewall_common::abi::{
    counter::{MAX_SLOTS, NAMED_BASE},
    image::{Line, Outcome, Record, Row, SIZE_CLASSES, essential, header},
    reason::{DropReason, PassReason},
};
use thiserror::Error;

use super::model::{Action, Direction, Essentials, RuleSet};
use layout::Layout;

/// Counter slots by what is counted. Slots given before stay as they are, so that counts go on over generations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// What a rule decides, by the rule's name.
    pub rules: BTreeMap<String, u32>,
    /// What arrives for a port that a rule names, by IP protocol number and destination port.
    pub ports: BTreeMap<(u8, u16), u32>,
}

impl Slots {
    /// Every slot that is given to something.
    pub fn used(&self) -> impl Iterator<Item = u32> {
        self.rules.values().chain(self.ports.values()).copied()
    }
}

/// A compiled generation.
#[derive(Debug)]
pub struct Compiled {
    /// The policy image.
    pub image: Vec<Line>,
    /// Slots of every rule and named port.
    pub slots: Slots,
    /// Rules that can never match (index into the rule set), each with earlier rules that take its packets.
    pub shadowed: BTreeMap<usize, BTreeSet<usize>>,
    /// Rules in table order: entry `number` of the image's rules is this index of the rule set.
    pub order: Vec<usize>,
}

/// Why a rule set has no tables.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CompileError {
    /// The image is larger than the largest size class.
    #[error("the rules need {needed} MiB of tables, at most {limit} MiB can be loaded: {largest}")]
    TooLarge {
        /// Size of the image in MiB, rounded up.
        needed: usize,
        /// Largest size class in MiB.
        limit: usize,
        /// Which table it is, and what to do.
        largest: String,
    },
    /// The cross product of addresses and services is too large.
    #[error(
        "the rules combine into more than {limit} cells of addresses and services; use fewer overlapping groups in rules \
         that also name ports, or join such rules"
    )]
    TooManyCells {
        /// The most cells there can be.
        limit: usize,
    },
    /// More rules and ports are counted than there are counters.
    #[error(
        "{needed} rules and named ports need counters of their own, there can be {limit}; name fewer single ports"
    )]
    TooManyCounters {
        /// Counters needed.
        needed: usize,
        /// Most there can be.
        limit: u32,
    },
    /// More different TCP flag conditions than can be told apart.
    #[error(
        "rules name {needed} different combinations of tcp-flags, at most {limit} can be told apart"
    )]
    TooManyFlags {
        /// Conditions in the file.
        needed: usize,
        /// Most there can be.
        limit: usize,
    },
}

/// A rule's number in the tables, which is its rank among the rules of its direction.
type RuleNumber = u32;

/// Compiles the rules of one direction. `taken` holds slots already given; names in it keep theirs.
///
/// # Errors
///
/// [`CompileError`] where the tables would be larger than can be loaded.
pub fn compile(
    rule_set: &RuleSet,
    direction: Direction,
    taken: &Slots,
) -> Result<Compiled, CompileError> {
    let order: Vec<usize> = (0..rule_set.rules.len())
        .filter(|&index| rule_set.rules[index].direction == direction)
        .collect();
    let rules: Vec<_> = order.iter().map(|&index| &rule_set.rules[index]).collect();
    let default = rules.len() as RuleNumber;
    let mut shadows = Shadows::default();

    let named = services::named_ports(&rules);
    let slots = assign(&rules, &named, taken)?;
    let services = services::build(&rules, &slots, &mut shadows)?;
    let addresses = addresses::build(&rules, &rule_set.sets);
    let mut cells = cells::Packer::default();
    let rows = addresses.rows(&rules, &services, &mut cells, &mut shadows)?;

    let mut layout = Layout::new();
    let mut top = [0u32; header::LEN as usize];
    let mut set = |field: u32, value: u32| top[field as usize] = value;
    set(header::ESSENTIALS, essential_bits(&rule_set.essentials));
    set(header::RULE_COUNT, default);
    set(
        header::RULES,
        layout.u32s(&outcomes(&rules, rule_set, direction, &slots)),
    );
    set(
        header::SERVICES,
        layout.records(
            &services
                .services
                .iter()
                .map(|s| s.to_record())
                .collect::<Vec<_>>(),
        ),
    );
    set(header::PROTOCOLS, layout.u32s(&services.protocols));
    set(
        header::FLAGS_CLASSES,
        match &services.flags_classes {
            Some(classes) => layout.u16s(classes),
            None => 0,
        },
    );
    for (selector, table) in services.selectors.iter().enumerate() {
        let at = header::SELECTORS + 2 * selector as u32;
        set(at, table.pages(&mut layout));
        set(at + 1, table.first);
    }
    let records: Vec<Record> = rows.iter().map(|row: &Row| row.to_record()).collect();
    set(header::ROWS, layout.records(&records));
    set(
        header::CELLS,
        layout.u64s(&cells.finish(services.classes.max(addresses.columns()))),
    );
    for (index, root) in addresses.tables(&mut layout).into_iter().enumerate() {
        set(header::ADDRESS_ROOTS + index as u32, root);
    }
    layout.set_header(&top);

    let image = layout.finish();
    let (needed, limit) = (
        image.len() * size_of::<Line>(),
        SIZE_CLASSES[SIZE_CLASSES.len() - 1],
    );
    if needed > limit {
        return Err(CompileError::TooLarge {
            needed: needed.div_ceil(1 << 20),
            limit: limit >> 20,
            largest: "split the address lists over fewer prefixes, or name fewer ports".to_owned(),
        });
    }
    Ok(Compiled {
        image,
        slots,
        shadowed: shadows.finish(&order, &services, &rows, default),
        order,
    })
}

fn outcomes(
    rules: &[&super::model::Rule],
    rule_set: &RuleSet,
    direction: Direction,
    slots: &Slots,
) -> Vec<u32> {
    let mut outcomes: Vec<u32> = rules
        .iter()
        .map(|rule| {
            let slot = slots.rules[&rule.name];
            Outcome::new(rule.action == Action::Accept, rule.log, slot).0
        })
        .collect();
    let default = match direction {
        Direction::Ingress => rule_set.defaults.ingress,
        Direction::Egress => rule_set.defaults.egress,
    };
    outcomes.push(match default {
        Action::Accept => Outcome::new(true, false, PassReason::Default.counter()).0,
        Action::Drop => Outcome::new(false, false, DropReason::NoRule.counter()).0,
    });
    outcomes
}

/// Gives a slot to every rule and named port: its old one, or the lowest that nobody has.
fn assign(
    rules: &[&super::model::Rule],
    named: &[(u8, u16)],
    taken: &Slots,
) -> Result<Slots, CompileError> {
    let used: BTreeSet<u32> = taken.used().collect();
    let mut free = (NAMED_BASE..MAX_SLOTS).filter(|slot| !used.contains(slot));
    let mut slot = |old: Option<&u32>| {
        old.copied()
            .or_else(|| free.next())
            .ok_or(CompileError::TooManyCounters {
                needed: rules.len() + named.len(),
                limit: MAX_SLOTS - NAMED_BASE,
            })
    };
    let mut slots = Slots::default();
    for rule in rules {
        slots
            .rules
            .insert(rule.name.clone(), slot(taken.rules.get(&rule.name))?);
    }
    for &port in named {
        slots.ports.insert(port, slot(taken.ports.get(&port))?);
    }
    Ok(slots)
}

fn essential_bits(essentials: &Essentials) -> u32 {
    let Essentials {
        arp,
        neighbour_discovery,
        path_mtu,
        dhcp_client,
        multicast_membership,
        link_layer,
    } = *essentials;
    [
        (arp, essential::ARP),
        (neighbour_discovery, essential::NEIGHBOUR_DISCOVERY),
        (path_mtu, essential::PATH_MTU),
        (dhcp_client, essential::DHCP_CLIENT),
        (multicast_membership, essential::MULTICAST_MEMBERSHIP),
        (link_layer, essential::LINK_LAYER),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .map(|(_, bit)| bit)
    .sum()
}

/// Which rules lose packets to which earlier ones. A rule that no table ends up naming has lost all of them.
#[derive(Debug, Default)]
struct Shadows {
    losses: BTreeMap<RuleNumber, BTreeSet<RuleNumber>>,
    cell_winners: BTreeSet<RuleNumber>,
}

/// Covering rules that a warning names; more would not be read.
const MAX_NAMED_SHADOWS: usize = 4;

impl Shadows {
    fn lost(&mut self, rule: RuleNumber, to: RuleNumber) {
        let winners = self.losses.entry(rule).or_default();
        if winners.len() < MAX_NAMED_SHADOWS {
            winners.insert(to);
        }
    }

    fn won(&mut self, rule: RuleNumber) {
        self.cell_winners.insert(rule);
    }

    fn finish(
        self,
        order: &[usize],
        services: &services::Services,
        rows: &[Row],
        default: RuleNumber,
    ) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut reached = self.cell_winners;
        reached.extend(services.services.iter().map(|service| service.rule));
        reached.extend(rows.iter().map(|row| row.rule));
        (0..default)
            .filter(|rule| !reached.contains(rule))
            .map(|rule| {
                let winners = self.losses.get(&rule).into_iter().flatten();
                (
                    order[rule as usize],
                    winners.map(|&w| order[w as usize]).collect(),
                )
            })
            .collect()
    }
}
