//! Values of a rule file by their types: one of a wrong type is reported with what to write instead, and left out.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::diagnostic::Diagnostic;
use super::super::names::closest;
use super::super::shown::quoted;
use super::{Key, Number, Reader, Scalar, Scalars, Texts, Value};

impl Reader<'_> {
    pub(super) fn table<'t, 'i>(
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

    pub(super) fn text(
        &mut self,
        key: &str,
        value: &Value<'_>,
        example: &str,
    ) -> Option<Spanned<String>> {
        match value.get_ref() {
            DeValue::String(text) => {
                Some(Spanned::new(self.place(value), text.clone().into_owned()))
            }
            _ => {
                self.wrong_type(key, value, "text in quotes", example);
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<bool> {
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

    pub(super) fn number(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Number> {
        match value.get_ref() {
            DeValue::Integer(n) => Some(Spanned::new(self.place(value), integer(n))),
            _ => {
                self.wrong_type(key, value, "a number", example);
                None
            }
        }
    }

    pub(super) fn time(&mut self, key: &str, value: &Value<'_>) -> Option<Spanned<Scalar>> {
        let example = format!("{key} = 120 for seconds, or {key} = \"2m\"");
        self.scalar(key, value, "a time", &example)
    }

    pub(super) fn name_or_number(
        &mut self,
        key: &str,
        value: &Value<'_>,
        example: &str,
    ) -> Option<Spanned<Scalar>> {
        self.scalar(key, value, "a name or a number", example)
    }

    pub(super) fn scalar(
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
        Some(Spanned::new(self.place(value), scalar))
    }

    pub(super) fn scalars(
        &mut self,
        key: &str,
        value: &Value<'_>,
        example: &str,
    ) -> Option<Scalars> {
        let DeValue::Array(list) = value.get_ref() else {
            self.no_list(key, value, example);
            return None;
        };
        let read = list
            .iter()
            .map(|element| self.name_or_number(key, element, example))
            .collect();
        Some(Spanned::new(self.place(value), read))
    }

    pub(super) fn texts(&mut self, key: &str, value: &Value<'_>, example: &str) -> Option<Texts> {
        let DeValue::Array(list) = value.get_ref() else {
            self.no_list(key, value, example);
            return None;
        };
        let read = list
            .iter()
            .map(|element| self.text(key, element, example))
            .collect();
        Some(Spanned::new(self.place(value), read))
    }

    /// A single value where a list belongs: mostly only the brackets are missing.
    fn no_list(&mut self, key: &str, value: &Value<'_>, example: &str) {
        let single = matches!(value.get_ref(), DeValue::String(_) | DeValue::Integer(_));
        let meant = self
            .typed(value)
            .filter(|_| single)
            .map(|typed| format!("{key} = [{typed}]"));
        self.wrong_type(key, value, "a list", meant.as_deref().unwrap_or(example));
    }

    /// What stands in the file for a value, if it is short enough to be repeated in a help.
    pub(super) fn typed(&self, value: &Value<'_>) -> Option<&str> {
        let typed = self
            .source
            .bytes()
            .get(self.place(value))
            .unwrap_or_default();
        let typed = std::str::from_utf8(typed).ok()?;
        (typed.len() < 60 && !typed.contains(char::is_control)).then_some(typed)
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &Key<'_>,
        value: &Value<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let all = || {
            let all: Vec<String> = choices
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            all.join(" or ")
        };
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(
                key.get_ref(),
                value,
                &all(),
                &format!("{} = \"{}\"", key.get_ref(), choices[0].0),
            );
            return None;
        };
        let found = choices
            .iter()
            .find(|(name, _)| name == text)
            .map(|(_, meaning)| *meaning);
        if found.is_none() {
            let all = all();
            let message = format!("`{}` has to be {all}, not {}", key.get_ref(), quoted(text));
            let near = closest(text, choices.iter().map(|(name, _)| *name));
            let help = near.map_or_else(
                || format!("write {all}"),
                |near| format!("did you mean \"{near}\"?"),
            );
            self.error(self.place(value), |d| d.help(help), &message);
        }
        found
    }

    pub(super) fn unknown_key(&mut self, key: &Key<'_>, place: &str, known: &[&str]) {
        let name = key.get_ref();
        let message = format!("unknown key {} {place}", quoted(name));
        self.error(
            self.place(key),
            |d| match closest(name, known.iter().copied()) {
                Some("rule") => d.help("did you mean [[rule]]?"),
                Some(near) => d.help(format!("did you mean `{near}`?")),
                None => d.help(format!("the keys known {place} are {}", known.join(", "))),
            },
            &message,
        );
    }

    pub(super) fn wrong_type(&mut self, key: &str, value: &Value<'_>, wanted: &str, example: &str) {
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
            self.place(value),
            |d| d.help(format!("write {example}")),
            &message,
        );
    }

    /// Where something stands in the source.
    pub(super) fn place<T>(&self, of: &Spanned<T>) -> Range<usize> {
        let span = of.span();
        self.base + span.start..self.base + span.end
    }

    pub(super) fn error(
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
pub(super) fn integer(n: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(n.as_str(), n.radix()).ok()
}
