//! Whether what is pinned lasts: a guard is there for as long as its pins are.

use super::finding::Finding;
use crate::kernel::pins::{self, BPFFS};

/// What is known of the BPF file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    is_mounted: bool,
    is_read_only: bool,
    /// Whether mounts of this process are seen by none but its like.
    is_own_namespace: bool,
}

/// The finding about it.
pub(super) fn finding() -> Finding {
    judge(Facts {
        is_mounted: pins::is_bpffs(),
        is_read_only: pins::is_read_only(),
        is_own_namespace: pins::is_own_mount_namespace(),
    })
}

fn judge(facts: Facts) -> Finding {
    const CHECK: &str = "bpffs";
    let Facts {
        is_mounted,
        is_read_only,
        is_own_namespace,
    } = facts;
    match (is_mounted, is_own_namespace) {
        (false, true) => Finding::error(
            CHECK,
            format!(
                "{BPFFS} is not a BPF file system in this mount namespace, which is one of its own (as under `ip netns exec`): \
                 guards cannot be seen from here, nor made"
            ),
        )
        .mended_by("nsenter --net=/run/netns/NAME firewall doctor"),
        (false, false) => Finding::warning(
            CHECK,
            format!(
                "no BPF file system is mounted at {BPFFS}: nothing is pinned there, and guards that were are gone; `firewall \
                 apply` mounts it"
            ),
        )
        .mended_by(format!("mount -t bpf bpf {BPFFS}")),
        (true, _) if is_read_only => Finding::error(
            CHECK,
            format!("the BPF file system at {BPFFS} is read-only: nothing can be pinned"),
        )
        .mended_by(format!("mount -o remount,rw {BPFFS}")),
        (true, true) => Finding::note(
            CHECK,
            format!(
                "{BPFFS} is mounted in a mount namespace of its own: if the file system is nowhere else, guards made here end \
                 with the last process of this namespace"
            ),
        ),
        (true, false) => Finding::ok(CHECK, format!("the BPF file system is mounted at {BPFFS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn what_does_not_last_is_told() {
        let good = Facts {
            is_mounted: true,
            is_read_only: false,
            is_own_namespace: false,
        };
        assert_eq!(judge(good).severity, Severity::Ok);
        let cases = [
            (
                Facts {
                    is_mounted: false,
                    ..good
                },
                Severity::Warning,
                Some("mount -t bpf bpf /sys/fs/bpf"),
            ),
            (
                Facts {
                    is_read_only: true,
                    ..good
                },
                Severity::Error,
                Some("mount -o remount,rw /sys/fs/bpf"),
            ),
            (
                Facts {
                    is_own_namespace: true,
                    ..good
                },
                Severity::Note,
                None,
            ),
            (
                Facts {
                    is_mounted: false,
                    is_own_namespace: true,
                    ..good
                },
                Severity::Error,
                Some("nsenter --net=/run/netns/NAME firewall doctor"),
            ),
        ];
        for (facts, severity, remedy) in cases {
            let found = judge(facts);
            assert_eq!(
                (found.severity, found.remedy.as_deref()),
                (severity, remedy),
                "{facts:?}"
            );
        }
    }
}
