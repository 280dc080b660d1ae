//! Compilers that can build for the BPF target: those with the source of `core` beside them.
//!
//! No toolchain ships a `core` for BPF, so cargo builds it, from the compiler's own sources.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    paths::{is_executable, multiarch, which},
    shell,
};

/// The oldest release that compiles the eBPF program: the workspace's `rust-version`.
const OLDEST: (u32, u32) = (1, 95);

/// Where the source of `core` lies in a compiler's sysroot.
const CORE_SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A compiler that has what it takes.
#[derive(Clone, Debug)]
pub(super) struct Compiler {
    /// What a person calls it.
    pub(super) name: String,
    /// The program to run.
    pub(super) rustc: PathBuf,
    /// The cargo that came with it, if any did.
    pub(super) cargo: Option<PathBuf>,
    /// The directory of its libraries and sources.
    pub(super) sysroot: PathBuf,
    /// What it says of itself.
    pub(super) version: Version,
}

/// What `rustc -vV` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    release: String,
    llvm: String,
}

impl Compiler {
    /// Looks at the compiler `rustc`, whose sysroot is `sysroot`; fails if it cannot build for BPF.
    pub(super) fn examine(name: String, rustc: PathBuf, sysroot: PathBuf) -> Result<Self> {
        let core = sysroot.join(CORE_SOURCE);
        if !core.is_file() {
            bail!("it lacks the source of core (`rustup component add rust-src` adds it)");
        }
        let version = Version::parse(&shell::output(Command::new(&rustc).arg("-vV"))?)?;
        if version.number() < Some(OLDEST) {
            bail!(
                "it is rustc {}, but {}.{} is needed",
                version.release,
                OLDEST.0,
                OLDEST.1
            );
        }
        let cargo = Some(sysroot.join("bin/cargo")).filter(|cargo| is_executable(cargo));
        Ok(Self {
            name,
            rustc,
            cargo,
            sysroot,
            version,
        })
    }

    /// Whether it accepts unstable options by itself.
    pub(super) fn is_nightly(&self) -> bool {
        self.version.release.ends_with("-nightly") || self.version.release.ends_with("-dev")
    }

    /// The shared library of its LLVM, and LLVM's major version.
    ///
    /// `library_dirs` are searched beside the compiler's own.
    pub(super) fn llvm(&self, library_dirs: &[PathBuf]) -> Result<(PathBuf, u32)> {
        let major = self.version.llvm_major()?;
        let system = [
            Path::new("/usr/lib").join(multiarch()),
            PathBuf::from("/usr/lib64"),
            PathBuf::from("/usr/lib"),
        ];
        [self.sysroot.join("lib")]
            .iter()
            .chain(library_dirs)
            .chain(&system)
            .find_map(|directory| llvm_in(directory, major))
            .map(|library| (library, major))
            .with_context(|| {
                format!(
                    "cannot find the library of LLVM {major} that rustc {} uses",
                    self.version.release
                )
            })
    }

    /// The source of `core`.
    pub(super) fn core_source(&self) -> PathBuf {
        self.sysroot.join(CORE_SOURCE)
    }
}

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|value| value.trim().to_owned())
                .with_context(|| {
                    format!(
                        "rustc -vV says nothing of its {}",
                        key.trim_end_matches(':')
                    )
                })
        };
        Ok(Self {
            release: field("release:")?,
            llvm: field("LLVM version:")?,
        })
    }

    /// The release, such as "1.97.0-nightly".
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    fn number(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.split(['.', '-']).map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }

    fn llvm_major(&self) -> Result<u32> {
        let major = self
            .llvm
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        major.with_context(|| format!("cannot read the LLVM version {:?}", self.llvm))
    }
}

