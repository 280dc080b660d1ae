//! Packets as people write them: `tcp from 203.0.113.7 to :22`, `icmp 198.51.100.7 -> 192.0.2.10 echo-request`.
//!
//! A [`Pattern`] is what was written, with what was left out left open. A [`Concrete`] packet has nothing open any more, and
//! can be made into a frame.

mod concrete;
mod frame;
mod read;
mod shown;
#[cfg(test)]
mod tests;

use super::addresses::Block;
use super::model::{Direction, Protocol};
use super::values::Complaint;

pub use concrete::{Concrete, Host, Upper};
pub(crate) use shown::flag_names;

/// What was written of a packet; `None` is what was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Which way it goes; it arrives unless written otherwise.
    pub direction: Direction,
    /// Its protocol; any only if that was written.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: End,
    /// Where it goes.
    pub destination: End,
    /// ICMP or ICMPv6 type. Only with these.
    pub icmp_type: Option<u8>,
    /// The TCP flags that are set, all others being clear, in the bit order of the header's flags byte. Only with TCP.
    pub tcp_flags: Option<u8>,
    /// VLAN id of its tag.
    pub vlan: Option<u16>,
}

/// One end of a packet's way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The address, or whose addresses.
    pub address: Option<Whose>,
    /// Ports, first and last. Only with TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
}

/// Addresses of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// An address, or the addresses of a CIDR.
    Block(Block),
    /// Those of the group with this name.
    Group(String),
}

/// Why a text is no packet, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct PacketError {
    message: String,
    help: String,
}

impl PacketError {
    pub(in crate::rules) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead.
    pub fn help(&self) -> &str {
        &self.help
    }
}

impl From<Complaint> for PacketError {
    fn from((message, help): Complaint) -> Self {
        Self { message, help }
    }
}
