//! The kernel's side, seen from user space: the only module that names aya.

pub mod attach;
mod attachment;
pub mod bans;
mod blob;
mod clock;
mod control;
pub mod cookies;
pub mod counters;
pub mod description;
#[cfg(feature = "diagnostics")]
pub mod diagnostics;
pub mod driver;
pub mod events;
pub mod filters;
pub mod flows;
pub mod guard;
pub mod held;
pub mod image;
pub mod instance;
pub mod interface;
pub mod kept;
mod knocks;
mod mapped;
pub mod netlink;
pub mod offload;
pub mod pins;
pub mod programs;
pub mod reading;
mod record;
pub mod replica;
pub mod shadow;
pub mod standing;
pub mod state;
mod told;
pub mod upgrade;
