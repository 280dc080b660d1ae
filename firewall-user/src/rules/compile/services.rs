//! Protocols, ports, ICMP types and TCP flags become services: for each value, the first rule that needs no address, and
//! the class of rules that do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use firewall_common::abi::image::{Outcome, SELECTORS, Service};
use firewall_common::parse::protocol;

use super::{CompileError, RuleNumber, Shadows, layout::Layout, outcomes::Outcomes};
use crate::counters::TooMany;
use crate::rules::model::{Protocol, Rule, TcpFlags};

/// Protocol numbers of the selectors, in the order of [`firewall_common::abi::image::Selector`].
pub(super) const SELECTOR_PROTOCOLS: [u8; SELECTORS as usize] = [
    protocol::TCP,
    protocol::UDP,
    protocol::SCTP,
    protocol::ICMP,
    protocol::ICMPV6,
];

/// Distinct flag conditions that a class of flag bytes can be told apart by: one bit each of a `u64`.
const MAX_FLAG_CONDITIONS: usize = 64;

/// All services of a rule set.
pub(super) struct Services {
    /// The services, referred to by index.
    pub(super) services: Vec<Service>,
    /// Service of each protocol number; for protocols with a selector that of values that no rule names.
    pub(super) protocols: Vec<u32>,
    /// Services by selector value.
    pub(super) selectors: Vec<SelectorTable>,
    /// Flags class of each TCP flags byte, if any rule asks for flags.
    pub(super) flags_classes: Option<Vec<u16>>,
    /// Number of classes, class 0 included.
    pub(super) classes: u32,
    /// Classes in which each rule can win.
    pub(super) classes_of_rule: HashMap<RuleNumber, Vec<u32>>,
}

/// Services of one protocol by port or ICMP type and code.
pub(super) struct SelectorTable {
    /// Index of the first service of the protocol.
    pub(super) first: u32,
    /// Inclusive ranges of values that have the same service, ascending, covering all values; service relative to `first`.
    ranges: Vec<(u16, u16, u16)>,
}

impl SelectorTable {
    /// Appends the pages, returns the `u16` index of each of the 256; equal ones are one.
    pub(super) fn pages(&self, layout: &mut Layout) -> Vec<u32> {
        let mut known: HashMap<[u16; 256], u32> = HashMap::new();
        let mut ranges = self.ranges.iter().peekable();
        (0..=u8::MAX)
            .map(|upper| {
                let (low, high) = (u16::from(upper) << 8, u16::from(upper) << 8 | 0xff);
                let mut page = [0u16; 256];
                // Ranges cover all values, so there is one for every page, and the last may reach into the next.
                while let Some(&&(first, last, service)) = ranges.peek() {
                    let (first, end) = (first.max(low), last.min(high));
                    page[usize::from(first - low)..=usize::from(end - low)].fill(service);
                    if last > high {
                        break;
                    }
                    ranges.next();
                    if last == high {
                        break;
                    }
                }
                *known.entry(page).or_insert_with(|| layout.u16s(&page))
            })
            .collect()
    }
}

/// Every port that a rule names, once: protocol and port.
pub(super) fn named_ports<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<(u8, u16)> {
    let mut named = BTreeSet::new();
    for rule in rules {
        let (Protocol::Number(protocol), Some(ranges)) = (rule.protocol, &rule.ports) else {
            continue;
        };
        for &(low, high) in ranges {
            named.extend((low..=high).map(|port| (protocol, port)));
        }
    }
    named.into_iter().collect()
}

