//! `limit`, `ban` and `syn-cookies` of a rule, as typed.

use toml::Spanned;
use toml::de::DeTable;

use super::super::model::{Per, Unit};
use super::{Number, Reader, Scalar, Value};

/// The terms of a rule as typed; those that are not there are `None`.
#[derive(Default)]
pub(in crate::rules) struct RawTerms {
    pub(in crate::rules) limit: Option<Term<RawLimit>>,
    pub(in crate::rules) ban: Option<Term<RawBan>>,
    /// The value of its `above`.
    pub(in crate::rules) syn_cookies: Option<Term<Spanned<Scalar>>>,
}

/// A term that is there, with its place; `None` inside: it was wrong, which has been said.
pub(in crate::rules) type Term<T> = Spanned<Option<T>>;

/// `limit` as typed. What is `None` was left out or was wrong, which has been said.
pub(in crate::rules) struct RawLimit {
    pub(in crate::rules) rate: Option<Spanned<Scalar>>,
    pub(in crate::rules) burst: Option<Spanned<Scalar>>,
    /// There is a `burst` key, right or wrong.
    pub(in crate::rules) has_burst: bool,
    pub(in crate::rules) per: Per,
    /// `None` inside: it was wrong, which has been said.
    pub(in crate::rules) unit: Spanned<Option<Unit>>,
}

/// `ban` as typed. What is `None` was left out or was wrong, which has been said.
#[derive(Default)]
pub(in crate::rules) struct RawBan {
    pub(in crate::rules) after: Option<Number>,
    pub(in crate::rules) within: Option<Spanned<Scalar>>,
    pub(in crate::rules) lasts: Option<Spanned<Scalar>>,
}

const PER: &[(&str, Per)] = &[
    ("rule", Per::Rule),
    ("source", Per::Source),
    ("source-prefix", Per::SourcePrefix),
];
const UNITS: &[(&str, Unit)] = &[
    ("packets", Unit::Packets),
    ("bytes", Unit::Bytes),
    ("connections", Unit::Connections),
];

impl Reader<'_> {
    pub(super) fn limit(&mut self, value: &Value<'_>) -> Term<RawLimit> {
        let mut limit = RawLimit {
            rate: None,
            burst: None,
            has_burst: false,
            per: Per::Rule,
            unit: Spanned::new(self.place(value), Some(Unit::Packets)),
        };
        let Some(table) = self.term("limit", value, Some("rate"), "rate = \"200/s\"") else {
            return Spanned::new(self.place(value), None);
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "rate" => limit.rate = self.rate("rate", value, "rate = \"200/s\""),
                "burst" => {
                    limit.has_burst = true;
                    limit.burst = self.scalar("burst", value, "a number", "burst = 400");
                }
                "per" => limit.per = self.choice(key, value, PER).unwrap_or(limit.per),
                "unit" => {
                    limit.unit = Spanned::new(self.place(value), self.choice(key, value, UNITS))
                }
                _ => self.unknown_key(key, "in limit", &["rate", "burst", "per", "unit"]),
            }
        }
        let help = "add rate = \"200/s\": how much may pass in which time (s, m, h or d)";
        self.demand("limit", value, table, &[("rate", help)]);
        Spanned::new(self.place(value), Some(limit))
    }

    pub(super) fn ban(&mut self, value: &Value<'_>) -> Term<RawBan> {
        const EXAMPLE: &str = "after = 20, within = \"10s\", for = \"10m\"";
        let mut ban = RawBan::default();
        let Some(table) = self.term("ban", value, None, EXAMPLE) else {
            return Spanned::new(self.place(value), None);
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "after" => ban.after = self.number("after", value, "after = 20"),
                "within" => ban.within = self.time("within", value),
                "for" => ban.lasts = self.time("for", value),
                _ => self.unknown_key(key, "in ban", &["after", "within", "for"]),
            }
        }
        let keys = [
            ("after", "add after = 20: how many packets make a ban"),
            (
                "within",
                "add within = \"10s\": the time in which so many make it",
            ),
            ("for", "add for = \"10m\": how long it lasts"),
        ];
        self.demand("ban", value, table, &keys);
        Spanned::new(self.place(value), Some(ban))
    }

    pub(super) fn syn_cookies(&mut self, value: &Value<'_>) -> Term<Spanned<Scalar>> {
        const EXAMPLE: &str = "above = \"5000/s\"";
        let mut above = None;
        if let Some(table) = self.term("syn-cookies", value, Some("above"), EXAMPLE) {
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "above" => above = self.rate("above", value, EXAMPLE),
                    _ => self.unknown_key(key, "in syn-cookies", &["above"]),
                }
            }
            let help =
                "add above = \"5000/s\": the rate of SYNs from which on they are answered so";
            self.demand("syn-cookies", value, table, &[("above", help)]);
        }
        Spanned::new(self.place(value), above)
    }

    /// The table of a term. Text in its place that begins as a rate does was probably meant as its key `rate`.
    fn term<'t, 'i>(
        &mut self,
        name: &str,
        value: &'t Value<'i>,
        rate: Option<&str>,
        example: &str,
    ) -> Option<&'t DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let text = value.get_ref().as_str().unwrap_or_default();
            let begins = text.starts_with(|c: char| c.is_ascii_digit());
            let meant = rate
                .zip(self.typed(value).filter(|_| begins))
                .map(|(rate, typed)| format!("{rate} = {typed}"));
            let inside = meant.as_deref().unwrap_or(example);
            let example = format!("{name} = {{ {inside} }}");
            self.wrong_type(name, value, "a table", &example);
        }
        table
    }

    fn rate(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Spanned<Scalar>> {
        self.scalar(key, value, "a rate", example)
    }

    /// Reports the keys that a term has to have and has not, each with its help.
    fn demand(
        &mut self,
        name: &str,
        value: &Value<'_>,
        table: &DeTable<'_>,
        keys: &[(&str, &str)],
    ) {
        for (key, help) in keys {
            if !table.contains_key(*key) {
                let message = format!("this `{name}` has no `{key}`");
                self.error(self.place(value), |d| d.help(*help).of_absence(), &message);
            }
        }
    }
}
