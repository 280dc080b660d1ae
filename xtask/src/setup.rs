//! Set-up: everything that building, testing and showing the firewall takes, fetched or found.
//!
//! It installs nothing. Debian packages are unpacked under `target/tools`, so no service is started, nothing of
//! the system is replaced, and removing `target` removes everything, but for bpffs, which stays mounted.

mod apt;
mod bpffs;
mod compiler;
mod dpkg;
mod linker;
mod packager;
mod purpose;
mod smoke;
mod stamp;
mod system;
mod toolchain;
mod tools;
mod unpack;
mod wrapper;

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};

pub(crate) use purpose::Purpose;
pub(crate) use toolchain::Environment;

use dpkg::Visible;
use stamp::Stamp;
use system::System;

use crate::{
    paths::{Workspace, which},
    shell,
};

/// The environment variable that asks for unpacked tools even where the system has them.
const UNPACK_VARIABLE: &str = "FIREWALL_TOOLS_UNPACK";

/// How to set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Pass over the tools, compilers and libraries of this system, as if it were a fresh one.
    pub(crate) unpack_all: bool,
    /// Do not believe that former runs have done anything.
    pub(crate) force: bool,
}

impl Options {
    /// What the environment asks for.
    pub(crate) fn from_environment() -> Result<Self> {
        let unpack_all = match std::env::var(UNPACK_VARIABLE).unwrap_or_default().as_str() {
            "" => false,
            "all" => true,
            other => bail!("{UNPACK_VARIABLE}={other} is not known; `all` unpacks every tool"),
        };
        Ok(Self {
            unpack_all,
            force: false,
        })
    }

    fn visible(self) -> Visible {
        if self.unpack_all {
            Visible::Base
        } else {
            Visible::Installed
        }
    }
}

/// Sees to it that all that `purposes` take is there. Does nothing, quickly, where it is.
///
/// # Errors
///
/// Says what to install where set-up cannot help: without apt, network, or root where bpffs is to be mounted.
pub(crate) fn ensure(
    workspace: &Workspace,
    purposes: &[Purpose],
    options: Options,
) -> Result<Environment> {
    if let Some(environment) = ready(workspace, purposes, options) {
        shell::title("set-up: all is in place");
        return Ok(environment);
    }
    for directory in [workspace.bin(), workspace.logs()] {
        fs::create_dir_all(&directory).map_err(|error| cannot_write(error, &directory))?;
    }
    let _lock = lock(workspace)?;
    if options.force {
        forget(workspace)?;
    }
    let system = System::detect();
    let environment = set_up(workspace, &system, purposes, options)
        .map_err(|error| anyhow!("{error:#}\n\n{}", system.advice(purposes)))?;
    if needs_bpffs(purposes) && !bpffs::is_mounted() {
        bpffs::mount()?;
    }
    shell::title("set-up: all is in place");
    Ok(environment)
}

/// The environment, if nothing is left to do.
fn ready(workspace: &Workspace, purposes: &[Purpose], options: Options) -> Option<Environment> {
    let stamp = Stamp::read(workspace, options);
    let toolchain = stamp.toolchain()?;
    let complete = stamp.has_tools(workspace, purposes)
        && (!needs_packager(purposes) || packager::is_ready(workspace))
        && (!needs_bpffs(purposes) || bpffs::is_mounted());
    complete.then(|| toolchain.environment.clone())
}

fn needs_bpffs(purposes: &[Purpose]) -> bool {
    purposes.iter().any(|purpose| purpose.loads_programs())
}

fn needs_packager(purposes: &[Purpose]) -> bool {
    purposes.iter().any(|purpose| purpose.packs())
}

fn set_up(
    workspace: &Workspace,
    system: &System,
    purposes: &[Purpose],
    options: Options,
) -> Result<Environment> {
    if let Some(remark) = system.remark() {
        shell::note(&remark);
    }
    if which("cc", Path::new("")).is_none() {
        bail!(
            "there is no C compiler, which Rust links programs with: `apt-get install gcc libc6-dev`"
        );
    }

    // Read only now: another set-up may have done it all while we waited for the lock.
    let mut stamp = Stamp::read(workspace, options);
    let environment = match stamp.toolchain() {
        Some(toolchain) => toolchain.environment.clone(),
        None => {
            let toolchain = toolchain::set_up(workspace, system, options)?;
            let environment = toolchain.environment.clone();
            stamp.record_toolchain(workspace, toolchain)?;
            environment
        }
    };
    if !stamp.has_tools(workspace, purposes) {
        let places = tools::set_up(workspace, system, purposes, stamp.tools(), options)?;
        stamp.record_tools(workspace, places)?;
    }
    if needs_packager(purposes) {
        packager::set_up(workspace)?;
    }
    Ok(environment)
}

/// Removes what former runs have fetched and built, in case it is damaged in a way that no check finds.
fn forget(workspace: &Workspace) -> Result<()> {
    for part in ["apt", "bpf-linker", "cargo-deb", "debian", "llvm"] {
        let part = workspace.tools().join(part);
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(cannot_write(error, &part));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits until no other set-up works in this clone, and keeps others waiting while the file is open.
fn lock(workspace: &Workspace) -> Result<File> {
    let path = workspace.tools().join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| cannot_write(error, &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            shell::title("waiting for another set-up in this clone");
            file.lock()
                .with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).context(format!("cannot lock {}", path.display()));
        }
    }
    Ok(file)
}

fn cannot_write(error: io::Error, path: &Path) -> anyhow::Error {
    match error.kind() {
        ErrorKind::PermissionDenied => anyhow!(
            "may not write to {}, which belongs to somebody else (was a former run root's?): \
             run this as that user, or remove the directory target/tools",
            path.display()
        ),
        _ => anyhow!(error).context(format!("cannot write {}", path.display())),
    }
}
