//! `cargo xtask build`: set-up, then the one binary.

use anyhow::Result;
use clap::Args;

use crate::{
    build,
    paths::Workspace,
    setup::{self, Options, Purpose},
    shell,
};

/// Set up and build the `firewall` command: one file, with the eBPF program inside
#[derive(Debug, Args)]
pub(crate) struct Build {}

impl Build {
    pub(super) fn run(self) -> Result<()> {
        let workspace = Workspace::locate()?;
        setup::ensure(&workspace, &[Purpose::Build], Options::from_environment()?)?;
        let firewall = build::firewall(&workspace)?;
        shell::title(&format!("built: {}", firewall.display()));
        Ok(())
    }
}
