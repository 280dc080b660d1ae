//! The library behind the `firewall` command: rules become tables, tables go into the kernel, counters come back.
//!
//! `command` is one verb a file; `rules` knows nothing of the kernel; only `kernel` names aya.

mod capture;
pub mod cli;
mod command;
pub mod counters;
mod doctor;
mod events;
mod explain;
pub mod kernel;
pub mod list_rows;
mod live;
mod lock;
mod memory;
mod output;
mod policy;
mod privilege;
pub mod rules;
mod save;
mod session;
