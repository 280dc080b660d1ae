//! The second step of a rule's life: what was typed becomes what it means, a [`RuleSet`]: names turn into numbers and
//! address sets, and what cannot be meant is refused.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use super::addresses::looks_like_address;
use super::diagnostic::{Collector, Diagnostic, Source, count_newlines};
use super::groups::Groups;
use super::model::{
    Action, Bans, Direction, Flows, Limits, Protocol, Rule, RuleSet, SetId, TcpFlags, Terms, Vlans,
};
use super::names::{self, IcmpFamily, closest};
use super::shown::quoted;
use super::typed::{
    RawFlags, RawFlows, RawGroup, RawRule, RawVlans, RuleFile, Scalar, Scalars, Texts,
};
use super::values::{
    digits, flow_table_size, icmp_type, port_range, protocol_text, timeout_s, vlan_range,
};

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

/// Gives meaning to a rule file. What it returns is only to be used if the collector has no errors.
pub(super) fn validate(
    file: RuleFile,
    source: &Source,
    base_dir: &Path,
    collector: &mut Collector,
) -> (RuleSet, Vec<RulePlace>) {
    for group in &file.groups {
        check_group_name(group, source, collector);
    }
    let mut validator = Validator {
        source,
        groups: Groups::resolve(&file.groups, source, base_dir, collector),
        collector,
        names: HashMap::new(),
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
    let vlans = file.vlans.as_ref().map(|vlans| validator.vlans(vlans));
    let (sets, groups) = validator.groups.finish();
    let rule_set = RuleSet {
        defaults: file.defaults,
        essentials: file.essentials,
        flows,
        limits: Limits::default(),
        bans: Bans::default(),
        vlans,
        sets,
        rules,
        groups,
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
}

impl Validator<'_> {
    fn flows(&mut self, raw: &RawFlows) -> Flows {
        let mut flows = Flows::default();
        if let Some(size) = &raw.size {
            match flow_table_size(*size.get_ref()) {
                Ok(number) => flows.size = number,
                Err((message, help)) => self.error(size.span(), message, help),
            }
        }
        for (field, time) in &raw.timeouts {
            match timeout_s(time.get_ref()) {
                Ok(seconds) => *field(&mut flows.timeouts) = seconds,
                Err((message, help)) => self.error(time.span(), message, help),
            }
        }
        flows
    }

    fn vlans(&mut self, raw: &RawVlans) -> Vlans {
        let mut ids = Vec::new();
        for id in raw.ids.iter().flat_map(Spanned::get_ref).flatten() {
            match vlan_range(id.get_ref()) {
                Ok(range) => ids.push(range),
                Err((message, help)) => self.error(id.span(), message, help),
            }
        }
        join(&mut ids);
        let untagged = raw.untagged.unwrap_or(true);
        if !untagged && raw.ids.as_ref().is_none_or(|ids| ids.get_ref().is_empty()) {
            let help = "list VLANs under `ids`, or leave out `untagged = false`";
            self.error(
                raw.heading.clone(),
                "with this no frame at all may arrive",
                help,
            );
        }
        Vlans { untagged, ids }
    }

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
            terms: Terms::default(),
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
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(name.span());
            }
            std::collections::hash_map::Entry::Occupied(taken) => {
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

    fn protocol(&mut self, scalar: &Spanned<Scalar>) -> Option<Protocol> {
        let name = match scalar.get_ref() {
            Scalar::Text(name) if name == "any" => return Some(Protocol::Any),
            Scalar::Text(name) => name,
            Scalar::Number(number) => {
                let number = number.and_then(|n| u8::try_from(n).ok());
                if number.is_none() {
                    let help = "protocol numbers go from 0 to 255";
                    self.error(scalar.span(), "this is not a protocol number", help);
                }
                return number.map(Protocol::Number);
            }
        };
        let number = names::protocol_number(name)
            .or_else(|| digits(name).and_then(|n| u8::try_from(n).ok()));
        if number.is_none() {
            let near = closest(name, names::protocol_names().chain(["any"]));
            let help = near.map_or_else(
                || {
                    "write a name such as tcp, udp, icmp or esp, a number from 0 to 255, or any"
                        .to_owned()
                },
                |near| format!("did you mean \"{near}\"?"),
            );
            self.error(
                scalar.span(),
                format!("there is no protocol called {}", quoted(name)),
                help,
            );
        }
        number.map(Protocol::Number)
    }

    /// Ports as sorted, disjoint, not adjacent ranges. `protocol` is `None` if it was wrong, which has been said.
    fn ports(&mut self, list: &Scalars, protocol: Option<Protocol>) -> Vec<(u16, u16)> {
        match protocol {
            None | Some(Protocol::Number(TCP | UDP | SCTP)) => {}
            Some(Protocol::Any) => {
                let help = "add protocol = \"tcp\" (or \"udp\" or \"sctp\"): other protocols have no ports";
                self.error(list.span(), "this rule names ports but no protocol", help);
            }
            Some(Protocol::Number(number)) => {
                let message = format!("{} has no ports", protocol_text(number));
                self.error(
                    list.span(),
                    message,
                    "leave `ports` out, or write protocol = \"tcp\", \"udp\" or \"sctp\"",
                );
            }
        }
        if list.get_ref().is_empty() {
            let help = "name at least one port, or leave `ports` out for any port";
            self.error(
                list.span(),
                "this list of ports is empty, so the rule could never match",
                help,
            );
        }
        let mut ranges: Vec<(u16, u16)> = Vec::with_capacity(list.get_ref().len());
        for port in list.get_ref().iter().flatten() {
            match port_range(port.get_ref()) {
                Ok(range) => ranges.push(range),
                Err((message, help)) => self.error(port.span(), message, help),
            }
        }
        join(&mut ranges);
        ranges
    }

    fn icmp_types(&mut self, list: &Scalars, protocol: Option<Protocol>) -> Vec<u8> {
        let family = match protocol {
            Some(Protocol::Number(ICMP)) => Some(IcmpFamily::V4),
            Some(Protocol::Number(ICMPV6)) => Some(IcmpFamily::V6),
            None => None,
            Some(Protocol::Any | Protocol::Number(_)) => {
                let help =
                    "write protocol = \"icmp\" (for IPv4) or \"icmpv6\" (for IPv6), in a rule each";
                self.error(list.span(), "only ICMP and ICMPv6 have ICMP types", help);
                None
            }
        };
        if list.get_ref().is_empty() {
            let help = "name at least one type, or leave `icmp-types` out for any type";
            self.error(
                list.span(),
                "this list of ICMP types is empty, so the rule could never match",
                help,
            );
        }
        let mut types = Vec::with_capacity(list.get_ref().len());
        for scalar in list.get_ref().iter().flatten() {
            match icmp_type(scalar.get_ref(), family) {
                Ok(number) => types.extend(number),
                Err((message, help)) => self.error(scalar.span(), message, help),
            }
        }
        types.sort_unstable();
        types.dedup();
        types
    }

    fn tcp_flags(
        &mut self,
        flags: &Spanned<RawFlags>,
        protocol: Option<Protocol>,
    ) -> Option<TcpFlags> {
        match protocol {
            None | Some(Protocol::Number(TCP)) => {}
            Some(Protocol::Any | Protocol::Number(_)) => {
                self.error(
                    flags.span(),
                    "only TCP has TCP flags",
                    "write protocol = \"tcp\", or leave `tcp-flags` out",
                );
            }
        }
        let raw = flags.get_ref();
        if raw.set.is_empty() && raw.clear.is_empty() {
            let help = "write tcp-flags = { set = [\"syn\"], clear = [\"ack\"] }, or leave it out";
            self.error(flags.span(), "these TCP flags ask for nothing", help);
            return None;
        }
        let set = self.flag_bits(&raw.set, 0);
        let clear = self.flag_bits(&raw.clear, set);
        Some(TcpFlags { set, clear })
    }

    /// Bits of the flags of a list; none of them may be in `taken`.
    fn flag_bits(&mut self, list: &[Option<Spanned<String>>], taken: u8) -> u8 {
        let mut bits = 0;
        for flag in list.iter().flatten() {
            let name = flag.get_ref();
            match names::tcp_flag_bit(name) {
                Some(bit) if taken & bit != 0 => {
                    let message = format!(
                        "{} cannot be both set and clear, so the rule could never match",
                        quoted(name)
                    );
                    self.error(flag.span(), message, "take it out of one of the two lists");
                }
                Some(bit) => bits |= bit,
                None => {
                    let help = closest(name, names::tcp_flag_names()).map_or_else(
                        || {
                            format!(
                                "the flags are {}",
                                names::tcp_flag_names().collect::<Vec<_>>().join(", ")
                            )
                        },
                        |near| format!("did you mean \"{near}\"?"),
                    );
                    self.error(
                        flag.span(),
                        format!("there is no TCP flag called {}", quoted(name)),
                        help,
                    );
                }
            }
        }
        bits
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
