//! The proof that compiler and linker work together: a small eBPF program is built as the firewall's will be.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{linker, toolchain::Environment};
use crate::{paths::Workspace, shell};

/// The machine number of BPF in an ELF header.
const EM_BPF: u16 = 247;

/// Optimises only the program itself, so that `core` builds quickly.
const MANIFEST: &str = r#"[package]
name = "smoke"
version = "0.0.0"
edition = "2024"

[[bin]]
name = "smoke"
path = "main.rs"

[profile.release]
opt-level = 0
panic = "abort"

[profile.release.package.smoke]
opt-level = 3
debug = 2

[workspace]
"#;

/// It does something that `core` has to provide, so that a program with nothing in it would not do.
const PROGRAM: &str = r#"#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn smoke(context: *const u32) -> u32 {
    unsafe { context.read() }.checked_div(3).map_or(1, u32::swap_bytes)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
"#;

/// Builds a program with the compiler and linker of `environment`; fails if no eBPF object comes of it.
pub(super) fn check(workspace: &Workspace, environment: &Environment) -> Result<()> {
    let directory = workspace.tools().join("smoke");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    fs::write(directory.join("Cargo.toml"), MANIFEST)?;
    fs::write(directory.join("main.rs"), PROGRAM)?;

    let mut command = linker::cargo(&environment.cargo);
    command.current_dir(&directory);
    command.args([
        "build",
        "--release",
        "-Z",
        "build-std=core",
        "--target",
        "bpfel-unknown-none",
    ]);
    command
        .env("CARGO_TARGET_DIR", directory.join("target"))
        .env("RUSTC", &environment.rustc);
    if environment.bootstrap {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let flags = [
        format!("-Clinker={}", environment.linker.display()),
        "-Clink-arg=--btf".to_owned(),
    ];
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    shell::run(
        "building a trial eBPF program",
        &mut command,
        &workspace.logs().join("smoke.log"),
    )?;

    let object = directory.join("target/bpfel-unknown-none/release/smoke");
    let object = fs::read(&object)
        .with_context(|| format!("no object came of it at {}", object.display()))?;
    ensure!(
        is_bpf_object(&object),
        "what came of it is not an eBPF object"
    );
    remove(&directory)
}

/// Whether these bytes are an eBPF object with type information and our program's section.
fn is_bpf_object(object: &[u8]) -> bool {
    let machine = object
        .get(18..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_le_bytes);
    let names = |name: &[u8]| object.windows(name.len()).any(|bytes| bytes == name);
    object.starts_with(b"\x7fELF")
        && machine == Some(EM_BPF)
        && names(b"\0xdp\0")
        && names(b".BTF\0")
}

fn remove(directory: &Path) -> Result<()> {
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_told_from_other_files() {
        let mut object = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0".to_vec();
        assert!(!is_bpf_object(&object), "a header alone is no program");
        object.extend(b"\0xdp\0.BTF\0");
        assert!(is_bpf_object(&object));
        object[18] = 62;
        assert!(!is_bpf_object(&object), "that is an object for x86-64");
        assert!(!is_bpf_object(b""));
    }
}
