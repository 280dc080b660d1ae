//! The stage: a server, a client and an attacker, each in a network namespace, joined by a bridge in a fourth.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            net::{SocketAddr, UnixListener},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use super::namespace;
use crate::shell;

/// Files of the demonstration: a fixed place, so that the next run finds what a killed one has left.
pub(super) const STATE: &str = "/run/firewall-demo";

/// The namespace with the bridge.
const SWITCH: &str = "firewall-demo-switch";

/// Where the firewall pins what it has attached.
const PINS: &str = "/sys/fs/bpf/firewall";

/// Addresses are those that `rules/web.toml` speaks of: a web server, and a client among the load balancers.
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 34);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x20, 0, 0, 0, 0x34);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 17);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0x10, 0, 0, 0, 0x17);
/// In none of the file's groups.
const ATTACKER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const ATTACKER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 7);

/// Everybody is a neighbour of everybody, as on the inside of a hosting network.
const NETWORKS: [&str; 3] = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"];

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Person {
    /// What is guarded.
    Server,
    /// A load balancer of the same site.
    Client,
    /// Somebody else.
    Attacker,
}

impl Person {
    const ALL: [Self; 3] = [Self::Server, Self::Client, Self::Attacker];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
            Self::Attacker => "attacker",
        }
    }

    /// Whether the rules let this person in.
    pub(super) fn is_welcome(self) -> bool {
        self == Self::Client
    }

    pub(super) fn namespace(self) -> &'static str {
        match self {
            Self::Server => "firewall-demo-server",
            Self::Client => "firewall-demo-client",
            Self::Attacker => "firewall-demo-attacker",
        }
    }

    /// Pins go by interface name, whatever the namespace: this must be the name of no other interface.
    pub(super) fn interface(self) -> &'static str {
        match self {
            Self::Server => "fwdemo-server",
            Self::Client => "fwdemo-client",
            Self::Attacker => "fwdemo-attacker",
        }
    }

    pub(super) fn addresses(self) -> [IpAddr; 2] {
        match self {
            Self::Server => [SERVER_V4.into(), SERVER_V6.into()],
            Self::Client => [CLIENT_V4.into(), CLIENT_V6.into()],
            Self::Attacker => [ATTACKER_V4.into(), ATTACKER_V6.into()],
        }
    }

    /// The other end of the cable, in the switch.
    fn port(self) -> String {
        format!("port-{}", self.name())
    }
}

/// The stage while it stands; dropping it takes it down.
#[derive(Debug)]
pub(super) struct Stage {
    path: OsString,
    /// Two runs at once would tear down each other's stage. The kernel frees the name however this process ends.
    _lock: UnixListener,
}

impl Stage {
    /// Sets the stage, after removing what an earlier run may have left. Programs are looked for on `path`.
    pub(super) fn set(path: &OsStr) -> Result<Self> {
        let lock = lock()?;
        if clear(path)? {
            shell::note("removed what an interrupted run had left");
        }
        let stage = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        fs::create_dir_all(STATE).with_context(|| format!("cannot create {STATE}"))?;
        stage.build()?;
        Ok(stage)
    }

    /// A command that will run where this person is.
    pub(super) fn command(&self, person: Person, program: impl AsRef<OsStr>) -> Command {
        namespace::command(person.namespace(), &self.path, program)
    }

    /// Tells people who is there.
    pub(super) fn describe(&self) {
        for person in Person::ALL {
            let [v4, v6] = person.addresses();
            let role = match person {
                Person::Server => "the web server to guard",
                Person::Client => "a load balancer, which rules/web.toml lets in",
                Person::Attacker => "in no group of rules/web.toml",
            };
            let (name, v4) = (person.name(), v4.to_string());
            shell::note(&format!("{name:<8}  {v4:<12}  {v6:<20}  {role}"));
        }
    }

    fn build(&self) -> Result<()> {
        self.ip(&format!("netns add {SWITCH}"))?;
        // Without snooping, the bridge forwards neighbour discovery at once.
        self.ip(&format!(
            "-n {SWITCH} link add bridge type bridge mcast_snooping 0"
        ))?;
        self.ip(&format!("-n {SWITCH} link set bridge up"))?;
        for person in Person::ALL {
            self.connect(person)?;
        }
        Ok(())
    }

    /// Makes a person's namespace, with a cable to the switch.
    fn connect(&self, person: Person) -> Result<()> {
        let (name, interface, port) = (person.namespace(), person.interface(), person.port());
        self.ip(&format!("netns add {name}"))?;
        self.ip(&format!(
            "link add {interface} netns {name} type veth peer name {port} netns {SWITCH}"
        ))?;
        self.ip(&format!("-n {SWITCH} link set {port} master bridge up"))?;
        self.ip(&format!("-n {name} link set lo up"))?;
        self.ip(&format!("-n {name} link set {interface} up"))?;
        for address in person.addresses() {
            // Looking for duplicates would hold up IPv6 for a second.
            let (length, nodad) = if address.is_ipv4() {
                (32, "")
            } else {
                (128, " nodad")
            };
            self.ip(&format!(
                "-n {name} address add {address}/{length} dev {interface}{nodad}"
            ))?;
        }
        for network in NETWORKS {
            self.ip(&format!("-n {name} route add {network} dev {interface}"))?;
        }
        Ok(())
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(arguments.split(' ')).env("PATH", &self.path);
        namespace::run(&mut command).map(drop)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.path) {
            shell::note(&format!("could not clean up: {error:#}"));
        }
    }
}

/// Removes whatever there is of a stage; whether there was anything.
fn clear(path: &OsStr) -> Result<bool> {
    let mut found = false;
    let namespaces = Person::ALL.map(Person::namespace);
    for name in namespaces.into_iter().chain([SWITCH]) {
        if !namespace::file(name).exists() {
            continue;
        }
        found = true;
        // A namespace lives on, with its links, while a process is in it.
        for pid in ip_always(path, &["netns", "pids", name])?.split_whitespace() {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                // One that has just ended by itself is as good.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        ip_always(path, &["netns", "delete", name])?;
    }
    for directory in [
        Path::new(PINS).join(Person::Server.interface()),
        STATE.into(),
    ] {
        match fs::remove_dir_all(&directory) {
            Ok(()) => found = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot remove {}", directory.display()));
            }
        }
    }
    Ok(found)
}

/// Runs `ip` also after an interruption, and so that another Ctrl-C does not reach it.
fn ip_always(path: &OsStr, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("ip");
    command
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .process_group(0);
    shell::output(&mut command)
}

fn lock() -> Result<UnixListener> {
    let name = SocketAddr::from_abstract_name("firewall-demo")?;
    UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!("another `cargo xtask demo` is running on this machine"),
        _ => anyhow!(error).context("cannot take the demonstration's lock"),
    })
}