/// The compilers on this machine that can build for BPF, best first, and why some others cannot.
pub(super) fn installed() -> (Vec<Compiler>, Vec<String>) {
    let mut usable = Vec::new();
    let mut reasons = Vec::new();
    for (name, rustc, sysroot) in candidates() {
        match Compiler::examine(name.clone(), rustc, sysroot) {
            Ok(compiler) => usable.push(compiler),
            // Nobody expects a stable compiler to do, so only a nightly that does not is worth a word.
            Err(reason) if name.contains("nightly") => {
                reasons.push(format!("{name} cannot be used: {reason}"));
            }
            Err(_) => {}
        }
    }
    // A nightly is made for this. The others do the same if told that they may.
    usable.sort_by_key(|compiler| !compiler.is_nightly());
    (usable, reasons)
}

/// Every compiler that rustup or the system has: its name, program and sysroot.
fn candidates() -> Vec<(String, PathBuf, PathBuf)> {
    // Without rustup there is nothing to list, which is no error.
    let list = shell::output(Command::new("rustup").args(["toolchain", "list", "--verbose"]))
        .unwrap_or_default();
    let mut candidates: Vec<_> = parse_toolchains(&list)
        .into_iter()
        .map(|(name, sysroot)| {
            (
                format!("rustup's {name}"),
                sysroot.join("bin/rustc"),
                sysroot,
            )
        })
        .collect();
    let system = PathBuf::from("/usr/bin/rustc");
    let on_path = which("rustc", Path::new(""));
    for rustc in on_path.into_iter().chain([system]) {
        let Ok(sysroot) = shell::output(Command::new(&rustc).args(["--print", "sysroot"])) else {
            continue;
        };
        let sysroot = PathBuf::from(sysroot.trim());
        if !candidates.iter().any(|(_, _, known)| *known == sysroot) {
            candidates.push((rustc.display().to_string(), rustc, sysroot));
        }
    }
    candidates
}

/// Names and directories, out of `rustup toolchain list --verbose`. Two names may share one directory.
fn parse_toolchains(list: &str) -> Vec<(String, PathBuf)> {
    let mut toolchains: Vec<(String, PathBuf)> = Vec::new();
    for line in list.lines() {
        // NAME [(active, default)] DIRECTORY
        let Some(directory) = line
            .find(" /")
            .map(|start| PathBuf::from(line[start + 1..].trim()))
        else {
            continue;
        };
        let Some(name) = line.split_whitespace().next() else {
            continue;
        };
        if !toolchains.iter().any(|(_, known)| *known == directory) {
            toolchains.push((name.to_owned(), directory));
        }
    }
    toolchains
}

/// The library of LLVM `major` in `directory`.
fn llvm_in(directory: &Path, major: u32) -> Option<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| is_llvm(name, major))
        .collect();
    names.sort();
    // rustup's toolchains have a linker script of that name beside the library.
    names
        .iter()
        .map(|name| directory.join(name))
        .find(|file| is_elf(file))
}

/// Whether a file of this name is LLVM `major`: libLLVM.so.22.1, libLLVM-22.so, libLLVM.so.22.1-rust-1.97.0-nightly.
fn is_llvm(name: &str, major: u32) -> bool {
    let Some(rest) = name.strip_prefix("libLLVM") else {
        return false;
    };
    let version = rest
        .strip_prefix(".so.")
        .or_else(|| rest.strip_prefix('-').filter(|rest| rest.contains(".so")));
    let digits = version.map(|version| {
        version
            .split(|character: char| !character.is_ascii_digit())
            .next()
    });
    digits.flatten().and_then(|digits| digits.parse().ok()) == Some(major)
}

