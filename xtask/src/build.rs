//! Building the workspace with cargo, after set-up.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, paths::Workspace, shell};

/// Builds the `firewall` command for use, and returns where it is.
pub(crate) fn firewall(workspace: &Workspace) -> Result<PathBuf> {
    shell::title("building firewall, with the eBPF program inside");
    run_visibly(cargo(workspace).args(["build", "--release", "--package", "firewall-user"]))?;
    Ok(target_directory(workspace)?.join("release/firewall"))
}

/// The cargo that runs this command, in the workspace, with the unpacked tools first on its path.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace.root())
        .env("PATH", path(workspace));
    command
}

/// `PATH` with what set-up has found or unpacked in front.
pub(crate) fn path(workspace: &Workspace) -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let mut path = workspace.bin().into_os_string();
    path.push(":");
    path.push(inherited);
    path
}

/// Runs a program whose output people want to see as it comes.
pub(crate) fn run_visibly(command: &mut Command) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    let guard = interrupt::guard(&child);
    let status = child.wait()?;
    drop(guard);
    interrupt::check()?;
    if !status.success() {
        bail!(
            "{} failed ({status}); its messages are above",
            name(command)
        );
    }
    Ok(())
}

/// Where cargo puts what it builds, `CARGO_TARGET_DIR` and configuration considered.
pub(crate) fn target_directory(workspace: &Workspace) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let text = shell::output(cargo(workspace).args([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--offline",
    ]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("the output of cargo metadata")?;
    Ok(metadata.target_directory)
}

fn name(command: &Command) -> String {
    let arguments = command.get_args().take_while(|argument| *argument != "--");
    std::iter::once("cargo".into())
        .chain(arguments.map(|argument| argument.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}
