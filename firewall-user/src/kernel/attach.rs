//! Putting the programs on an interface, and what an interface must be for that.

use anyhow::{Context as _, Result, bail};
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{ProgramError, SchedClassifier, Xdp, XdpMode};
use aya::util::KernelVersion;

use super::interface::Interface;
use super::standing;

/// The oldest kernel that takes the programs: tcx came with it.
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(6, 6, 0);

/// Which mode to attach in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeChoice {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the kernel's stack.
    Generic,
}

/// What an interface without our program must be, before anything is touched.
///
/// # Errors
///
/// A sentence that says why it cannot be guarded.
pub fn check(interface: &Interface) -> Result<()> {
    if interface.is_loopback {
        bail!(
            "{} is the loopback interface: what it carries never was on a network",
            interface.name
        );
    }
    if !interface.is_ethernet {
        bail!(
            "{} carries no Ethernet frames (it is a tunnel, say), and those are what the firewall reads: guard the interface \
             that its packets come through",
            interface.name
        );
    }
    if kernel_is_too_old()? {
        bail!(
            "this kernel is too old: Linux 6.6 or later is needed, for tcx, which shows what leaves the host"
        );
    }
    if is_realtime() {
        bail!(
            "this kernel is a real-time one (PREEMPT_RT), where a packet may be interrupted by another between two programs \
             that have to follow each other: it is not supported"
        );
    }
    standing::refuse_renamed(interface)?;
    if let Some((mode, id)) = interface.xdp.first() {
        bail!(
            "{} already has an XDP program that is not this firewall's (id {id}, {} mode): `bpftool prog show id {id}` \
             tells what it is; remove it first",
            interface.name,
            mode.as_str(),
        );
    }
    Ok(())
}

/// Whether the kernel is older than tcx.
///
/// # Errors
///
/// It does not say how old it is.
pub fn kernel_is_too_old() -> Result<bool> {
    let kernel = KernelVersion::current().context("asking for the kernel's version")?;
    Ok(kernel < OLDEST_KERNEL)
}

/// Whether the kernel is a real-time one, which says so in its version (init/Makefile; `UTS_VERSION`).
pub fn is_realtime() -> bool {
    let uname = rustix::system::uname();
    let version = uname.version().to_string_lossy();
    version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

/// Attaches the program for what leaves, before all others: of those behind it none can let a packet out unseen.
pub(super) fn egress(program: &mut SchedClassifier, interface: &Interface) -> Result<FdLink> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = program
        .attach_with_options(&interface.name, TcAttachType::Egress, options)
        .with_context(|| {
            format!(
                "the kernel refused to show the firewall what leaves through {}",
                interface.name
            )
        })?;
    FdLink::try_from(program.take_link(attached)?).context("this kernel has no BPF links for tcx")
}

/// Attaches the program for what arrives.
pub(super) fn ingress(
    program: &mut Xdp,
    interface: &Interface,
    mode: ModeChoice,
) -> Result<FdLink> {
    let attempts: &[XdpMode] = match mode {
        ModeChoice::Auto => &[XdpMode::Driver, XdpMode::Skb],
        ModeChoice::Native => &[XdpMode::Driver],
        ModeChoice::Generic => &[XdpMode::Skb],
    };
    let mut refused = None;
    for &attempt in attempts {
        match program.attach_to_if_index(interface.index, attempt) {
            Ok(id) => {
                let link = program.take_link(id)?;
                return FdLink::try_from(link).context("this kernel has no BPF links for XDP");
            }
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.expect("at least one attempt was made");
    let why = match (&error, mode) {
        (ProgramError::SyscallError(call), _) if call.io_error.raw_os_error() == Some(16) => {
            "somebody else has just attached an XDP program"
        }
        (_, ModeChoice::Native) => {
            "the driver does not take it in native mode; `--mode generic` works with any driver"
        }
        _ => "the kernel refused it",
    };
    Err(error).with_context(|| {
        format!(
            "the firewall cannot be attached to {}: {why}",
            interface.name
        )
    })
}
