//! What the machine is like, whatever the interface: its kernel, and what this process may do.

use std::fs;

use rustix::thread::{CapabilitySet, capabilities};

use super::finding::{Finding, Severity};
use crate::kernel::attach;

const PRIVILEGES: &str = "privileges";

/// Every finding about the machine.
pub(super) fn findings() -> Vec<Finding> {
    let setting = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let sets = capabilities(None).map(|sets| sets.effective);
    let findings = [
        Some(kernel(
            &rustix::system::uname().release().to_string_lossy(),
            attach::kernel_is_too_old().unwrap_or(false),
            attach::is_realtime(),
        )),
        Some(privileges(
            rustix::process::geteuid().is_root(),
            sets.unwrap_or_else(|_| CapabilitySet::empty()),
        )),
        // Network namespaces other than the first do not show those of net.core; they hold for them all the same.
        compiler(&setting("/proc/sys/net/core/bpf_jit_enable")),
        hardening(&setting("/proc/sys/net/core/bpf_jit_harden")),
        statistics(&setting("/proc/sys/kernel/bpf_stats_enabled")),
        lockdown(&setting("/sys/kernel/security/lockdown")),
    ];
    findings.into_iter().flatten().collect()
}

fn kernel(release: &str, is_too_old: bool, is_realtime: bool) -> Finding {
    const CHECK: &str = "kernel";
    if is_too_old {
        Finding::error(
            CHECK,
            format!("Linux {release} is too old: tcx, which shows what leaves, came with 6.6"),
        )
    } else if is_realtime {
        Finding::error(
            CHECK,
            format!("Linux {release} is a real-time kernel (PREEMPT_RT), which is not supported"),
        )
    } else {
        Finding::ok(CHECK, format!("Linux {release} has all that is needed"))
    }
}

/// Whether, by these findings, this process may see programs and pins.
pub(super) fn may_look(findings: &[Finding]) -> bool {
    let mut found = findings.iter();
    found.all(|finding| finding.check != PRIVILEGES || finding.severity == Severity::Ok)
}

/// Capabilities alone do not suffice, because bpffs belongs to root; nor does root without them, as in a container.
fn privileges(is_root: bool, held: CapabilitySet) -> Finding {
    if !is_root {
        return Finding::error(
            PRIVILEGES,
            "this is not root, who alone sees what is pinned and can attach anything",
        )
        .mended_by("sudo firewall doctor");
    }
    let needed = [
        ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
        ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(_, capability)| !held.contains(*capability))
        .map(|&(name, _)| name)
        .collect();
    if missing.is_empty() {
        return Finding::ok(PRIVILEGES, "root, with the capabilities that it takes");
    }
    Finding::error(
        PRIVILEGES,
        format!(
            "this is root without {}, as in a container: run it on the host, or give the container that",
            missing.join(" and ")
        ),
    )
}

/// Programs that both call functions and go on in others are for the JIT compiler alone: the kernel refuses them to its
/// interpreter (`bpf_fixup_call_args`, kernel/bpf/verifier.c).
fn compiler(setting: &str) -> Option<Finding> {
    const CHECK: &str = "jit";
    match setting.trim() {
        "" => None,
        "0" => Some(
            Finding::error(
                CHECK,
                "the kernel does not compile BPF programs, and its interpreter does not take these",
            )
            .mended_by("sysctl -w net.core.bpf_jit_enable=1"),
        ),
        _ => Some(Finding::ok(CHECK, "the kernel compiles BPF programs")),
    }
}

/// 2 hides the constants in everybody's programs, root's too (Documentation/admin-guide/sysctl/net.rst).
fn hardening(setting: &str) -> Option<Finding> {
    (setting.trim() == "2").then(|| {
        Finding::note(
            "jit-hardening",
            "the kernel blinds the constants in root's BPF programs, which makes each packet dearer",
        )
        .mended_by("sysctl -w net.core.bpf_jit_harden=1")
    })
}

fn statistics(setting: &str) -> Option<Finding> {
    (setting.trim() == "1").then(|| {
        Finding::note(
            "bpf-statistics",
            "the kernel takes the time of every run of a BPF program, which makes each packet dearer",
        )
        .mended_by("sysctl -w kernel.bpf_stats_enabled=0")
    })
}

/// `confidentiality` takes helpers away that read the kernel's memory. The firewall uses none of them.
fn lockdown(setting: &str) -> Option<Finding> {
    setting.contains("[confidentiality]").then(|| {
        Finding::note(
            "lockdown",
            "the kernel is locked down for confidentiality: the firewall works, tools that trace it do not",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_real_time_kernels_are_errors() {
        assert_eq!(kernel("6.6.1", false, false).severity, Severity::Ok);
        let old = kernel("6.1.0-18-amd64", true, false);
        assert_eq!(old.severity, Severity::Error);
        assert!(old.finding.contains("6.1.0-18-amd64"));
        assert_eq!(kernel("6.12.0-rt", false, true).severity, Severity::Error);
    }

    #[test]
    fn root_in_a_container_hears_what_it_lacks() {
        let all = CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
        assert_eq!(privileges(true, all).severity, Severity::Ok);
        assert_eq!(privileges(false, all).severity, Severity::Error);
        let some = privileges(true, CapabilitySet::SYS_ADMIN);
        assert!(some.finding.contains("without CAP_NET_ADMIN,"), "{some:?}");
        let none = privileges(true, CapabilitySet::empty());
        assert!(none.finding.contains("CAP_NET_ADMIN and CAP_SYS_ADMIN"));
    }

    #[test]
    fn settings_that_cost_or_forbid_are_told_with_what_undoes_them() {
        assert_eq!(compiler(""), None);
        assert_eq!(compiler("1\n").unwrap().severity, Severity::Ok);
        let off = compiler("0\n").unwrap();
        assert_eq!(off.severity, Severity::Error);
        assert!(off.remedy.unwrap().ends_with("bpf_jit_enable=1"));

        assert!(hardening("2\n").unwrap().remedy.is_some());
        assert_eq!(hardening("1\n"), None);
        assert!(statistics("1\n").unwrap().remedy.is_some());
        assert_eq!(statistics("0\n"), None);
    }

    #[test]
    fn of_lockdown_only_confidentiality_is_told() {
        assert!(lockdown("none integrity [confidentiality]\n").is_some());
        assert_eq!(lockdown("none [integrity] confidentiality\n"), None);
        assert_eq!(lockdown(""), None);
    }
}
