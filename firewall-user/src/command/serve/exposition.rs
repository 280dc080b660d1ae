//! What was read, as OpenMetrics: which metrics there are, with their labels. Labels come from rule files, names of interfaces and this
//! program; nothing that a packet brings becomes one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use firewall_common::abi::ABI_VERSION;
use firewall_common::abi::counter::{Counter, FLOWS_CONTENDED, FLOWS_CREATED, FLOWS_EVICTED};
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::abi::shadow::Difference;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{Family, Labels};
use super::tally::{OfInterface, Tally};
use crate::counters::Decides;
use crate::kernel::description::DescribedRule;
use crate::kernel::guard::Trial;
use crate::kernel::pins::Hook;
use crate::kernel::reading::Reading;
use crate::rules::names;

/// The label of packets that a rule decided.
const BY_RULE: &str = "rule";
/// The mode of what is not attached.
const NOT_ATTACHED: &str = "none";

/// Everything at one moment.
#[derive(Debug)]
pub(super) struct Exposition {
    readings: Vec<Reading>,
    interfaces: BTreeMap<String, OfInterface>,
    scrape_errors: u64,
    refused: u64,
}

impl Exposition {
    pub(super) fn new(readings: Vec<Reading>, tally: &Tally) -> Self {
        Self {
            readings,
            interfaces: tally.interfaces(),
            scrape_errors: tally.scrape_errors(),
            refused: tally.refused(),
        }
    }

    /// In OpenMetrics' text format.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }

