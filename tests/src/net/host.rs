//! One machine: a network namespace, with one interface that matters.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramInfo, SchedClassifier};
use firewall_common::abi::ABI_VERSION;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::command::{Outcome, firewall, search_path};

/// Where `ip netns` keeps its names.
pub(super) const NAMESPACES: &str = "/run/netns";

/// A network namespace; dropping it removes it with its interfaces.
#[derive(Debug)]
pub struct Host {
    namespace: String,
    interface: String,
    /// Its address in 192.0.2.0/24.
    pub v4: Ipv4Addr,
    /// Its address in 2001:db8::/64.
    pub v6: Ipv6Addr,
}

/// A program on an interface, as `ip link` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `native` or `generic`.
    pub mode: &'static str,
    /// The kernel's number of the program.
    pub program: u64,
}

impl Host {
    /// Makes the namespace; the interface comes with the cable.
    pub(super) fn new(namespace: String, interface: String, last: u8) -> Result<Self> {
        ip(&["netns", "add", &namespace])?;
        let host = Self {
            namespace,
            interface,
            v4: Ipv4Addr::new(192, 0, 2, last),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)),
        };
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The interface that matters.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Calls `work` on a thread inside the namespace. Sockets that it opens, and programs that it starts, stay there.
    ///
    /// # Errors
    ///
    /// What `work` says, or that the namespace is gone.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = Path::new(NAMESPACES).join(&self.namespace);
        let file = File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
        within(&file, work)
    }

    /// Starts a program here. `ip netns exec` would hide bpffs from it; a thread in the namespace does not.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.start(command)
    }

    /// Starts a program here, with the files that it was given.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(&self, command: &mut Command) -> Result<Child> {
        self.enter(|| {
            command
                .env("PATH", search_path())
                .spawn()
                .with_context(|| format!("cannot start {command:?}"))
        })
    }

    /// Runs a program here to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn run(&self, command: &mut Command) -> Result<Outcome> {
        Ok(self.spawn(command)?.wait_with_output()?.into())
    }

    /// Runs a program that has to succeed; `line` is cut at spaces.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn must(&self, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        self.run(command.args(words))?
            .success()
            .with_context(|| line.to_owned())
    }

    /// Sets a parameter of the network stack, by its path below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(name);
        self.enter(|| {
            std::fs::write(&file, value).with_context(|| format!("cannot set {}", file.display()))
        })
    }

    /// Runs `ip` with `arguments`, cut at spaces.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.must(&format!("ip {arguments}"))
    }

    /// Runs `firewall` to its end.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn firewall(&self, arguments: &[&str]) -> Result<Outcome> {
        self.run(Command::new(firewall()?).args(arguments))
    }

    /// Starts `firewall`.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start_firewall(&self, arguments: &[&str]) -> Result<Child> {
        self.spawn(Command::new(firewall()?).args(arguments))
    }

    /// The program on the interface, told by the kernel.
    ///
    /// # Errors
    ///
    /// If the interface is gone.
    pub fn attached(&self) -> Result<Option<Attached>> {
        let text = self.ip(&format!("-json link show dev {}", self.interface))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let xdp = &links[0]["xdp"];
        if xdp.is_null() {
            return Ok(None);
        }
        // XDP_ATTACHED_DRV and XDP_ATTACHED_SKB of linux/if_link.h.
        let mode = match xdp["mode"].as_u64() {
            Some(1) => "native",
            Some(2) => "generic",
            mode => bail!("mode {mode:?} of XDP is not known here"),
        };
        let program = xdp["prog"]["id"]
            .as_u64()
            .with_context(|| format!("no program in {text}"))?;
        Ok(Some(Attached { mode, program }))
    }

    /// The tcx programs that see what leaves through the interface, told by the kernel.
    ///
    /// # Errors
    ///
    /// If the interface is gone.
    pub fn egress(&self) -> Result<Vec<u32>> {
        self.enter(|| {
            let (_, programs) = SchedClassifier::query_tcx(&self.interface, TcAttachType::Egress)?;
            Ok(programs.iter().map(ProgramInfo::id).collect())
        })
    }

    /// The hardware address of an interface here.
    ///
    /// # Errors
    ///
    /// If there is no such interface.
    pub fn hardware_address(&self) -> Result<[u8; 6]> {
        let text = self.ip(&format!("-json link show dev {}", self.interface))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let address = links[0]["address"]
            .as_str()
            .context("a link without address")?;
        let bytes: Vec<u8> = address
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<_, _>>()?;
        bytes
            .try_into()
            .ok()
            .context("an address that is not Ethernet's")
    }

    /// Where this interface's pins are, if the firewall is on it.
    pub fn pins(&self) -> PathBuf {
        Path::new(super::PINS).join(&self.interface)
    }

    /// What is pinned there, by this version.
    pub fn state(&self) -> PathBuf {
        self.pins().join(format!("v{ABI_VERSION}"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        super::sweep::unpin(&self.interface);
        // The next process tries again.
        let _ = ip(&["netns", "delete", &self.namespace]);
    }
}

/// Calls `work` on a thread in the network namespace that `file` is.
pub(crate) fn within<T: Send>(file: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("cannot enter a namespace")?;
        work()
    };
    match thread::scope(|scope| scope.spawn(inside).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` where this process is.
pub(super) fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output();
    Outcome::from(output.context("cannot start ip: `cargo xtask setup` sees to it")?)
        .success()
        .with_context(|| format!("ip {}", arguments.join(" ")))
}
