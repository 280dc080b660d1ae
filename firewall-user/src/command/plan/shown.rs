//! A plan as text for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::Plan;
use super::live::{Accepted, Live};
use super::words::{self, Words};
use crate::output::{bytes, count};
use crate::rules::diff::{Change, Deciders, RuleChange, Setting, Shadowing};
use crate::rules::model::{Action, AddressSet, Direction, RuleSet};

/// Sets of packets, and flows, that are listed unless all are asked for.
const LISTED: usize = 20;
/// Names that are listed in a line before the rest is only counted.
const NAMES: usize = 6;
/// Widest column of packets that the reason behind it is aligned for.
const MAX_COLUMN: usize = 84;

/// The plan as text; `all` lists what would be cut short.
pub(super) fn text(plan: &Plan<'_>, all: bool) -> String {
    let mut lines = packets(plan, all);
    lines.extend(written(plan));
    if let Some(live) = &plan.live {
        lines.extend(going_on(live, all));
    }
    if lines.is_empty() {
        lines.push("nothing changes".to_owned());
    }
    lines.join("\n")
}

fn packets(plan: &Plan<'_>, all: bool) -> Vec<String> {
    let words = plan.words();
    let listed = if all { usize::MAX } else { LISTED };
    let rows: Vec<(String, String)> = plan
        .changes
        .iter()
        .take(listed)
        .map(|change| {
            let (sign, done) = match change.now {
                Action::Accept => ('+', "accepted"),
                Action::Drop => ('-', "refused"),
            };
            let leaving = match change.direction {
                Direction::Ingress => "",
                Direction::Egress => " on its way out",
            };
            let packets = words.packets(change);
            (
                format!("{sign} newly {done}{leaving}: {packets}"),
                why(plan, change),
            )
        })
        .collect();
    let widths = rows.iter().map(|(packets, _)| packets.chars().count());
    let width = widths
        .filter(|&width| width <= MAX_COLUMN)
        .max()
        .unwrap_or(0);
    let mut lines: Vec<String> = rows
        .into_iter()
        .map(|(packets, why)| format!("{packets:width$}  {why}"))
        .collect();
    let more = plan.changes.len() - lines.len();
    if more > 0 {
        let more = count(more as u64);
        lines.push(format!(
            "  … and {more} more sets of packets; `--all` lists them"
        ));
    }
    lines
}

/// Who decides, and who has until now.
fn why(plan: &Plan<'_>, change: &Change) -> String {
    let was = match change.now {
        Action::Accept => "refused",
        Action::Drop => "accepted",
    };
    format!(
        "by {}, was {was} by {}",
        deciders(plan.new, &change.new),
        deciders(plan.old, &change.old)
    )
}

fn deciders(rule_set: &RuleSet, deciders: &Deciders) -> String {
    let rules = deciders.rules.iter().map(|&index| {
        let rule = &rule_set.rules[index];
        format!("`{}` (line {})", rule.name, rule.line)
    });
    let rules: Vec<String> = rules.collect();
    let word = if rules.len() == 1 { "rule" } else { "rules" };
    match (rules.is_empty(), deciders.default) {
        (true, _) => "default".to_owned(),
        (false, true) => format!("{word} {} or by default", some(&rules)),
        (false, false) => format!("{word} {}", some(&rules)),
    }
}

/// The first of some names, and how many more there are.
fn some(names: &[String]) -> String {
    if names.len() <= NAMES + 1 {
        return names.join(", ");
    }
    let more = count((names.len() - NAMES) as u64);
    format!("{} … and {more} more", names[..NAMES].join(", "))
}

/// Rules, settings and what can never match: a line for each kind of change.
fn written(plan: &Plan<'_>) -> Vec<String> {
    let mut kinds: [(&str, Vec<String>); 4] = [
        ("added", Vec::new()),
        ("removed", Vec::new()),
        ("changed", Vec::new()),
        ("moved", Vec::new()),
    ];
    for change in &plan.rules {
        let (kind, name) = match change {
            RuleChange::Added { rule, .. } => (0, format!("`{rule}`")),
            RuleChange::Removed { rule, .. } => (1, format!("`{rule}`")),
            RuleChange::Changed { rule, fields, .. } => {
                (2, format!("`{rule}` ({})", fields.join(", ")))
            }
            RuleChange::Moved { rule, .. } => (3, format!("`{rule}`")),
        };
        kinds[kind].1.push(name);
    }
    let kinds = kinds.iter().filter(|(_, names)| !names.is_empty());
    let mut lines: Vec<String> = kinds
        .map(|(kind, names)| {
            let rules = if names.len() == 1 { "rule" } else { "rules" };
            format!(
                "{} {rules} {kind}: {}",
                count(names.len() as u64),
                some(names)
            )
        })
        .collect();
    let settings = plan.settings.iter();
    lines.extend(settings.map(|one| format!("{}: was {}, now {}", one.key, one.was, one.now)));
    let quoted = |names: &[String]| {
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        some(&quoted)
    };
    if !plan.shadowing.newly.is_empty() {
        let names = quoted(&plan.shadowing.newly);
        lines.push(format!("never reached any more: {names}"));
    }
    if !plan.shadowing.no_longer.is_empty() {
        let names = quoted(&plan.shadowing.no_longer);
        lines.push(format!("reached again: {names}"));
    }
    lines
}

