//! What was typed in a rule file ([`RuleFile`]), each value with its place: keys and types are checked here, meanings in
//! [`super::validate`].

mod asserts;
mod groups;
mod read;
mod tables;
mod terms;

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Collector, Source};
use super::model::{Action, Defaults, Direction, Essentials};
use read::integer;

pub(super) use asserts::RawAssert;
pub(super) use groups::{Members, RawGroup};
pub(super) use tables::{RawBans, RawFlows, RawLimits, RawVlans};
pub(super) use terms::{RawBan, RawLimit, RawTerms, Term};

/// The only version of the rule language there is.
const VERSION: i64 = 1;

/// What was typed: syntax, keys and types are right, meanings are not checked yet.
#[derive(Default)]
pub(super) struct RuleFile {
    pub(super) defaults: Defaults,
    pub(super) essentials: Essentials,
    pub(super) flows: RawFlows,
    pub(super) limits: RawLimits,
    pub(super) bans: RawBans,
    pub(super) vlans: Option<RawVlans>,
    pub(super) groups: Vec<RawGroup>,
    pub(super) rules: Vec<RawRule>,
    pub(super) asserts: Vec<RawAssert>,
}

impl RuleFile {
    /// Puts behind this what a later part of the same file says. Of the tables that there can be one of, the part holds those for whose
    /// names `has` is true.
    pub(super) fn extend(&mut self, part: Self, has: impl Fn(&str) -> bool) {
        let Self {
            defaults,
            essentials,
            flows,
            limits,
            bans,
            vlans,
            groups,
            rules,
            asserts,
        } = part;
        fn put<T>(table: &mut T, part: T, is_there: bool) {
            if is_there {
                *table = part;
            }
        }
        put(&mut self.defaults, defaults, has("defaults"));
        put(&mut self.essentials, essentials, has("essentials"));
        put(&mut self.flows, flows, has("flows"));
        put(&mut self.limits, limits, has("limits"));
        put(&mut self.bans, bans, has("bans"));
        put(&mut self.vlans, vlans, has("vlans"));
        self.groups.extend(groups);
        self.rules.extend(rules);
        self.asserts.extend(asserts);
    }
}

/// A number or a name of one.
pub(super) enum Scalar {
    /// As a number; `None` if it is too large for anything.
    Number(Option<i64>),
    /// As text.
    Text(String),
}

/// A whole number; `None` inside: too large for anything.
pub(super) type Number = Spanned<Option<i64>>;

/// A list of numbers and names; `None` stands for one of a wrong type, which has been said.
pub(super) type Scalars = Spanned<Vec<Option<Spanned<Scalar>>>>;

/// A list of addresses and group names; `None` as in [`Scalars`].
pub(super) type Texts = Spanned<Vec<Option<Spanned<String>>>>;

/// A `[[rule]]` as typed. What is `None` was left out or was wrong, which has been said.
pub(super) struct RawRule {
    pub(super) heading: Range<usize>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) action: Option<Action>,
    pub(super) direction: Option<Direction>,
    pub(super) protocol: Option<Spanned<Scalar>>,
    /// There is a `protocol` key, right or wrong.
    pub(super) has_protocol: bool,
    pub(super) ports: Option<Scalars>,
    pub(super) icmp_types: Option<Scalars>,
    pub(super) tcp_flags: Option<Spanned<RawFlags>>,
    pub(super) from: Option<Texts>,
    pub(super) to: Option<Texts>,
    pub(super) terms: RawTerms,
    pub(super) log: Option<bool>,
    pub(super) comment: Option<Spanned<String>>,
}

/// The table of a `tcp-flags` key as typed.
pub(super) struct RawFlags {
    pub(super) set: Vec<Option<Spanned<String>>>,
    pub(super) clear: Vec<Option<Spanned<String>>>,
}

const ACTIONS: &[(&str, Action)] = &[("accept", Action::Accept), ("drop", Action::Drop)];
const DIRECTIONS: &[(&str, Direction)] = &[
    ("ingress", Direction::Ingress),
    ("egress", Direction::Egress),
];

type Key<'i> = Spanned<toml::de::DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Walks the TOML tree; what has the wrong type is reported and left out, so that one pass finds every mistake.
pub(super) struct Reader<'r> {
    pub(super) source: &'r Source,
    pub(super) collector: &'r mut Collector,
    /// Where in the source the text begins that the tree is of.
    pub(super) base: usize,
}

