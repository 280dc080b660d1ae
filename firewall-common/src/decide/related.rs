//! ICMP errors: let in where the packet that they quote is one that this host has sent.
//!
//! That is so if it belongs to a flow that this host has opened, or if it answers what rules accept. Whatever else comes
//! as an error was made up (RFC 5927).

use super::connection::{self, Local};
use super::{Decision, classify, flow};
use crate::abi::image::{essential, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::parse::{Packet, protocol, quoted};
use crate::tables::{Limited, Tables, World};

/// The verdict on the ICMP error `packet`, which rules have `refused`; `None` if the tables are inconsistent.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    refused: Decision,
    world: &W,
) -> Option<Decision> {
    let tables = world.tables()?;
    if tables.u32(header::INGRESS + header::ESSENTIALS)? & essential::PATH_MTU == 0 {
        return Some(refused);
    }
    let quoted = match quoted::parse(frame, packet) {
        Ok(quoted) => quoted,
        Err(reason) => return Some(Decision::dropped(reason)),
    };
    let key = connection::key(
        &quoted.addresses,
        &quoted.transport,
        quoted.identifier,
        Local::Source,
    );
    let is_ours = flow::quoted(&key, quoted.sequence, world.flows())
        || (key.protocol == protocol::TCP && world.has_connection(&key));
    let kind = if is_ours {
        Limited::Error
    } else if classify::serves(&quoted.addresses, &quoted.transport, &tables)? {
        Limited::ServedError
    } else {
        return Some(Decision::dropped(DropReason::IcmpUnrelated));
    };
    Some(if world.admits(kind) {
        Decision::passed(PassReason::PathMtu)
    } else {
        Decision::dropped(DropReason::IcmpRate)
    })
}
