//! The second step of a rule's life: what was typed becomes what it means, a [`RuleSet`]: names turn into numbers and
//! address sets, and what cannot be meant is refused.

mod matches;
mod tables;
mod terms;

use std::collections::hash_map::Entry;
use std::ops::Range;

use foldhash::{HashMap, HashMapExt as _};
use toml::Spanned;

use super::addresses::looks_like_address;
use super::diagnostic::{Collector, Diagnostic, Source, count_newlines};
use super::groups::{Groups, Resolved};
use super::lists;
use super::model::{Action, Direction, Protocol, Rule, RuleSet, SetId};
use super::shown::quoted;
use super::typed::{RawGroup, RawRule, RuleFile, Texts};
use super::values::Complaint;

/// Most rules of a file. The kernel's tables hold rule numbers in 16 bits, and some numbers are taken by the verdicts
/// that no rule gives.
pub const MAX_RULES: usize = 65_000;

/// Longest name of a rule or group, in bytes. It stands in tables, metric labels and one line of a terminal.
pub const MAX_NAME_BYTES: usize = 128;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// Where a rule stands in its file, as byte ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePlace {
    /// The `[[rule]]` heading.
    pub heading: Range<usize>,
    /// The value of its `name`.
    pub name: Range<usize>,
}

/// Gives meaning to a rule file, but for its assertions ([`super::asserts`]). What it returns is only to be used if the collector has no errors.
pub(super) fn validate(
    file: RuleFile,
    source: &Source,
    lists: &mut lists::Reader<'_>,
    collector: &mut Collector,
) -> (RuleSet, Vec<RulePlace>) {
    for group in &file.groups {
        check_group_name(group, source, collector);
    }
    let mut validator = Validator {
        source,
        groups: Groups::resolve(&file.groups, source, lists, collector),
        collector,
        names: HashMap::with_capacity(file.rules.len().min(MAX_RULES)),
        first_ban: None,
    };
    if let Some(rule) = file.rules.get(MAX_RULES) {
        let message = format!(
            "the file has {} rules, more than the {MAX_RULES} there can be",
            file.rules.len()
        );
        validator.error(
            rule.heading.clone(),
            message,
            "name more ports and addresses in fewer rules",
        );
    }
    let mut rules = Vec::with_capacity(file.rules.len());
    let mut places = Vec::with_capacity(file.rules.len());
    let (mut line, mut counted) = (1, 0);
    for raw in file.rules.into_iter().take(MAX_RULES) {
        line += count_newlines(
            source
                .bytes()
                .get(counted..raw.heading.start)
                .unwrap_or_default(),
        );
        counted = counted.max(raw.heading.start);
        let heading = raw.heading.clone();
        let name = raw.name.as_ref().map_or(heading.clone(), Spanned::span);
        places.push(RulePlace { heading, name });
        rules.push(validator.rule(raw, line));
    }
    let flows = validator.flows(&file.flows);
    let limits = validator.limits(&file.limits);
    let limits_place = file.limits.size.as_ref().map(Spanned::span);
    validator.warn_if_limits_have_no_room(&limits, limits_place, &rules, &places);
    let bans = validator.bans(&file.bans);
    let vlans = file.vlans.as_ref().map(|vlans| validator.vlans(vlans));
    let Resolved {
        sets,
        groups,
        lists,
    } = validator.groups.finish();
    let rule_set = RuleSet {
        defaults: file.defaults,
        essentials: file.essentials,
        flows,
        limits,
        bans,
        vlans,
        sets,
        rules,
        groups,
        lists,
    };
    (rule_set, places)
}

fn check_group_name(group: &RawGroup, source: &Source, collector: &mut Collector) {
    let name = group.name.get_ref();
    let mut refuse = |message: String, help: &str| {
        collector.error(|| {
            Diagnostic::error(message)
                .help(help)
                .at(source, group.name.span(), "")
        });
    };
    if looks_like_address(name) {
        let message = format!(
            "a group cannot be called {}, which looks like an address",
            quoted(name)
        );
        refuse(
            message,
            "begin its name with a letter and leave out `:`, `/` and `%`",
        );
    } else if let Some((message, help)) = bad_name("group", name) {
        refuse(message, help);
    }
}

/// What is wrong with the name of a rule or group.
fn bad_name(kind: &str, name: &str) -> Option<(String, &'static str)> {
    if name.trim().is_empty() {
        Some((
            format!("the name of a {kind} cannot be empty"),
            "write a few words that say what it is for",
        ))
    } else if name.len() > MAX_NAME_BYTES {
        let message = format!(
            "this name has {} bytes, more than the {MAX_NAME_BYTES} that a {kind}'s may have",
            name.len()
        );
        Some((message, "write a shorter name, and the rest as a comment"))
    } else if name.contains(char::is_control) {
        let message = format!("the name {} has control characters in it", quoted(name));
        Some((
            message,
            "write it with plain characters: it is printed in tables",
        ))
    } else {
        None
    }
}

/// Sorts ranges and joins those that overlap or touch.
fn join(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let touches = next.0 <= range.1.saturating_add(1);
        if touches {
            range.1 = range.1.max(next.1);
        }
        touches
    });
}

/// Turns rules into what they mean, one at a time.
struct Validator<'v> {
    source: &'v Source,
    collector: &'v mut Collector,
    groups: Groups<'v>,
    /// Where each rule name stood first.
    names: HashMap<String, Range<usize>>,
    /// The first rule with a ban, and where that is.
    first_ban: Option<(String, Range<usize>)>,
}

