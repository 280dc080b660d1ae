//! The eBPF toolchain: a compiler, a linker that fits it, and the file that tells the build script of both.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    Options,
    apt::Apt,
    compiler::{self, Compiler},
    linker, smoke,
    system::System,
    unpack::Root,
    wrapper::{self, Wrapper},
};
use crate::{
    paths::{Workspace, which, write_atomically},
    shell,
};

/// Debian's newest compiler, which it keeps for building web browsers, and that compiler's sources.
const DEBIAN_RUST: &[&str] = &["rustc-web", "rust-web-src"];

/// How to compile the eBPF crate. Its JSON is `target/tools/env.json`, which `firewall-user/build.rs` reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    /// For people: where the compiler comes from.
    pub(crate) compiler: String,
    /// The cargo to run.
    pub(crate) cargo: PathBuf,
    /// What to put into `RUSTC`.
    pub(crate) rustc: PathBuf,
    /// What to put into `-C linker=`.
    pub(crate) linker: PathBuf,
    /// Whether `RUSTC_BOOTSTRAP=1` has to be set, because the compiler is not a nightly.
    pub(crate) bootstrap: bool,
    /// The directory to put first on `PATH`.
    pub(crate) path: PathBuf,
}

/// A toolchain that was tried, and the files that it consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Toolchain {
    pub(super) environment: Environment,
    pub(super) files: Vec<PathBuf>,
}

impl Toolchain {
    /// Whether all of it is still there, and its compiler starts.
    pub(super) fn is_ready(&self) -> bool {
        // A bare name, such as `cargo`, is looked for on `PATH` when it is needed.
        self.files
            .iter()
            .all(|file| file.is_file() || file.is_relative())
            && shell::output(Command::new(&self.environment.rustc).arg("-vV")).is_ok()
            && shell::output(Command::new(&self.environment.linker).arg("--version")).is_ok()
    }
}

/// What a toolchain is made by; when this changes, it is made anew.
pub(super) fn recipe() -> String {
    format!(
        "toolchain 1, bpf-linker {}, {}",
        linker::VERSION,
        DEBIAN_RUST.join(" ")
    )
}

/// Finds or makes a toolchain, proves that it works and writes down how to use it.
pub(super) fn set_up(
    workspace: &Workspace,
    system: &System,
    options: Options,
) -> Result<Toolchain> {
    shell::title(
        "eBPF toolchain: the firewall's core runs in the kernel and needs a compiler for it",
    );
    let toolchain = match from_installed(workspace, options)? {
        Some(toolchain) => toolchain,
        None if system.has_apt() => from_debian(workspace, options)?,
        None => bail!(
            "no compiler here can build for eBPF, and {} has no apt to fetch one",
            system.name()
        ),
    };
    let json = serde_json::to_string_pretty(&toolchain.environment)?;
    write_atomically(&workspace.tools().join("env.json"), &(json + "\n"))?;
    Ok(toolchain)
}

/// The first compiler on this machine that works, if any does.
fn from_installed(workspace: &Workspace, options: Options) -> Result<Option<Toolchain>> {
    if options.unpack_all {
        return Ok(None);
    }
    let (usable, reasons) = compiler::installed();
    reasons.iter().for_each(|reason| shell::note(reason));
    for compiler in usable {
        shell::note(&format!(
            "using {} (rustc {})",
            compiler.name,
            compiler.version.release()
        ));
        let rustc = workspace.bin().join("rustc-bpf");
        wrapper::link(&compiler.rustc, &rustc)?;
        match equip(workspace, options, &compiler, compiler.rustc.clone(), &[]) {
            Ok(toolchain) => return Ok(Some(toolchain)),
            Err(error) => shell::note(&format!("{} cannot be used: {error:#}", compiler.name)),
        }
    }
    Ok(None)
}

/// Debian's compiler, unpacked.
fn from_debian(workspace: &Workspace, options: Options) -> Result<Toolchain> {
    shell::note(
        "fetching Debian's newest compiler with its sources; it is unpacked under target/, not installed",
    );
    let root = Root::at(workspace.tools().join("debian/rust"));
    let mut apt = Apt::new(
        workspace.tools().join("apt"),
        workspace.logs(),
        options.visible(),
    )?;
    let rustc = workspace.bin().join("rustc-bpf");
    let compiler = loop {
        // Even if parts of it are installed: the compiler finds its libraries from where it lies itself.
        apt.provide(DEBIAN_RUST, |name| name.starts_with("libstd-rust"), &root)?;
        let wrapper = Wrapper {
            about: "Debian's rustc-web, unpacked".to_owned(),
            program: "debian/rust/usr/bin/rustc".into(),
            library_dirs: below_tools("debian/rust", root.library_dirs()),
            ..Wrapper::default()
        };
        wrapper.write(&rustc)?;
        match Compiler::examine(
            "Debian's rustc-web".to_owned(),
            rustc.clone(),
            root.join("usr"),
        ) {
            Ok(compiler) => break compiler,
            // An old release was chosen from old lists, perhaps, or somebody has removed files of it.
            Err(error) if !apt.is_fresh() => {
                shell::note(&format!("Debian's compiler cannot be used: {error:#}"));
                shell::note("unpacking it again, from fresh package lists");
                root.clear()?;
                apt.refresh()?;
            }
            Err(error) => {
                return Err(error.context(
                    "Debian's compiler cannot be used (the newest comes with the security updates: \
                     is bookworm-security among the sources of apt?)",
                ));
            }
        }
    };
    let library_dirs = below_tools("debian/rust", root.library_dirs());
    equip(workspace, options, &compiler, rustc, &library_dirs)
}

/// Gives the compiler a linker, and tries both.
fn equip(
    workspace: &Workspace,
    options: Options,
    compiler: &Compiler,
    rustc: PathBuf,
    library_dirs: &[PathBuf],
) -> Result<Toolchain> {
    let bin = workspace.bin();
    let cargo = compiler.cargo.clone();
    let mut environment = Environment {
        compiler: format!("rustc {}, {}", compiler.version.release(), compiler.name),
        bootstrap: !(compiler.is_nightly() && cargo.is_some()),
        cargo: cargo.unwrap_or_else(linker::current_cargo),
        rustc,
        linker: bin.join("bpf-linker"),
        path: bin.clone(),
    };
    let found = which("bpf-linker", &bin).filter(|_| !options.unpack_all);
    let mut tried = false;
    if let Some(found) = found {
        shell::note(&format!("trying {}", found.display()));
        wrapper::link(&found, &environment.linker)?;
        match smoke::check(workspace, &environment) {
            Ok(()) => tried = true,
            Err(error) => shell::note(&format!("it does not fit this compiler: {error:#}")),
        }
    }
    if !tried {
        environment.linker = linker::build(workspace, compiler, library_dirs)?;
        smoke::check(workspace, &environment)?;
    }
    let mut files = vec![
        environment.cargo.clone(),
        environment.rustc.clone(),
        environment.linker.clone(),
    ];
    files.extend([compiler.core_source(), workspace.tools().join("env.json")]);
    Ok(Toolchain { environment, files })
}

/// Directories below a root as seen from `target/tools`.
pub(super) fn below_tools(root: &str, directories: Vec<PathBuf>) -> Vec<PathBuf> {
    directories
        .into_iter()
        .map(|directory| PathBuf::from(root).join(directory))
        .collect()
}
