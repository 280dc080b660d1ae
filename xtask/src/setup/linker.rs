//! bpf-linker: turns what the compiler makes of the eBPF crate into one object the kernel can load.
//!
//! It reads the compiler's LLVM bitcode, so it has to bring the same LLVM. Every rustc comes with that as a
//! shared library; linked against this very library it fits, needs no LLVM of its own, and builds in a minute.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    compiler::Compiler,
    wrapper::{self, Wrapper},
};
use crate::{
    paths::{Workspace, is_executable, write_atomically},
    shell,
};

/// The release that is built.
pub(super) const VERSION: &str = "0.13.0";

/// The LLVM versions that this release can be built for.
const LLVM_VERSIONS: std::ops::RangeInclusive<u32> = 21..=23;

/// Builds bpf-linker for `compiler` unless that is done, and puts it into the directory of tools.
///
/// Libraries of the compiler are looked for in `library_dirs`, relative to `target/tools`.
pub(super) fn build(
    workspace: &Workspace,
    compiler: &Compiler,
    library_dirs: &[PathBuf],
) -> Result<PathBuf> {
    let tools = workspace.tools();
    let absolute_dirs: Vec<_> = library_dirs
        .iter()
        .map(|directory| tools.join(directory))
        .collect();
    let (library, major) = compiler.llvm(&absolute_dirs)?;
    if !LLVM_VERSIONS.contains(&major) {
        bail!("it uses LLVM {major}, which bpf-linker {VERSION} does not know");
    }
    offer_llvm(&tools, &library)?;

    let program = tools.join("bpf-linker/bin/bpf-linker");
    let built_for = tools.join("bpf-linker/built-for");
    let key = key(&library, major)?;
    if !(is_executable(&program) && fs::read_to_string(&built_for).is_ok_and(|built| built == key))
    {
        install(workspace, major, &absolute_dirs)?;
        write_atomically(&built_for, &key)?;
    }

    let mut library_dirs = library_dirs.to_vec();
    library_dirs.insert(0, "llvm/lib".into());
    let file = workspace.bin().join("bpf-linker");
    let wrapper = Wrapper {
        about: format!("bpf-linker {VERSION}, built for LLVM {major}"),
        program: "bpf-linker/bin/bpf-linker".into(),
        library_dirs,
        ..Wrapper::default()
    };
    wrapper.write(&file)?;
    Ok(file)
}

/// Makes the compiler's LLVM look like an installed one: `llvm/lib/libLLVM.so`, and the name it is loaded by.
fn offer_llvm(tools: &Path, library: &Path) -> Result<()> {
    let directory = tools.join("llvm/lib");
    if directory.is_dir() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let name = library.file_name().context("a library has a name")?;
    wrapper::link(library, &directory.join(name))?;
    wrapper::link(library, &directory.join("libLLVM.so"))
}

/// What a built linker fits: another release, or another library at the same place, asks for a new one.
fn key(library: &Path, major: u32) -> Result<String> {
    let library = library
        .canonicalize()
        .with_context(|| format!("cannot find {}", library.display()))?;
    let size = library.metadata()?.len();
    Ok(format!(
        "bpf-linker {VERSION} for LLVM {major}, {} of {size} bytes\n",
        library.display()
    ))
}

fn install(workspace: &Workspace, llvm_major: u32, library_dirs: &[PathBuf]) -> Result<()> {
    let tools = workspace.tools();
    // What is compiled stays there until all is built, so that an interrupted run goes on.
    let compiled = tools.join("bpf-linker-build");
    let mut command = cargo(&current_cargo());
    command.current_dir(&tools);
    command.args([
        "install",
        "bpf-linker",
        "--version",
        VERSION,
        "--locked",
        "--force",
        "--no-default-features",
    ]);
    command
        .args(["--features", &format!("llvm-{llvm_major}"), "--root"])
        .arg(tools.join("bpf-linker"));
    command
        .env("LLVM_PREFIX", tools.join("llvm"))
        .env("CARGO_TARGET_DIR", &compiled);
    if !library_dirs.is_empty() {
        // What LLVM itself needs may lie where only our wrappers look.
        let dirs = std::env::join_paths(library_dirs).context("a path must not contain a colon")?;
        command.env("LD_LIBRARY_PATH", dirs);
    }
    // It spends its time in LLVM, which is there already: the rest need not be fast, nor debugged.
    command
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let what = format!("building bpf-linker {VERSION} (a minute or two)");
    shell::run(
        &what,
        &mut command,
        &workspace.logs().join("bpf-linker.log"),
    )?;
    // Hundreds of megabytes that nobody needs any more; if they stay, they only take space.
    let _ = fs::remove_dir_all(compiled);
    Ok(())
}

/// The cargo that runs this command.
pub(super) fn current_cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// `cargo`, free of settings that are meant for other builds than the one to be started.
pub(super) fn cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    for variable in [
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    ] {
        command.env_remove(variable);
    }
    command.env("CARGO_TERM_COLOR", "never");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_is_offered_under_both_names_and_a_former_one_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let library = |name: &str| {
            let library = directory.path().join(name);
            fs::write(&library, name).unwrap();
            library
        };
        offer_llvm(directory.path(), &library("libLLVM.so.21.1")).unwrap();
        offer_llvm(directory.path(), &library("libLLVM.so.22.1")).unwrap();
        let offered = directory.path().join("llvm/lib");
        assert_eq!(
            fs::read_to_string(offered.join("libLLVM.so")).unwrap(),
            "libLLVM.so.22.1"
        );
        assert_eq!(
            fs::read_to_string(offered.join("libLLVM.so.22.1")).unwrap(),
            "libLLVM.so.22.1"
        );
        assert!(!offered.join("libLLVM.so.21.1").exists());
    }

    #[test]
    fn another_library_at_the_same_place_asks_for_another_linker() {
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join("libLLVM.so.22.1");
        fs::write(&library, "one").unwrap();
        let before = key(&library, 22).unwrap();
        assert_eq!(before, key(&library, 22).unwrap());
        fs::write(&library, "another").unwrap();
        assert_ne!(before, key(&library, 22).unwrap());
    }
}
