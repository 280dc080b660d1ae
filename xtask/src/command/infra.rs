//! `cargo xtask infra`: set-up, build, and a whole site of guarded servers on this machine.

use std::process::{Command, exit};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build, interrupt,
    paths::Workspace,
    setup::{self, Options, Purpose},
    shell,
};

/// Run the infrastructure that the firewall is for, guarded, and print who may talk to whom
///
/// Two load balancers, two web servers, an application server, a database with a replica, and monitoring, each of Debian's
/// own packages in namespaces of its own. Nothing that this machine's own interfaces carry is touched. Takes root.
#[derive(Debug, Args)]
pub(crate) struct Infra {
    /// Leave it running until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Infra {
    pub(super) fn run(self) -> Result<()> {
        // Told before minutes of set-up, not after.
        if !rustix::process::geteuid().is_root() {
            bail!(
                "the infrastructure is made of namespaces and loads programs into the kernel, which takes root: \
                 run it as root, as with `sudo -E env PATH=\"$PATH\" cargo xtask infra`"
            );
        }
        let workspace = Workspace::locate()?;
        setup::ensure(
            &workspace,
            &[Purpose::Build, Purpose::Infra],
            Options::from_environment()?,
        )?;
        let firewall = build::firewall(&workspace)?;
        shell::title("building the infrastructure's builder and its application");
        build::run_visibly(build::cargo(&workspace).args([
            "build",
            "--release",
            "--package",
            "firewall-tests",
            "--bins",
        ]))?;
        let builder = build::target_directory(&workspace)?.join("release/firewall-infra");
        let mut command = Command::new(builder);
        command
            // However this process ends, the builder ends too, and with it all servers.
            .arg("--end-with-parent")
            .args(self.keep.then_some("--keep"))
            .env("PATH", build::path(&workspace))
            .env("FIREWALL_BIN", firewall);
        interrupt::defer();
        let result = build::run_visibly(&mut command);
        if interrupt::happened() {
            exit(interrupt::INTERRUPTED);
        }
        result
    }
}