/// What is going on at the interface.
fn going_on(live: &Live, all: bool) -> Vec<String> {
    let accepted = live.accepted.iter().filter(|one| one.packets > 0);
    let mut lines: Vec<String> = accepted
        .map(|one| {
            format!(
                "so far rule `{}` has accepted {} packets ({}){}",
                one.rule,
                count(one.packets),
                bytes(one.bytes),
                at_ports(one),
            )
        })
        .collect();
    if live.cut.is_empty() {
        return lines;
    }
    let conversations = match live.cut.len() {
        1 => "1 conversation that this host has opened is cut:".to_owned(),
        many => format!(
            "{} conversations that this host has opened are cut:",
            count(many as u64)
        ),
    };
    lines.push(conversations);
    let listed = if all { usize::MAX } else { LISTED };
    let flows = live.cut.iter().take(listed);
    lines.extend(flows.map(|flow| format!("  {}", flow.ends())));
    if live.cut.len() > listed {
        let more = count((live.cut.len() - listed) as u64);
        lines.push(format!("  … and {more} more; `--all` lists them"));
    }
    lines
}

/// ` for tcp 22,2222`.
fn at_ports(accepted: &Accepted) -> String {
    let mut text = String::new();
    for of_protocol in accepted.ports.chunk_by(|one, other| one.0 == other.0) {
        let number = of_protocol[0].0;
        let ports: Vec<String> = of_protocol
            .iter()
            .map(|(_, port)| port.to_string())
            .collect();
        let name = words::protocol(number);
        let before = if text.is_empty() { " for" } else { "," };
        let _ = write!(text, "{before} {name} {}", some(&ports));
    }
    text
}

/// A plan for programs. The shape is documented in the README and stable.
#[derive(Debug, Serialize)]
pub(super) struct PlanJson<'p> {
    file: &'p str,
    against: &'p str,
    interface: Option<&'p str>,
    changes: bool,
    packets: Vec<ChangeJson<'p>>,
    rules: &'p [RuleChange],
    settings: &'p [Setting],
    shadowing: &'p Shadowing,
    live: Option<&'p Live>,
}

#[derive(Debug, Serialize)]
struct ChangeJson<'p> {
    direction: &'static str,
    now: &'static str,
    from: Side<'p>,
    to: Side<'p>,
    services: Vec<Service>,
    /// In words, where not all flags of TCP are meant.
    tcp_flags: Option<String>,
    by: DecidersJson<'p>,
    was_by: DecidersJson<'p>,
}

#[derive(Debug, Serialize)]
struct Side<'p> {
    /// A group that has just these addresses.
    group: Option<&'p str>,
    blocks: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Service {
    protocol: String,
    /// Ports or ICMP types; `null` for all.
    values: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
struct DecidersJson<'p> {
    rules: Vec<&'p str>,
    default: bool,
}

impl<'p> PlanJson<'p> {
    pub(super) fn new(plan: &'p Plan<'_>) -> Self {
        let words = plan.words();
        let change = |change: &'p Change| ChangeJson {
            direction: match change.direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            now: match change.now {
                Action::Accept => "accept",
                Action::Drop => "drop",
            },
            from: Side::new(&change.from, &words),
            to: Side::new(&change.to, &words),
            services: services(change),
            tcp_flags: words::flags(&change.services),
            by: DecidersJson::new(plan.new, &change.new),
            was_by: DecidersJson::new(plan.old, &change.old),
        };
        Self {
            file: &plan.file,
            against: &plan.against,
            interface: plan.interface.as_deref(),
            changes: plan.changes_something(),
            packets: plan.changes.iter().map(change).collect(),
            rules: &plan.rules,
            settings: &plan.settings,
            shadowing: &plan.shadowing,
            live: plan.live.as_ref(),
        }
    }
}

impl<'p> Side<'p> {
    fn new(set: &AddressSet, words: &Words<'p>) -> Self {
        Self {
            group: words.group(set),
            blocks: words::all_blocks(set).collect(),
        }
    }
}

impl<'p> DecidersJson<'p> {
    fn new(rule_set: &'p RuleSet, deciders: &Deciders) -> Self {
        let rules = deciders.rules.iter();
        Self {
            rules: rules
                .map(|&index| &rule_set.rules[index].name[..])
                .collect(),
            default: deciders.default,
        }
    }
}

fn services(change: &Change) -> Vec<Service> {
    let sets = change.services.by_protocol().into_iter();
    sets.map(|set| Service {
        protocol: words::protocol(set.protocol),
        values: (!set.is_all).then(|| words::values(&set)),
    })
    .collect()
}
