//! Changes of a rule file's text that leave all else as it was typed: comments, order, spaces.

use std::ops::Range;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value, value};

use super::addresses::{Block, parse_block};
use super::notation::Typed;

/// A rule file that is being changed, or a part of it. It is known to be a valid one.
#[derive(Debug)]
pub struct Document<'t> {
    text: &'t str,
    part: DocumentMut,
    /// Where in the text the part was.
    place: Range<usize>,
    /// Names of the rules that are not in the part.
    elsewhere: Vec<&'t str>,
}

/// A rule of a file, by which its part of the text is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleAt {
    /// Its name.
    pub name: String,
    /// Line of its heading, from 1.
    pub line: usize,
}

/// Where a rule is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// Behind all others.
    Last,
    /// Before the rule of this name.
    Before(&'a str),
    /// Behind the rule of this name.
    After(&'a str),
}

/// What a group is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// What stands in the rule file.
    Here,
    /// The lines of this list.
    List(String),
}

impl<'t> Document<'t> {
    /// Reads a rule file.
    ///
    /// # Errors
    ///
    /// It is no TOML.
    pub fn parse(text: &'t str) -> Result<Self, String> {
        Self::part(text, 0..text.len(), Vec::new())
    }

    /// Reads what is needed to change something about the rule of this name, or behind the last one, in a file that has these `rules`:
    /// of ten thousand all the others need not be read to be left as they are.
    ///
    /// # Errors
    ///
    /// There is no such rule.
    pub fn around(text: &'t str, rules: &'t [RuleAt], name: Option<&str>) -> Result<Self, String> {
        let at = match name {
            Some(name) => {
                let at = rules.iter().position(|rule| rule.name == name);
                at.ok_or_else(|| no_rule(name))?
            }
            None => rules.len().saturating_sub(1),
        };
        // Each rule's comment stands before its heading, and so behind the heading of the one before.
        let first = at.saturating_sub(1);
        let end = first + 4;
        let heading = |index: usize| Some(heading_at(text, rules.get(index)?.line));
        let start = heading(first).filter(|_| first > 0).unwrap_or(0);
        let part = start..heading(end).unwrap_or(text.len());
        let is_cut = |at: usize| at == 0 || at == text.len() || text[at..].starts_with("[[");
        if !(is_cut(part.start) && is_cut(part.end)) {
            return Self::parse(text);
        }
        let elsewhere = rules[..first].iter().chain(rules.iter().skip(end));
        let elsewhere = elsewhere.map(|rule| &rule.name[..]).collect();
        Self::part(text, part, elsewhere)
    }

    fn part(text: &'t str, place: Range<usize>, elsewhere: Vec<&'t str>) -> Result<Self, String> {
        let parsed: Result<DocumentMut, _> = text[place.clone()].parse();
        Ok(Self {
            text,
            part: parsed.map_err(|error| error.to_string())?,
            place,
            elsewhere,
        })
    }

    /// Its text.
    pub fn text(&self) -> String {
        let part = self.part.to_string();
        let (before, behind) = (&self.text[..self.place.start], &self.text[self.place.end..]);
        [before, &part, behind].concat()
    }

    /// Puts a rule into it. Returns the rule's name, which is `name`, or made from what was typed.
    ///
    /// # Errors
    ///
    /// There is no rule where it is to be put, or one of that name.
    pub fn add_rule(
        &mut self,
        typed: Typed,
        name: Option<&str>,
        comment: Option<&str>,
        place: Place<'_>,
    ) -> Result<String, String> {
        let elsewhere = std::mem::take(&mut self.elsewhere);
        let rules = self.rules()?;
        let has = |rules: &ArrayOfTables, name: &str| {
            elsewhere.contains(&name) || find(rules, name).is_ok()
        };
        let at = match place {
            Place::Last => rules.len(),
            Place::Before(other) => find(rules, other)?,
            Place::After(other) => find(rules, other)? + 1,
        };
        let name = match name {
            Some(name) if has(rules, name) => {
                return Err(format!("there is a rule `{name}` already"));
            }
            Some(name) => name.to_owned(),
            None => free_name(&typed.name, |name| has(rules, name)),
        };
        let mut rule = Table::new();
        rule.insert("name", value(&name));
        for (key, item) in typed.table {
            rule.insert(&key, item);
        }
        if let Some(comment) = comment {
            rule.insert("comment", value(comment));
        }
        rule.decor_mut().set_prefix("\n");
        let mut tables = take(rules);
        tables.insert(at, rule);
        put(rules, tables);
        self.elsewhere = elsewhere;
        Ok(name)
    }

