//! What no rule accepts: does it answer a flow that this host has opened?

use super::flow::{self, Answer, FlowPacket, Kind, Segment};
use super::{Decision, ban};
use crate::abi::flow::{Key, PortProtocol};
use crate::abi::image::{Selector, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::parse::transport::{conversation, echo_identifier, tcp_flag};
use crate::parse::{self, Addresses, Packet, Transport};
use crate::tables::{Tables as _, World};

/// Which end of a packet this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// The packet leaves.
    Source,
    /// The packet arrives.
    Destination,
}

/// Whether a packet that no rule accepts may be an answer at all. Most that are refused are not: they try ports that this host
/// has never opened a flow from, and then there is nothing to be looked up. A TCP segment that opens no connection may belong
/// to one of which only the kernel knows.
#[inline(always)]
pub fn may_answer<W: World>(transport: &Transport, world: &W) -> bool {
    match transport.selector {
        Some(Selector::Tcp) => {
            !transport.opens_connection()
                || flow::ports::has(PortProtocol::Tcp, transport.value, world.flows())
        }
        Some(Selector::Udp) => flow::ports::has(PortProtocol::Udp, transport.value, world.flows()),
        Some(Selector::Sctp | Selector::Icmp | Selector::Icmpv6) | None => true,
    }
}

/// The packet's verdict where no rule accepts it; `refused` is what the rules say.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    refused: Decision,
    world: &W,
) -> Decision {
    let Some(of_flow) = flow_packet(frame, packet, Local::Destination) else {
        return refused;
    };
    let unknown = match flow::answer(&of_flow, world.flows()) {
        Answer::Accepted => return Decision::passed(PassReason::Answer),
        // Attackers send resets that are far outside (RFC 5961, 3).
        Answer::OutOfWindow if of_flow.kind.is_reset() => {
            return Decision::dropped(DropReason::TcpOutOfWindow);
        }
        Answer::OutOfWindow => Decision::dropped(DropReason::TcpOutOfWindow),
        Answer::WrongState => Decision::dropped(DropReason::FlowState),
        Answer::Expired => Decision::dropped(DropReason::FlowExpired),
        // A connection that a banned or limited source has opened itself is just what is to be held back.
        Answer::NoFlow | Answer::NoTable if refused.outcome().is_held() => return refused,
        // Of rules for SYNs alone, or that serve the port no more.
        Answer::NoFlow | Answer::NoTable if ban::holds_now(packet, world) => {
            return Decision::held(DropReason::Banned, DropReason::Banned.counter());
        }
        Answer::NoFlow | Answer::NoTable => refused,
    };
    // The flow may have missed what went another way or was let through without it, so where the kernel knows the connection,
    // its word counts, and the next packet that leaves sets the flow right. A SYN alone opens a connection and cannot belong
    // to one.
    match of_flow.kind {
        Kind::Tcp(segment)
            if segment.flags & (tcp_flag::SYN | tcp_flag::ACK) != tcp_flag::SYN
                && world.has_connection(&of_flow.key, true) =>
        {
            Decision::passed(PassReason::Connection)
        }
        Kind::Tcp(segment)
            if segment.flags & HANDSHAKE_FLAGS == tcp_flag::ACK
                && acknowledges_cookie(frame, packet, world) =>
        {
            Decision::passed(PassReason::Cookie)
        }
        _ => unknown,
    }
}

/// Flags of which the last segment of a handshake has ACK alone.
const HANDSHAKE_FLAGS: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN;

/// Whether the segment completes a handshake whose SYN this host has answered with a cookie and forgotten. It is refused only
/// where a rule accepts SYNs alone, so under other policies nobody asks.
#[inline(always)]
fn acknowledges_cookie<F: Frame + ?Sized, W: World>(frame: &F, packet: &Packet, world: &W) -> bool {
    let asks_flags = world
        .tables()
        .and_then(|tables| tables.u32(header::INGRESS + header::FLAGS_CLASSES))
        .is_some_and(|classes| classes != 0);
    asks_flags
        && parse::tcp_headers(frame, packet)
            .is_some_and(|(ip, tcp)| world.acknowledges_cookie(ip, tcp))
}

/// The packet as its flow sees it. `None` where its bytes cannot be reached.
#[inline(always)]
pub fn flow_packet<F: Frame + ?Sized>(
    frame: &F,
    packet: &Packet,
    local: Local,
) -> Option<FlowPacket> {
    let transport = &packet.transport;
    let (kind, identifier) = match transport.selector {
        Some(Selector::Tcp) => {
            let tcp = conversation(frame, &packet.upper)?;
            let segment = Segment {
                flags: transport.tcp_flags,
                sequence: tcp.sequence,
                acknowledgment: tcp.acknowledgment,
                window: tcp.window,
                window_scale: Some(tcp.window_scale),
                payload: tcp.payload,
            };
            (Kind::Tcp(segment), 0)
        }
        Some(Selector::Udp) => (Kind::Udp, 0),
        Some(Selector::Icmp | Selector::Icmpv6) => match transport.echo() {
            Some(request) => (
                Kind::Echo { request },
                echo_identifier(frame, &packet.upper)?,
            ),
            None => (Kind::Icmp, 0),
        },
        Some(Selector::Sctp) | None => (Kind::Other, 0),
    };
    Some(FlowPacket {
        key: key(&packet.addresses, transport, identifier, local),
        kind,
    })
}

/// The flow's key of a packet with these addresses.
#[inline(always)]
pub fn key(addresses: &Addresses, transport: &Transport, identifier: u16, local: Local) -> Key {
    let (source, destination) = match *addresses {
        Addresses::V4 {
            source,
            destination,
        } => (Key::mapped(source), Key::mapped(destination)),
        Addresses::V6 {
            source,
            destination,
        } => (source, destination),
    };
    let is_icmp = matches!(transport.selector, Some(Selector::Icmp | Selector::Icmpv6));
    let (source_port, destination_port) = if is_icmp {
        (identifier, identifier)
    } else {
        (transport.source_port, transport.value)
    };
    let ends = match local {
        Local::Source => ((source, source_port), (destination, destination_port)),
        Local::Destination => ((destination, destination_port), (source, source_port)),
    };
    let ((local, local_port), (remote, remote_port)) = ends;
    Key {
        local,
        remote,
        protocol: transport.protocol,
        local_port,
        remote_port: if is_icmp { 0 } else { remote_port },
    }
}
