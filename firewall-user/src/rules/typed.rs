//! What was typed in a rule file ([`RuleFile`]), each value with its place: keys and types are checked here, meanings in
//! [`super::validate`].

use std::ops::Range;

use firewall_common::abi::flow::Timeouts;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Collector, Diagnostic, Source};
use super::model::{Action, Defaults, Direction, Essentials};
use super::names::closest;
use super::shown::quoted;

/// The only version of the rule language there is.
const VERSION: i64 = 1;

/// What was typed: syntax, keys and types are right, meanings are not checked yet.
pub(super) struct RuleFile {
    pub(super) defaults: Defaults,
    pub(super) essentials: Essentials,
    pub(super) flows: RawFlows,
    pub(super) vlans: Option<RawVlans>,
    pub(super) groups: Vec<RawGroup>,
    pub(super) rules: Vec<RawRule>,
}

/// `[flows]` as typed. What is missing was left out or was wrong, which has been said.
#[derive(Default)]
pub(super) struct RawFlows {
    /// `None` inside: too large for anything.
    pub(super) size: Option<Spanned<Option<i64>>>,
    pub(super) timeouts: Vec<(TimeoutField, Spanned<Scalar>)>,
}

/// `[vlans]` as typed.
pub(super) struct RawVlans {
    pub(super) heading: Range<usize>,
    pub(super) untagged: Option<bool>,
    pub(super) ids: Option<Scalars>,
}

/// Which of the timeouts it is.
pub(super) type TimeoutField = fn(&mut Timeouts) -> &mut u32;

/// A group as typed.
pub(super) struct RawGroup {
    pub(super) name: Spanned<String>,
    pub(super) members: Members,
}

/// What a group holds, as typed.
pub(super) enum Members {
    /// Addresses, CIDRs and names of groups.
    List(Vec<Option<Spanned<String>>>),
    /// Path of a list file.
    File(Spanned<String>),
    /// Something wrong, which has been said.
    Broken,
}

/// A number or a name of one.
pub(super) enum Scalar {
    /// As a number; `None` if it is too large for anything.
    Number(Option<i64>),
    /// As text.
    Text(String),
}

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

const TIMEOUTS: [(&str, TimeoutField); 8] = [
    ("tcp-syn-sent", |timeouts| &mut timeouts.tcp_syn_sent),
    ("tcp-established", |timeouts| &mut timeouts.tcp_established),
    ("tcp-closing", |timeouts| &mut timeouts.tcp_closing),
    ("tcp-closed", |timeouts| &mut timeouts.tcp_closed),
    ("udp", |timeouts| &mut timeouts.udp),
    ("udp-stream", |timeouts| &mut timeouts.udp_stream),
    ("icmp", |timeouts| &mut timeouts.icmp),
    ("other", |timeouts| &mut timeouts.other),
];

type Key<'i> = Spanned<toml::de::DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Walks the TOML tree; what has the wrong type is reported and left out, so that one pass finds every mistake.
pub(super) struct Reader<'r> {
    pub(super) source: &'r Source,
    pub(super) collector: &'r mut Collector,
}

