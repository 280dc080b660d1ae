//! The service, as systemd runs it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::machine::Machine;

/// How long systemd may take to start it again, and the service to see to something.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it keeps of root's privileges: CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF, as `/proc/PID/status` shows them;
/// `include/uapi/linux/capability.h`
const CAPABILITIES: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// Whether it runs and has said that it is ready.
pub(crate) fn is_active(machine: &Machine) -> Result<bool> {
    Ok(machine.run("systemctl is-active firewall || true")? == "active\n")
}

/// Waits until it runs and has said that it is ready.
pub(crate) fn wait_until_active(machine: &Machine) -> Result<()> {
    wait_until(machine, || is_active(machine))
}

/// Waits until `done` says so.
pub(crate) fn wait_until(machine: &Machine, done: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "{}", said(machine)?);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The process that systemd has started last.
pub(crate) fn process(machine: &Machine) -> Result<String> {
    let shown = machine.run("systemctl show --property ExecMainPID --value firewall")?;
    Ok(shown.trim().to_owned())
}

/// Whether its process may do what it needs, and no more.
pub(crate) fn is_confined(machine: &Machine) -> Result<bool> {
    let status = machine.run(&format!("cat /proc/{}/status", process(machine)?))?;
    let value = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().last())
    };
    let capabilities = format!("{CAPABILITIES:016x}");
    let are_so = ["CapPrm:", "CapEff:", "CapBnd:"].map(value) == [Some(capabilities.as_str()); 3];
    // 2: a filter of system calls; Documentation/userspace-api/seccomp_filter.rst
    Ok(are_so && value("NoNewPrivs:") == Some("1") && value("Seccomp:") == Some("2"))
}

/// What it tells monitoring at its usual address.
pub(crate) fn metrics(machine: &Machine) -> Result<String> {
    machine.run(
        "curl --disable --noproxy '*' --silent --show-error --fail http://127.0.0.1:9590/metrics",
    )
}

/// What it and systemd have said.
pub(crate) fn said(machine: &Machine) -> Result<String> {
    machine.run("systemctl --no-pager --full status firewall || true; journalctl --no-pager --unit firewall || true")
}
