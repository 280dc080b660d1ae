//! A rule set becomes a policy image: the tables that decide a packet at a cost that does not depend on the number of
//! rules.
//!
//! What the tables are is told in [`firewall_common::abi::image`]. How they come about:
//!
//! 1. `services` sweeps over ports, ICMP types and protocols: which rules name each of them;
//! 2. `addresses` sweeps over the address sets: a row for each distinct combination of sets;
//! 3. `cells` crosses the two and keeps only what the services do not know by themselves, packed into each other's gaps;
//! 4. `layout` puts everything into one piece of memory;
//! 5. `lists` changes a few addresses in it without all that.
//!
//! Each direction has a header and tables of its own in the image; they share the counters.

mod addresses;
mod cells;
mod layout;
pub mod lists;
mod outcomes;
mod services;
mod terms;
#[cfg(test)]
pub(in crate::rules) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use firewall_common::abi::image::{Line, SIZE_CLASSES, essential, header};
use thiserror::Error;

use super::model::{
    Action, AddressSet, Bans, Defaults, Direction, Essentials, Rule, RuleSet, Vlans,
};
use crate::counters::{self, Allocator, Slots};
use crate::list_rows::ListRows;
use layout::Layout;
use outcomes::Outcomes;

/// A compiled generation.
#[derive(Debug)]
pub struct Compiled {
    /// The policy image, with the tables of both directions.
    pub image: Vec<Line>,
    /// What is counted where.
    pub slots: Slots,
    /// Every port that an ingress rule names: protocol and port. What arrives for these is counted by port; what leaves
    /// never is.
    pub ports: Vec<(u8, u16)>,
    /// What becomes of addresses that come into each list.
    pub lists: BTreeMap<String, Vec<ListRows>>,
    /// The rules for what arrives.
    pub ingress: Ranking,
    /// The rules for what leaves.
    pub egress: Ranking,
}

