//! What is written otherwise in a rule file, whether or not it changes what becomes of packets.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::order;
use crate::rules::compile::Compiled;
use crate::rules::model::{Action, AddressSet, Direction, Rule, RuleSet, SetId, Vlans};

/// What was done to a rule. Rules are known by their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum RuleChange {
    /// It is new.
    Added {
        /// Its name.
        rule: String,
        /// Line in the new file.
        line: usize,
    },
    /// It is gone.
    Removed {
        /// Its name.
        rule: String,
        /// Line in the old file.
        line: usize,
    },
    /// It says something else.
    Changed {
        /// Its name.
        rule: String,
        /// Line in the new file.
        line: usize,
        /// The keys whose values are others.
        fields: Vec<&'static str>,
    },
    /// It comes before or behind rules of its direction that it did not. It may have changed as well.
    Moved {
        /// Its name.
        rule: String,
        /// Line in the new file.
        line: usize,
    },
}

/// A setting beside the rules that has another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Table and key: `defaults.ingress`.
    pub key: &'static str,
    /// Its value in the old file.
    pub was: String,
    /// Its value in the new one.
    pub now: String,
}

/// Names of rules that can never match in one file and can in the other, of those that both have or the new one adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shadowing {
    /// Now covered by earlier rules.
    pub newly: Vec<String>,
    /// No longer.
    pub no_longer: Vec<String>,
}

/// Rules that were added, removed, changed and moved, in the order of the new file; those removed first.
pub fn rules(old: &RuleSet, new: &RuleSet) -> Vec<RuleChange> {
    let of_old: HashMap<&str, usize> = by_name(old);
    let of_new: HashMap<&str, usize> = by_name(new);
    let removed = old
        .rules
        .iter()
        .filter(|rule| !of_new.contains_key(&rule.name[..]));
    let mut changes: Vec<RuleChange> = removed
        .map(|rule| RuleChange::Removed {
            rule: rule.name.clone(),
            line: rule.line,
        })
        .collect();
    let moved = moved(old, new, &of_old);
    for (index, after) in new.rules.iter().enumerate() {
        let (rule, line) = (after.name.clone(), after.line);
        let Some(&before) = of_old.get(&after.name[..]) else {
            changes.push(RuleChange::Added { rule, line });
            continue;
        };
        let fields = fields((old, &old.rules[before]), (new, after));
        if !fields.is_empty() {
            changes.push(RuleChange::Changed {
                rule: rule.clone(),
                line,
                fields,
            });
        }
        if moved.contains(&index) {
            changes.push(RuleChange::Moved { rule, line });
        }
    }
    changes
}

fn by_name(rule_set: &RuleSet) -> HashMap<&str, usize> {
    let rules = rule_set.rules.iter().enumerate();
    rules.map(|(index, rule)| (&rule.name[..], index)).collect()
}

/// Indices of the new file's rules that have another place among those of their direction. As few are told of as possible.
fn moved(old: &RuleSet, new: &RuleSet, of_old: &HashMap<&str, usize>) -> BTreeSet<usize> {
    let mut moved = BTreeSet::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let both: Vec<(usize, usize)> = (0..new.rules.len())
            .filter_map(|index| {
                let rule = &new.rules[index];
                let before = *of_old.get(&rule.name[..])?;
                let stays = [rule.direction, old.rules[before].direction] == [direction; 2];
                stays.then_some((index, before))
            })
            .collect();
        let places: Vec<usize> = both.iter().map(|&(_, before)| before).collect();
        let kept = order::ascending(&places);
        let others = both.iter().zip(kept).filter(|(_, kept)| !kept);
        moved.extend(others.map(|(&(index, _), _)| index));
    }
    moved
}

