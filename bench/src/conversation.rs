//! Flows between the guarded host and others, and the frames that they consist of.

use std::net::Ipv4Addr;

use anyhow::Result;
use etherparse::PacketBuilder;
use firewall_common::abi::flow::Key;

use crate::{
    abi::{FRAME_BYTES, PORTS_WORD},
    frame::{Frames, HOST_V4, TIME_TO_LIVE, collect},
    hook::Hook,
    random::Random,
};

/// The two ends of a flow of IPv4, and where its sequence numbers begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// The guarded host's port; laps change its lower byte.
    pub(crate) local_port: u16,
    /// The other's address.
    pub(crate) remote: Ipv4Addr,
    /// The other's port.
    pub(crate) remote_port: u16,
    sent: u32,
    received: u32,
}

/// A packet's place in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The host opens a TCP connection.
    SynOut,
    /// Its SYN is answered.
    SynAckIn,
    /// The host goes on with the connection.
    AckOut,
    /// The other does.
    AckIn,
    /// The other opens a TCP connection.
    SynIn,
    /// The host sends a UDP datagram.
    UdpOut,
    /// The other does.
    UdpIn,
}

/// Ports that laps leave alone, a multiple of 256 each.
const LOCAL_PORTS: (u64, u64) = (128, 254);
const LAP_BITS: u32 = 8;
/// A network for tests (RFC 2544), a /15.
const REMOTE: u32 = 0xc612_0000;
const REMOTE_ADDRESSES: u64 = 1 << 17;
const WINDOW: u16 = 64240;
/// Ethernet, IPv4 and TCP, or UDP.
const TCP_HEADERS: usize = 54;
const UDP_HEADERS: usize = 42;
/// Where laps take the ports to be: behind Ethernet and IPv4.
const _: () = assert!(8 * PORTS_WORD + 2 == 14 + 20);
/// Locally administered addresses.
const LINK: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

impl Flow {
    /// One of which others than these two hosts know nothing, from an ephemeral port.
    pub(crate) const fn random(random: &mut Random) -> Self {
        let port = random.within(LOCAL_PORTS.0, LOCAL_PORTS.1) << LAP_BITS;
        Self::to_port(port as u16, random)
    }

    /// One whose local port is this.
    pub(crate) const fn to_port(local_port: u16, random: &mut Random) -> Self {
        Self {
            local_port,
            remote: Ipv4Addr::from_bits(REMOTE | random.below(REMOTE_ADDRESSES) as u32),
            remote_port: random.port(),
            sent: random.bits() as u32,
            received: random.bits() as u32,
        }
    }

    /// What the flow table knows it by, in lap number `lap`.
    pub(crate) const fn key(&self, protocol: u8, lap: u32) -> Key {
        Key {
            local: Key::mapped(HOST_V4.to_bits()),
            remote: Key::mapped(self.remote.to_bits()),
            protocol,
            local_port: self.local_port ^ lap as u16,
            remote_port: self.remote_port,
        }
    }

    fn write(&self, form: Form, buffer: &mut Vec<u8>) -> Result<()> {
        let (addresses, ports) = match form.hook() {
            Hook::Ingress | Hook::Syn(_) => {
                ((self.remote, HOST_V4), (self.remote_port, self.local_port))
            }
            Hook::Egress => ((HOST_V4, self.remote), (self.local_port, self.remote_port)),
        };
        let builder = || {
            PacketBuilder::ethernet2(LINK.0, LINK.1).ipv4(
                addresses.0.octets(),
                addresses.1.octets(),
                TIME_TO_LIVE,
            )
        };
        let payload = [0; FRAME_BYTES];
        let tcp = &payload[TCP_HEADERS..];
        let tcp_from = |sequence| builder().tcp(ports.0, ports.1, sequence, WINDOW);
        let (sent, received) = (self.sent.wrapping_add(1), self.received.wrapping_add(1));
        match form {
            Form::SynOut => tcp_from(self.sent).syn().write(buffer, tcp)?,
            Form::SynAckIn => tcp_from(self.received).syn().ack(sent).write(buffer, tcp)?,
            Form::AckOut => tcp_from(sent).ack(received).write(buffer, tcp)?,
            Form::AckIn => tcp_from(received).ack(sent).write(buffer, tcp)?,
            Form::SynIn => tcp_from(self.received).syn().write(buffer, tcp)?,
            Form::UdpOut | Form::UdpIn => builder()
                .udp(ports.0, ports.1)
                .write(buffer, &payload[UDP_HEADERS..])?,
        }
        Ok(())
    }
}

impl Form {
    /// Which program sees it.
    pub(crate) const fn hook(self) -> Hook {
        match self {
            Self::SynOut | Self::AckOut | Self::UdpOut => Hook::Egress,
            Self::SynAckIn | Self::AckIn | Self::SynIn | Self::UdpIn => Hook::Ingress,
        }
    }

    /// Such a packet of each flow in turn, again and again.
    ///
    /// # Errors
    ///
    /// If a frame cannot be written.
    pub(crate) fn frames(self, flows: &[Flow]) -> Result<Frames> {
        collect(|number, buffer| flows[number % flows.len()].write(self, buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use firewall_common::{
        decide::connection::{Local, flow_packet},
        parse::{Parsed, parse},
    };

    #[test]
    fn every_form_fills_the_frame_and_has_its_flows_key() {
        let flow = Flow::random(&mut Random::new(5));
        assert_eq!(flow.local_port & 0xff, 0, "laps have the lower byte");
        for form in [
            Form::SynOut,
            Form::SynAckIn,
            Form::AckOut,
            Form::AckIn,
            Form::SynIn,
            Form::UdpOut,
            Form::UdpIn,
        ] {
            let mut frame = Vec::new();
            flow.write(form, &mut frame).unwrap();
            assert_eq!(frame.len(), FRAME_BYTES, "{form:?}");
            let Ok(Parsed::Ip(packet)) = parse(frame.as_slice()) else {
                panic!("{form:?}");
            };
            let (local, protocol) = match form {
                Form::UdpIn => (Local::Destination, 17),
                Form::UdpOut => (Local::Source, 17),
                Form::SynOut | Form::AckOut => (Local::Source, 6),
                Form::SynAckIn | Form::AckIn | Form::SynIn => (Local::Destination, 6),
            };
            let seen = flow_packet(frame.as_slice(), &packet, local).unwrap();
            assert_eq!(seen.key, flow.key(protocol, 0), "{form:?}");
        }
    }
}
