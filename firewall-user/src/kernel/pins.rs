//! Where the state of a guarded interface is pinned, so that it outlives every process.
//!
//! ```text
//! /sys/fs/bpf/firewall/IFACE/v5/     v5: ABI version
//!     link  link-egress              hold the programs on the interface: XDP and tcx; `link` is pinned last, removed first
//!     program  program-egress
//!     clock                          the program that tells the flow table's time
//!     CONTROL IMAGE_0 ..             the maps
//!     BANS BAN_REASONS LIMITS ..     bans and why, token buckets
//!     FLOWS FLOW_SETTINGS            the flow table: one, with a pin in the folder of each guarded interface of a namespace
//!     EVENTS EVENT_SETTINGS ..       who is told of packets, and of how many
//!     COUNTERS_0 ..                  counters: another map each time that there had to be room for more
//!     policy-CLASS-SLOT              what the image in that place is
//!     source-N text-N list-HASH      the rule files and lists that generations came from
//!     shadow SHADOW ..               a candidate that is asked beside what is in force
//! ```
//!
//! `program-next` is on its way to the name `program`, `program-egress-next` to that of `program-egress`, and `next` to
//! that of a description or of a link.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use firewall_common::abi::control::Place;
use firewall_common::abi::{
    ABI_VERSION, MAP_COUNTERS, MAP_EGRESS_NEXT, MAP_INGRESS_NEXT, PROGRAM_EGRESS, PROGRAM_INGRESS,
};
use rustix::mount::{MountFlags, mount};

use super::upgrade;

/// The BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Magic number of bpffs (`BPF_FS_MAGIC`, include/uapi/linux/magic.h).
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// Where on an interface packets are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP: what arrives.
    Ingress,
    /// tcx: what leaves.
    Egress,
}

impl Hook {
    /// Both, in the order in which programs are put to work: a flow is recorded before its answer could be refused.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// Name of the program array that its program goes on from.
    pub const fn next_map(self) -> &'static str {
        match self {
            Self::Ingress => MAP_INGRESS_NEXT,
            Self::Egress => MAP_EGRESS_NEXT,
        }
    }

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "xdp",
            Self::Egress => "tcx",
        }
    }

    /// Name of the program that is attached there.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Ingress => PROGRAM_INGRESS,
            Self::Egress => PROGRAM_EGRESS,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Ingress => "",
            Self::Egress => "-egress",
        }
    }
}

/// Pins of one interface.
#[derive(Clone, Debug)]
pub struct Pins {
    interface: PathBuf,
    version: u32,
}

impl Pins {
    /// The pins of interface `name`, whether or not there are any.
    pub fn of(name: &str) -> Self {
        Self::of_version(name, ABI_VERSION)
    }

    /// Those that another ABI version has made, or would.
    pub(super) fn of_version(name: &str, version: u32) -> Self {
        Self {
            interface: root().join(escape(name)),
            version,
        }
    }

    /// The folder of the ABI version.
    pub fn folder(&self) -> PathBuf {
        self.interface.join(version_name(self.version))
    }

    /// The pinned link.
    pub fn link(&self, hook: Hook) -> PathBuf {
        self.folder().join(format!("link{}", hook.suffix()))
    }

    /// The pinned program.
    pub fn program(&self, hook: Hook) -> PathBuf {
        self.folder().join(format!("program{}", hook.suffix()))
    }

    /// The program that is about to replace the one at [`program`](Self::program).
    pub fn program_next(&self, hook: Hook) -> PathBuf {
        self.folder().join(format!("program{}-next", hook.suffix()))
    }

    /// The program that tells the flow table's time.
    pub fn clock(&self) -> PathBuf {
        self.folder().join("clock")
    }

    /// The pinned map called `name`, which is not that of the counters.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The pinned map of counters with this number, from 0.
    pub fn counters(&self, number: usize) -> PathBuf {
        self.folder().join(format!("{MAP_COUNTERS}_{number}"))
    }

    /// The program array with this number that programs of `hook` go on from.
    /// The kernel empties a program array that nobody holds.
    pub fn next(&self, hook: Hook, number: usize) -> PathBuf {
        self.folder().join(format!("{}_{number}", hook.next_map()))
    }

