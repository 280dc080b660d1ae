//! The application server: a small program that keeps notes, reads from the replica and writes to the primary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::design::{Role, SERVERS};
use super::machine::Machine;
use crate::net::Daemon;

/// Where its program is on the machine: anybody may run it there, which is not so wherever it was built.
const PROGRAM: &str = "/run/application";

/// Starts it; `program` is what was built of `src/bin/application.rs`.
pub(super) fn start(machine: &Machine, program: &Path) -> Result<Daemon> {
    let place = machine.file(PROGRAM);
    fs::copy(program, &place)
        .with_context(|| format!("cannot copy {} to {PROGRAM}", program.display()))?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    let mut command = machine.unprivileged(PROGRAM);
    for role in [Role::Primary, Role::Replica] {
        let server = SERVERS.iter().find(|server| server.role == role);
        let server = server.with_context(|| format!("no {}", role.name()))?;
        command.arg(server.v4.to_string());
    }
    machine.service("application", &mut command, "serving")
}
