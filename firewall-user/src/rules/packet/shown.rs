//! A packet in the notation that it is read in.

use std::fmt;
use std::net::IpAddr;

use super::super::model::Direction;
use super::super::names::{self, IcmpFamily};
use super::{Concrete, Upper};

/// As a [`super::Pattern`] reads it.
impl fmt::Display for Concrete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match names::protocol_name(self.protocol) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}", self.protocol)?,
        }
        let (source, destination) = match self.upper {
            Upper::Tcp {
                source,
                destination,
                ..
            }
            | Upper::Ports {
                source,
                destination,
            } => (Some(source), Some(destination)),
            Upper::Icmp(_) | Upper::Other => (None, None),
        };
        write!(
            f,
            " {} -> {}",
            Shown(self.source, source),
            Shown(self.destination, destination)
        )?;
        match self.upper {
            Upper::Tcp { flags, .. } => write!(f, " {}", flag_names(flags))?,
            Upper::Icmp(kind) => {
                let family = match self.source {
                    IpAddr::V4(_) => IcmpFamily::V4,
                    IpAddr::V6(_) => IcmpFamily::V6,
                };
                match family.type_name(kind) {
                    Some(name) => write!(f, " {name}")?,
                    None => write!(f, " {kind}")?,
                }
            }
            Upper::Ports { .. } | Upper::Other => {}
        }
        if let Some(vlan) = self.vlan {
            write!(f, " vlan {vlan}")?;
        }
        match self.direction {
            Direction::Ingress => Ok(()),
            Direction::Egress => f.write_str(" out"),
        }
    }
}

/// Names of the flags that are set.
pub(crate) fn flag_names(flags: u8) -> String {
    let names = names::tcp_flag_names();
    let set: Vec<&str> = names
        .filter(|name| names::tcp_flag_bit(name).is_some_and(|bit| flags & bit != 0))
        .collect();
    set.join(",")
}

/// An end of a packet's way.
struct Shown(IpAddr, Option<u16>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(address, None) => write!(f, "{address}"),
            Self(IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            Self(IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}
