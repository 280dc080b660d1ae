//! The kernel's side, seen from user space: the only module that names aya.

pub mod attach;
pub mod bans;
mod blob;
mod clock;
mod control;
pub mod cookies;
pub mod counters;
pub mod description;
pub mod driver;
pub mod filters;
pub mod flows;
pub mod guard;
pub mod image;
pub mod instance;
pub mod interface;
pub mod kept;
mod knocks;
mod mapped;
mod netlink;
pub mod offload;
pub mod pins;
pub mod programs;
mod record;
pub mod standing;
pub mod state;
pub mod upgrade;
