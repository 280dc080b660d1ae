//! The `firewall` command that is tested, and what programs say when they end.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};

/// How a program ended and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// What it wrote to standard output, if it succeeded.
    ///
    /// # Errors
    ///
    /// If it did not, with all that it said.
    pub fn success(self) -> Result<String> {
        ensure!(self.code == Some(0), "{self}");
        Ok(self.stdout)
    }

    /// What it wrote to standard error, if it ended with `code` and wrote nothing to standard output.
    ///
    /// # Errors
    ///
    /// If it did not, with all that it said.
    pub fn failure(self, code: i32) -> Result<String> {
        ensure!(self.code == Some(code), "expected exit code {code}: {self}");
        ensure!(
            !self.stderr.trim().is_empty(),
            "it fails without a word: {self}"
        );
        ensure!(!self.stderr.contains("panicked"), "it panics: {self}");
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}")?,
            (None, signal) => write!(f, "signal {}", signal.unwrap_or_default())?,
        }
        write!(f, "; stdout: {:?}; stderr: {:?}", self.stdout, self.stderr)
    }
}

/// The command: the one that `FIREWALL_BIN` names, otherwise one that is built now, as new as its sources.
///
/// # Errors
///
/// If it does not build.
pub fn firewall() -> Result<&'static Path> {
    static FIREWALL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let firewall = FIREWALL.get_or_init(|| match std::env::var_os("FIREWALL_BIN") {
        Some(program) => Ok(PathBuf::from(program)),
        None => build().map_err(|error| format!("{error:#}")),
    });
    match firewall {
        Ok(program) if program.is_file() => Ok(program),
        Ok(program) => bail!("FIREWALL_BIN: there is no file {}", program.display()),
        Err(error) => bail!("{error}"),
    }
}

/// `PATH` with what `cargo xtask setup` has found or unpacked in front.
pub fn search_path() -> OsString {
    let mut path = workspace().join("target/tools/bin").into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // A plain user's PATH, and that of some services, lacks the directories of nft and ethtool.
    path.push(":/usr/sbin:/sbin");
    path
}

/// A program of those that `cargo xtask setup` has found or unpacked.
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", search_path()).stdin(Stdio::null());
    command
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Builds the command into the target directory and profile of this test.
fn build() -> Result<PathBuf> {
    // target/PROFILE/deps/TEST
    let test = std::env::current_exe()?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("this test lies in no target directory")?;
    let target = profile
        .parent()
        .context("this test lies in no target directory")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            "firewall-user",
            "--bin",
            "firewall",
            "--target-dir",
        ])
        .arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    Outcome::from(output)
        .success()
        .context("building firewall")?;
    Ok(profile.join("firewall"))
}
