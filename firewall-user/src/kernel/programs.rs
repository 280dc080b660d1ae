//! Programs of others on an interface: whatever else decides about its packets.

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, loaded_programs};

use super::interface::Interface;

/// How often the tcx programs are asked for; one may go between being listed and being asked what it is.
const TRIES: usize = 5;

/// The tcx programs on `interface`.
pub(super) fn tcx(
    interface: &Interface,
    attach_type: TcAttachType,
) -> Result<Vec<ProgramInfo>, ProgramError> {
    let mut tries = 1;
    loop {
        match SchedClassifier::query_tcx(&interface.name, attach_type) {
            Ok((_, programs)) => return Ok(programs),
            Err(_) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// One line for each XDP or tcx program on `interface`, apart from those with ids in `ours`.
pub fn others(interface: &Interface, ours: &[u32]) -> Vec<String> {
    let mut lines: Vec<String> = interface
        .xdp
        .iter()
        .filter(|(_, id)| !ours.contains(id))
        .map(|(mode, id)| format!("XDP program {id}{} in {} mode", name(*id), mode.as_str()))
        .collect();
    for (hook, attach_type) in [
        ("ingress", TcAttachType::Ingress),
        ("egress", TcAttachType::Egress),
    ] {
        // Kernels before 6.6 have no tcx, and then nothing is there to be told.
        let Ok(programs) = tcx(interface, attach_type) else {
            continue;
        };
        lines.extend(
            programs
                .iter()
                .filter(|program| !ours.contains(&program.id()))
                .map(|program| format!("tcx {hook} program {}{}", program.id(), quoted(program))),
        );
    }
    lines
}

fn name(id: u32) -> String {
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id);
    program.as_ref().map(quoted).unwrap_or_default()
}

fn quoted(program: &ProgramInfo) -> String {
    program
        .name_as_str()
        .map(|name| format!(" `{name}`"))
        .unwrap_or_default()
}