    /// Takes a rule out of it, with the comment that stands right above it.
    ///
    /// # Errors
    ///
    /// There is no such rule.
    pub fn remove_rule(&mut self, name: &str) -> Result<(), String> {
        let rules = self.rules()?;
        let at = find(rules, name)?;
        let mut tables = take(rules);
        let removed = tables.remove(at);
        // What stands apart from it, such as the heading of a section, stays.
        let above = prefix(&removed);
        if let Some(apart) = above.rfind("\n\n").map(|end| &above[..=end])
            && !apart.trim().is_empty()
        {
            match tables.get_mut(at) {
                Some(next) => {
                    let joined = format!("{apart}{}", prefix(next));
                    next.decor_mut().set_prefix(joined);
                }
                None => {
                    let trailing = self.part.trailing().as_str().unwrap_or_default().to_owned();
                    self.part.set_trailing(format!("{apart}{trailing}"));
                }
            }
        }
        put(self.rules()?, tables);
        Ok(())
    }

    /// What the group called `name` is made of.
    ///
    /// # Errors
    ///
    /// There is no such group.
    pub fn members(&self, name: &str) -> Result<Members, String> {
        let group = self.part.get("groups").and_then(|groups| groups.get(name));
        let group = group.ok_or_else(|| {
            let groups = self.part.get("groups").and_then(Item::as_table_like);
            let names =
                groups.map(|groups| groups.iter().map(|(name, _)| name).collect::<Vec<_>>());
            match names {
                Some(names) if !names.is_empty() => {
                    format!(
                        "there is no group `{name}`; the groups are {}",
                        names.join(", ")
                    )
                }
                _ => format!(
                    "there is no group `{name}`; groups are made under [groups] in the rule file"
                ),
            }
        })?;
        let file = group.get("file").and_then(Item::as_str);
        Ok(file.map_or(Members::Here, |file| Members::List(file.to_owned())))
    }

    /// Adds members to a group that stands here. Returns those that it did not have.
    ///
    /// # Errors
    ///
    /// There is no such group.
    pub fn add_members(&mut self, name: &str, members: &[String]) -> Result<Vec<String>, String> {
        let array = self.array(name)?;
        let mut added = Vec::new();
        for member in members {
            if position(array, member).is_none() {
                push(array, member);
                added.push(member.clone());
            }
        }
        Ok(added)
    }

    /// Takes members out of a group that stands here. Returns those that it had.
    ///
    /// # Errors
    ///
    /// There is no such group.
    pub fn remove_members(
        &mut self,
        name: &str,
        members: &[String],
    ) -> Result<Vec<String>, String> {
        let array = self.array(name)?;
        let mut removed = Vec::new();
        for member in members {
            if let Some(at) = position(array, member) {
                remove(array, at);
                removed.push(member.clone());
            }
        }
        Ok(removed)
    }

    fn rules(&mut self) -> Result<&mut ArrayOfTables, String> {
        let rules = self
            .part
            .entry("rule")
            .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        rules.as_array_of_tables_mut().ok_or_else(|| {
            "the rules are written as `rule = [...]`; write each under a [[rule]] heading to change them live".to_owned()
        })
    }

    fn array(&mut self, name: &str) -> Result<&mut Array, String> {
        let group = (self.part.get_mut("groups")).and_then(|groups| groups.get_mut(name));
        group.and_then(Item::as_array_mut).ok_or_else(|| {
            format!("there is no group `{name}` with a list of members in the rule file")
        })
    }
}

/// Where the heading in this line begins.
fn heading_at(text: &str, line: usize) -> usize {
    let mut newlines = memchr::memchr_iter(b'\n', text.as_bytes());
    let start = match line {
        0 | 1 => 0,
        _ => newlines
            .nth(line - 2)
            .map_or(text.len(), |newline| newline + 1),
    };
    let indented = text[start..].trim_start_matches([' ', '\t']);
    text.len() - indented.len()
}

fn find(rules: &ArrayOfTables, name: &str) -> Result<usize, String> {
    let named = |rule: &Table| rule.get("name").and_then(Item::as_str) == Some(name);
    rules.iter().position(named).ok_or_else(|| no_rule(name))
}

