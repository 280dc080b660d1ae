//! `cargo xtask demo`: set-up, build, and the firewall at work on real traffic.

use std::process::exit;

use anyhow::Result;
use clap::Args;

use crate::{
    build, demo, interrupt,
    paths::Workspace,
    setup::{self, Options, Purpose},
};

/// Show the firewall at work: a web server, a visitor and a port scan, before and after
///
/// All of it happens in network namespaces of its own, which are gone afterwards; nothing that this machine's
/// own interfaces carry is touched. Takes root.
#[derive(Debug, Args)]
pub(crate) struct Demo {}

impl Demo {
    pub(super) fn run(self) -> Result<()> {
        // Told before minutes of set-up, not after.
        demo::require_root()?;
        let workspace = Workspace::locate()?;
        setup::ensure(&workspace, &[Purpose::Demo], Options::from_environment()?)?;
        let firewall = build::firewall(&workspace)?;

        interrupt::defer();
        let result = demo::run(&workspace, &firewall);
        if interrupt::happened() {
            exit(interrupt::INTERRUPTED);
        }
        result
    }
}
