//! A rule file on its way into the kernel: loaded, compiled, described.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use firewall_common::abi::image::Line;
use firewall_common::parse::protocol;
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use crate::counters::Slots;
use crate::kernel::description::{DescribedRule, Description, Policy};
use crate::kernel::interface;
use crate::list_rows::KnownList;
use crate::rules::compile::{Compiled, compile};
use crate::rules::model::{
    Action, AddressSet, Direction, Per, Protocol, Rate, Rule, SetId, Terms, Unit,
};
use crate::rules::names::{self, IcmpFamily};
use crate::rules::{Diagnostic, Loaded};

/// A policy ready to be loaded.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) image: Vec<Line>,
    pub(crate) policy: Policy,
    /// What the compiler noticed.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Compiles `loaded`; counters keep the slots that they have in `before`.
///
/// # Errors
///
/// The tables would be too large.
pub(crate) fn prepare(loaded: &Loaded, before: Option<&Policy>) -> Result<Prepared> {
    let rule_set = &loaded.rule_set;
    let none = Slots::default();
    let taken = before.map_or(&none, |before| &before.slots);
    let compiled = compile(rule_set, taken)?;
    let rules = rule_set
        .rules
        .iter()
        .map(|rule| DescribedRule {
            name: rule.name.clone(),
            direction: direction(rule.direction).to_owned(),
            action: action(rule.action).to_owned(),
            matches: matches(loaded, rule),
            comment: rule.comment.clone(),
            line: rule.line,
        })
        .collect();
    let policy = Policy {
        file_sha256: sha256(loaded.source.bytes()),
        image_sha256: sha256(compiled.image.as_bytes()),
        image_bytes: size_of_val(&compiled.image[..]) as u64,
        is_open: false,
        default_accepts: rule_set.defaults.ingress == Action::Accept,
        egress_default_accepts: rule_set.defaults.egress == Action::Accept,
        bans_by_rule: (rule_set.rules.iter())
            .any(|rule| rule.terms.ban.is_some())
            .then_some(rule_set.limits.prefix_v6),
        never_banned: ranges(&rule_set.bans.never),
        lists_vlans: rule_set.vlans.is_some(),
        rules,
        ports: compiled.ports.clone(),
        slots: compiled.slots.clone(),
        lists: known_lists(loaded, &compiled),
        asserts: loaded.asserts,
    };
    let warnings = warnings(loaded, &compiled);
    Ok(Prepared {
        image: compiled.image,
        policy,
        warnings,
    })
}

impl Prepared {
    /// Describes it as the generation with this number.
    ///
    /// # Errors
    ///
    /// `file` cannot be made absolute, or procfs is out of reach.
    pub(crate) fn describe(&self, file: &Path, generation: u64) -> Result<Description> {
        let file =
            std::path::absolute(file).with_context(|| format!("the path of {}", file.display()))?;
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Description {
            generation,
            newest: generation,
            namespace: interface::namespace()?,
            file: file.display().to_string(),
            applied_at_s: since_epoch.as_secs(),
            policy: self.policy.clone(),
        })
    }
}

/// The address lists, with what a live edit of one needs to know.
fn known_lists(loaded: &Loaded, compiled: &Compiled) -> BTreeMap<String, KnownList> {
    let rule_set = &loaded.rule_set;
    let lists = rule_set.lists.iter().map(|(path, list)| {
        // A set that is told by how many ranges it has would be told wrongly with one more.
        let is_told =
            |set: &SetId| group_of(loaded, *set).is_some_and(|name| list.within.contains(name));
        let rows = compiled.lists.get(path).cloned().unwrap_or_default();
        let is_known = !list.is_entangled && list.sets.iter().all(is_told);
        let known = KnownList {
            groups: list.groups.clone(),
            rows: is_known.then_some(rows),
        };
        (path.clone(), known)
    });
    lists.collect()
}

fn warnings(loaded: &Loaded, compiled: &Compiled) -> Vec<Diagnostic> {
    let rules = &loaded.rule_set.rules;
    let mut warnings: Vec<Diagnostic> = Vec::new();
    let shadowed = compiled.ingress.shadowed.iter();
    let shadowed: BTreeMap<_, _> = shadowed.chain(&compiled.egress.shadowed).collect();
    for (&index, winners) in shadowed {
        // A rule that matches nothing by itself has been told of already.
        if winners.is_empty() {
            continue;
        }
        let names: Vec<String> = winners
            .iter()
            .map(|&winner| format!("`{}`", rules[winner].name))
            .collect();
        let message = format!("this rule can never match: {} cover it", names.join(", ")).replace(
            " cover it",
            if names.len() == 1 {
                " covers it"
            } else {
                " cover it"
            },
        );
        let mut warning = loaded.rule_warning(index, message, "never reached");
        for &winner in winners {
            warning = loaded.also_at_rule(warning, winner, "matches first");
        }
        warnings.push(warning.help("remove it, or move it before the rules that cover it"));
    }
    warnings.extend(egress_holes(loaded));
    warnings.extend(limited_answers(loaded));
    warnings
}

