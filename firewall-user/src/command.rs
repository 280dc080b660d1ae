//! The verbs of the command line, one a file.

pub(crate) mod apply;
pub(crate) mod ban;
pub(crate) mod bans;
pub(crate) mod capture;
pub(crate) mod check;
pub(crate) mod confirm;
pub(crate) mod detach;
#[cfg(feature = "diagnostics")]
pub(crate) mod diagnostics;
pub(crate) mod doctor;
mod edit;
pub(crate) mod explain;
pub(crate) mod flows;
pub(crate) mod generate;
pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod plan;
pub(crate) mod ports;
mod repeated;
pub(crate) mod rollback;
pub(crate) mod rule;
pub(crate) mod rules;
pub(crate) mod serve;
pub(crate) mod shadow;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod unban;
pub(crate) mod upgrade;
pub(crate) mod watch;

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use firewall_common::abi::image::Line;

use crate::cli::Interfaces;

use crate::kernel::guard::{Found, Guard};
use crate::kernel::interface::{self, Interface};
use crate::kernel::{pins, standing};
use crate::output::Output;
use crate::session::Session;

/// An address as tables have it, upper half first: IPv4 is mapped there, and is never so on the wire.
fn address([high, low]: [u64; 2]) -> IpAddr {
    let bits = u128::from(high) << 64 | u128::from(low);
    IpAddr::V6(Ipv6Addr::from(bits)).to_canonical()
}

/// Tells whoever would be shut out by these tables.
fn warn_who_is_shut_out(image: &[Line], output: &Output) -> Result<()> {
    match Session::current() {
        Some(session) if session.is_shut_out(image) => output.aside(session.warning()),
        _ => Ok(()),
    }
}

/// Names in the order in which they were typed. An interface that is named twice is still one.
pub(crate) fn once(names: &[String]) -> Vec<String> {
    let is_first = |(at, name): &(usize, &String)| !names[..*at].contains(name);
    let names = names.iter().enumerate().filter(is_first);
    names.map(|(_, name)| name.clone()).collect()
}

/// The interface called `name`.
fn interface(name: &str) -> Result<Interface> {
    interface::find(name)?
        .with_context(|| format!("there is no interface {name}; `ip link` lists those there are"))
}

/// The guards on the interfaces called `names`; without names, on all guarded interfaces of this network namespace.
fn guards(names: &[String]) -> Result<Vec<(String, Guard)>> {
    if !names.is_empty() {
        let guards = once(names).into_iter().map(|name| {
            let (_, guard) = guard(&name)?;
            Ok((name, guard))
        });
        return guards.collect();
    }
    let pinned = pins::interfaces()?;
    let mut guards = Vec::new();
    for interface in interface::all()? {
        if pinned.contains(&interface.name)
            && let Found::Guard(guard) = Guard::find(&interface)?
        {
            guards.push((interface.name, *guard));
        }
    }
    if guards.is_empty() {
        bail!(
            "no interface of this network namespace is guarded; `firewall apply FILE -i IFACE` guards one"
        );
    }
    Ok(guards)
}

/// The guard on the interface called `name`.
fn guard(name: &str) -> Result<(Interface, Guard)> {
    let interface = interface(name)?;
    match Guard::find(&interface)? {
        Found::Guard(guard) => Ok((interface, *guard)),
        Found::Nothing => {
            standing::refuse_renamed(&interface)?;
            bail!("{name} is not guarded; `firewall apply FILE -i {name}` guards it")
        }
        Found::Stale => bail!(
            "{name} is NOT guarded any more: its interface was removed or made again after the firewall was attached; \
             `firewall apply FILE -i {name}` guards it again"
        ),
    }
}