/// Builds the services; `ports` are those whose packets are counted by port.
pub(super) fn build(
    rules: &[&Rule],
    ports: &[(u8, u16)],
    outcomes: &mut Outcomes<'_, '_>,
    shadows: &mut Shadows,
) -> Result<Services, CompileError> {
    let flags = Flags::of(rules)?;
    let mut builder = Builder {
        rules,
        flags: &flags,
        outcomes,
        shadows,
        services: Vec::new(),
        known: HashMap::new(),
        variants: Vec::new(),
        known_runs: HashMap::new(),
        classes: HashMap::from([(Vec::new(), 0)]),
        first_any_with_address: rules
            .iter()
            .position(|rule| rule.protocol == Protocol::Any && has_address(rule))
            .map_or(RuleNumber::MAX, |index| index as RuleNumber),
    };
    let selectors: Vec<SelectorTable> = SELECTOR_PROTOCOLS
        .iter()
        .map(|&number| builder.selector(number, ports))
        .collect::<Result<_, _>>()?;
    let protocols = (0..=u8::MAX)
        .map(|number| {
            let selector = SELECTOR_PROTOCOLS.iter().position(|&known| known == number);
            match selector {
                Some(selector) => Ok(selectors[selector].first),
                None => builder.protocol(number),
            }
        })
        .collect::<Result<_, _>>()?;
    builder.join_variants();
    let classes = builder.classes.len() as u32;
    let mut classes_of_rule: HashMap<RuleNumber, Vec<u32>> = HashMap::new();
    for (class_rules, &class) in &builder.classes {
        for &rule in class_rules {
            classes_of_rule.entry(rule).or_default().push(class);
        }
    }
    Ok(Services {
        services: builder.services,
        protocols,
        selectors,
        flags_classes: flags.classes(),
        classes,
        classes_of_rule,
    })
}

fn has_address(rule: &Rule) -> bool {
    rule.from.is_some() || rule.to.is_some()
}

struct Builder<'a, 'b, 'c> {
    rules: &'a [&'a Rule],
    flags: &'a Flags,
    outcomes: &'a mut Outcomes<'b, 'c>,
    shadows: &'a mut Shadows,
    services: Vec<Service>,
    known: HashMap<Service, u32>,
    /// Services by flags class, in runs.
    variants: Vec<Service>,
    known_runs: HashMap<Vec<Service>, u32>,
    classes: HashMap<Vec<RuleNumber>, u32>,
    first_any_with_address: RuleNumber,
}