/// Limits that hold for answers too. What leaves from a port that a rule accepts is no flow of this host's, and so what comes back is
/// what the rule accepts; a rule that names the ports that are served has no such.
fn limited_answers(loaded: &Loaded) -> Vec<Diagnostic> {
    let rules = loaded.rule_set.rules.iter().enumerate();
    let is_wide = |rule: &Rule| {
        let is_udp = matches!(
            rule.protocol,
            Protocol::Any | Protocol::Number(protocol::UDP)
        );
        let is_any =
            (rule.ports.as_deref()).is_none_or(|ports| matches!(ports, [(0..=1, u16::MAX)]));
        rule.terms.limit.is_some() && is_udp && is_any && rule.direction == Direction::Ingress
    };
    rules
        .filter(|(_, rule)| is_wide(rule))
        .map(|(index, _)| {
            let message =
                "the limit of this rule also counts the answers to what this host asks over UDP";
            let warning = loaded.rule_warning(index, message, "accepts UDP for any port");
            warning.help("name the protocol and the ports that are served")
        })
        .collect()
}

/// What egress rules do not hold for. Whatever answers what is let in leaves, and of UDP and the like nobody can tell an answer
/// from a beginning: so a rule that lets in all of it from somewhere lets out all of it to there.
fn egress_holes(loaded: &Loaded) -> Vec<Diagnostic> {
    let rule_set = &loaded.rule_set;
    let filters = rule_set.defaults.egress == Action::Drop
        || (rule_set.rules.iter()).any(|rule| rule.direction == Direction::Egress);
    if !filters {
        return Vec::new();
    }
    let is_hole = |rule: &Rule| {
        let is_open = match rule.protocol {
            Protocol::Any => true,
            Protocol::Number(protocol::UDP) => {
                (rule.ports.as_deref()).is_none_or(|ports| matches!(ports, [(0..=1, u16::MAX)]))
            }
            Protocol::Number(_) => false,
        };
        is_open && rule.direction == Direction::Ingress && rule.action == Action::Accept
    };
    let rules = rule_set.rules.iter().enumerate();
    let mut warnings: Vec<Diagnostic> = rules
        .filter(|(_, rule)| is_hole(rule))
        .map(|(index, _)| {
            let message = "egress rules do not hold for UDP to the addresses of this rule: it leaves, as it may answer what \
                           the rule accepts";
            let warning = loaded.rule_warning(index, message, "accepts UDP for any port");
            warning.help("name the protocol and the ports that are served")
        })
        .collect();
    if rule_set.defaults.ingress == Action::Accept {
        let warning = Diagnostic::warning(
            "egress rules do not hold for UDP and ICMP: these leave, as they may answer what `ingress = \"accept\"` lets in",
        );
        warnings.push(
            warning
                .in_file(loaded.source.name())
                .help("write `ingress = \"drop\"` under [defaults], and rules for what is served"),
        );
    }
    warnings
}

/// The ranges of a set, IPv4 first.
pub(crate) fn ranges(set: &AddressSet) -> Vec<(IpAddr, IpAddr)> {
    let v4 = set.v4.iter().map(|&(first, last)| {
        (
            IpAddr::V4(Ipv4Addr::from(first)),
            IpAddr::V4(Ipv4Addr::from(last)),
        )
    });
    let v6 = set.v6.iter().map(|&(first, last)| {
        (
            IpAddr::V6(Ipv6Addr::from(first)),
            IpAddr::V6(Ipv6Addr::from(last)),
        )
    });
    v4.chain(v6).collect()
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Accept => "accept",
        Action::Drop => "drop",
    }
}

