//! The service keeps of root's privileges what it takes to see to programs and maps, and no more.

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};

/// Programs and maps; interfaces and what is attached to them; what the verifier lets programs do.
const NEEDED: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// Gives up every other capability for good, also for programs that this one would start. To be called before there are threads.
///
/// # Errors
///
/// One that is needed is not there.
pub(super) fn drop_all_but_needed() -> Result<()> {
    let needed = CapsHashSet::from(NEEDED);
    let permitted = caps::read(None, CapSet::Permitted).context("asking for capabilities")?;
    let mut missing = needed.difference(&permitted);
    if let Some(missing) = missing.next() {
        bail!("{missing} is missing: the service needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON");
    }
    // What bounds the others can only be changed while one of them is still there, which a service manager may have taken.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let bounding = caps::read(None, CapSet::Bounding).context("asking for capabilities")?;
        for capability in bounding.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability)
                .with_context(|| format!("giving up {capability}"))?;
        }
    }
    for (set, kept) in [
        (CapSet::Ambient, CapsHashSet::new()),
        (CapSet::Inheritable, CapsHashSet::new()),
        (CapSet::Effective, needed.clone()),
        (CapSet::Permitted, needed),
    ] {
        caps::set(None, set, &kept).context("giving up capabilities")?;
    }
    rustix::thread::set_no_new_privs(true).context("giving up new privileges")
}