impl Compiled {
    /// The rules of `direction`.
    pub const fn ranking(&self, direction: Direction) -> &Ranking {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The rules of one direction as the tables number them.
#[derive(Debug, Default)]
pub struct Ranking {
    /// Entry `number` of the direction's rules in the image is this index of the rule set.
    pub order: Vec<usize>,
    /// Rules that can never match (index into the rule set), each with earlier rules that take its packets.
    pub shadowed: BTreeMap<usize, BTreeSet<usize>>,
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
    #[error(transparent)]
    TooManyCounters(#[from] counters::TooMany),
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

/// Tables under which everything is let in and out, even what cannot be read.
pub fn open() -> Vec<Line> {
    let everybody = AddressSet {
        v4: vec![(0, u32::MAX)],
        v6: vec![(0, u128::MAX)],
    };
    let rule_set = RuleSet {
        defaults: Defaults {
            ingress: Action::Accept,
            egress: Action::Accept,
        },
        bans: Bans {
            never: everybody,
            ..Bans::default()
        },
        ..RuleSet::default()
    };
    let compiled = compile(&rule_set, &Slots::default());
    let mut image = compiled.expect("no rules are not too many").image;
    const { assert!(header::INGRESS + header::ESSENTIALS == 0) }
    image[0].words[0] |= u64::from(essential::OPEN);
    image
}

/// A rule's number in the tables, which is its rank among the rules of its direction.
type RuleNumber = u32;

/// Compiles the rules of both directions. `taken` holds slots already given; names in it keep theirs.
///
/// # Errors
///
/// [`CompileError`] where the tables would be larger than can be loaded.
pub fn compile<'s>(
    rule_set: &'s RuleSet,
    taken: &Slots<&'s str>,
) -> Result<Compiled, CompileError> {
    let mut layout = Layout::new();
    let mut slots = Allocator::new(taken);
    let mut lists = BTreeMap::new();

    let rules = ranked(rule_set, Direction::Ingress);
    let ports = services::named_ports(rules.iter().map(|&(_, rule)| rule));
    let ingress = tables(
        rule_set,
        Direction::Ingress,
        &rules,
        &ports,
        &mut slots,
        &mut layout,
        &mut lists,
    )?;
    let rules = ranked(rule_set, Direction::Egress);
    let egress = if rules.is_empty() && rule_set.defaults.egress == Action::Accept {
        // The header stays zero, which says that nothing is filtered, and the program reads no further.
        Ranking::default()
    } else {
        tables(
            rule_set,
            Direction::Egress,
            &rules,
            &[],
            &mut slots,
            &mut layout,
            &mut lists,
        )?
    };

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
    let names = rule_set.rules.iter().map(|rule| &rule.name[..]);
    Ok(Compiled {
        image,
        slots: slots.finish(names, &ports),
        ports,
        lists,
        ingress,
        egress,
    })
}

/// The rules of one direction in their order, each with its index in the rule set.
fn ranked(rule_set: &RuleSet, direction: Direction) -> Vec<(usize, &Rule)> {
    let rules = rule_set.rules.iter().enumerate();
    rules
        .filter(|(_, rule)| rule.direction == direction)
        .collect()
}

/// Appends the tables of one direction and fills in its header. Packets for `ports` are counted by port.
fn tables<'s>(
    rule_set: &RuleSet,
    direction: Direction,
    ranked: &[(usize, &'s Rule)],
    ports: &[(u8, u16)],
    slots: &mut Allocator<'s>,
    layout: &mut Layout,
    lists: &mut BTreeMap<String, Vec<ListRows>>,
) -> Result<Ranking, CompileError> {
    let (order, rules): (Vec<usize>, Vec<&'s Rule>) = ranked.iter().copied().unzip();
    let mut shadows = Shadows::default();

    let mut outcomes = Outcomes::new(&rules, direction, rule_set.defaults.of(direction), slots);
    let services = services::build(
        &rules,
        ports,
        layout.next_record(),
        &mut outcomes,
        &mut shadows,
    )?;
    layout.records(&services.runs());
    let addresses = addresses::build(&rules, &rule_set.sets);
    let mut cells = cells::Packer::new(layout.next_u64());
    let entries = addresses.entries(&rules, &services, &mut outcomes, &mut cells, &mut shadows)?;
    layout.u64s(&cells.finish());
    for (path, list) in &rule_set.lists {
        let rows = addresses.of_list(direction, &list.sets, &entries);
        lists.entry(path.clone()).or_default().extend(rows);
    }

    let mut top = [0u32; header::LEN as usize];
    let mut set = |field: u32, value: u32| top[field as usize] = value;
    set(
        header::ESSENTIALS,
        essential_bits(&rule_set.essentials) | essential::FILTERED,
    );
    set(
        header::FLAGS_CLASSES,
        match &services.flags_classes {
            Some(classes) => layout.u16s(classes),
            None => 0,
        },
    );
    for (selector, table) in (0..).zip(&services.selectors) {
        for (upper, page) in (0..).zip(table.pages(layout)) {
            let at = header::PAGES + 2 * (selector << 8 | upper);
            set(at, page.0 as u32);
            set(at + 1, (page.0 >> 32) as u32);
        }
    }
    for (field, service) in (header::PROTOCOLS..).zip(services.protocols(layout)) {
        set(field, service);
    }
    for (field, value) in (header::ADDRESS_TABLES..).zip(addresses.tables(&entries, layout)) {
        set(field, value);
    }
    set(
        header::TERMS,
        terms::append(&rules, &rule_set.limits, &mut outcomes, layout)?,
    );
    if direction == Direction::Ingress {
        let never = addresses::members(&rule_set.bans.never, layout);
        for (field, value) in (header::NEVER_BANNED[0]..).zip(never) {
            set(field, value);
        }
    }
    if let (Direction::Ingress, Some(vlans)) = (direction, &rule_set.vlans) {
        set(header::VLANS, layout.u64s(&vlan_bits(vlans)));
    }
    let at = match direction {
        Direction::Ingress => header::INGRESS,
        Direction::Egress => header::EGRESS,
    };
    layout.set_header(at, &top);
    let shadowed = shadows.finish(&order, &services);
    Ok(Ranking { order, shadowed })
}

/// A bit for each VLAN id, bit 0 for frames of none.
fn vlan_bits(vlans: &Vlans) -> [u64; 64] {
    let mut words = [0; 64];
    words[0] = u64::from(vlans.untagged);
    for id in vlans.ids.iter().flat_map(|&(first, last)| first..=last) {
        words[usize::from(id >> 6)] |= 1 << (id & 63);
    }
    words
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

    /// `order` has the index in the rule set of each rule.
    fn finish(
        self,
        order: &[usize],
        services: &services::Services,
    ) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut reached = self.cell_winners;
        reached.extend(services.winners());
        (0..order.len() as RuleNumber)
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
