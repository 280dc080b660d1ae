//! The kernel's side, seen from user space: the only module that names aya.

pub mod attach;
pub mod bans;
pub mod cookies;
pub mod counters;
pub mod description;
pub mod flows;
pub mod guard;
pub mod image;
pub mod instance;
pub mod interface;
mod knocks;
mod mapped;
pub mod offload;
pub mod pins;
pub mod programs;
mod record;
pub mod replica;
pub mod state;
