//! `[groups]`, as typed.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::shown::quoted;
use super::{Key, Reader, Value};

/// A group as typed.
pub(in crate::rules) struct RawGroup {
    pub(in crate::rules) name: Spanned<String>,
    pub(in crate::rules) members: Members,
}

/// What a group holds, as typed.
pub(in crate::rules) enum Members {
    /// Addresses, CIDRs and names of groups.
    List(Vec<Option<Spanned<String>>>),
    /// Path of a list file.
    File(Spanned<String>),
    /// Something wrong, which has been said.
    Broken,
}

impl Reader<'_> {
    pub(super) fn group(&mut self, name: &Key<'_>, members: &Value<'_>) -> RawGroup {
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
            name: Spanned::new(self.place(name), name.get_ref().clone().into_owned()),
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
                self.place(place),
                |d| {
                    d.help("write { file = \"addresses.txt\" }, or a list")
                        .of_absence()
                },
                &message,
            );
        }
        file
    }
}
