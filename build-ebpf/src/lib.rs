//! Builds an eBPF package of this workspace, for the build script of the crate that embeds its object.
//!
//! What it needs (a compiler with the sources of `core`, bpf-linker) is found and recorded by `cargo xtask setup`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The part of `target/tools/env.json` that is needed here; `xtask/src/setup/toolchain.rs` writes it.
#[derive(serde::Deserialize)]
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    linker: PathBuf,
    bootstrap: bool,
}

/// Variables of the outer build that would change the inner one.
const NOT_INHERITED: [&str; 9] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_RUSTFLAGS",
    "LD_LIBRARY_PATH",
    "RUSTDOCFLAGS",
];

/// Builds `package` with these `features`, whose one binary has its name, and puts the object into `OUT_DIR` under that name. It is built
/// again when one of `sources`, relative to the workspace, has changed.
///
/// # Errors
///
/// Says what to run where the toolchain is not set up.
pub fn build(package: &str, features: &[&str], sources: &[&str]) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the crate has no parent folder")?;
    let tools = root.join("target/tools/env.json");
    for path in sources.iter().chain(&["Cargo.toml", "Cargo.lock"]) {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rerun-if-changed={}", tools.display());

    let Ok(text) = fs::read_to_string(&tools) else {
        bail!(
            "the eBPF toolchain is not set up: run `cargo xtask setup` first (it says what it does)"
        );
    };
    let toolchain: Toolchain =
        serde_json::from_str(&text).context("target/tools/env.json; run `cargo xtask setup`")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    // One place for all packages and profiles: `core` is compiled once.
    let target = root.join("target/ebpf");

    let status = command(&toolchain, package, &target)?
        .arg(format!("--features={}", features.join(",")))
        .current_dir(root)
        .status()
        .with_context(|| format!("running {}", toolchain.cargo.display()))?;
    if !status.success() {
        bail!("{package} did not build; its compiler's messages are above");
    }
    let object = target.join("bpfel-unknown-none/release").join(package);
    fs::copy(&object, out.join(package))
        .with_context(|| format!("copying {}", object.display()))?;
    Ok(())
}

fn command(toolchain: &Toolchain, package: &str, target: &Path) -> Result<Command> {
    let architecture =
        env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    let mut build = Command::new(&toolchain.cargo);
    build
        .args(["build", "--release", "--package", package])
        .args([
            "-Z",
            "build-std=core",
            "--target",
            "bpfel-unknown-none",
            "--target-dir",
        ])
        .arg(target);
    for name in NOT_INHERITED {
        build.env_remove(name);
    }
    let flags = [
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // 32-bit jumps and arithmetic (kernel 5.1) spare the zero-extension of every u32.
        "-Ctarget-cpu=v3".to_owned(),
        // Headers lie at any address; the kernel lets programs read words there, on machines that can.
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
    ];
    build
        .env("RUSTC", &toolchain.rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    build.env("CARGO_CFG_BPF_TARGET_ARCH", &architecture);
    if toolchain.bootstrap {
        build.env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(build)
}