/// Keys of a rule whose values are others, as rule files call them.
fn fields((old, before): (&RuleSet, &Rule), (new, after): (&RuleSet, &Rule)) -> Vec<&'static str> {
    fn set(rule_set: &RuleSet, id: Option<SetId>) -> Option<&AddressSet> {
        id.map(|id| &rule_set.sets[id.0])
    }
    let differs = [
        ("action", before.action != after.action),
        ("direction", before.direction != after.direction),
        ("protocol", before.protocol != after.protocol),
        ("ports", before.ports != after.ports),
        ("icmp-types", before.icmp_types != after.icmp_types),
        ("tcp-flags", before.tcp_flags != after.tcp_flags),
        ("from", set(old, before.from) != set(new, after.from)),
        ("to", set(old, before.to) != set(new, after.to)),
        ("limit", before.terms.limit != after.terms.limit),
        ("ban", before.terms.ban != after.terms.ban),
        (
            "syn-cookies",
            before.terms.syn_cookies != after.terms.syn_cookies,
        ),
        ("log", before.log != after.log),
        ("comment", before.comment != after.comment),
    ];
    let differs = differs.into_iter().filter(|(_, differs)| *differs);
    differs.map(|(field, _)| field).collect()
}

/// Settings beside the rules that have other values.
pub fn settings(old: &RuleSet, new: &RuleSet) -> Vec<Setting> {
    let [before, after] = [values(old), values(new)];
    let pairs = before.into_iter().zip(after);
    let mut settings: Vec<Setting> = pairs
        .filter(|((_, was), (_, now))| was != now)
        .map(|((key, was), (_, now))| Setting { key, was, now })
        .collect();
    if old.bans.never != new.bans.never {
        let ranges = |set: &AddressSet| format!("{} ranges", set.v4.len() + set.v6.len());
        settings.push(Setting {
            key: "bans.never-ban",
            was: ranges(&old.bans.never),
            now: ranges(&new.bans.never),
        });
    }
    settings
}

/// Every setting as a rule file would have it.
fn values(rule_set: &RuleSet) -> Vec<(&'static str, String)> {
    let RuleSet {
        defaults,
        essentials,
        flows,
        limits,
        bans,
        vlans,
        ..
    } = rule_set;
    let action = |action: Action| match action {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
    };
    let times = &flows.timeouts;
    let seconds = |seconds: u32| format!("{seconds}s");
    vec![
        ("defaults.ingress", action(defaults.ingress)),
        ("defaults.egress", action(defaults.egress)),
        ("essentials.arp", essentials.arp.to_string()),
        (
            "essentials.neighbour-discovery",
            essentials.neighbour_discovery.to_string(),
        ),
        ("essentials.path-mtu", essentials.path_mtu.to_string()),
        ("essentials.dhcp-client", essentials.dhcp_client.to_string()),
        (
            "essentials.multicast-membership",
            essentials.multicast_membership.to_string(),
        ),
        ("essentials.link-layer", essentials.link_layer.to_string()),
        (
            "vlans",
            vlans.as_ref().map_or_else(|| "any".to_owned(), listed),
        ),
        ("flows.size", flows.size.to_string()),
        ("flows.timeouts.tcp-syn-sent", seconds(times.tcp_syn_sent)),
        (
            "flows.timeouts.tcp-established",
            seconds(times.tcp_established),
        ),
        ("flows.timeouts.tcp-closing", seconds(times.tcp_closing)),
        ("flows.timeouts.tcp-closed", seconds(times.tcp_closed)),
        ("flows.timeouts.udp", seconds(times.udp)),
        ("flows.timeouts.udp-stream", seconds(times.udp_stream)),
        ("flows.timeouts.icmp", seconds(times.icmp)),
        ("flows.timeouts.other", seconds(times.other)),
        ("limits.size", limits.size.to_string()),
        ("limits.prefix-v4", limits.prefix_v4.to_string()),
        ("limits.prefix-v6", limits.prefix_v6.to_string()),
        ("bans.size", bans.size.to_string()),
    ]
}