impl Reader<'_> {
    /// Reads a whole file.
    pub(super) fn rule_file(&mut self, root: &DeTable<'_>) -> RuleFile {
        let mut file = RuleFile::default();
        self.tables(root, &mut file);
        if !root.contains_key("version") {
            self.error(
                0..0,
                |d| {
                    d.help("write version = 1 at the top of the file")
                        .of_absence()
                },
                "the file does not say which version of the rule language it is in",
            );
        }
        file
    }

    /// Reads what there is of a file, behind what there was before.
    pub(super) fn tables(&mut self, root: &DeTable<'_>, file: &mut RuleFile) {
        const KEYS: &[&str] = &[
            "version",
            "defaults",
            "essentials",
            "flows",
            "limits",
            "bans",
            "vlans",
            "groups",
            "rule",
            "assert",
        ];
        for (key, value) in root {
            match key.get_ref().as_ref() {
                "version" => self.version(value),
                "defaults" => {
                    if let Some(table) = self.table(key, value, "[defaults]") {
                        self.defaults(table, &mut file.defaults);
                    }
                }
                "essentials" => {
                    if let Some(table) = self.table(key, value, "[essentials]") {
                        self.essentials(table, &mut file.essentials);
                    }
                }
                "flows" => {
                    if let Some(table) = self.table(key, value, "[flows]") {
                        self.flows(table, &mut file.flows);
                    }
                }
                "limits" => {
                    if let Some(table) = self.table(key, value, "[limits]") {
                        self.limits(table, &mut file.limits);
                    }
                }
                "bans" => {
                    if let Some(table) = self.table(key, value, "[bans]") {
                        self.bans(table, &mut file.bans);
                    }
                }
                "vlans" => {
                    if let Some(table) = self.table(key, value, "[vlans]") {
                        file.vlans = Some(self.vlans(key, table));
                    }
                }
                "groups" => {
                    if let Some(table) = self.table(key, value, "[groups]") {
                        file.groups.extend(
                            table
                                .iter()
                                .map(|(name, members)| self.group(name, members)),
                        );
                    }
                }
                "rule" => self.rules(key, value, &mut file.rules),
                "assert" => self.asserts(key, value, &mut file.asserts),
                _ => self.unknown_key(key, "at the top level", KEYS),
            }
        }
    }

    fn version(&mut self, value: &Value<'_>) {
        match value.get_ref() {
            DeValue::Integer(n) if integer(n) == Some(VERSION) => {}
            DeValue::Integer(n) => {
                let message =
                    format!("version {n} of the rule language is not known to this program");
                self.error(
                    self.place(value),
                    |d| d.help("write version = 1, or use a newer program"),
                    &message,
                );
            }
            _ => self.wrong_type("version", value, "the number 1", "version = 1"),
        }
    }

    fn defaults(&mut self, table: &DeTable<'_>, into: &mut Defaults) {
        for (key, value) in table {
            let target = match key.get_ref().as_ref() {
                "ingress" => &mut into.ingress,
                "egress" => &mut into.egress,
                _ => {
                    self.unknown_key(key, "in [defaults]", &["ingress", "egress"]);
                    continue;
                }
            };
            if let Some(action) = self.choice(key, value, ACTIONS) {
                *target = action;
            }
        }
    }

    fn essentials(&mut self, table: &DeTable<'_>, into: &mut Essentials) {
        const KEYS: &[&str] = &[
            "arp",
            "neighbour-discovery",
            "path-mtu",
            "dhcp-client",
            "multicast-membership",
            "link-layer",
        ];
        for (key, value) in table {
            let target = match key.get_ref().as_ref() {
                "arp" => &mut into.arp,
                "neighbour-discovery" => &mut into.neighbour_discovery,
                "path-mtu" => &mut into.path_mtu,
                "dhcp-client" => &mut into.dhcp_client,
                "multicast-membership" => &mut into.multicast_membership,
                "link-layer" => &mut into.link_layer,
                _ => {
                    self.unknown_key(key, "in [essentials]", KEYS);
                    continue;
                }
            };
            if let Some(on) = self.boolean(key, value) {
                *target = on;
            }
        }
    }

    fn rules(&mut self, key: &Key<'_>, value: &Value<'_>, into: &mut Vec<RawRule>) {
        let DeValue::Array(rules) = value.get_ref() else {
            let message = "`rule` has to be a list of rules".to_owned();
            return self.error(
                self.place(value),
                |d| d.help("begin every rule with [[rule]], in double brackets"),
                &message,
            );
        };
        for rule in rules.iter() {
            match rule.get_ref() {
                DeValue::Table(table) => into.push(self.rule(self.place(rule), table)),
                _ => self.wrong_type(
                    key.get_ref(),
                    rule,
                    "a table",
                    "[[rule]] and the keys of the rule below it",
                ),
            }
        }
    }

    fn rule(&mut self, heading: Range<usize>, table: &DeTable<'_>) -> RawRule {
        const KEYS: &[&str] = &[
            "name",
            "action",
            "direction",
            "protocol",
            "ports",
            "icmp-types",
            "tcp-flags",
            "from",
            "to",
            "limit",
            "ban",
            "syn-cookies",
            "log",
            "comment",
        ];
        let mut rule = RawRule {
            heading,
            name: None,
            action: None,
            direction: None,
            protocol: None,
            has_protocol: false,
            ports: None,
            icmp_types: None,
            tcp_flags: None,
            from: None,
            to: None,
            terms: RawTerms::default(),
            log: None,
            comment: None,
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => rule.name = self.text("name", value, "name = \"web\""),
                "action" => rule.action = self.choice(key, value, ACTIONS),
                "direction" => rule.direction = self.choice(key, value, DIRECTIONS),
                "protocol" => {
                    rule.has_protocol = true;
                    rule.protocol = self.name_or_number("protocol", value, "protocol = \"tcp\"");
                }
                "ports" => {
                    rule.ports =
                        self.scalars("ports", value, "ports = [80, \"8000-8100\", \"ssh\"]")
                }
                "icmp-types" => {
                    rule.icmp_types =
                        self.scalars("icmp-types", value, "icmp-types = [\"echo-request\", 13]");
                }
                "tcp-flags" => rule.tcp_flags = self.tcp_flags(value),
                "from" => rule.from = self.texts("from", value, "from = [\"192.0.2.0/24\"]"),
                "to" => rule.to = self.texts("to", value, "to = [\"192.0.2.10\"]"),
                "limit" => rule.terms.limit = Some(self.limit(value)),
                "ban" => rule.terms.ban = Some(self.ban(value)),
                "syn-cookies" => rule.terms.syn_cookies = Some(self.syn_cookies(value)),
                "log" => rule.log = self.boolean(key, value),
                "comment" => {
                    rule.comment =
                        self.text("comment", value, "comment = \"why the rule is there\"")
                }
                _ => self.unknown_key(key, "in a rule", KEYS),
            }
        }
        for (key, help) in [
            (
                "name",
                "add name = \"...\", unique in the file: counters go by it",
            ),
            ("action", "add action = \"accept\" or action = \"drop\""),
        ] {
            if !table.contains_key(key) {
                let message = format!("this rule has no `{key}`");
                self.error(
                    rule.heading.clone(),
                    |d| d.help(help).of_absence(),
                    &message,
                );
            }
        }
        rule
    }

    fn tcp_flags(&mut self, value: &Value<'_>) -> Option<Spanned<RawFlags>> {
        const EXAMPLE: &str = "tcp-flags = { set = [\"syn\"], clear = [\"ack\"] }";
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type("tcp-flags", value, "a table", EXAMPLE);
            return None;
        };
        let mut flags = RawFlags {
            set: Vec::new(),
            clear: Vec::new(),
        };
        let mut whole = true;
        for (key, value) in table {
            let target = match key.get_ref().as_ref() {
                "set" => &mut flags.set,
                "clear" => &mut flags.clear,
                _ => {
                    whole = false;
                    self.unknown_key(key, "in tcp-flags", &["set", "clear"]);
                    continue;
                }
            };
            match self.texts(key.get_ref(), value, EXAMPLE) {
                Some(list) => *target = list.into_inner(),
                None => whole = false,
            }
        }
        whole.then(|| Spanned::new(self.place(value), flags))
    }
}