impl Validator<'_> {
    fn rule(&mut self, raw: RawRule, line: usize) -> Rule {
        if let Some(name) = &raw.name {
            self.name(name);
        }
        if let Some(comment) = &raw.comment
            && comment
                .get_ref()
                .contains(|c: char| c.is_control() && c != '\n' && c != '\t')
        {
            let help = "write it with plain characters: it is printed beside the rule";
            self.error(
                comment.span(),
                "this comment has control characters in it",
                help,
            );
        }
        let protocol = match &raw.protocol {
            Some(scalar) => self.protocol(scalar),
            None if raw.has_protocol => None,
            None => Some(Protocol::Any),
        };
        let terms = self.terms(&raw, protocol);
        let rule = Rule {
            name: raw
                .name
                .as_ref()
                .map(|name| name.get_ref().clone())
                .unwrap_or_default(),
            action: raw.action.unwrap_or(Action::Drop),
            direction: raw.direction.unwrap_or(Direction::Ingress),
            protocol: protocol.unwrap_or(Protocol::Any),
            ports: raw.ports.as_ref().map(|ports| self.ports(ports, protocol)),
            icmp_types: raw
                .icmp_types
                .as_ref()
                .map(|types| self.icmp_types(types, protocol)),
            tcp_flags: raw
                .tcp_flags
                .as_ref()
                .and_then(|flags| self.tcp_flags(flags, protocol)),
            from: raw.from.as_ref().and_then(|list| self.set("from", list)),
            to: raw.to.as_ref().and_then(|list| self.set("to", list)),
            terms,
            log: raw.log.unwrap_or(false),
            comment: raw.comment.map(Spanned::into_inner),
            line,
        };
        if protocol.is_some() {
            let place = raw.name.as_ref().map_or(raw.heading, Spanned::span);
            self.warn_if_it_never_matches(&rule, place);
        }
        rule
    }

    fn name(&mut self, name: &Spanned<String>) {
        if let Some((message, help)) = bad_name("rule", name.get_ref()) {
            return self.error(name.span(), message, help);
        }
        match self.names.entry(name.get_ref().clone()) {
            Entry::Vacant(free) => {
                free.insert(name.span());
            }
            Entry::Occupied(taken) => {
                let source = self.source;
                let first = taken.get().clone();
                self.collector.error(|| {
                    Diagnostic::error(format!("two rules are called {}", quoted(name.get_ref())))
                        .help("give one of them another name: counters go by it")
                        .at(source, name.span(), "the second")
                        .also_at(source, first, "the first")
                });
            }
        }
    }

    fn set(&mut self, key: &str, list: &Texts) -> Option<SetId> {
        if list.get_ref().is_empty() {
            let help = format!("name addresses or groups, or leave `{key}` out for any address");
            self.error(
                list.span(),
                format!("this `{key}` list is empty, so the rule could never match"),
                help,
            );
            return None;
        }
        self.groups.set_of(list, self.collector)
    }

    /// Warns of a rule that no packet can match, because a set is empty or its parts belong to different families.
    fn warn_if_it_never_matches(&mut self, rule: &Rule, place: Range<usize>) {
        let name = quoted(&rule.name);
        // What confines the rule to one family.
        let (mut v4_only, mut v6_only) = (None, None);
        for (key, id) in [("from", rule.from), ("to", rule.to)] {
            let Some(set) = id.map(|id| self.groups.set(id)) else {
                continue;
            };
            match (set.v4.is_empty(), set.v6.is_empty()) {
                (true, true) => {
                    let message =
                        format!("rule {name} can never match: the groups in its `{key}` are empty");
                    let help = format!("fill them; to mean any address, leave `{key}` out");
                    return self.warning(place, message, help);
                }
                (false, true) => v4_only = Some(format!("`{key}` holds only IPv4 addresses")),
                (true, false) => v6_only = Some(format!("`{key}` holds only IPv6 addresses")),
                (false, false) => {}
            }
        }
        let by_addresses = v4_only.is_some() && v6_only.is_some();
        match rule.protocol {
            Protocol::Number(ICMP) if !by_addresses => {
                v4_only = Some("icmp belongs to IPv4 (it is icmpv6 for IPv6)".to_owned());
            }
            Protocol::Number(ICMPV6) if !by_addresses => {
                v6_only = Some("icmpv6 belongs to IPv6 (it is icmp for IPv4)".to_owned());
            }
            Protocol::Any | Protocol::Number(_) => {}
        }
        if let (Some(four), Some(six)) = (v4_only, v6_only) {
            let parts = if by_addresses {
                "`from` and `to` addresses"
            } else {
                "addresses and protocol"
            };
            let message = format!("rule {name} can never match: its {parts} exclude each other");
            self.warning(place, message, format!("{four}, and {six}"));
        }
    }

    /// What a value means; if that is nothing, what is wrong is reported at its place.
    fn known<V, T>(&mut self, place: &Spanned<V>, meaning: Result<T, Complaint>) -> Option<T> {
        meaning
            .map_err(|(message, help)| self.error(place.span(), message, help))
            .ok()
    }

    fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let source = self.source;
        self.collector
            .error(|| Diagnostic::error(message).help(help).at(source, span, ""));
    }

    fn warning(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let source = self.source;
        self.collector
            .warning(|| Diagnostic::warning(message).help(help).at(source, span, ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_refused() {
        assert_eq!(bad_name("rule", "new connections only"), None);
        assert!(bad_name("rule", " ").is_some());
        assert!(bad_name("rule", "a\u{7f}").is_some());
        assert!(bad_name("rule", &"é".repeat(MAX_NAME_BYTES / 2)).is_none());
        assert!(bad_name("rule", &"é".repeat(MAX_NAME_BYTES / 2 + 1)).is_some());
    }
}
