//! bpffs, the file system that keeps programs and maps alive after the command that loaded them has ended.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Where everything on Linux expects it.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Whether it is mounted.
pub(super) fn is_mounted() -> bool {
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| lists_bpffs(&mounts))
}

/// Mounts it.
pub(super) fn mount() -> Result<()> {
    shell::title(
        "bpffs at /sys/fs/bpf: keeps the firewall in force after the command that loaded it has ended",
    );
    if !Path::new(MOUNT_POINT).is_dir() {
        bail!(
            "there is no directory {MOUNT_POINT}: either sysfs is not mounted (`mount -t sysfs sysfs /sys`), \
             or this kernel is built without CONFIG_BPF_SYSCALL and cannot run the firewall"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!("it is not mounted, and only root may do so: `sudo mount -t bpf bpf {MOUNT_POINT}`");
    }
    shell::output(Command::new("mount").args([
        "-t",
        "bpf",
        "-o",
        "nosuid,nodev,noexec,mode=700",
        "bpf",
        MOUNT_POINT,
    ]))
    .with_context(|| format!("cannot mount bpffs at {MOUNT_POINT}"))?;
    shell::note("mounted");
    Ok(())
}

fn lists_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_told_by_place_and_type() {
        assert!(lists_bpffs(
            "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw,mode=700 0 0\n"
        ));
        assert!(lists_bpffs("none /sys/fs/bpf bpf rw 0 0\n"));
        assert!(!lists_bpffs("bpf /run/bpf bpf rw 0 0\n"));
        assert!(!lists_bpffs("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!lists_bpffs(""));
    }
}