/// What a rule matches, in words: `tcp 80,443 from 2 ranges`.
fn matches(loaded: &Loaded, rule: &Rule) -> String {
    let mut text = match rule.protocol {
        Protocol::Any => "any".to_owned(),
        Protocol::Number(number) => {
            names::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
        }
    };
    if let Some(ports) = &rule.ports {
        let ports: Vec<String> = ports
            .iter()
            .map(|&(low, high)| {
                if low == high {
                    low.to_string()
                } else {
                    format!("{low}-{high}")
                }
            })
            .collect();
        let _ = write!(text, " {}", ports.join(","));
    }
    if let Some(types) = &rule.icmp_types {
        let family = match rule.protocol {
            Protocol::Number(58) => IcmpFamily::V6,
            _ => IcmpFamily::V4,
        };
        let types: Vec<String> = types
            .iter()
            .map(|&kind| {
                family
                    .type_name(kind)
                    .map_or_else(|| kind.to_string(), str::to_owned)
            })
            .collect();
        let _ = write!(text, " {}", types.join(","));
    }
    if let Some(flags) = rule.tcp_flags {
        let _ = write!(
            text,
            " flags {:#04x}/{:#04x}",
            flags.set,
            flags.set | flags.clear
        );
    }
    for (word, set) in [("from", rule.from), ("to", rule.to)] {
        if let Some(set) = set {
            let _ = write!(text, " {word} {}", addresses(loaded, set));
        }
    }
    text + &terms(&rule.terms)
}

/// What a rule asks beyond that: ` limit 200/s burst 400 per source ban 20 in 10s for 600s`.
fn terms(terms: &Terms) -> String {
    let rate = |rate: Rate| {
        let unit = match rate.per_s {
            1 => "s",
            60 => "m",
            3_600 => "h",
            _ => "d",
        };
        format!("{}/{unit}", rate.amount)
    };
    let mut text = String::new();
    if let Some(limit) = &terms.limit {
        let unit = match limit.unit {
            Unit::Packets => "",
            Unit::Bytes => " bytes",
            Unit::Connections => " connections",
        };
        let per = match limit.per {
            Per::Rule => "",
            Per::Source => " per source",
            Per::SourcePrefix => " per source prefix",
        };
        let _ = write!(
            text,
            " limit {}{unit} burst {}{per}",
            rate(limit.rate),
            limit.burst
        );
    }
    if let Some(ban) = &terms.ban {
        let _ = write!(
            text,
            " ban after {} in {}s for {}s",
            ban.after, ban.within_s, ban.for_s
        );
    }
    if let Some(above) = terms.syn_cookies {
        let _ = write!(text, " syn-cookies above {}", rate(above));
    }
    text
}

/// A set by the name of a group that equals it, by its only range, or by how many ranges it has.
fn addresses(loaded: &Loaded, id: SetId) -> String {
    if let Some(name) = group_of(loaded, id) {
        return name.to_owned();
    }
    let set = &loaded.rule_set.sets[id.0];
    match (&set.v4[..], &set.v6[..]) {
        ([], []) => "nobody".to_owned(),
        ([(first, last)], []) => range(
            std::net::Ipv4Addr::from(*first).into(),
            std::net::Ipv4Addr::from(*last).into(),
        ),
        ([], [(first, last)]) => range(
            std::net::Ipv6Addr::from(*first).into(),
            std::net::Ipv6Addr::from(*last).into(),
        ),
        (v4, v6) => format!("{} ranges", v4.len() + v6.len()),
    }
}

/// The first group that equals a set.
fn group_of(loaded: &Loaded, id: SetId) -> Option<&str> {
    let rule_set = &loaded.rule_set;
    let set = &rule_set.sets[id.0];
    let found = rule_set.groups.iter().find(|(_, group)| *group == set);
    found.map(|(name, _)| name.as_str())
}