impl Builder<'_, '_, '_> {
    /// The service of a protocol without selector.
    fn protocol(&mut self, number: u8) -> Result<u32, TooMany> {
        let active: Vec<RuleNumber> = self
            .numbered()
            .filter(|(_, rule)| covers_protocol(rule, number))
            .map(|(index, _)| index)
            .collect();
        let service = self.describe(&active)?;
        Ok(self.intern(service))
    }

    /// The services of a protocol with selector, by a sweep over the values at which some rule begins or ends.
    fn selector(&mut self, number: u8, ports: &[(u8, u16)]) -> Result<SelectorTable, TooMany> {
        // Each protocol's services stand together, so that 16 bits name one of them.
        self.known.clear();
        let first = self.services.len() as u32;
        let mut active: BTreeSet<RuleNumber> = BTreeSet::new();
        let mut edges: BTreeMap<u32, Vec<(RuleNumber, bool)>> = BTreeMap::new();
        for (index, rule) in self.numbered() {
            if !covers_protocol(rule, number) {
                continue;
            }
            let Some(ranges) = value_ranges(rule) else {
                active.insert(index);
                continue;
            };
            for (low, high) in ranges {
                edges.entry(low).or_default().push((index, true));
                edges.entry(high + 1).or_default().push((index, false));
            }
        }
        // The values that nothing names get the first service, so that their pages are all zero.
        let unnamed: Vec<RuleNumber> = active.iter().copied().collect();
        let service = self.describe(&unnamed)?;
        self.intern(service);

        let mut ranges = Vec::new();
        let mut low = 0;
        edges.entry(1 << 16).or_default();
        for (edge, changes) in edges {
            if edge > low {
                let rules: Vec<RuleNumber> = active.iter().copied().collect();
                let service = self.describe(&rules)?;
                let (from, to) = (low as u16, (edge - 1) as u16);
                // A port that is counted by itself has a service of its own.
                let counted = {
                    let begin = ports.partition_point(|&named| named < (number, from));
                    let end = ports.partition_point(|&named| named <= (number, to));
                    &ports[begin..end]
                };
                if counted.is_empty() {
                    ranges.push((from, to, (self.intern(service) - first) as u16));
                }
                for &(_, port) in counted {
                    let service = self.counted(service, number, port)?;
                    let service = self.intern(service);
                    ranges.push((port, port, (service - first) as u16));
                }
                low = edge;
            }
            for (rule, begins) in changes {
                if begins {
                    active.insert(rule);
                } else {
                    active.remove(&rule);
                }
            }
        }
        merge(&mut ranges);
        Ok(SelectorTable { first, ranges })
    }

    /// The service with the counters of a named port.
    fn counted(&mut self, service: Service, protocol: u8, port: u16) -> Result<Service, TooMany> {
        let by_flags = service.outcome.by_flags();
        let outcome = if by_flags {
            service.outcome
        } else {
            let outcome = self.outcomes.at_port(service.rule, protocol, port)?;
            finality(outcome, service.outcome.is_final())
        };
        // Only another decision than the service's own can fail to tell the port.
        let hits = if by_flags || !outcome.is_final() {
            self.outcomes.hits(protocol, port)?
        } else {
            0
        };
        Ok(Service {
            outcome,
            hits,
            ..service
        })
    }

    /// The service in which exactly `active` rules (ascending) match, before TCP flags are looked at.
    fn describe(&mut self, active: &[RuleNumber]) -> Result<Service, TooMany> {
        let asks_flags = active
            .iter()
            .any(|&rule| self.rule(rule).tcp_flags.is_some());
        if !asks_flags {
            return self.resolve(active);
        }
        let variants: Vec<Service> = (0..self.flags.count())
            .map(|class| {
                let matching: Vec<RuleNumber> = active
                    .iter()
                    .copied()
                    .filter(|&rule| self.flags.admits(class, self.rule(rule).tcp_flags))
                    .collect();
                self.resolve(&matching)
            })
            .collect::<Result<_, _>>()?;
        let next = self.variants.len() as u32;
        let run = *self.known_runs.entry(variants.clone()).or_insert(next);
        if run == next {
            self.variants.extend(variants);
        }
        let default = self.rules.len() as RuleNumber;
        Ok(Service {
            class: run,
            rule: default,
            outcome: self.outcomes.anywhere(default)?.asking_flags(),
            hits: 0,
        })
    }

    /// Puts the variants behind the services proper, which 16 bits must be able to name.
    fn join_variants(&mut self) {
        let base = self.services.len() as u32;
        for service in &mut self.services {
            if service.outcome.by_flags() {
                service.class += base;
            }
        }
        self.services.append(&mut self.variants);
    }

    /// What `active` rules (ascending) amount to.
    fn resolve(&mut self, active: &[RuleNumber]) -> Result<Service, TooMany> {
        let default = self.rules.len() as RuleNumber;
        let rule = active
            .iter()
            .copied()
            .find(|&rule| !has_address(self.rule(rule)))
            .unwrap_or(default);
        for &loser in active.iter().filter(|&&loser| loser > rule) {
            self.shadows.lost(loser, rule);
        }
        // Later rules than the one that needs no address cannot win; rules for any protocol are the rows' business.
        let class: Vec<RuleNumber> = active
            .iter()
            .copied()
            .take_while(|&candidate| candidate < rule)
            .filter(|&candidate| self.rule(candidate).protocol != Protocol::Any)
            .collect();
        let next = self.classes.len() as u32;
        let class = *self.classes.entry(class).or_insert(next);
        let is_final = class == 0 && rule < self.first_any_with_address;
        Ok(Service {
            class,
            rule,
            outcome: finality(self.outcomes.anywhere(rule)?, is_final),
            hits: 0,
        })
    }

    fn intern(&mut self, service: Service) -> u32 {
        let next = self.services.len() as u32;
        let index = *self.known.entry(service).or_insert(next);
        if index == next {
            self.services.push(service);
        }
        index
    }

    fn rule(&self, number: RuleNumber) -> &Rule {
        self.rules[number as usize]
    }

    fn numbered(&self) -> impl Iterator<Item = (RuleNumber, &Rule)> {
        self.rules
            .iter()
            .enumerate()
            .map(|(index, &rule)| (index as RuleNumber, rule))
    }
}

