//! The SSH session in which a command was typed, and whether a policy would let in another like it.

use std::fs;
use std::net::IpAddr;

use firewall_common::abi::image::{Line, Selector, header};
use firewall_common::decide::classify;
use firewall_common::parse::{Addresses, Transport, protocol, transport::tcp_flag};
use firewall_common::tables::{HostWorld, World as _};

/// Ends of a TCP connection to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) client: (IpAddr, u16),
    pub(crate) server: (IpAddr, u16),
}

/// Ancestors that are asked: shells, sudo and multiplexers stand between the command and sshd.
const MAX_ANCESTORS: usize = 16;

impl Session {
    /// The session of this process, or of the nearest ancestor that has one: sudo hides the variable from its child.
    pub(crate) fn current() -> Option<Self> {
        if let Ok(value) = std::env::var("SSH_CONNECTION") {
            return Self::parse(&value);
        }
        let mut process = std::process::id();
        for _ in 0..MAX_ANCESTORS {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            let value = environment
                .split(|&byte| byte == 0)
                .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="))
                .and_then(|value| std::str::from_utf8(value).ok());
            if let Some(value) = value {
                return Self::parse(value);
            }
            process = parent(process)?;
        }
        None
    }

    /// What to tell whoever would be shut out.
    pub(crate) fn warning(&self) -> String {
        format!(
            "warning: you could not log in again as you did: nothing accepts tcp from {} to port {}; the SSH session in which \
             you type goes on",
            self.client.0, self.server.1,
        )
    }

    /// `SSH_CONNECTION` as sshd sets it: client address and port, server address and port.
    fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_whitespace();
        let mut end = || Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?));
        Some(Self {
            client: end()?,
            server: end()?,
        })
    }

    /// Whether `image` would refuse the first packet of another session like this one, which itself goes on.
    pub(crate) fn is_shut_out(&self, image: &[Line]) -> bool {
        let addresses = match (self.client.0.to_canonical(), self.server.0.to_canonical()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => Addresses::V4 {
                source: client.into(),
                destination: server.into(),
            },
            (IpAddr::V6(client), IpAddr::V6(server)) => Addresses::V6 {
                source: halves(client.into()),
                destination: halves(server.into()),
            },
            _ => return false,
        };
        let transport = Transport {
            protocol: protocol::TCP,
            selector: Some(Selector::Tcp),
            value: self.server.1,
            source_port: self.client.1,
            tcp_flags: tcp_flag::SYN,
        };
        let world = HostWorld::new(image, |_, _| {});
        let found = world
            .tables()
            .and_then(|tables| classify::find(&addresses, &transport, header::INGRESS, &tables));
        !found.is_some_and(|found| found.outcome.accepts())
    }
}

fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}

/// The parent of a process: the second field behind the command's closing bracket in its `stat`.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let parent = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    (parent > 0).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_as_sshd_writes_it() {
        let session = Session::parse("198.51.100.7 51234 192.0.2.10 22").unwrap();
        assert_eq!(session.client, ("198.51.100.7".parse().unwrap(), 51234));
        assert_eq!(session.server.1, 22);
        assert_eq!(Session::parse("198.51.100.7 51234 192.0.2.10"), None);
        assert_eq!(Session::parse("198.51.100.7 x 192.0.2.10 22"), None);
    }
}
