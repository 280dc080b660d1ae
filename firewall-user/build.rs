//! Builds the eBPF program and puts its object where the crate embeds it.
//!
//! What it needs (a compiler with the sources of `core`, bpf-linker) is found and recorded by `cargo xtask setup`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

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

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has no parent folder")?;
    let tools = root.join("target/tools/env.json");
    for path in ["firewall-ebpf", "firewall-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo:rerun-if-changed={}", tools.display());

    let Ok(text) = fs::read_to_string(&tools) else {
        bail!("the eBPF toolchain is not set up: run `cargo xtask setup` first (it says what it does)");
    };
    let toolchain: Toolchain = serde_json::from_str(&text).context("target/tools/env.json; run `cargo xtask setup`")?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    // One place for all profiles: `core` is compiled once.
    let target = root.join("target/ebpf");
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;

    let mut build = Command::new(&toolchain.cargo);
    build
        .current_dir(root)
        .args(["build", "--release", "--package", "firewall-ebpf", "-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target);
    for name in NOT_INHERITED {
        build.env_remove(name);
    }
    let flags = [
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // 32-bit jumps and arithmetic (kernel 5.1) spare the zero-extension of every u32.
        "-Ctarget-cpu=v3".to_owned(),
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
    ];
    build.env("RUSTC", &toolchain.rustc).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    build.env("CARGO_CFG_BPF_TARGET_ARCH", &architecture);
    if toolchain.bootstrap {
        build.env("RUSTC_BOOTSTRAP", "1");
    }
    let status = build.status().with_context(|| format!("running {}", toolchain.cargo.display()))?;
    if !status.success() {
        bail!("the eBPF program did not build; its compiler's messages are above");
    }
    for name in ["firewall-ebpf"] {
        let object = target.join("bpfel-unknown-none/release").join(name);
        fs::copy(&object, out.join(name)).with_context(|| format!("copying {}", object.display()))?;
    }
    Ok(())
}