    fn packets(&self) -> [Family<'_>; 2] {
        let mut packets = Family::counter("firewall_packets", "Packets decided.");
        let mut bytes =
            Family::counter("firewall", "Bytes of the packets decided.").unit(Unit::Bytes);
        for reading in &self.readings {
            let mut count = |is_egress, verdict, reason: &'static str, counter: Counter| {
                let labels = of(reading)
                    .with("direction", direction(is_egress))
                    .with("verdict", verdict)
                    .with("reason", reason);
                packets.count(labels.clone(), counter.packets);
                bytes.count(labels, counter.bytes);
            };
            for is_egress in [false, true] {
                for action in ["accept", "drop"] {
                    let counter = by_rules(reading, is_egress, action);
                    count(is_egress, action, BY_RULE, counter);
                }
            }
            let reasons = DropReason::ALL
                .iter()
                .filter(|&&reason| reason != DropReason::Rule);
            for reason in reasons {
                let counter = reading.sums.reason(reason.counter());
                count(reason.is_egress(), "drop", reason.label(), counter);
            }
            for reason in PassReason::ALL {
                let counter = reading.sums.reason(reason.counter());
                count(reason.is_egress(), "accept", reason.label(), counter);
            }
        }
        [packets, bytes]
    }

    fn rules(&self) -> [Family<'_>; 4] {
        let mut packets = Family::counter("firewall_rule_packets", "Packets decided by a rule.");
        let mut bytes = Family::counter("firewall_rule", "Bytes of the packets decided by a rule.")
            .unit(Unit::Bytes);
        let mut limited = Family::counter(
            "firewall_rule_limited_packets",
            "Packets over a rule's limit, dropped.",
        );
        let mut limited_bytes = Family::counter(
            "firewall_rule_limited",
            "Bytes of the packets over a rule's limit.",
        )
        .unit(Unit::Bytes);
        for (reading, rule) in self.each_rule() {
            let labels = of(reading)
                .with("direction", &rule.direction)
                .with("rule", &rule.name);
            let counter = reading.sums.rule(&rule.name);
            let decided = labels.clone().with("action", &rule.action);
            packets.count(decided.clone(), counter.packets);
            bytes.count(decided, counter.bytes);
            if let Some(over) = reading.sums.over.get(&rule.name) {
                limited.count(labels.clone(), over.packets);
                limited_bytes.count(labels, over.bytes);
            }
        }
        [packets, bytes, limited, limited_bytes]
    }

    fn each_rule(&self) -> impl Iterator<Item = (&Reading, &DescribedRule)> {
        let readings = self.readings.iter();
        readings.flat_map(|reading| {
            let rules = reading.description.policy.rules.iter();
            rules.map(move |rule| (reading, rule))
        })
    }

    fn ports(&self) -> [Family<'_>; 3] {
        let mut packets = Family::counter(
            "firewall_port_packets",
            "Packets that came for a port that rules name.",
        );
        let mut bytes = Family::counter(
            "firewall_port",
            "Bytes of the packets that came for a port that rules name.",
        )
        .unit(Unit::Bytes);
        let mut connections = Family::counter(
            "firewall_port_connections",
            "TCP connections that packets for the port asked for, let in or not.",
        );
        for reading in &self.readings {
            for &(protocol, port) in &reading.description.policy.ports {
                let name = names::protocol_name(protocol)
                    .map_or_else(|| protocol.to_string().into(), Cow::Borrowed);
                let labels = of(reading)
                    .with("protocol", name)
                    .with("port", port.to_string());
                let counter = reading.sums.port((protocol, port));
                packets.count(labels.clone(), counter.packets);
                bytes.count(labels.clone(), counter.bytes);
                connections.count(labels, counter.connections);
            }
        }
        [packets, bytes, connections]
    }

    fn tables(&self) -> Vec<Family<'_>> {
        let mut flows = Family::gauge("firewall_flows", "Flows that may be answered.");
        let mut size = Family::gauge("firewall_flow_table_size", "Room for flows.");
        let mut created = Family::counter("firewall_flows_created", "Flows opened.");
        let mut evicted = Family::counter(
            "firewall_flows_evicted",
            "Flows that gave way to another before their time.",
        );
        let mut contended = Family::counter(
            "firewall_flows_contended",
            "Flows not opened, because other CPUs took each place that was tried.",
        );
        let mut bans = Family::gauge("firewall_bans", "Bans that have not ended.");
        let mut room = Family::gauge("firewall_ban_table_size", "Room for bans.");
        for reading in &self.readings {
            let reason = |slot| reading.sums.reason(slot).packets;
            flows.gauge_of(of(reading), reading.flows.used);
            size.gauge_of(of(reading), reading.flows.size);
            let opened = reason(FLOWS_CREATED) + reason(FLOWS_EVICTED);
            created.count(of(reading), opened);
            evicted.count(of(reading), reason(FLOWS_EVICTED));
            contended.count(of(reading), reason(FLOWS_CONTENDED));
            bans.gauge_of(of(reading), reading.bans as f64);
            room.gauge_of(of(reading), reading.ban_table as f64);
        }
        vec![flows, size, created, evicted, contended, bans, room]
    }

    fn policy(&self) -> Vec<Family<'_>> {
        let mut generation = Family::gauge(
            "firewall_policy_generation",
            "Number of the generation in force; 0 where everything is let in.",
        );
        let mut rules = Family::gauge("firewall_policy_rules", "Rules in force.");
        let mut applied = Family::gauge(
            "firewall_policy_applied_timestamp",
            "When what is in force was applied.",
        )
        .unit(Unit::Seconds);
        let mut remaining = Family::gauge(
            "firewall_policy_confirmation_remaining",
            "Time in which what is in force has to be confirmed; 0 where it has not.",
        )
        .unit(Unit::Seconds);
        let mut table = Family::gauge("firewall_policy_table", "Size of the policy's tables.")
            .unit(Unit::Bytes);
        let mut info = Family::info("firewall_policy", "What is in force.");
        let mut candidate = Family::counter(
            "firewall_candidate_packets",
            "Packets about which the candidate differs from what is in force.",
        );
        for reading in &self.readings {
            let description = &reading.description;
            generation.gauge_of(of(reading), description.generation as f64);
            rules.gauge_of(of(reading), description.policy.rules.len() as f64);
            applied.gauge_of(of(reading), description.applied_at_s as f64);
            remaining.gauge_of(
                of(reading),
                match reading.trial {
                    Trial::Waits(seconds) => seconds as f64,
                    Trial::Over | Trial::Lapsed => 0.0,
                },
            );
            table.gauge_of(of(reading), description.policy.image_bytes as f64);
            info.one(
                of(reading)
                    .with("file", &description.file)
                    .with("sha256", &description.policy.file_sha256),
            );
            for is_egress in [false, true] {
                for (difference, change) in [
                    (Difference::Accepts, "newly-accepted"),
                    (Difference::Refuses, "newly-refused"),
                ] {
                    let Some(differs) = &reading.candidate else {
                        continue;
                    };
                    let packets = differs
                        .iter()
                        .filter(|one| one.is_egress == is_egress && one.difference == difference)
                        .map(|one| one.counter.packets);
                    let labels = of(reading)
                        .with("direction", direction(is_egress))
                        .with("change", change);
                    candidate.count(labels, packets.sum());
                }
            }
        }
        vec![
            generation, rules, applied, remaining, table, info, candidate,
        ]
    }

    fn events(&self) -> [Family<'_>; 3] {
        let mut told = Family::counter("firewall_events", "Packets that readers were told of.");
        let mut lost = Family::counter(
            "firewall_events_lost",
            "Packets that a reader was to be told of, and had no room for in its buffer.",
        );
        let mut suppressed = Family::counter(
            "firewall_events_suppressed",
            "Packets that readers were not told of, because there were more than they wanted of the same kind.",
        );
        for reading in &self.readings {
            let events = &reading.events;
            told.count(of(reading), events.told());
            lost.count(of(reading), events.lost_by_all());
            suppressed.count(of(reading), events.withheld());
        }
        [told, lost, suppressed]
    }

    fn programs(&self) -> [Family<'_>; 3] {
        let mut attached = Family::gauge(
            "firewall_attached",
            "Whether the firewall's program is on the interface.",
        );
        let mut runs = Family::counter("firewall_program_runs", "How often a program ran.");
        let mut time =
            Family::counter("firewall_program_run", "How long a program ran.").unit(Unit::Seconds);
        for reading in &self.readings {
            let egress = if reading.egress { "tcx" } else { NOT_ATTACHED };
            let ingress = reading.ingress.map_or(NOT_ATTACHED, |mode| mode.as_str());
            for (hook, mode) in [(Hook::Ingress, ingress), (Hook::Egress, egress)] {
                let labels = of(reading).with("hook", hook.name()).with("mode", mode);
                attached.gauge_of(labels, f64::from(u8::from(mode != NOT_ATTACHED)));
            }
            for run in &reading.runs {
                // Another program begins to count anew: it is another series, so that none falls.
                let labels = of(reading)
                    .with("program", run.hook.program())
                    .with("id", run.program.to_string());
                runs.count(labels.clone(), run.count);
                time.seconds(labels, run.time);
            }
        }
        let is_read = |name: &str| self.readings.iter().any(|one| one.interface == name);
        for name in self.interfaces.keys().filter(|name| !is_read(name)) {
            for hook in [Hook::Ingress, Hook::Egress] {
                let labels = Labels::new("interface", name)
                    .with("hook", hook.name())
                    .with("mode", NOT_ATTACHED);
                attached.gauge_of(labels, 0);
            }
        }
        [attached, runs, time]
    }

    fn service(&self) -> Vec<Family<'_>> {
        let mut reloaded = Family::gauge(
            "firewall_reload_success_timestamp",
            "When the interface's rule file was applied last by the service, or found to be in force.",
        )
        .unit(Unit::Seconds);
        let mut failures = Family::counter(
            "firewall_reload_failures",
            "How often the interface's rule file could not be applied by the service.",
        );
        let mut reattachments = Family::counter(
            "firewall_reattachments",
            "How often the interface was gone and was guarded again when it was back.",
        );
        let mut repinned = Family::counter(
            "firewall_repinned",
            "How often pins of the interface were lost and put back.",
        );
        for (name, one) in &self.interfaces {
            let labels = Labels::new("interface", name);
            if one.has_file {
                failures.count(labels.clone(), one.reload_failures);
            }
            if let Some(at_s) = one.reloaded_at_s {
                reloaded.gauge_of(labels.clone(), at_s as f64);
            }
            reattachments.count(labels.clone(), one.reattachments);
            repinned.count(labels, one.repinned);
        }
        let mut errors = Family::counter(
            "firewall_scrape_errors",
            "How often an interface could not be read for metrics.",
        );
        errors.count(Labels::default(), self.scrape_errors);
        let mut refused = Family::counter(
            "firewall_http_connections_refused",
            "Connections to this endpoint that had to make room for later ones.",
        );
        refused.count(Labels::default(), self.refused);
        let mut build = Family::info("firewall_build", "This program.");
        build.one(
            Labels::new("version", env!("CARGO_PKG_VERSION")).with("abi", ABI_VERSION.to_string()),
        );
        vec![
            reloaded,
            failures,
            reattachments,
            repinned,
            errors,
            refused,
            build,
        ]
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = (self.packets().into_iter())
            .chain(self.rules())
            .chain(self.ports())
            .chain(self.tables())
            .chain(self.policy())
            .chain(self.events())
            .chain(self.programs())
            .chain(self.service());
        for family in families {
            family.encode(&mut encoder)?;
        }
        Ok(())
    }
}

fn of(reading: &Reading) -> Labels<'_> {
    Labels::new("interface", &reading.interface)
}

const fn direction(is_egress: bool) -> &'static str {
    if is_egress { "egress" } else { "ingress" }
}

/// What rules of a direction with this action decided, those included that there are no more.
fn by_rules(reading: &Reading, is_egress: bool, action: &str) -> Counter {
    let decides = Decides {
        is_egress,
        accepts: action == "accept",
    };
    let gone = reading.gone.get(&decides).copied().unwrap_or_default();
    let rules = reading.description.policy.rules.iter();
    rules
        .filter(|rule| rule.decides() == decides)
        .map(|rule| reading.sums.rule(&rule.name))
        .fold(gone, Counter::plus)
}