fn is_elf(file: &Path) -> bool {
    let mut magic = [0; 4];
    fs::File::open(file)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = "\
rustc 1.97.0-nightly (e50aa6fba 2026-05-19)
binary: rustc
host: x86_64-unknown-linux-gnu
release: 1.97.0-nightly
LLVM version: 22.1.4
";

    #[test]
    fn a_version_is_read() {
        let version = Version::parse(NIGHTLY).unwrap();
        assert_eq!(version.release(), "1.97.0-nightly");
        assert_eq!(version.number(), Some((1, 97)));
        assert_eq!(version.llvm_major().unwrap(), 22);
        assert!(
            Version::parse("rustc 1.97.0")
                .unwrap_err()
                .to_string()
                .contains("release")
        );
    }

    #[test]
    fn toolchains_are_listed_once_a_directory() {
        let list = "\
stable-x86_64-unknown-linux-gnu (active, default) /home/me/.rustup/toolchains/stable
nightly-x86_64-unknown-linux-gnu /home/me/my tools/nightly
1.95.0-x86_64-unknown-linux-gnu /home/me/.rustup/toolchains/stable
no toolchain installed
";
        let toolchains = parse_toolchains(list);
        assert_eq!(
            toolchains,
            [
                (
                    "stable-x86_64-unknown-linux-gnu".to_owned(),
                    "/home/me/.rustup/toolchains/stable".into()
                ),
                (
                    "nightly-x86_64-unknown-linux-gnu".to_owned(),
                    "/home/me/my tools/nightly".into()
                ),
            ]
        );
    }

    /// A sysroot whose rustc says that it is `release`.
    fn sysroot(directory: &Path, release: &str, with_source: bool) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let sysroot = directory.join(release);
        fs::create_dir_all(sysroot.join("bin")).unwrap();
        let rustc = sysroot.join("bin/rustc");
        fs::write(
            &rustc,
            format!("#!/bin/sh\necho 'release: {release}'; echo 'LLVM version: 22.1.4'\n"),
        )
        .unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        if with_source {
            let core = sysroot.join(CORE_SOURCE);
            fs::create_dir_all(core.parent().unwrap()).unwrap();
            fs::write(core, "").unwrap();
        }
        sysroot
    }

    fn examine(sysroot: &Path) -> Result<Compiler> {
        Compiler::examine(
            "sample".to_owned(),
            sysroot.join("bin/rustc"),
            sysroot.to_owned(),
        )
    }

    #[test]
    fn a_compiler_needs_the_source_of_core_and_a_recent_release() {
        let directory = tempfile::tempdir().unwrap();
        let error = |release, with_source| {
            examine(&sysroot(directory.path(), release, with_source))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("1.98.0-nightly", false),
            "it lacks the source of core (`rustup component add rust-src` adds it)"
        );
        assert_eq!(
            error("1.94.9", true),
            "it is rustc 1.94.9, but 1.95 is needed"
        );

        let nightly = examine(&sysroot(directory.path(), "1.97.0-nightly", true)).unwrap();
        assert!(nightly.is_nightly());
        assert_eq!(nightly.cargo, None);
        let stable = examine(&sysroot(directory.path(), "1.95.0", true)).unwrap();
        assert!(!stable.is_nightly());
    }

    #[test]
    fn the_llvm_library_is_told_by_its_name() {
        for name in [
            "libLLVM.so.22.1",
            "libLLVM-22.so",
            "libLLVM.so.22.1-rust-1.97.0-nightly",
        ] {
            assert!(is_llvm(name, 22), "{name}");
            assert!(!is_llvm(name, 2) && !is_llvm(name, 23), "{name}");
        }
        for name in [
            "libLLVM.so",
            "libLLVM-22.a",
            "libLLVMCore.so.22",
            "libLLVM-C.so",
        ] {
            assert!(!is_llvm(name, 22), "{name}");
        }
    }

    #[test]
    fn a_linker_script_is_not_the_llvm_library() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(
            directory.path().join("libLLVM-22-rust.so"),
            "INPUT(libLLVM.so.22.1-rust)",
        )
        .unwrap();
        assert_eq!(llvm_in(directory.path(), 22), None);
        let library = directory.path().join("libLLVM.so.22.1-rust");
        fs::write(&library, b"\x7fELF and more").unwrap();
        assert_eq!(llvm_in(directory.path(), 22), Some(library));
    }
}
