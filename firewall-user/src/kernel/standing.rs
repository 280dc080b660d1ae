//! Whether an interface is guarded, and where it is not quite, what is the matter: more than a command that wants a guard has to
//! tell apart.

use anyhow::{Error, Result, bail};

use super::guard::{self, Found, Guard};
use super::interface::{self, Interface};
use super::pins::{self, Hook, Pins};
use super::programs;

/// How it stands with an interface.
#[derive(Debug)]
pub enum Standing {
    /// Nothing of ours is there.
    Unguarded,
    /// Our program is at work, and its state pinned.
    Guarded(Box<Guard>),
    /// Pins, but the program is not on the interface: it was removed and made again.
    Stale,
    /// What an interrupted first apply or detach has left. Everything is let in.
    Leftovers,
    /// Pins of another ABI version, and whether a program that looks like ours is on the interface.
    OtherAbi {
        /// That version's name.
        version: String,
        /// Whether a program that looks like ours is on the interface.
        at_work: bool,
    },
    /// Our program is at work, but pinned under the name that the interface had before.
    Renamed(String),
    /// A program that looks like ours is at work, and this mount namespace shows no pins at all.
    Hidden,
    /// A program that looks like ours is at work, and has no pins.
    Unpinned {
        /// The link that holds it, where it can be told which.
        link: Option<u32>,
    },
    /// There are pins, and they cannot be made out.
    Unreadable(Error),
}

impl Standing {
    /// How it stands with `interface`.
    pub fn of(interface: &Interface) -> Self {
        look(interface).unwrap_or_else(Self::Unreadable)
    }
}

fn look(interface: &Interface) -> Result<Standing> {
    let pins = Pins::of(&interface.name);
    let program = programs::looks_like_ours(interface);
    if let Some(version) = pins.other_abi()? {
        return Ok(Standing::OtherAbi {
            version,
            at_work: program.is_some(),
        });
    }
    match Guard::find(interface)? {
        Found::Guard(guard) => return Ok(Standing::Guarded(guard)),
        Found::Stale => return Ok(Standing::Stale),
        Found::Nothing => {}
    }
    if let Some(program) = program {
        return Ok(match pinned_as(program)? {
            Some(before) => Standing::Renamed(before),
            None if !pins::is_bpffs() && pins::is_own_mount_namespace() => Standing::Hidden,
            None => Standing::Unpinned {
                link: programs::link_of(program),
            },
        });
    }
    Ok(match pins::exists(&pins.folder())? {
        true => Standing::Leftovers,
        false => Standing::Unguarded,
    })
}

/// Refuses an interface that is guarded under the name that it had before: whoever names it now finds nothing.
///
/// # Errors
///
/// That it is, and what to do; or the BPF file system is out of reach.
pub fn refuse_renamed(interface: &Interface) -> Result<()> {
    let name = &interface.name;
    if let Some(program) = programs::looks_like_ours(interface)
        && let Some(before) = pinned_as(program)?
        && before != *name
    {
        bail!(
            "{name} is guarded as {before}, which it was called before: `ip link set dev {name} name {before}` has commands find \
             it, `firewall detach -i {before}` takes the firewall off"
        );
    }
    Ok(())
}

/// Names of the interfaces of this network namespace that have pins, or a program that looks like ours.
///
/// # Errors
///
/// Netlink or the BPF file system is out of reach.
pub fn ours() -> Result<Vec<String>> {
    let pinned = pins::interfaces()?;
    let all = interface::all()?.into_iter();
    let ours = all.filter(|interface| {
        // Interfaces of other network namespaces may have the same name.
        let is_pinned = pinned.contains(&interface.name) && !is_elsewhere(&interface.name);
        is_pinned || programs::looks_like_ours(interface).is_some()
    });
    Ok(ours.map(|interface| interface.name).collect())
}

/// Names that have pins of this network namespace, but no interface, under this name or another.
///
/// # Errors
///
/// Netlink or the BPF file system is out of reach.
pub fn without_interface() -> Result<Vec<String>> {
    let all = interface::all()?;
    let here = interface::namespace()?;
    let mut lost = Vec::new();
    for name in pins::interfaces()? {
        let pins = Pins::of(&name);
        let is_here = guard::in_force(&pins).is_ok_and(|(_, _, found)| found.namespace == here);
        let program = guard::program_in(&pins, Hook::Ingress).ok();
        let at_work = all.iter().any(|interface| {
            interface.name == name || interface.xdp.iter().any(|&(_, id)| Some(id) == program)
        });
        if is_here && !at_work {
            lost.push(name);
        }
    }
    Ok(lost)
}

fn is_elsewhere(name: &str) -> bool {
    let found = guard::in_force(&Pins::of(name));
    found
        .is_ok_and(|(_, _, found)| interface::namespace().is_ok_and(|here| found.namespace != here))
}

/// The name under which a program is pinned.
fn pinned_as(program: u32) -> Result<Option<String>> {
    let mut names = pins::interfaces()?.into_iter();
    Ok(names.find(|name| {
        let pinned = guard::program_in(&Pins::of(name), Hook::Ingress);
        pinned.is_ok_and(|id| id == program)
    }))
}
