//! `cargo xtask bench`: measures the firewall, beside others.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build,
    paths::Workspace,
    setup::{self, Options, Purpose},
    shell,
};

/// Measure the firewall: nanoseconds a packet, memory and time of an apply, beside others
///
/// Takes root. Nothing is attached to this machine's own interfaces. Numbers count only where nothing else runs.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// A first look in under a minute: fewer rounds and sizes, and no live traffic unless it is asked for
    #[arg(long)]
    quick: bool,

    /// Where to write the results as JSON [default: target/bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Only these sections: rules, groups, served, flows, limits, cookies, apply, plan, control, memory, traffic
    #[arg(long, value_name = "SECTION", value_delimiter = ',')]
    only: Vec<String>,
}

impl Bench {
    pub(super) fn run(self) -> Result<()> {
        // Told before minutes of set-up, not after.
        if !rustix::process::geteuid().is_root() {
            bail!("measuring loads programs into the kernel: run this as root");
        }
        let workspace = Workspace::locate()?;
        setup::ensure(
            &workspace,
            &[Purpose::Build, Purpose::Bench],
            Options::from_environment()?,
        )?;
        shell::title("building the bench, with the firewall inside");
        build::run_visibly(build::cargo(&workspace).args([
            "build",
            "--release",
            "--package",
            "firewall-bench",
            "--package",
            "firewall-user",
        ]))?;

        shell::title("measuring");
        let json = match self.json {
            Some(file) => std::path::absolute(file)?,
            None => workspace.root().join("target/bench.json"),
        };
        let bench = build::target_directory(&workspace)?.join("release/firewall-bench");
        let mut command = std::process::Command::new(bench);
        command
            .current_dir(workspace.root())
            .env("PATH", build::path(&workspace))
            .arg("--json")
            .arg(json);
        if self.quick {
            command.arg("--quick");
        }
        if !self.only.is_empty() {
            command.arg("--only").arg(self.only.join(","));
        }
        build::run_visibly(&mut command)
    }
}
