//! `cargo xtask setup`: fetches what building, testing and showing the firewall needs.

use anyhow::Result;
use clap::Args;

use crate::{
    paths::Workspace,
    setup::{self, Options, Purpose},
};

/// Fetch what building, testing and showing the firewall needs, without installing anything
///
/// Everything goes under target/tools. Debian packages are downloaded and unpacked there, not
/// installed: no service is started, and nothing of the system is replaced or removed. A second run
/// only looks whether all is in place.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// What to set up for; may be repeated [default: all of them]
    #[arg(
        long = "for",
        value_name = "PURPOSE",
        value_enum,
        value_delimiter = ','
    )]
    purposes: Vec<Purpose>,

    /// Unpack every tool, also those that this system already has
    ///
    /// Shows whether set-up works on a machine that has nothing. FIREWALL_TOOLS_UNPACK=all does the same.
    #[arg(long)]
    unpack_all: bool,

    /// Do everything again, even where a former run says that it is in place
    #[arg(long)]
    force: bool,
}

impl Setup {
    pub(super) fn run(self) -> Result<()> {
        let purposes = if self.purposes.is_empty() {
            Purpose::ALL.to_vec()
        } else {
            self.purposes
        };
        let mut options = Options::from_environment()?;
        options.unpack_all |= self.unpack_all;
        options.force = self.force;
        setup::ensure(&Workspace::locate()?, &purposes, options)?;
        Ok(())
    }
}