    /// Every program array that is pinned for programs of `hook`.
    ///
    /// # Errors
    ///
    /// The BPF file system cannot be read.
    pub fn nexts(&self, hook: Hook) -> Result<Vec<PathBuf>> {
        let folder = self.folder();
        let entries = fs::read_dir(&folder);
        let entries = entries.with_context(|| format!("reading {}", folder.display()))?;
        let prefix = format!("{}_", hook.next_map());
        let mut nexts = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                nexts.push(entry.path());
            }
        }
        Ok(nexts)
    }

    /// Where another program array of `hook` can be pinned.
    ///
    /// # Errors
    ///
    /// The BPF file system cannot be read.
    pub fn free_next(&self, hook: Hook) -> Result<PathBuf> {
        let nexts = self.nexts(hook)?;
        let mut paths = (0..).map(|number| self.next(hook, number));
        let free = paths.find(|path| !nexts.contains(path));
        Ok(free.expect("there are numbers enough"))
    }

    /// What is known of the candidate that is asked beside the policy in force.
    pub fn shadow(&self) -> PathBuf {
        self.folder().join("shadow")
    }

    /// The pinned description of the image in `place`.
    pub fn policy(&self, place: Place) -> PathBuf {
        self.folder()
            .join(format!("policy-{}-{}", place.class(), place.slot()))
    }

    /// Makes the folder.
    ///
    /// # Errors
    ///
    /// Most likely missing permission.
    pub fn create(&self) -> Result<()> {
        let folder = self.folder();
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))
    }

    /// Refuses pins of another ABI version.
    ///
    /// # Errors
    ///
    /// A sentence that says what to do, where there are such pins.
    pub fn refuse_other_abi(&self) -> Result<()> {
        match self.other_abi()? {
            Some(other) => Err(self.other_abi_error(&other)),
            None => Ok(()),
        }
    }

    /// What to tell of pins of the ABI version with this name.
    pub(super) fn other_abi_error(&self, other: &str) -> Error {
        let mend = if upgrade::reads(other) {
            "`firewall upgrade` takes it over, and no packet notices"
        } else {
            "detach with that version's `firewall detach`, or remove the folder, which opens the interface; then apply again"
        };
        anyhow!(
            "{} holds the state of another version of this firewall ({other}; this one has {}): {mend}",
            self.interface.display(),
            version_name(self.version),
        )
    }

    /// Another ABI version of which there are pins.
    ///
    /// # Errors
    ///
    /// The BPF file system is there but cannot be read.
    pub fn other_abi(&self) -> Result<Option<String>> {
        let entries = match fs::read_dir(&self.interface) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.with_context(|| format!("reading {}", self.interface.display()))?,
        };
        for entry in entries {
            let name = entry?.file_name();
            if name != version_name(self.version).as_str() {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }

    /// Removes everything, the link of [`Hook::Ingress`] first: a folder without it is one to be cleared.
    ///
    /// # Errors
    ///
    /// What cannot be removed.
    pub fn remove(&self) -> Result<()> {
        self.remove_version()?;
        remove_if_there(&self.interface, |path| fs::remove_dir(path))
    }

    /// Removes everything of this ABI version, in the same order; what is of another one stays.
    ///
    /// # Errors
    ///
    /// What cannot be removed.
    pub(super) fn remove_version(&self) -> Result<()> {
        remove_file(&self.link(Hook::Ingress))?;
        remove_if_there(&self.folder(), |path| fs::remove_dir_all(path))
    }
}

/// Pins something at `path` in the place of what is there: at every moment one of them is.
///
/// # Errors
///
/// What the kernel says; what was there is there still.
pub fn replace<E>(path: &Path, pin: impl FnOnce(&Path) -> Result<(), E>) -> Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let next = path.with_file_name("next");
    remove_file(&next)?;
    pin(&next).with_context(|| format!("pinning {}", next.display()))?;
    rename(&next, path)
}

/// Gives the pin at `from` the name `to`, in the place of what is there.
///
/// # Errors
///
/// What the kernel says.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))
}

/// Removes the pin at `path`, if there is one.
///
/// # Errors
///
/// It cannot be removed.
pub fn remove_file(path: &Path) -> Result<()> {
    remove_if_there(path, |path| fs::remove_file(path))
}

/// Whether there is a pin at `path`.
///
/// # Errors
///
/// The BPF file system cannot be read.
pub fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .with_context(|| format!("looking for {}", path.display()))
}

/// Names of interfaces that have pins of any version.
///
/// # Errors
///
/// The BPF file system is there but cannot be read.
pub fn interfaces() -> Result<Vec<String>> {
    let entries = match fs::read_dir(root()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", root().display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Some(name) = entry?.file_name().to_str() {
            names.push(unescape(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Mounts the BPF file system where it is not.
///
/// # Errors
///
/// A sentence that says what is missing.
pub fn ensure_bpffs() -> Result<()> {
    // A service that has given up its privileges cannot ask for that any more when the file system is gone later.
    let is_own = is_own_mount_namespace();
    if is_bpffs() {
        return Ok(());
    }
    if is_own {
        bail!(
            "{BPFFS} is not a BPF file system in this mount namespace, which is one of its own (as under `ip netns exec`): what \
             is mounted and pinned here is gone when the command ends, and the interface open. Use `nsenter \
             --net=/run/netns/NAME firewall ...` for another network namespace, or mount bpf where this namespace is made",
        );
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), Some(c"mode=0700")).with_context(|| {
        format!("{BPFFS} is not a BPF file system and cannot be mounted; `mount -t bpf bpf {BPFFS}` must work")
    })
}

/// Whether mounts of this process are seen by none but its like. Where that of the first process cannot be asked for when this is asked
/// first, it is not ours.
pub fn is_own_mount_namespace() -> bool {
    static IS_OWN: OnceLock<bool> = OnceLock::new();
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    *IS_OWN.get_or_init(|| of("self") != of("1"))
}

/// Whether the BPF file system is mounted.
pub fn is_bpffs() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|found| found.f_type as u64 == BPFFS_MAGIC)
}

/// Whether the BPF file system takes no pins.
pub fn is_read_only() -> bool {
    use rustix::fs::{StatVfsMountFlags, statvfs};
    statvfs(BPFFS).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn root() -> PathBuf {
    Path::new(BPFFS).join("firewall")
}

/// The name of an ABI version's folder.
pub(super) fn version_name(version: u32) -> String {
    format!("v{version}")
}

/// The kernel allows no dots in names there; interfaces such as `eth0.10` have them.
fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2e")
}

fn unescape(name: &str) -> String {
    name.replace("%2e", ".").replace("%25", "%")
}

fn remove_if_there(path: &Path, remove: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    match remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("removing {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vlan_interfaces_survive_a_file_system_without_dots() {
        for name in ["eth0", "eth0.10", "a%b", "x%2e"] {
            assert!(!escape(name).contains('.'));
            assert_eq!(unescape(&escape(name)), name);
        }
        assert_ne!(escape("a.b"), escape("a%2eb"));
    }
}
