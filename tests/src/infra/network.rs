//! The network: a router with a bridge for each segment, and a cable from there to each machine.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;

use super::design::SEGMENTS;
use super::machine::{INTERFACE, Machine};

/// Makes the bridges of the router, which then forwards everything: nothing but the servers themselves refuses anything.
pub(super) fn bridges(router: &Machine) -> Result<()> {
    let mut lines = String::new();
    for segment in SEGMENTS {
        let name = segment.name;
        // Without snooping, a bridge forwards neighbour discovery at once.
        let _ = writeln!(
            lines,
            "link add {name} type bridge mcast_snooping 0\naddress add {}/{} dev {name}\naddress add {}/64 dev {name} nodad\n\
             link set {name} up",
            segment.v4, segment.length, segment.v6
        );
    }
    router.ip(&lines)?;
    router.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
    ])
}

/// Plugs a machine in, with its addresses and the way to everybody else.
pub(super) fn cable(router: &Machine, machine: &Machine) -> Result<()> {
    let (name, segment) = (machine.name(), machine.server.role.segment());
    router.ip(&format!(
        "link add p-{name} type veth peer name {INTERFACE} netns {}\nlink set p-{name} master {} up\n",
        machine.init(),
        segment.name
    ))?;
    machine.ip(&format!(
        "link set {INTERFACE} up\naddress add {}/{} dev {INTERFACE}\naddress add {}/64 dev {INTERFACE} nodad\n\
         route add default via {}\nroute add default via {}\n",
        machine.v4(),
        segment.length,
        machine.v6(),
        segment.v4,
        segment.v6
    ))?;
    // What XDP sends back needs a receiver at the other end that polls, as network cards do.
    let mut ethtool = std::process::Command::new("nsenter");
    ethtool
        .arg(format!("--target={}", router.init()))
        .args(["--net", "--", "ethtool", "-K", &port(name), "gro", "on"])
        .env("PATH", crate::net::search_path());
    router.run(&mut ethtool)?.success()?;
    Ok(())
}

/// The router's end of the cable to the machine called `name`.
pub fn port(name: &str) -> String {
    format!("p-{name}")
}

/// Pulls the cable of a machine, or plugs it in again.
///
/// # Errors
///
/// If there is none.
pub fn set_cable(router: &Machine, name: &str, is_in: bool) -> Result<()> {
    let state = if is_in { "up" } else { "down" };
    router.ip(&format!("link set {} {state}\n", port(name)))
}

/// An address as URLs have it.
pub fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
