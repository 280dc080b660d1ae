//! The library behind the `firewall` command: rules become tables, tables go into the kernel, counters come back.

pub mod kernel;
pub mod rules;
