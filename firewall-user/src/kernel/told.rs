//! What the kernel tells of programs to whoever has them pinned or may see to the interface. aya asks for both by opening what it is
//! told by its number, for which a service would have to keep CAP_SYS_ADMIN.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_info};

/// Most maps that a program can use (`MAX_USED_MAPS`, include/linux/bpf_verifier.h), and programs that an interface can have
/// (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MOST: usize = 64;

/// Numbers of the maps that the program pinned at `path` uses.
///
/// # Errors
///
/// It is not there, or what the kernel says.
pub(super) fn maps_of(path: &Path) -> Result<Vec<u32>> {
    // To open it, its kind does not matter.
    let program = SchedClassifier::from_pin(path);
    let program = program.with_context(|| format!("opening {}", path.display()))?;
    let mut ids = [0u32; MOST];
    let mut info: bpf_prog_info = zeroed();
    info.nr_map_ids = MOST as u32;
    info.map_ids = ids.as_mut_ptr() as u64;
    let mut attributes: bpf_attr = zeroed();
    attributes.info.bpf_fd = program.fd()?.as_fd().as_raw_fd() as u32;
    attributes.info.info_len = size_of::<bpf_prog_info>() as u32;
    attributes.info.info = (&raw mut info) as u64;
    call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)
        .context("asking for a program's maps")?;
    Ok(ids[..MOST.min(info.nr_map_ids as usize)].to_vec())
}

/// Numbers of the tcx programs that see what leaves through the interface with this index.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn egress_programs(index: u32) -> Result<Vec<u32>> {
    let mut ids = [0u32; MOST];
    let mut attributes: bpf_attr = zeroed();
    attributes.query.__bindgen_anon_1.target_ifindex = index;
    attributes.query.attach_type = bpf_attach_type::BPF_TCX_EGRESS as u32;
    attributes.query.prog_ids = ids.as_mut_ptr() as u64;
    attributes.query.__bindgen_anon_2.count = MOST as u32;
    call(bpf_cmd::BPF_PROG_QUERY, &mut attributes)
        .context("asking for the programs that see what leaves")?;
    // SAFETY: both fields of the union are the same number.
    #[expect(unsafe_code, reason = "the kernel's records are unions")]
    let count = unsafe { attributes.query.__bindgen_anon_2.count };
    Ok(ids[..MOST.min(count as usize)].to_vec())
}

#[expect(unsafe_code, reason = "the kernel's records have no default")]
fn zeroed<T: Copy>() -> T {
    // SAFETY: this is called for two records of the kernel's, which are integers and unions of them.
    unsafe { std::mem::zeroed() }
}

#[expect(unsafe_code, reason = "a system call that aya keeps to itself")]
fn call(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<()> {
    let size = size_of::<bpf_attr>();
    // SAFETY: the kernel writes to the record, and where its two callers have it point to: records and arrays of theirs, whose lengths
    // they tell it, and which outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i32, attributes, size) };
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
