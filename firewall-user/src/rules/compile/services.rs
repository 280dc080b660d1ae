//! Protocols, ports, ICMP types and TCP flags become services: for each value, the first rule that needs no address, and
//! the class of rules that do.

use std::collections::BTreeSet;

use firewall_common::abi::image::{Candidate, Class, Page, Record, SELECTORS, Service, column};
use firewall_common::parse::protocol;
use foldhash::HashMap;

use super::{CompileError, RuleNumber, Shadows, layout::Layout, outcomes::Outcomes};
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
    /// Runs of services by flags class, one behind the other.
    runs: Vec<Service>,
    /// Service of each protocol number; for protocols with a selector that of values that no rule names.
    protocols: Vec<Service>,
    /// Services by selector value.
    pub(super) selectors: Vec<SelectorTable>,
    /// Flags class of each TCP flags byte, if any rule asks for flags.
    pub(super) flags_classes: Option<Vec<u16>>,
    /// Number of columns that the classes take in the cells.
    pub(super) columns: u32,
    /// Columns in which each rule can win, by its number.
    pub(super) columns_of_rule: Vec<Vec<u32>>,
}

impl Services {
    /// The runs, as a table.
    pub(super) fn runs(&self) -> Vec<Record> {
        records(&self.runs)
    }

    /// Appends the services of all protocols, and returns the index of each.
    pub(super) fn protocols(&self, layout: &mut Layout) -> Vec<u32> {
        let mut known = HashMap::default();
        let index_of = |&service: &Service| {
            *known
                .entry(service)
                .or_insert_with(|| layout.records(&records(&[service])))
        };
        self.protocols.iter().map(index_of).collect()
    }

    /// The rules, and perhaps the default, that decide where no address does.
    pub(super) fn winners(&self) -> impl Iterator<Item = RuleNumber> {
        let by_value = self.selectors.iter().flat_map(|table| &table.ranges);
        let all = by_value.map(|(_, _, service)| service).chain(&self.runs);
        all.chain(&self.protocols)
            .map(|service| service.candidate.number())
    }
}

/// Services of one protocol by port or ICMP type and code.
pub(super) struct SelectorTable {
    /// The service of values that nothing names.
    unnamed: Service,
    /// Inclusive ranges of values that have the same service, ascending, covering all values.
    ranges: Vec<(u16, u16, Service)>,
}

impl SelectorTable {
    /// Appends the pages with their services, and returns all 256; equal ones are one.
    pub(super) fn pages(&self, layout: &mut Layout) -> Vec<Page> {
        let mut known: HashMap<(Vec<u8>, Vec<Service>), Page> = HashMap::default();
        let mut ranges = self.ranges.iter().peekable();
        (0..=u8::MAX)
            .map(|upper| {
                let (low, high) = (u16::from(upper) << 8, u16::from(upper) << 8 | 0xff);
                let mut bytes = vec![0; 256];
                let mut services: Vec<Service> = Vec::new();
                let mut numbers: HashMap<Service, u8> = HashMap::default();
                // Ranges cover all values, so there is one for every page, and the last may reach into the next.
                while let Some(&&(first, last, service)) = ranges.peek() {
                    let (first, end) = (first.max(low), last.min(high));
                    let number = *numbers.entry(service).or_insert_with(|| {
                        services.push(service);
                        // A page has 256 values, and no more services.
                        (services.len() - 1) as u8
                    });
                    bytes[usize::from(first - low)..=usize::from(end - low)].fill(number);
                    if last > high {
                        break;
                    }
                    ranges.next();
                    if last == high {
                        break;
                    }
                }
                *known
                    .entry((bytes, services))
                    .or_insert_with_key(|(bytes, services)| {
                        Page::new(layout.bytes(bytes), layout.records(&records(services)))
                    })
            })
            .collect()
    }
}

fn records(services: &[Service]) -> Vec<Record> {
    services.iter().map(|one| one.to_record()).collect()
}

