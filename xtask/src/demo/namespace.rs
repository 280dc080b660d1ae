//! Doing something inside a network namespace: running a program there, or opening a socket.

use std::{
    ffi::OsStr,
    fs::File,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::interrupt;

/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/run/netns";

/// The file of the namespace called `name`.
pub(super) fn file(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// A command that will run inside a namespace, and find programs on `path`.
///
/// Unlike `ip netns exec`, `nsenter` leaves /sys as it is: pins in /sys/fs/bpf are to outlive the namespace.
pub(super) fn command(namespace: &str, path: &OsStr, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    let mut net = std::ffi::OsString::from("--net=");
    net.push(file(namespace));
    command.arg(net).arg("--").arg(program).env("PATH", path);
    command
}

/// Runs a program to its end, unless a signal interrupts this process first. Its failure is left to the caller.
pub(super) fn output(command: &mut Command) -> Result<Output> {
    interrupt::check()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let guard = interrupt::guard(&child);
    let output = child.wait_with_output()?;
    drop(guard);
    interrupt::check()?;
    Ok(output)
}

/// Runs a program that has to succeed, and returns what it printed.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}{}",
            shown(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Calls `work` on a thread that is inside a namespace. Sockets that it opens stay there.
pub(super) fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = file(namespace);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let inside = || -> Result<T> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", path.display()))?;
        Ok(work())
    };
    match thread::scope(|scope| scope.spawn(inside).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A command as a person would type it.
pub(super) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
