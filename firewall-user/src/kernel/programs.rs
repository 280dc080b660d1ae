//! Programs of others on an interface: whatever else decides about its packets.

use std::fmt;

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, loaded_links, loaded_programs};
use firewall_common::abi::PROGRAM_INGRESS;

use super::interface::{Interface, Mode};

/// How often the tcx programs are asked for; one may go between being listed and being asked what it is.
const TRIES: usize = 5;
/// Bytes that the kernel keeps of a program's name (`BPF_OBJ_NAME_LEN` of linux/bpf.h, but for the zero).
const KEPT_OF_NAMES: usize = 15;

/// The tcx programs on `interface`.
fn tcx(interface: &Interface, attach_type: TcAttachType) -> Result<Vec<ProgramInfo>, ProgramError> {
    let mut tries = 1;
    loop {
        match SchedClassifier::query_tcx(&interface.name, attach_type) {
            Ok((_, programs)) => return Ok(programs),
            Err(_) if tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A program that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: Option<String>,
    /// Where it is.
    pub place: Place,
    /// The link that holds it, where it can be told which.
    pub link: Option<u32>,
    /// Whether it sees what leaves before ours does.
    pub is_ahead: bool,
}

/// Where a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At XDP, in a mode.
    Xdp(Mode),
    /// At tcx, for what arrives.
    TcxIngress,
    /// At tcx, for what leaves.
    TcxEgress,
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hook = match self.place {
            Place::Xdp(_) => "XDP",
            Place::TcxIngress => "tcx ingress",
            Place::TcxEgress => "tcx egress",
        };
        write!(f, "{hook} program {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " `{name}`")?;
        }
        match self.place {
            Place::Xdp(mode) => write!(f, " in {} mode", mode.as_str()),
            Place::TcxIngress | Place::TcxEgress => Ok(()),
        }
    }
}

/// The XDP and tcx programs on `interface`, apart from those with ids in `ours`.
pub fn others(interface: &Interface, ours: &[u32]) -> Vec<Other> {
    let xdp = interface
        .xdp
        .iter()
        .map(|&(mode, id)| (id, name(id), Place::Xdp(mode)));
    let mut found: Vec<_> = xdp.collect();
    for (place, attach_type) in [
        (Place::TcxIngress, TcAttachType::Ingress),
        (Place::TcxEgress, TcAttachType::Egress),
    ] {
        // Kernels before 6.6 have no tcx, and then nothing is there to be told.
        let Ok(programs) = tcx(interface, attach_type) else {
            continue;
        };
        found.extend(
            programs
                .iter()
                .map(|program| (program.id(), name_of(program), place)),
        );
    }
    let ours_at = found
        .iter()
        .position(|(id, _, place)| *place == Place::TcxEgress && ours.contains(id));
    let mut others = Vec::new();
    for (at, (id, name, place)) in found.into_iter().enumerate() {
        if !ours.contains(&id) {
            others.push(Other {
                id,
                name,
                place,
                link: link_of(id),
                is_ahead: place == Place::TcxEgress && ours_at.is_some_and(|ours_at| at < ours_at),
            });
        }
    }
    others
}

/// The XDP program on `interface` that is one of this firewall's, by its name.
pub fn looks_like_ours(interface: &Interface) -> Option<u32> {
    let kept = &PROGRAM_INGRESS[..PROGRAM_INGRESS.len().min(KEPT_OF_NAMES)];
    let mut ids = interface.xdp.iter().map(|&(_, id)| id);
    ids.find(|&id| name(id).as_deref() == Some(kept))
}

/// Whether the kernel has tcx on `interface`.
///
/// # Errors
///
/// What it says instead.
pub fn has_tcx(interface: &Interface) -> Result<(), ProgramError> {
    tcx(interface, TcAttachType::Egress).map(drop)
}

fn name(id: u32) -> Option<String> {
    let mut programs = loaded_programs().filter_map(Result::ok);
    name_of(&programs.find(|program| program.id() == id)?)
}

fn name_of(program: &ProgramInfo) -> Option<String> {
    program.name_as_str().map(str::to_owned)
}

/// The link that runs the program with this number. Of several, which may be on several interfaces, none can be meant.
pub fn link_of(program: u32) -> Option<u32> {
    let mut links = loaded_links()
        .filter_map(Result::ok)
        .filter(|link| link.program_id() == program);
    let link = links.next()?;
    links.next().is_none().then(|| link.id())
}
