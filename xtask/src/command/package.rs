//! `cargo xtask package`: the Debian package, with all that a host takes to run the firewall.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    build,
    paths::Workspace,
    setup::{self, Options, Purpose},
    shell,
};

/// The time that files in the package are from, as seconds; <https://reproducible-builds.org/specs/source-date-epoch/>
const TIME_VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Set up and build the Debian package: command, service, manuals, completions, examples
///
/// The same sources and compiler make the same package, byte for byte.
#[derive(Debug, Args)]
pub(crate) struct Package {
    /// File or folder to write it to [default: target/debian]
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Version and revision of the package, if not the workspace's
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// Pack this command, instead of building one for use
    #[arg(long, value_name = "FILE")]
    firewall: Option<PathBuf>,
}

impl Package {
    pub(super) fn run(self) -> Result<()> {
        let workspace = Workspace::locate()?;
        setup::ensure(
            &workspace,
            &[Purpose::Build, Purpose::Package],
            Options::from_environment()?,
        )?;
        let firewall = match &self.firewall {
            Some(firewall) => firewall.clone(),
            None => build::firewall(&workspace)?,
        };
        shell::title("packing");
        // A place of its own: several packages may be made at a time.
        let parts = workspace
            .root()
            .join("target/package")
            .join(std::process::id().to_string());
        collect(&firewall, &parts)?;
        let output = match &self.output {
            Some(output) => std::path::absolute(output)?,
            None => build::target_directory(&workspace)?.join("debian"),
        };
        let packed = build::run_visibly(&mut self.cargo_deb(&workspace, &parts, &output));
        // If it stays, it only takes space.
        let _ = fs::remove_dir_all(parts);
        packed
    }

    /// What is in the package is listed in firewall-user/Cargo.toml.
    fn cargo_deb(&self, workspace: &Workspace, parts: &Path, output: &Path) -> Command {
        let mut command = Command::new(workspace.bin().join("cargo-deb"));
        command
            .current_dir(workspace.root())
            .env("PATH", build::path(workspace))
            // Where it looks for the command.
            .env("CARGO_TARGET_DIR", parts)
            .args(["--package", "firewall-user", "--no-build", "--strip"])
            .arg("--output")
            .arg(output);
        if let Some(version) = &self.version {
            command.args(["--deb-version", version]);
        }
        if std::env::var_os(TIME_VARIABLE).is_none()
            && let Some(time) = time_of_sources(workspace)
        {
            command.env(TIME_VARIABLE, time);
        }
        command
    }
}

/// Puts the command where cargo-deb looks for it, and has it write its man pages and completions beside. cargo-deb
/// compresses nothing that lies there, and Debian wants pages compressed.
fn collect(firewall: &Path, directory: &Path) -> Result<()> {
    let release = directory.join("release");
    fs::create_dir_all(&release).with_context(|| format!("cannot create {}", release.display()))?;
    fs::copy(firewall, release.join("firewall"))
        .with_context(|| format!("cannot copy {}", firewall.display()))?;
    shell::output(Command::new(firewall).arg("generate").arg(&release))?;
    let pages = release.join("man");
    let mut gzip = Command::new("gzip");
    // Without time and name.
    gzip.args(["-9", "--no-name", "--recursive"]).arg(pages);
    shell::output(&mut gzip)?;
    Ok(())
}

/// When the sources were committed. Of sources without a history cargo-deb takes the time of their files.
fn time_of_sources(workspace: &Workspace) -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace.root())
        .args(["log", "-1", "--format=%ct"]);
    let time = shell::output(&mut git).ok()?.trim().to_owned();
    (!time.is_empty()).then_some(time)
}
