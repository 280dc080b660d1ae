//! A rule file on its way into the kernel: loaded, compiled, described.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use firewall_common::parse::protocol;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use zerocopy::IntoBytes as _;

use crate::counters::{Decides, Gone, Slots};
use crate::kernel::description::{DescribedRule, Description, Policy};
use crate::kernel::image::Image;
use crate::kernel::interface;
use crate::list_rows::{KnownList, ListRows};
use crate::rules::compile::{Compiled, compile};
use crate::rules::model::{
    Action, AddressSet, Direction, Per, Protocol, Rate, Rule, RuleSet, SetId, Terms, Unit,
};
use crate::rules::names::{self, IcmpFamily};
use crate::rules::{Diagnostic, Loaded};

/// A policy ready to be loaded.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) image: Image,
    pub(crate) policy: Policy,
    /// What the compiler noticed.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Compiles `loaded`; counters keep the slots that they have in `before`. Of what the compiler notices, it tells `most` warnings.
///
/// # Errors
///
/// The tables would be too large.
pub(crate) fn prepare(loaded: &Loaded, before: Option<&Policy>, most: usize) -> Result<Prepared> {
    let rule_set = &loaded.rule_set;
    let mut words = Words::of(rule_set);
    let rules: Vec<DescribedRule> = rule_set
        .rules
        .iter()
        .map(|rule| DescribedRule {
            name: rule.name.clone(),
            direction: direction(rule.direction).to_owned(),
            action: action(rule.action).to_owned(),
            matches: words.matches(rule),
            comment: rule.comment.clone(),
            line: rule.line,
        })
        .collect();
    let compiled = compile(rule_set, &taken(before, &rules))?;
    let warnings = warnings(loaded, &compiled, most);
    let lists = known_lists(loaded, compiled.lists, &mut words);
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
        ports: compiled.ports,
        slots: compiled.slots,
        lists,
        asserts: loaded.asserts,
        gone: Gone::default(),
    };
    Ok(Prepared {
        image: compiled.image.into(),
        policy,
        warnings,
    })
}

/// The slots that are taken when `rules` come in force after `before`. A rule of the same name that does something else is another one.
fn taken<'b>(before: Option<&'b Policy>, rules: &[DescribedRule]) -> Slots<&'b str> {
    let Some(before) = before else {
        return Slots::default();
    };
    let next: foldhash::HashMap<&str, Decides> = (rules.iter())
        .map(|rule| (rule.name.as_str(), rule.decides()))
        .collect();
    let was = before.deciding().rules;
    let is_another = |name: &str| {
        let (was, next) = (was.get(name), next.get(name));
        was.zip(next).is_some_and(|(was, next)| was != next)
    };
    before.slots.without(is_another, &before.gone.slots())
}

impl Prepared {
    /// The image, described as the generation with this number.
    ///
    /// # Errors
    ///
    /// `file` cannot be made absolute, or procfs is out of reach.
    pub(crate) fn describe(self, file: &Path, generation: u64) -> Result<(Image, Description)> {
        let file =
            std::path::absolute(file).with_context(|| format!("the path of {}", file.display()))?;
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let description = Description {
            generation,
            newest: generation,
            namespace: interface::namespace()?,
            file: file.display().to_string(),
            applied_at_s: since_epoch.as_secs(),
            policy: self.policy,
        };
        Ok((self.image, description))
    }
}

/// The address lists, with what a live edit of one needs to know.
fn known_lists(
    loaded: &Loaded,
    mut of_lists: BTreeMap<String, Vec<ListRows>>,
    words: &mut Words<'_>,
) -> BTreeMap<String, KnownList> {
    let rule_set = &loaded.rule_set;
    let lists = rule_set.lists.iter().map(|(path, list)| {
        // A set that is told by how many ranges it has would be told wrongly with one more.
        let mut is_told = |set: &SetId| list.within.contains(words.addresses(*set));
        let rows = of_lists.remove(path).unwrap_or_default();
        let is_known = !list.is_entangled && list.sets.iter().all(&mut is_told);
        let known = KnownList {
            groups: list.groups.clone(),
            rows: is_known.then_some(rows),
        };
        (path.clone(), known)
    });
    lists.collect()
}

/// The first of all warnings, `most` of them.
fn warnings(loaded: &Loaded, compiled: &Compiled, most: usize) -> Vec<Diagnostic> {
    let shadowed = compiled.ingress.shadowed.iter();
    let shadowed: BTreeMap<_, _> = shadowed.chain(&compiled.egress.shadowed).collect();
    // A rule that matches nothing by itself has been told of already.
    let shadowed = (shadowed.into_iter()).filter(|(_, winners)| !winners.is_empty());
    let shadowed = shadowed.map(|(&rule, winners)| never_matches(loaded, rule, winners));
    let mut warnings: Vec<Diagnostic> = shadowed.take(most).collect();
    warnings.extend(egress_holes(loaded));
    warnings.extend(limited_answers(loaded));
    warnings.truncate(most);
    warnings
}