fn no_rule(name: &str) -> String {
    format!("there is no rule `{name}`; `firewall rule list` shows those there are")
}

/// `name`, or with a number behind it what no rule is called.
fn free_name(name: &str, has: impl Fn(&str) -> bool) -> String {
    let mut numbered = (2..).map(|number| format!("{name} {number}"));
    std::iter::once(name.to_owned())
        .chain(numbered.by_ref())
        .find(|name| !has(name))
        .expect("there are numbers enough")
}

/// All tables, which know where they stood.
fn take(rules: &mut ArrayOfTables) -> Vec<Table> {
    std::mem::take(rules).into_iter().collect()
}

/// Puts tables back in this order. Their places in the text are shared out anew, so that what was between them stays there.
fn put(rules: &mut ArrayOfTables, mut tables: Vec<Table>) {
    let mut places: Vec<Option<isize>> = tables.iter().map(Table::position).collect();
    // A new one has none: it takes the last that the one before it has, which is written first with the tables that belong to it.
    for at in 1..places.len() {
        places[at] = places[at].or(last_place(&tables[at - 1]).max(places[at - 1]));
    }
    for at in (0..places.len().saturating_sub(1)).rev() {
        places[at] = places[at].or(places[at + 1]);
    }
    for (table, place) in tables.iter_mut().zip(places) {
        if let Some(place) = place {
            table.set_position(Some(place));
        }
    }
    rules.extend(tables);
}

/// The last place in the text that a table has, or one that belongs to it: `[rule.limit]`.
fn last_place(table: &Table) -> Option<isize> {
    let inner = table.iter().filter_map(|(_, item)| match item {
        Item::Table(table) => last_place(table),
        Item::ArrayOfTables(tables) => tables.iter().filter_map(last_place).max(),
        Item::None | Item::Value(_) => None,
    });
    inner.max().max(table.position())
}

fn prefix(table: &Table) -> String {
    let prefix = table.decor().prefix().and_then(|prefix| prefix.as_str());
    prefix.unwrap_or_default().to_owned()
}

/// Where `member` is in a group: it may be written another way.
fn position(array: &Array, member: &str) -> Option<usize> {
    let block = parse_block(member.as_bytes()).ok();
    let is_same = |written: &Value| {
        let Some(written) = written.as_str() else {
            return false;
        };
        let written_block: Option<Block> = parse_block(written.as_bytes()).ok();
        written == member || (block.is_some() && written_block == block)
    };
    array.iter().position(is_same)
}

/// Adds a member as the last one is written: on a line of its own, or on the same.
fn push(array: &mut Array, member: &str) {
    let lined = array.iter().last().and_then(|last| {
        let prefix = last.decor().prefix()?.as_str()?;
        let indent = prefix.rsplit('\n').next()?;
        prefix.contains('\n').then(|| format!("\n{indent}"))
    });
    let mut value = Value::from(member);
    match lined {
        Some(prefix) => {
            // A comment behind the last member belongs to it, and so does the comma.
            let trailing = array.trailing().as_str().unwrap_or_default().to_owned();
            let (comment, rest) = match trailing.rfind('\n') {
                Some(end) if array.trailing_comma() => trailing.split_at(end),
                _ => ("", &trailing[..]),
            };
            value.decor_mut().set_prefix(format!("{comment}{prefix}"));
            array.push_formatted(value);
            array.set_trailing(rest.to_owned());
            array.set_trailing_comma(true);
        }
        None => array.push(member),
    }
}

/// Takes out the member at `at`, with the comment behind it, which stands before the next one.
fn remove(array: &mut Array, at: usize) {
    let removed = array.remove(at);
    let before = removed
        .decor()
        .prefix()
        .and_then(|prefix| prefix.as_str())
        .unwrap_or_default();
    match array.get_mut(at) {
        Some(next) if at == 0 || before.contains('\n') => {
            next.decor_mut().set_prefix(before.to_owned())
        }
        Some(_) => {}
        None if before.contains('\n') => {
            let trailing = array.trailing().as_str().unwrap_or_default();
            let last = trailing
                .rfind('\n')
                .map_or(trailing, |start| &trailing[start..])
                .to_owned();
            let kept = before
                .rfind('\n')
                .map_or("", |start| &before[..start])
                .to_owned();
            array.set_trailing(format!("{kept}{last}"));
        }
        None => {}
    }
}

#[cfg(test)]
mod tests;
