//! Where the state of a guarded interface is pinned, so that it outlives every process.
//!
//! ```text
//! /sys/fs/bpf/firewall/IFACE/v1/     v1: ABI version
//!     link                           holds the program on the interface; pinned last, removed first
//!     program
//!     CONTROL COUNTERS IMAGE_0 ..    the maps
//!     policy-CLASS-SLOT              what the image in that place came from
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use firewall_common::abi::ABI_VERSION;
use rustix::mount::{MountFlags, mount};

use super::image::Place;

/// The BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Magic number of bpffs (`BPF_FS_MAGIC`, include/uapi/linux/magic.h).
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

/// Pins of one interface.
#[derive(Clone, Debug)]
pub struct Pins {
    interface: PathBuf,
}

impl Pins {
    /// The pins of interface `name`, whether or not there are any.
    pub fn of(name: &str) -> Self {
        Self {
            interface: root().join(escape(name)),
        }
    }

    /// The folder of this ABI version.
    pub fn folder(&self) -> PathBuf {
        self.interface.join(version_name())
    }

    /// The pinned link.
    pub fn link(&self) -> PathBuf {
        self.folder().join("link")
    }

    /// The pinned program.
    pub fn program(&self) -> PathBuf {
        self.folder().join("program")
    }

    /// The pinned map called `name`.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// The pinned description of the image in `place`.
    pub fn policy(&self, place: Place) -> PathBuf {
        self.folder()
            .join(format!("policy-{}-{}", place.class, place.slot))
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
        let entries = match fs::read_dir(&self.interface) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.with_context(|| format!("reading {}", self.interface.display()))?,
        };
        for entry in entries {
            let name = entry?.file_name();
            if name != version_name().as_str() {
                bail!(
                    "{} holds the state of another version of this firewall ({}; this one has {}): detach with that \
                     version's `firewall detach`, or remove the folder, which opens the interface; then apply again",
                    self.interface.display(),
                    name.display(),
                    version_name(),
                );
            }
        }
        Ok(())
    }

    /// Removes everything, the link first: with it goes the program, unless somebody else holds it.
    ///
    /// # Errors
    ///
    /// What cannot be removed.
    pub fn remove(&self) -> Result<()> {
        remove_if_there(&self.link(), |path| fs::remove_file(path))?;
        remove_if_there(&self.folder(), |path| fs::remove_dir_all(path))?;
        remove_if_there(&self.interface, |path| fs::remove_dir(path))
    }
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
    if is_bpffs() {
        return Ok(());
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), Some(c"mode=0700")).with_context(|| {
        format!("{BPFFS} is not a BPF file system and cannot be mounted; `mount -t bpf bpf {BPFFS}` must work")
    })
}

/// Whether the BPF file system is mounted.
pub fn is_bpffs() -> bool {
    rustix::fs::statfs(BPFFS).is_ok_and(|found| found.f_type as u64 == BPFFS_MAGIC)
}

fn root() -> PathBuf {
    Path::new(BPFFS).join("firewall")
}

fn version_name() -> String {
    format!("v{ABI_VERSION}")
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
