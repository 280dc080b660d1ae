//! A network namespace with a pair of links in it, gone with the run, however that ends.

use std::{
    fs::File,
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PREFIX: &str = "firewall-bench-";

/// The end of the pair that frames are sent out of.
pub(crate) const NEAR: &str = "near";
/// The end where they arrive.
pub(crate) const FAR: &str = "far";

/// The namespace; removed when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace and its links, and moves this thread into it: what it starts and loads from now on is there.
    ///
    /// # Errors
    ///
    /// What `ip` says.
    pub(crate) fn enter() -> Result<Self> {
        let name = name();
        run(&["ip", "netns", "add", &name])?;
        let namespace = Self { name };
        let path = format!("/run/netns/{}", namespace.name);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        run(&[
            "ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR,
        ])?;
        // Router advertisements and the like would be counted as well.
        for link in [NEAR, FAR] {
            run(&["ip", "link", "set", link, "addrgenmode", "none", "up"])?;
        }
        // Without a program at the far end, only GRO makes it take frames that XDP redirects (veth_xdp_xmit).
        run(&["ethtool", "-K", FAR, "gro", "on"])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Ends the run on SIGINT, SIGTERM and SIGHUP, and removes what it has made; also what runs that were killed have left.
///
/// # Errors
///
/// If signals cannot be handled.
pub(crate) fn clean_up_when_interrupted() -> Result<()> {
    let listing = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .context("cannot start ip")?;
    for line in String::from_utf8_lossy(&listing.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            remove(name);
        }
    }
    ctrlc::set_handler(|| {
        remove(&name());
        std::process::exit(130);
    })?;
    Ok(())
}

fn name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Its links, and what is attached to them, go with it.
fn remove(name: &str) {
    let _ = Command::new("ip")
        .args(["netns", "delete", name])
        .stderr(Stdio::null())
        .status();
}

/// Runs a command and returns what it writes.
///
/// # Errors
///
/// What it says if it fails.
pub(crate) fn run(command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {}",
            command.join(" "),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
