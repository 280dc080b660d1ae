//! `firewall serve`: metrics and health for monitoring, and a keeper that sees to it that what is guarded stays so. The kernel guards
//! with or without it.

mod exposition;
pub(crate) mod good;
mod health;
mod http;
mod keeper;
mod listen;
mod metrics;
mod policies;
mod privileges;
mod scraper;
mod service;
mod tally;
mod watcher;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::kernel::attach::ModeChoice;
use crate::kernel::pins;
use crate::output::Output;
use crate::{privilege, rules};
use listen::Listen;
use policies::Assignment;

/// Where metrics are served unless told.
const DEFAULT_LISTEN: &str = "127.0.0.1:9590";

/// What is served, and what is kept guarded.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Only these interfaces; all that are guarded in this network namespace unless told. May be given several times.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    /// Where `/metrics` and `/healthz` are served: `ADDRESS:PORT` or `unix:PATH`. May be given several times.
    #[arg(long, value_name = "WHERE", default_value = DEFAULT_LISTEN)]
    listen: Vec<Listen>,
    /// Group that may connect to Unix sockets as well, by name or number; only root unless told.
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,
    /// Guard each interface `IFACE` of which there is a rule file `IFACE.toml` in this folder, unless it is guarded already.
    #[arg(long, value_name = "FOLDER")]
    rules_dir: Option<PathBuf>,
    /// Guard this interface with this rule file, unless it is guarded already. May be given several times.
    #[arg(long, value_name = "IFACE=FILE")]
    guard: Vec<Assignment>,
    /// Where programs run on interfaces that are guarded by this.
    #[arg(long, value_enum, default_value_t)]
    mode: ModeChoice,
    /// Apply rule files of `--rules-dir` and `--guard` when they change, or address lists that they name.
    #[arg(long)]
    watch: bool,
    /// What `--watch` applies is on trial for so long, and goes back unless `firewall confirm` comes in that time.
    #[arg(long, value_name = "TIME", value_parser = rules::trial_s, requires = "watch")]
    confirm: Option<u32>,
}

pub(crate) fn run(serve: &Serve, _: &Output) -> Result<()> {
    privilege::require()?;
    service::log_to_standard_error();
    // Mounting takes more privilege than is kept.
    pins::ensure_bpffs()?;
    let listeners = listen::all(&serve.listen, serve.socket_group.as_deref())?;
    privileges::drop_all_but_needed()?;
    service::run(serve, listeners)
}
