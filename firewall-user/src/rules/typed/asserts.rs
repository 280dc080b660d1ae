//! `[[assert]]`, as typed.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::model::Action;
use super::{ACTIONS, Key, Reader, Value};

/// An `[[assert]]` as typed. What is `None` was left out or was wrong, which has been said.
pub(in crate::rules) struct RawAssert {
    pub(in crate::rules) heading: Range<usize>,
    pub(in crate::rules) packet: Option<Spanned<String>>,
    pub(in crate::rules) expect: Option<Action>,
    pub(in crate::rules) message: Option<Spanned<String>>,
}

impl Reader<'_> {
    pub(super) fn asserts(&mut self, key: &Key<'_>, value: &Value<'_>, into: &mut Vec<RawAssert>) {
        let DeValue::Array(asserts) = value.get_ref() else {
            return self.error(
                self.place(value),
                |d| d.help("begin every assertion with [[assert]], in double brackets"),
                "`assert` has to be a list of assertions",
            );
        };
        for assert in asserts.iter() {
            match assert.get_ref() {
                DeValue::Table(table) => into.push(self.assert(self.place(assert), table)),
                _ => self.wrong_type(
                    key.get_ref(),
                    assert,
                    "a table",
                    "[[assert]] and its keys below it",
                ),
            }
        }
    }

    fn assert(&mut self, heading: Range<usize>, table: &DeTable<'_>) -> RawAssert {
        const PACKET: &str = "packet = \"tcp to :3306\"";
        let mut assert = RawAssert {
            heading,
            packet: None,
            expect: None,
            message: None,
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "packet" => assert.packet = self.text("packet", value, PACKET),
                "expect" => assert.expect = self.choice(key, value, ACTIONS),
                "message" => {
                    assert.message = self.text("message", value, "message = \"why it matters\"");
                }
                _ => {
                    self.unknown_key(key, "in an assertion", &["packet", "expect", "message"]);
                }
            }
        }
        for (key, help) in [
            ("packet", "add packet = \"...\", such as \"tcp to :3306\""),
            ("expect", "add expect = \"accept\" or expect = \"drop\""),
        ] {
            if !table.contains_key(key) {
                let message = format!("this assertion has no `{key}`");
                let heading = assert.heading.clone();
                self.error(heading, |d| d.help(help).of_absence(), &message);
            }
        }
        assert
    }
}
