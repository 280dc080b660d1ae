//! A rule's life: a TOML file with spans ([`mod@file`]), checked and resolved ([`validate`], [`addresses`], [`names`]) into
//! a [`model::RuleSet`], or into a [`Report`] of everything that is wrong with it ([`diagnostic`]).

pub mod addresses;
pub mod compile;
pub mod diagnostic;
pub mod diff;
pub mod edit;
pub mod file;
pub mod lists;
pub mod model;
pub mod names;
pub mod notation;
pub mod oracle;
pub mod packet;
pub mod region;
pub mod validate;

pub mod asserts;
mod groups;
mod pieces;
mod shown;
mod syntax;
mod typed;
mod values;

pub use diagnostic::{Diagnostic, Report, Severity, Source};
pub(crate) use file::flows;
pub use file::{Loaded, load, parse, parse_with, parse_within};
pub use groups::{MAX_EXPANDED_RANGES, MAX_LIST_ERRORS};
pub(crate) use lists::BYTE_ORDER_MARK;
pub use lists::MAX_LIST_BYTES;

/// Seconds that a command bans for, written as in rule files: `90`, `90s`, `10m`, `2h`, `5d`.
///
/// # Errors
///
/// What is wrong with it, and what to write instead.
pub(crate) fn ban_s(text: &str) -> Result<u32, String> {
    typed_s(text, &values::times::BAN_COMMAND)
}

/// Seconds within which something has to be confirmed, written in the same way.
///
/// # Errors
///
/// What is wrong with it, and what to write instead.
pub(crate) fn trial_s(text: &str) -> Result<u32, String> {
    typed_s(text, &values::times::TRIAL)
}

/// Seconds for which a command tells of packets, written in the same way.
///
/// # Errors
///
/// What is wrong with it, and what to write instead.
pub(crate) fn telling_s(text: &str) -> Result<u32, String> {
    typed_s(text, &values::times::TELLING)
}

fn typed_s(text: &str, what: &values::times::Use) -> Result<u32, String> {
    let scalar = typed::Scalar::Text(text.to_owned());
    values::times::time_s(&scalar, what).map_err(|(message, help)| format!("{message}; {help}"))
}