impl Reader<'_> {
    pub(super) fn rule_file(&mut self, root: &DeTable<'_>) -> RuleFile {
        const KEYS: &[&str] = &[
            "version",
            "defaults",
            "essentials",
            "flows",
            "vlans",
            "groups",
            "rule",
        ];
        let mut file = RuleFile {
            defaults: Defaults::default(),
            essentials: Essentials::default(),
            flows: RawFlows::default(),
            vlans: None,
            groups: Vec::new(),
            rules: Vec::new(),
        };
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
                _ => self.unknown_key(key, "at the top level", KEYS),
            }
        }
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

    fn version(&mut self, value: &Value<'_>) {
        match value.get_ref() {
            DeValue::Integer(n) if integer(n) == Some(VERSION) => {}
            DeValue::Integer(n) => {
                let message =
                    format!("version {n} of the rule language is not known to this program");
                self.error(
                    value.span(),
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

    fn flows(&mut self, table: &DeTable<'_>, into: &mut RawFlows) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "size" => match value.get_ref() {
                    DeValue::Integer(n) => {
                        into.size = Some(Spanned::new(value.span(), integer(n)));
                    }
                    _ => self.wrong_type("size", value, "a number", "size = 65536"),
                },
                "timeouts" => {
                    if let Some(table) = self.table(key, value, "[flows.timeouts]") {
                        self.timeouts(table, &mut into.timeouts);
                    }
                }
                _ => self.unknown_key(key, "in [flows]", &["size", "timeouts"]),
            }
        }
    }

    fn vlans(&mut self, heading: &Key<'_>, table: &DeTable<'_>) -> RawVlans {
        let mut vlans = RawVlans {
            heading: heading.span(),
            untagged: None,
            ids: None,
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "untagged" => vlans.untagged = self.boolean(key, value),
                "ids" => vlans.ids = self.scalars("ids", value, "ids = [10, \"20-29\"]"),
                _ => self.unknown_key(key, "in [vlans]", &["untagged", "ids"]),
            }
        }
        vlans
    }

    fn timeouts(&mut self, table: &DeTable<'_>, into: &mut Vec<(TimeoutField, Spanned<Scalar>)>) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let Some((_, field)) = TIMEOUTS.iter().find(|(known, _)| *known == name) else {
                self.unknown_key(key, "in [flows.timeouts]", &TIMEOUTS.map(|(name, _)| name));
                continue;
            };
            let wanted = "a time";
            let example = format!("{name} = 120 for seconds, or {name} = \"2m\"");
            if let Some(time) = self.scalar(name, value, wanted, &example) {
                into.push((*field, time));
            }
        }
    }

    fn group(&mut self, name: &Key<'_>, members: &Value<'_>) -> RawGroup {
        let example = format!("{} = [\"192.0.2.0/24\"]", name.get_ref());
        let members = match members.get_ref() {
            DeValue::Array(_) => self
                .texts(name.get_ref(), members, &example)
                .map(|list| Members::List(list.into_inner())),
            DeValue::Table(table) => self.group_file(name, members, table),
            _ => {
                let wanted = "a list of addresses, CIDRs and groups, or { file = \"...\" }";
                self.wrong_type(name.get_ref(), members, wanted, &example);
                None
            }
        };
        RawGroup {
            name: Spanned::new(name.span(), name.get_ref().clone().into_owned()),
            members: members.unwrap_or(Members::Broken),
        }
    }

    fn group_file(
        &mut self,
        name: &Key<'_>,
        place: &Value<'_>,
        table: &DeTable<'_>,
    ) -> Option<Members> {
        let mut file = None;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "file" => {
                    file = self
                        .text(key.get_ref(), value, "file = \"addresses.txt\"")
                        .map(Members::File)
                }
                _ => self.unknown_key(key, "in a group", &["file"]),
            }
        }
        if table.is_empty() {
            let message = format!("group {} names no file", quoted(name.get_ref()));
            self.error(
                place.span(),
                |d| {
                    d.help("write { file = \"addresses.txt\" }, or a list")
                        .of_absence()
                },
                &message,
            );
        }
        file
    }

    fn rules(&mut self, key: &Key<'_>, value: &Value<'_>, into: &mut Vec<RawRule>) {
        let DeValue::Array(rules) = value.get_ref() else {
            let message = "`rule` has to be a list of rules".to_owned();
            return self.error(
                value.span(),
                |d| d.help("begin every rule with [[rule]], in double brackets"),
                &message,
            );
        };
        for rule in rules.iter() {
            match rule.get_ref() {
                DeValue::Table(table) => into.push(self.rule(rule.span(), table)),
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
        whole.then(|| Spanned::new(value.span(), flags))
    }

    fn table<'t, 'i>(
        &mut self,
        key: &Key<'_>,
        value: &'t Value<'i>,
        heading: &str,
    ) -> Option<&'t DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(
                key.get_ref(),
                value,
                "a table",
                &format!("{heading} and its keys below"),
            );
        }
        table
    }

    fn text(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Spanned<String>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.clone().into_owned())),
            _ => {
                self.wrong_type(key, value, "text in quotes", example);
                None
            }
        }
    }

    fn boolean(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            let key = key.get_ref();
            self.wrong_type(
                key,
                value,
                "true or false",
                &format!("{key} = true, without quotes"),
            );
        }
        found
    }

    fn name_or_number(
        &mut self,
        key: &str,
        value: &Value<'_>,
        example: &str,
    ) -> Option<Spanned<Scalar>> {
        self.scalar(key, value, "a name or a number", example)
    }

    fn scalar(
        &mut self,
        key: &str,
        value: &Value<'_>,
        wanted: &str,
        example: &str,
    ) -> Option<Spanned<Scalar>> {
        let scalar = match value.get_ref() {
            DeValue::String(text) => Scalar::Text(text.clone().into_owned()),
            DeValue::Integer(n) => Scalar::Number(integer(n)),
            _ => {
                self.wrong_type(key, value, wanted, example);
                return None;
            }
        };
        Some(Spanned::new(value.span(), scalar))
    }

    fn scalars(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Scalars> {
        let DeValue::Array(list) = value.get_ref() else {
            self.no_list(key, value, example);
            return None;
        };
        let read = list
            .iter()
            .map(|element| self.name_or_number(key, element, example))
            .collect();
        Some(Spanned::new(value.span(), read))
    }

    fn texts(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Texts> {
        let DeValue::Array(list) = value.get_ref() else {
            self.no_list(key, value, example);
            return None;
        };
        let read = list
            .iter()
            .map(|element| self.text(key, element, example))
            .collect();
        Some(Spanned::new(value.span(), read))
    }

    /// A single value where a list belongs: mostly only the brackets are missing.
    fn no_list(&mut self, key: &str, value: &Value<'_>, example: &str) {
        let single = matches!(value.get_ref(), DeValue::String(_) | DeValue::Integer(_));
        let typed = self.source.bytes().get(value.span()).unwrap_or_default();
        match std::str::from_utf8(typed) {
            Ok(typed) if single && typed.len() < 60 && !typed.contains(char::is_control) => {
                self.wrong_type(key, value, "a list", &format!("{key} = [{typed}]"));
            }
            _ => self.wrong_type(key, value, "a list", example),
        }
    }

    fn choice<T: Copy>(
        &mut self,
        key: &Key<'_>,
        value: &Value<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let all: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let all = all.join(" or ");
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(
                key.get_ref(),
                value,
                &all,
                &format!("{} = \"{}\"", key.get_ref(), choices[0].0),
            );
            return None;
        };
        let found = choices
            .iter()
            .find(|(name, _)| name == text)
            .map(|(_, meaning)| *meaning);
        if found.is_none() {
            let message = format!("`{}` has to be {all}, not {}", key.get_ref(), quoted(text));
            let near = closest(text, choices.iter().map(|(name, _)| *name));
            let help = near.map_or_else(
                || format!("write {all}"),
                |near| format!("did you mean \"{near}\"?"),
            );
            self.error(value.span(), |d| d.help(help), &message);
        }
        found
    }

    fn unknown_key(&mut self, key: &Key<'_>, place: &str, known: &[&str]) {
        let name = key.get_ref();
        let message = format!("unknown key {} {place}", quoted(name));
        self.error(
            key.span(),
            |d| match closest(name, known.iter().copied()) {
                Some("rule") => d.help("did you mean [[rule]]?"),
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help(format!("the keys known {place} are {}", known.join(", "))),
            },
            &message,
        );
    }

    fn wrong_type(&mut self, key: &str, value: &Value<'_>, wanted: &str, example: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("{} has to be {wanted}, not {found}", quoted(key));
        self.error(
            value.span(),
            |d| d.help(format!("write {example}")),
            &message,
        );
    }

    fn error(
        &mut self,
        span: Range<usize>,
        finish: impl FnOnce(Diagnostic) -> Diagnostic,
        message: &str,
    ) {
        let source = self.source;
        self.collector
            .error(|| finish(Diagnostic::error(message).at(source, span, "")));
    }
}

/// A TOML integer, if 64 bits can hold it.
fn integer(n: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(n.as_str(), n.radix()).ok()
}