const fn finality(outcome: Outcome, is_final: bool) -> Outcome {
    if is_final { outcome.finally() } else { outcome }
}

fn covers_protocol(rule: &Rule, number: u8) -> bool {
    match rule.protocol {
        Protocol::Any => true,
        Protocol::Number(named) => named == number,
    }
}

/// Selector values that a rule names; `None` for all.
fn value_ranges(rule: &Rule) -> Option<Vec<(u32, u32)>> {
    if let Some(ports) = &rule.ports {
        return Some(
            ports
                .iter()
                .map(|&(low, high)| (low.into(), high.into()))
                .collect(),
        );
    }
    let types = rule.icmp_types.as_ref()?;
    Some(
        types
            .iter()
            .map(|&kind| (u32::from(kind) << 8, u32::from(kind) << 8 | 0xff))
            .collect(),
    )
}

/// Joins neighbours with the same service.
fn merge(ranges: &mut Vec<(u16, u16, u16)>) {
    ranges.dedup_by(|next, previous| {
        let same = next.2 == previous.2;
        if same {
            previous.1 = next.1;
        }
        same
    });
}

/// Flag bytes that no condition of the rules tells apart form a class.
struct Flags {
    conditions: Vec<TcpFlags>,
    class_of_byte: Vec<u16>,
    /// For each class, a bit for each condition that its bytes fulfil.
    fulfilled: Vec<u64>,
}

impl Flags {
    fn of(rules: &[&Rule]) -> Result<Self, CompileError> {
        let mut conditions: Vec<TcpFlags> = Vec::new();
        for condition in rules.iter().filter_map(|rule| rule.tcp_flags) {
            if !conditions.contains(&condition) {
                conditions.push(condition);
            }
        }
        if conditions.len() > MAX_FLAG_CONDITIONS {
            return Err(CompileError::TooManyFlags {
                needed: conditions.len(),
                limit: MAX_FLAG_CONDITIONS,
            });
        }
        let mut fulfilled: Vec<u64> = Vec::new();
        let class_of_byte = (0..=u8::MAX)
            .map(|byte| {
                let bits = conditions
                    .iter()
                    .enumerate()
                    .fold(0, |bits, (index, condition)| {
                        let holds =
                            byte & condition.set == condition.set && byte & condition.clear == 0;
                        bits | u64::from(holds) << index
                    });
                let class = fulfilled
                    .iter()
                    .position(|&known| known == bits)
                    .unwrap_or_else(|| {
                        fulfilled.push(bits);
                        fulfilled.len() - 1
                    });
                class as u16
            })
            .collect();
        Ok(Self {
            conditions,
            class_of_byte,
            fulfilled,
        })
    }

    fn count(&self) -> usize {
        self.fulfilled.len()
    }

    fn admits(&self, class: usize, condition: Option<TcpFlags>) -> bool {
        condition.is_none_or(|condition| {
            let index = self.conditions.iter().position(|&known| known == condition);
            index.is_some_and(|index| self.fulfilled[class] >> index & 1 != 0)
        })
    }

    fn classes(&self) -> Option<Vec<u16>> {
        (!self.conditions.is_empty()).then(|| self.class_of_byte.clone())
    }
}
