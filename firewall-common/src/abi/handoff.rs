//! A parsed packet on its way from one program to the next. The verifier follows every path through a program, and a
//! program that did all of a decision would have too many; what follows the rules is a program of its own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::image::Outcome;
use super::words;
use crate::decide::{Asked, Decision};
use crate::parse::{Fragment, Packet, Transport, Upper};

/// What the second program needs to know; each CPU has one. What is zero more often than not has something else beside it: of a long
/// run of zeros LLVM makes a call of `memset`, which bpf-linker has written byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Handoff {
    source: [u64; 2],
    destination: [u64; 2],
    upper_start: u32,
    identification: u32,
    upper_end: u32,
    number: u32,
    frame_bytes: u32,
    unused: u32,
    outcome: u32,
    value: u16,
    source_port: u16,
    protocol: u8,
    selector: u8,
    tcp_flags: u8,
    hop_limit: u8,
    fragment: u8,
    ipv6: u8,
    unused_too: u16,
}

const _: () = assert!(size_of::<Handoff>() == 72);

impl Handoff {
    /// A packet of which more is asked.
    #[inline(always)]
    pub const fn asked(asked: &Asked) -> Self {
        Self::new(
            &asked.packet,
            asked.by_rules.outcome(),
            asked.number,
            asked.identification,
        )
    }

    /// A packet of which rules have not said anything yet.
    #[inline(always)]
    pub const fn packet_alone(packet: &Packet) -> Self {
        Self::new(packet, Outcome(0), 0, 0)
    }

    /// A packet that has been decided.
    #[inline(always)]
    pub const fn decided(packet: &Packet, outcome: Outcome) -> Self {
        Self::new(packet, outcome, 0, 0)
    }

    #[inline(always)]
    const fn new(packet: &Packet, outcome: Outcome, number: u32, identification: u32) -> Self {
        let ([source, destination], ipv6) = words::of_addresses(packet.addresses);
        let transport = &packet.transport;
        Self {
            source,
            destination,
            upper_start: packet.upper.start,
            upper_end: packet.upper.end,
            frame_bytes: packet.frame_bytes,
            outcome: outcome.0,
            value: transport.value,
            source_port: transport.source_port,
            protocol: transport.protocol,
            selector: words::of_selector(transport.selector),
            tcp_flags: transport.tcp_flags,
            hop_limit: packet.hop_limit,
            ipv6: ipv6 as u8,
            fragment: packet.fragment as u8,
            unused: 0,
            identification,
            number,
            unused_too: 0,
        }
    }

    /// The packet.
    #[inline(always)]
    pub const fn packet(&self) -> Packet {
        Packet {
            addresses: words::to_addresses([self.source, self.destination], self.ipv6 != 0),
            hop_limit: self.hop_limit,
            fragment: match self.fragment {
                0 => Fragment::Whole,
                1 => Fragment::First,
                _ => Fragment::Later,
            },
            transport: Transport {
                protocol: self.protocol,
                selector: words::to_selector(self.selector),
                value: self.value,
                source_port: self.source_port,
                tcp_flags: self.tcp_flags,
            },
            upper: Upper {
                start: self.upper_start,
                end: self.upper_end,
            },
            frame_bytes: self.frame_bytes,
        }
    }

    /// Says what was decided of it.
    #[inline(always)]
    pub const fn decide(&mut self, outcome: Outcome) {
        self.outcome = outcome.0;
    }

    /// What was decided of it.
    #[inline(always)]
    pub const fn outcome(&self) -> Outcome {
        Outcome(self.outcome)
    }

    /// The packet, with what rules say of it, or what holds it back: that it was dropped by itself does not matter any more.
    #[inline(always)]
    pub const fn to_asked(&self) -> Asked {
        Asked {
            packet: self.packet(),
            by_rules: Decision::by_rules(self.number, Outcome(self.outcome)),
            number: self.number,
            identification: self.identification,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::image::Selector;
    use crate::parse::Addresses;

    #[test]
    fn a_packet_comes_through_as_it_was() {
        let selectors = [
            Some(Selector::Tcp),
            Some(Selector::Udp),
            Some(Selector::Sctp),
            Some(Selector::Icmp),
            Some(Selector::Icmpv6),
            None,
        ];
        let addresses = [
            Addresses::V4 {
                source: 1,
                destination: 2,
            },
            Addresses::V6 {
                source: [1, 2],
                destination: [3, 4],
            },
        ];
        for selector in selectors {
            for addresses in addresses {
                for fragment in [Fragment::Whole, Fragment::First, Fragment::Later] {
                    let packet = Packet {
                        addresses,
                        hop_limit: 5,
                        fragment,
                        transport: Transport {
                            protocol: 6,
                            selector,
                            value: 7,
                            source_port: 8,
                            tcp_flags: 9,
                        },
                        upper: Upper { start: 10, end: 11 },
                        frame_bytes: 12,
                    };
                    assert_eq!(Handoff::packet_alone(&packet).packet(), packet);
                    let asked = Asked {
                        packet,
                        by_rules: Decision::by_rules(15, Outcome(13)),
                        number: 15,
                        identification: 14,
                    };
                    assert_eq!(Handoff::asked(&asked).to_asked(), asked);
                    let mut handed = Handoff::asked(&asked);
                    handed.decide(Outcome(16));
                    for decided in [handed, Handoff::decided(&packet, Outcome(16))] {
                        assert_eq!(decided.packet(), packet);
                        assert_eq!(decided.outcome(), Outcome(16));
                    }
                }
            }
        }
    }
}