/// Every port that a rule names, once: protocol and port.
pub(super) fn named_ports<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<(u8, u16)> {
    let mut ranges = Vec::new();
    for rule in rules {
        let (Protocol::Number(protocol), Some(named)) = (rule.protocol, &rule.ports) else {
            continue;
        };
        ranges.extend(named.iter().map(|&(low, high)| (protocol, low, high)));
    }
    ranges.sort_unstable();
    let mut ports: Vec<(u8, u16)> = Vec::new();
    for (protocol, low, high) in ranges {
        let known = (ports.last().copied()).filter(|&last| last >= (protocol, low));
        // What is known of this range is its beginning, up to the highest port so far.
        let low = known.map_or(Some(low), |(_, last)| last.checked_add(1));
        let new = low.into_iter().flat_map(|low| low..=high);
        ports.extend(new.map(|port| (protocol, port)));
    }
    ports
}

/// Builds the services, whose runs will begin at index (record) `runs_at` of the image; `ports` are those whose packets are
/// counted by port.
pub(super) fn build(
    rules: &[&Rule],
    ports: &[(u8, u16)],
    runs_at: u32,
    outcomes: &mut Outcomes<'_, '_>,
    shadows: &mut Shadows,
) -> Result<Services, CompileError> {
    let flags = Flags::of(rules)?;
    let mut builder = Builder {
        rules,
        flags: &flags,
        outcomes,
        shadows,
        runs_at,
        runs: Vec::new(),
        known_runs: HashMap::default(),
        classes: HashMap::default(),
        first_any_with_address: rules
            .iter()
            .position(|rule| rule.protocol == Protocol::Any && has_address(rule))
            .map_or(RuleNumber::MAX, |index| index as RuleNumber),
    };
    let selectors: Vec<SelectorTable> = SELECTOR_PROTOCOLS
        .iter()
        .map(|&number| builder.selector(number, ports))
        .collect::<Result<_, _>>()?;
    let protocols = builder.protocols(&selectors)?;
    let columns = column::FIRST_CLASS + builder.classes.len() as u32;
    let mut columns_of_rule = vec![Vec::new(); rules.len()];
    for (class_rules, &column) in &builder.classes {
        for &rule in class_rules {
            columns_of_rule[rule as usize].push(column);
        }
    }
    Ok(Services {
        runs: builder.runs,
        protocols,
        selectors,
        flags_classes: flags.classes(),
        columns,
        columns_of_rule,
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
    /// Index of the first run in the image.
    runs_at: u32,
    runs: Vec<Service>,
    known_runs: HashMap<Vec<Service>, u32>,
    /// Columns of the rules that name a service together with addresses.
    classes: HashMap<Vec<RuleNumber>, u32>,
    first_any_with_address: RuleNumber,
}

impl Builder<'_, '_, '_> {
    /// The service of each protocol number; of those with selector that of values that nothing names.
    fn protocols(&mut self, selectors: &[SelectorTable]) -> Result<Vec<Service>, CompileError> {
        let mut named = [false; 1 << 8];
        for rule in self.rules {
            if let Protocol::Number(number) = rule.protocol {
                named[usize::from(number)] = true;
            }
        }
        let mut unnamed = None;
        let mut services = Vec::with_capacity(named.len());
        for (number, is_named) in (0..=u8::MAX).zip(named) {
            let selector = SELECTOR_PROTOCOLS.iter().position(|&known| known == number);
            services.push(match (selector, unnamed) {
                (Some(selector), _) => selectors[selector].unnamed,
                (None, Some(service)) if !is_named => service,
                (None, _) => {
                    let service = self.protocol(number)?;
                    unnamed = unnamed.or((!is_named).then_some(service));
                    service
                }
            });
        }
        Ok(services)
    }

    /// The service of a protocol without selector.
    fn protocol(&mut self, number: u8) -> Result<Service, CompileError> {
        let active: Vec<RuleNumber> = self
            .numbered()
            .filter(|(_, rule)| covers_protocol(rule, number))
            .map(|(index, _)| index)
            .collect();
        self.describe(&active)
    }

    /// The services of a protocol with selector, by a sweep over the values at which some rule begins or ends.
    fn selector(&mut self, number: u8, ports: &[(u8, u16)]) -> Result<SelectorTable, CompileError> {
        let mut active: BTreeSet<RuleNumber> = BTreeSet::new();
        let mut edges: Vec<(u32, RuleNumber, bool)> = Vec::new();
        for (index, rule) in self.numbered() {
            if !covers_protocol(rule, number) {
                continue;
            }
            let Some(ranges) = value_ranges(rule) else {
                active.insert(index);
                continue;
            };
            for (low, high) in ranges {
                edges.push((low, index, true));
                edges.push((high + 1, index, false));
            }
        }
        let unnamed: Vec<RuleNumber> = active.iter().copied().collect();
        let unnamed = self.describe(&unnamed)?;

        let mut ranges = Vec::new();
        let mut low = 0;
        // Stable: a rule ends with one ICMP type before it begins with the next.
        edges.sort_by_key(|&(edge, ..)| edge);
        edges.push((1 << 16, RuleNumber::MAX, false));
        for changes in edges.chunk_by(|a, b| a.0 == b.0) {
            let edge = changes[0].0;
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
                    ranges.push((from, to, service));
                }
                for &(_, port) in counted {
                    let service = self.counted(service, number, port)?;
                    ranges.push((port, port, service));
                }
                low = edge;
            }
            for &(_, rule, begins) in changes {
                if begins {
                    active.insert(rule);
                } else {
                    active.remove(&rule);
                }
            }
        }
        merge(&mut ranges);
        Ok(SelectorTable { unnamed, ranges })
    }

    /// The service with the counters of a named port.
    fn counted(
        &mut self,
        service: Service,
        protocol: u8,
        port: u16,
    ) -> Result<Service, CompileError> {
        if service.class.run().is_some() {
            let hits = self.outcomes.hits(protocol, port)?;
            return Ok(Service { hits, ..service });
        }
        let number = service.candidate.number();
        let outcome = self.outcomes.at_port(number, protocol, port)?;
        // Another decision than the service's own can fail to tell the port: of another rule, or a ban.
        let hits = self.outcomes.hits(protocol, port)?;
        Ok(Service {
            candidate: Candidate::new(number, outcome),
            hits,
            ..service
        })
    }

    /// The service in which exactly `active` rules (ascending) match, before TCP flags are looked at.
    fn describe(&mut self, active: &[RuleNumber]) -> Result<Service, CompileError> {
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
        let next = self.runs_at + self.runs.len() as u32;
        let run = *self.known_runs.entry(variants.clone()).or_insert(next);
        if run == next {
            self.runs.extend(variants);
        }
        Ok(Service {
            candidate: self.outcomes.candidate(self.rules.len() as RuleNumber)?,
            class: Class::by_flags(run),
            hits: 0,
        })
    }

    /// What `active` rules (ascending) amount to.
    fn resolve(&mut self, active: &[RuleNumber]) -> Result<Service, CompileError> {
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
        let class = if !class.is_empty() {
            let next = column::FIRST_CLASS + self.classes.len() as u32;
            if next >= column::NONE {
                return Err(CompileError::TooManyCells {
                    limit: column::NONE as usize,
                });
            }
            Class::column(*self.classes.entry(class).or_insert(next))
        } else if rule < self.first_any_with_address {
            Class::finally()
        } else {
            Class::column(column::ALWAYS)
        };
        Ok(Service {
            candidate: self.outcomes.candidate(rule)?,
            class,
            hits: 0,
        })
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
fn merge(ranges: &mut Vec<(u16, u16, Service)>) {
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