/// `untagged, 10, 20-29`.
fn listed(vlans: &Vlans) -> String {
    let untagged = vlans.untagged.then(|| "untagged".to_owned());
    let ids = vlans.ids.iter().map(|&(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    });
    untagged
        .into_iter()
        .chain(ids)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Which rules can never match any more, and which can again, each rule set with its tables.
pub fn shadowing(old: (&RuleSet, &Compiled), new: (&RuleSet, &Compiled)) -> Shadowing {
    let [before, after] = [shadowed(old), shadowed(new)];
    let names: HashMap<&str, usize> = by_name(new.0);
    let owned = |rule: &&str| (*rule).to_owned();
    let again = before.difference(&after);
    Shadowing {
        newly: after.difference(&before).map(owned).collect(),
        no_longer: again
            .filter(|rule| names.contains_key(*rule))
            .map(owned)
            .collect(),
    }
}

fn shadowed<'r>((rule_set, compiled): (&'r RuleSet, &Compiled)) -> BTreeSet<&'r str> {
    let indices = compiled.ingress.shadowed.keys();
    let indices = indices.chain(compiled.egress.shadowed.keys());
    indices
        .map(|&index| &rule_set.rules[index].name[..])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::counters::Slots;
    use crate::rules::compile::compile;

    fn parsed(text: &str) -> RuleSet {
        let text = format!("version = 1\n{text}");
        crate::rules::parse("a.toml", &text, Path::new("."))
            .expect("it is valid")
            .rule_set
    }

    fn rule(name: &str, more: &str) -> String {
        format!("[[rule]]\nname = \"{name}\"\naction = \"accept\"\nprotocol = \"tcp\"\n{more}\n")
    }

    #[test]
    fn rules_are_known_by_their_names() {
        let [a, b, c] = ["a", "b", "c"].map(|name| rule(name, "ports = [22]"));
        let old = parsed(&format!("{a}{b}{c}"));
        assert_eq!(rules(&old, &old), []);
        let changed = rule("b", "ports = [23]\nlog = true\nlimit = { rate = \"5/s\" }");
        let new = parsed(&format!("{c}{changed}{}", rule("d", "ports = [80]")));
        let told = rules(&old, &new);
        let name = str::to_owned;
        assert_eq!(
            told,
            [
                RuleChange::Removed {
                    rule: name("a"),
                    line: 2
                },
                RuleChange::Moved {
                    rule: name("c"),
                    line: 2
                },
                RuleChange::Changed {
                    rule: name("b"),
                    line: 7,
                    fields: vec!["ports", "limit", "log"]
                },
                RuleChange::Added {
                    rule: name("d"),
                    line: 14
                },
            ]
        );
    }

    #[test]
    fn a_set_is_known_by_its_addresses_and_not_by_its_name() {
        let grouped = "[groups]\noffice = [\"203.0.113.0/24\"]\n".to_owned()
            + &rule("a", "from = [\"office\"]");
        let [old, new] = [
            parsed(&grouped),
            parsed(&rule("a", "from = [\"203.0.113.0/24\"]")),
        ];
        assert_eq!(rules(&old, &new), []);
        let wider = parsed(&rule("a", "from = [\"203.0.113.0/24\", \"192.0.2.1\"]"));
        assert!(
            matches!(&rules(&old, &wider)[..], [RuleChange::Changed { fields, .. }] if *fields == ["from"])
        );
    }

    #[test]
    fn settings_are_told_as_a_file_has_them() {
        let [old, new] = [
            parsed(""),
            parsed(
                "[defaults]\negress = \"drop\"\n[essentials]\narp = false\n[vlans]\nids = [10, \"20-29\"]\n\
                 [bans]\nnever-ban = [\"192.0.2.1\"]\n[flows.timeouts]\nudp = \"45s\"\n",
            ),
        ];
        assert_eq!(settings(&old, &old), []);
        let told: Vec<String> = settings(&old, &new)
            .into_iter()
            .map(|Setting { key, was, now }| format!("{key}: {was} -> {now}"))
            .collect();
        assert_eq!(
            told,
            [
                "defaults.egress: accept -> drop",
                "essentials.arp: true -> false",
                "vlans: any -> untagged, 10, 20-29",
                "flows.timeouts.udp: 30s -> 45s",
                "bans.never-ban: 0 ranges -> 1 ranges",
            ]
        );
    }

    #[test]
    fn a_rule_that_is_covered_now_is_told_of() {
        let narrow = rule("narrow", "ports = [22]");
        let wide = rule("wide", "");
        let [before, after] = [
            parsed(&format!("{narrow}{wide}")),
            parsed(&format!("{wide}{narrow}")),
        ];
        let [one, other] =
            [&before, &after].map(|rule_set| compile(rule_set, &Slots::default()).unwrap());
        let told = shadowing((&before, &one), (&after, &other));
        assert_eq!(
            (&told.newly[..], &told.no_longer[..]),
            (&["narrow".to_owned()][..], &[][..])
        );
        let told = shadowing((&after, &other), (&before, &one));
        assert_eq!(
            (&told.newly[..], &told.no_longer[..]),
            (&[][..], &["narrow".to_owned()][..])
        );
    }
}