/// That a rule can never match, because `winners` take all of its packets.
fn never_matches(loaded: &Loaded, rule: usize, winners: &BTreeSet<usize>) -> Diagnostic {
    let names = winners.iter();
    let names: Vec<String> = names
        .map(|&winner| format!("`{}`", loaded.rule_set.rules[winner].name))
        .collect();
    let cover = if names.len() == 1 { "covers" } else { "cover" };
    let message = format!("this rule can never match: {} {cover} it", names.join(", "));
    let mut warning = loaded.rule_warning(rule, message, "never reached");
    for &winner in winners {
        warning = loaded.also_at_rule(warning, winner, "matches first");
    }
    warning.help("remove it, or move it before the rules that cover it")
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

/// Puts rules in words. What a set of addresses is called is found out once, though many rules name it.
struct Words<'r> {
    rule_set: &'r RuleSet,
    /// Groups by what can be compared at once: how many ranges they have, and the first of them.
    groups: HashMap<Outline, Vec<(&'r str, &'r AddressSet)>>,
    /// What sets are called, as far as it is known.
    sets: Vec<Option<String>>,
}

/// What two sets that are equal have in common.
type Outline = (usize, usize, Option<(u32, u32)>, Option<(u128, u128)>);

impl<'r> Words<'r> {
    fn of(rule_set: &'r RuleSet) -> Self {
        let mut groups: HashMap<Outline, Vec<_>> = HashMap::new();
        for (name, group) in &rule_set.groups {
            let alike = groups.entry(outline(group)).or_default();
            alike.push((&name[..], group));
        }
        Self {
            rule_set,
            groups,
            sets: vec![None; rule_set.sets.len()],
        }
    }

    /// What a rule matches: `tcp 80,443 from 2 ranges`.
    fn matches(&mut self, rule: &Rule) -> String {
        let mut text = String::new();
        match rule.protocol {
            Protocol::Any => text.push_str("any"),
            Protocol::Number(number) => match names::protocol_name(number) {
                Some(name) => text.push_str(name),
                None => push(&mut text, number),
            },
        }
        let mut between = ' ';
        for &(low, high) in rule.ports.iter().flatten() {
            text.push(between);
            push(&mut text, low);
            if low != high {
                text.push('-');
                push(&mut text, high);
            }
            between = ',';
        }
        let family = match rule.protocol {
            Protocol::Number(58) => IcmpFamily::V6,
            _ => IcmpFamily::V4,
        };
        let mut between = ' ';
        for &kind in rule.icmp_types.iter().flatten() {
            text.push(between);
            match family.type_name(kind) {
                Some(name) => text.push_str(name),
                None => push(&mut text, kind),
            }
            between = ',';
        }
        if let Some(flags) = rule.tcp_flags {
            let _ = write!(
                text,
                " flags {:#04x}/{:#04x}",
                flags.set,
                flags.set | flags.clear
            );
        }
        for (word, set) in [(" from ", rule.from), (" to ", rule.to)] {
            if let Some(set) = set {
                text.push_str(word);
                text.push_str(self.addresses(set));
            }
        }
        terms(&rule.terms, &mut text);
        text
    }

    /// A set by the name of a group that equals it, by its only range, or by how many ranges it has.
    fn addresses(&mut self, id: SetId) -> &str {
        let set = &self.rule_set.sets[id.0];
        let alike = self.groups.get(&outline(set));
        self.sets[id.0].get_or_insert_with(|| {
            let mut alike = alike.into_iter().flatten();
            match alike.find(|(_, group)| *group == set) {
                Some((name, _)) => (*name).to_owned(),
                None => ranges_in_words(set),
            }
        })
    }
}

fn outline(set: &AddressSet) -> Outline {
    let (v4, v6) = (&set.v4, &set.v6);
    (v4.len(), v6.len(), v4.first().copied(), v6.first().copied())
}

fn push(text: &mut String, number: impl std::fmt::Display) {
    let _ = write!(text, "{number}");
}

fn ranges_in_words(set: &AddressSet) -> String {
    match (&set.v4[..], &set.v6[..]) {
        ([], []) => "nobody".to_owned(),
        ([(first, last)], []) => range(Ipv4Addr::from(*first).into(), Ipv4Addr::from(*last).into()),
        ([], [(first, last)]) => range(Ipv6Addr::from(*first).into(), Ipv6Addr::from(*last).into()),
        (v4, v6) => format!("{} ranges", v4.len() + v6.len()),
    }
}

/// Appends what a rule asks beyond that: ` limit 200/s burst 400 per source ban 20 in 10s for 600s`.
fn terms(terms: &Terms, text: &mut String) {
    let rate = |rate: Rate| {
        let unit = match rate.per_s {
            1 => "s",
            60 => "m",
            3_600 => "h",
            _ => "d",
        };
        format!("{}/{unit}", rate.amount)
    };
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
}

/// Addresses as people write them: an address, a CIDR, or first and last.
pub(crate) fn range(first: IpAddr, last: IpAddr) -> String {
    if first == last {
        return first.to_string();
    }
    // The longest prefix that both are in.
    let length = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => 0,
    };
    let net = IpNet::new(first, length as u8).ok();
    match net.filter(|net| net.network() == first && net.broadcast() == last) {
        Some(net) => net.to_string(),
        None => format!("{first}-{last}"),
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
        let mut policy = prepare(&loaded, None, 0).expect("it is small").policy;
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
