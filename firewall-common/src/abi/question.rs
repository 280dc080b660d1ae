//! What a candidate policy is asked: a packet that has been decided, in as many numbers as a global function of a program takes.

use super::words;
use crate::parse::{Fragment, Packet, Transport, Upper};

/// A question. What rules and essentials do not look at is no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Source and destination, upper halves first; of [`About::Answering`] destination and source.
    pub addresses: [[u64; 2]; 2],
    /// `about 2 | ipv6 1 | selector 3 | hop limit 8 | protocol 8 | TCP flags 8 | source port 16 | value 16`
    pub what: u64,
}

/// What is asked of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum About {
    /// Whether it may arrive.
    Arriving = 0,
    /// Whether it may leave whatever rules for what leaves say.
    Answering = 1,
    /// Whether those rules let it leave.
    Leaving = 2,
}

impl Question {
    const SOURCE_PORT_SHIFT: u32 = 16;
    const FLAGS_SHIFT: u32 = 32;
    const PROTOCOL_SHIFT: u32 = 40;
    const HOP_LIMIT_SHIFT: u32 = 48;
    const SELECTOR_SHIFT: u32 = 56;
    const IPV6_SHIFT: u32 = 59;
    const ABOUT_SHIFT: u32 = 60;

    /// Whether this packet may arrive.
    #[inline(always)]
    pub const fn new(packet: &Packet) -> Self {
        let (addresses, ipv6) = words::of_addresses(packet.addresses);
        let transport = &packet.transport;
        Self {
            addresses,
            what: transport.value as u64
                | (transport.source_port as u64) << Self::SOURCE_PORT_SHIFT
                | (transport.tcp_flags as u64) << Self::FLAGS_SHIFT
                | (transport.protocol as u64) << Self::PROTOCOL_SHIFT
                | (packet.hop_limit as u64) << Self::HOP_LIMIT_SHIFT
                | (words::of_selector(transport.selector) as u64) << Self::SELECTOR_SHIFT
                | (ipv6 as u64) << Self::IPV6_SHIFT,
        }
    }

    /// This instead, of the same packet.
    #[inline(always)]
    pub const fn about(self, about: About) -> Self {
        let [source, destination] = self.addresses;
        Self {
            addresses: match about {
                About::Answering => [destination, source],
                About::Arriving | About::Leaving => [source, destination],
            },
            what: self.what | (about as u64) << Self::ABOUT_SHIFT,
        }
    }

    /// The packet with these addresses, as if it were in one piece and began at its upper layer.
    #[inline(always)]
    pub const fn packet(&self) -> Packet {
        let what = self.what;
        Packet {
            addresses: words::to_addresses(self.addresses, what >> Self::IPV6_SHIFT & 1 != 0),
            hop_limit: (what >> Self::HOP_LIMIT_SHIFT) as u8,
            fragment: Fragment::Whole,
            transport: Transport {
                protocol: (what >> Self::PROTOCOL_SHIFT) as u8,
                selector: words::to_selector((what >> Self::SELECTOR_SHIFT) as u8 & 7),
                value: what as u16,
                source_port: (what >> Self::SOURCE_PORT_SHIFT) as u16,
                tcp_flags: (what >> Self::FLAGS_SHIFT) as u8,
            },
            upper: Upper { start: 0, end: 0 },
            frame_bytes: 0,
        }
    }

    /// What is asked.
    #[inline(always)]
    pub const fn asks(&self) -> About {
        match self.what >> Self::ABOUT_SHIFT {
            0 => About::Arriving,
            1 => About::Answering,
            _ => About::Leaving,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::image::Selector;
    use crate::parse::Addresses;

    #[test]
    fn a_packet_is_asked_about_as_it_is() {
        let addresses = [
            Addresses::V4 {
                source: u32::MAX - 1,
                destination: 2,
            },
            Addresses::V6 {
                source: [u64::MAX, 2],
                destination: [3, u64::MAX],
            },
        ];
        let selectors = [
            Some(Selector::Tcp),
            Some(Selector::Udp),
            Some(Selector::Sctp),
            Some(Selector::Icmp),
            Some(Selector::Icmpv6),
            None,
        ];
        for addresses in addresses {
            for selector in selectors {
                for ones in 0..5 {
                    // All bits of one field, to see that no other has some of them.
                    let bits = |field| if ones == field { u64::MAX } else { 0 };
                    let packet = Packet {
                        addresses,
                        hop_limit: bits(0) as u8,
                        fragment: Fragment::Whole,
                        transport: Transport {
                            protocol: bits(1) as u8,
                            selector,
                            value: bits(2) as u16,
                            source_port: bits(3) as u16,
                            tcp_flags: bits(4) as u8,
                        },
                        upper: Upper::default(),
                        frame_bytes: 0,
                    };
                    for about in [About::Arriving, About::Answering, About::Leaving] {
                        let question = Question::new(&packet).about(about);
                        let expected = match about {
                            About::Answering => addresses.reversed(),
                            About::Arriving | About::Leaving => addresses,
                        };
                        assert_eq!(question.packet().addresses, expected);
                        assert_eq!(question.packet().transport, packet.transport);
                        assert_eq!(question.packet().hop_limit, packet.hop_limit);
                        assert_eq!(question.asks(), about);
                    }
                }
            }
        }
    }
}
