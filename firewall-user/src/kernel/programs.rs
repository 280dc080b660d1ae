//! Programs of others on an interface: whatever else decides about its packets.

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramInfo, SchedClassifier, loaded_programs};

use super::interface::Interface;

/// One line for each XDP or tcx program on `interface`, apart from the one with id `ours`.
pub fn others(interface: &Interface, ours: Option<u32>) -> Vec<String> {
    let mut lines: Vec<String> = interface
        .xdp
        .iter()
        .filter(|(_, id)| Some(*id) != ours)
        .map(|(mode, id)| format!("XDP program {id}{} in {} mode", name(*id), mode.as_str()))
        .collect();
    for (hook, attach_type) in [
        ("ingress", TcAttachType::Ingress),
        ("egress", TcAttachType::Egress),
    ] {
        // Kernels before 6.6 have no tcx, and then nothing is there to be told.
        let Ok((_, programs)) = SchedClassifier::query_tcx(&interface.name, attach_type) else {
            continue;
        };
        lines.extend(
            programs
                .iter()
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
