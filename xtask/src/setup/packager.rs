//! cargo-deb: makes Debian packages of what is built. It needs nothing but cargo, and builds in a minute.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

use super::{
    linker::{cargo, current_cargo},
    wrapper,
};
use crate::{paths::Workspace, shell};

/// The release that is built.
const VERSION: &str = "3.8.0";

/// Its name, on crates.io and on `PATH`.
const NAME: &str = "cargo-deb";

/// Whether it is there, in this release.
pub(super) fn is_ready(workspace: &Workspace) -> bool {
    is_right(&workspace.bin().join(NAME))
}

/// Builds it unless that is done, and puts it into the directory of tools.
pub(super) fn set_up(workspace: &Workspace) -> Result<()> {
    let root = workspace.tools().join(NAME);
    let program = root.join("bin").join(NAME);
    if !is_right(&program) {
        // What is compiled stays there until all is built, so that an interrupted run goes on.
        let compiled = workspace.tools().join("cargo-deb-build");
        let mut command = cargo(&current_cargo());
        command.current_dir(workspace.tools());
        // Without the feature for compressing by itself it takes Debian's xz, which every Debian has.
        command
            .args(["install", NAME, "--version", VERSION, "--locked", "--force"])
            .arg("--no-default-features")
            .arg("--root")
            .arg(&root)
            .env("CARGO_TARGET_DIR", &compiled)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        let what = format!("building {NAME} {VERSION} (a minute)");
        shell::run(&what, &mut command, &workspace.logs().join("cargo-deb.log"))?;
        // If it stays, it only takes space.
        let _ = fs::remove_dir_all(compiled);
    }
    wrapper::link(&program, &workspace.bin().join(NAME))
}

fn is_right(program: &Path) -> bool {
    shell::output(Command::new(program).arg("--version"))
        .is_ok_and(|version| version.trim().ends_with(VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_ready() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path());
        assert!(!is_ready(&workspace));
        // Another release, as it were.
        fs::create_dir_all(workspace.bin()).unwrap();
        wrapper::link(Path::new("/bin/echo"), &workspace.bin().join(NAME)).unwrap();
        assert!(!is_ready(&workspace));
    }
}
