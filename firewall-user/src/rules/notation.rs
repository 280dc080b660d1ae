//! A rule on one line, as it is typed for a live edit: `accept tcp 443 from office limit 200/s per source`. It becomes the table that
//! stands for it in a rule file, and there all of its values are checked like any other's.

use serde::{Deserialize, Serialize};
use toml_edit::{Array, InlineTable, Table, Value};

/// What a line looks like, for messages.
pub const EXAMPLE: &str = "accept tcp 443 from office";

/// Words that begin a part of a rule, whose values follow.
const PARTS: &[&str] = &["from", "to", "flags", "limit", "ban", "syn-cookies", "log"];
/// Keys of a `limit`, of a `ban`, and of `syn-cookies`, each before its value.
const LIMIT_KEYS: &[&str] = &["burst", "per", "unit"];
const BAN_KEYS: &[&str] = &["after", "within", "for"];
const SYN_COOKIES_KEYS: &[&str] = &["above"];

/// A rule as it was typed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Typed {
    /// Its keys, without a name.
    pub table: Table,
    /// What it is called unless told: the line without its action.
    pub name: String,
    /// The line.
    pub line: String,
}

impl TryFrom<String> for Typed {
    type Error = String;

    fn try_from(line: String) -> Result<Self, String> {
        parse(&line)
    }
}

impl From<Typed> for String {
    fn from(typed: Typed) -> Self {
        typed.line
    }
}

/// Reads a line.
///
/// # Errors
///
/// What is wrong, and what to write instead.
pub fn parse(line: &str) -> Result<Typed, String> {
    let mut words = line.split_whitespace().peekable();
    let mut table = Table::new();
    let action = words.next().unwrap_or_default();
    if !matches!(action, "accept" | "drop") {
        return Err(format!(
            "a rule begins with what it does, accept or drop, as in `{EXAMPLE}`"
        ));
    }
    table.insert("action", action.into());
    let name = words.clone().collect::<Vec<_>>().join(" ");
    if let Some(direction) = words.next_if(|word| matches!(*word, "ingress" | "egress")) {
        table.insert("direction", direction.into());
    }
    let protocol = words.next().filter(|word| !PARTS.contains(word));
    let Some(protocol) = protocol else {
        return Err(format!(
            "a protocol follows the action, or any, as in `{EXAMPLE}` and `{action} any from office`"
        ));
    };
    if protocol != "any" {
        table.insert("protocol", scalar(protocol).into());
    }
    if let Some(list) = words.next_if(|word| !PARTS.contains(word)) {
        let key = match protocol {
            "icmp" | "icmpv6" => "icmp-types",
            _ => "ports",
        };
        table.insert(key, Value::from(scalars(list)).into());
    }
    while let Some(part) = words.next() {
        let mut value = || {
            let value = words.next_if(|word| !PARTS.contains(word));
            value.ok_or_else(|| format!("nothing follows `{part}`"))
        };
        let (key, value): (&str, Value) = match part {
            "from" | "to" => (part, texts(value()?).into()),
            "flags" => ("tcp-flags", flags(value()?).into()),
            "log" => ("log", true.into()),
            "limit" => {
                let rate = value()?;
                let mut limit = keyed(part, LIMIT_KEYS, &mut words)?;
                limit.insert("rate", rate.into());
                ("limit", limit.into())
            }
            "ban" => ("ban", keyed(part, BAN_KEYS, &mut words)?.into()),
            "syn-cookies" => (part, keyed(part, SYN_COOKIES_KEYS, &mut words)?.into()),
            _ => {
                return Err(format!(
                    "`{part}` is not expected here; what can follow is {}",
                    PARTS.join(", ")
                ));
            }
        };
        if table.insert(key, value.into()).is_some() {
            return Err(format!("`{part}` is there twice"));
        }
    }
    Ok(Typed {
        table,
        name,
        line: line.to_owned(),
    })
}

/// The keys of a part and their values: `burst 400 per source`.
fn keyed<'w>(
    part: &str,
    keys: &[&str],
    words: &mut std::iter::Peekable<impl Iterator<Item = &'w str>>,
) -> Result<InlineTable, String> {
    let mut table = InlineTable::new();
    while let Some(key) = words.next_if(|word| keys.contains(word)) {
        let value = words
            .next_if(|word| !PARTS.contains(word))
            .ok_or_else(|| format!("nothing follows `{key}` of `{part}`"))?;
        table.insert(key, scalar(value));
    }
    Ok(table)
}

/// `syn,!ack`: flags that must be set and, behind an exclamation mark, those that must not.
fn flags(list: &str) -> InlineTable {
    let of = |wanted: bool| -> Array {
        let flags = list
            .split(',')
            .filter(|flag| flag.starts_with('!') != wanted);
        flags.map(|flag| flag.trim_start_matches('!')).collect()
    };
    let mut table = InlineTable::new();
    for (key, flags) in [("set", of(true)), ("clear", of(false))] {
        if !flags.is_empty() {
            table.insert(key, flags.into());
        }
    }
    table
}

fn texts(list: &str) -> Array {
    list.split(',').collect()
}

fn scalars(list: &str) -> Array {
    list.split(',').map(scalar).collect()
}

/// A number where it is one, else a text.
fn scalar(word: &str) -> Value {
    match word.parse::<i64>() {
        Ok(number) => number.into(),
        Err(_) => word.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &str) -> String {
        parse(line).map(|typed| typed.table.to_string()).unwrap()
    }

    #[test]
    fn a_line_is_the_table_that_stands_for_it() {
        for (line, table) in [
            (
                "accept tcp 443,8000-8100,ssh from office,192.0.2.0/24 to 192.0.2.10",
                "action = \"accept\"\nprotocol = \"tcp\"\nports = [443, \"8000-8100\", \"ssh\"]\nfrom = [\"office\", \"192.0.2.0/24\"]\n\
                 to = [\"192.0.2.10\"]\n",
            ),
            (
                "drop egress any to 203.0.113.0/24 log",
                "action = \"drop\"\ndirection = \"egress\"\nto = [\"203.0.113.0/24\"]\nlog = true\n",
            ),
            (
                "accept icmp echo-request,13",
                "action = \"accept\"\nprotocol = \"icmp\"\nicmp-types = [\"echo-request\", 13]\n",
            ),
            (
                "accept tcp 80 flags syn,!ack limit 200/s burst 400 per source ban after 20 within 10s for 10m",
                "action = \"accept\"\nprotocol = \"tcp\"\nports = [80]\ntcp-flags = { set = [\"syn\"], clear = [\"ack\"] }\n\
                 limit = { burst = 400, per = \"source\", rate = \"200/s\" }\nban = { after = 20, within = \"10s\", for = \"10m\" }\n",
            ),
            ("drop 47", "action = \"drop\"\nprotocol = 47\n"),
        ] {
            assert_eq!(written(line), table, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_says_what_to_write() {
        for (line, says) in [
            ("", "begins with what it does"),
            ("allow tcp 22", "accept or drop"),
            ("accept", "a protocol follows"),
            ("accept from office", "a protocol follows"),
            ("accept tcp 22 from", "nothing follows `from`"),
            ("accept tcp 22 from to office", "nothing follows `from`"),
            ("accept tcp 22 office", "`office` is not expected"),
            ("accept tcp from a from b", "`from` is there twice"),
            ("accept tcp 22 limit 3/s per", "nothing follows `per`"),
        ] {
            let error = parse(line)
                .map(|typed| typed.table.to_string())
                .unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