/// Addresses as people write them: an address, a CIDR, or first and last.
pub(crate) fn range(first: IpAddr, last: IpAddr) -> String {
    use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
    let nets: Vec<IpNet> = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
        }
        _ => Vec::new(),
    };
    match nets[..] {
        [net] if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
        [net] => net.to_string(),
        _ => format!("{first}-{last}"),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{self, Source, lists};

    /// Messages of the warnings about what egress rules do not hold for.
    fn holes(rules: &str) -> Vec<String> {
        let text = format!("version = 1\n{rules}");
        let loaded = crate::rules::parse("a.toml", &text, Path::new(".")).expect("it is valid");
        let holes = egress_holes(&loaded);
        holes.iter().map(|one| one.message().to_owned()).collect()
    }

    #[test]
    fn a_rule_that_accepts_udp_for_any_port_is_a_hole_in_an_allowlist() {
        let from = |protocol: &str| {
            format!(
                "[[rule]]\nname = \"a\"\naction = \"accept\"\nfrom = [\"192.0.2.0/24\"]\n{protocol}"
            )
        };
        let filtered = |rules: String| format!("[defaults]\negress = \"drop\"\n{rules}");
        for (protocol, expected) in [
            ("", 1),
            ("protocol = \"udp\"", 1),
            ("protocol = \"udp\"\nports = [\"1-65535\"]", 1),
            ("protocol = \"udp\"\nports = [\"2-65535\"]", 0),
            ("protocol = \"udp\"\nports = [53]", 0),
            ("protocol = \"tcp\"", 0),
        ] {
            assert_eq!(
                holes(&filtered(from(protocol))).len(),
                expected,
                "{protocol}"
            );
            // Where nothing that leaves is filtered, there is nothing to have holes.
            assert!(holes(&from(protocol)).is_empty(), "{protocol}");
        }
    }

    #[test]
    fn accepting_by_default_is_a_hole_in_an_allowlist() {
        let defaults = |ingress, egress| {
            holes(&format!(
                "[defaults]\ningress = \"{ingress}\"\negress = \"{egress}\"\n"
            ))
        };
        assert_eq!(defaults("accept", "drop").len(), 1);
        assert!(defaults("accept", "accept").is_empty());
        assert!(defaults("drop", "drop").is_empty());
    }

    /// What is known of list `a`, which has 192.0.2.0/24, under these groups and rules; `b` has 198.51.100.0/24.
    fn known(groups: &str, rules: &str) -> KnownList {
        let text = format!("version = 1\n[groups]\na = {{ file = \"a\" }}\n{groups}\n{rules}");
        let list = |path: &str, text: &str| (path.to_owned(), Source::new(path, text));
        let lists = [list("a", "192.0.2.0/24\n"), list("b", "198.51.100.0/24\n")].into();
        let kept = lists::From::Kept(&lists);
        let loaded = rules::parse_with("a.toml", &text, kept).expect("it is valid");
        let mut policy = prepare(&loaded, None).expect("it is small").policy;
        policy.lists.remove("a").expect("it is there")
    }

    fn rule(name: &str, sides: &str) -> String {
        format!("[[rule]]\nname = \"{name}\"\naction = \"drop\"\n{sides}\n")
    }

    /// How many sides there are on which it is known what an address more in the list becomes, if it is known at all.
    fn sides(list: &KnownList) -> Option<usize> {
        let rows = list.rows.as_ref()?;
        let becomes = rows.iter().filter(|rows| !rows.rows.is_empty());
        Some(becomes.count())
    }

    #[test]
    fn it_is_known_what_an_address_more_in_a_list_becomes() {
        let from = rule("x", "from = [\"a\"]");
        let list = known("", &from);
        assert_eq!(list.groups, ["a".to_owned()].into());
        assert_eq!(sides(&list), Some(1));
        assert_eq!(sides(&known("", "")), Some(0));
        let both = from.clone()
            + &rule("y", "to = [\"a\"]")
            + &rule("z", "to = [\"a\"]\ndirection = \"egress\"");
        assert_eq!(sides(&known("", &both)), Some(3));
        // In a group of groups, which the rule is told by.
        let nested = known(
            "wide = [\"a\", \"203.0.113.0/24\"]",
            &rule("x", "from = [\"wide\"]"),
        );
        assert_eq!(sides(&nested), Some(1));
        // Addresses of no set beside those of `more` become something, these do not: there is no row of both yet.
        let beside = from + &rule("y", "from = [\"more\"]");
        let list = known("more = [\"203.0.113.0/24\"]", &beside);
        assert_eq!(list.rows.map(|rows| rows[0].rows.len()), Some(1));
    }

    #[test]
    fn nothing_is_known_of_a_list_on_which_more_depends() {
        let from = rule("x", "from = [\"a\"]");
        for (groups, rules) in [
            // Who is never banned.
            ("", format!("[bans]\nnever-ban = [\"a\"]\n{from}")),
            // A set that is the same by accident.
            (
                "same = [\"192.0.2.0/24\"]",
                from.clone() + &rule("y", "from = [\"same\"]"),
            ),
            // The rule is told by how many ranges it has, or by a group that has the same ones.
            ("", rule("x", "from = [\"a\", \"203.0.113.0/24\"]")),
            ("Same = [\"192.0.2.0/24\"]", from.clone()),
        ] {
            assert_eq!(sides(&known(groups, &rules)), None, "{groups} {rules}");
        }
        // Of another list, all is known.
        let other = "b = { file = \"b\" }";
        let list = known(other, &format!("[bans]\nnever-ban = [\"b\"]\n{from}"));
        assert_eq!(sides(&list), Some(1));
    }
}
