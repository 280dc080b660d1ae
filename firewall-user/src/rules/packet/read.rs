//! Text to [`Pattern`], a word at a time.

use std::iter::Peekable;
use std::str::{FromStr, SplitWhitespace};

use firewall_common::parse::protocol;

use super::super::addresses::{looks_like_address, parse_block};
use super::super::model::{Direction, Protocol};
use super::super::names::{IcmpFamily, closest};
use super::super::shown::quoted;
use super::super::typed::Scalar;
use super::super::values::{self, icmp_type, port_range, tcp_flag, vlan_range};
use super::{End, PacketError, Pattern, Whose};

/// A whole packet, to be shown where one is expected.
const EXAMPLE: &str = "tcp from 203.0.113.7 to 192.0.2.10:22";

/// Words that are no end of a packet's way.
const WORDS: &[&str] = &["from", "to", "->", "in", "ingress", "out", "egress", "vlan"];

impl FromStr for Pattern {
    type Err = PacketError;

    fn from_str(text: &str) -> Result<Self, PacketError> {
        let mut words = text.split_whitespace().peekable();
        let Some(first) = words.next() else {
            return Err(PacketError::new(
                "there is no packet",
                format!("write one such as `{EXAMPLE}`"),
            ));
        };
        let mut reader = Reader {
            pattern: Self {
                direction: Direction::Ingress,
                protocol: values::protocol(&Scalar::Text(first.to_owned()))?,
                source: End::default(),
                destination: End::default(),
                icmp_type: None,
                tcp_flags: None,
                vlan: None,
            },
            has_source: false,
            has_destination: false,
            has_direction: false,
        };
        while let Some(word) = words.next() {
            reader.word(word, &mut words)?;
        }
        Ok(reader.pattern)
    }
}

/// A pattern under construction, and what of it has been written.
struct Reader {
    pattern: Pattern,
    has_source: bool,
    has_destination: bool,
    has_direction: bool,
}

impl Reader {
    fn word(
        &mut self,
        word: &str,
        rest: &mut Peekable<SplitWhitespace<'_>>,
    ) -> Result<(), PacketError> {
        if rest.peek() == Some(&"->") && !WORDS.contains(&word) {
            let end = self.end(word)?;
            return self.source(end);
        }
        let mut next = |what: &str| {
            rest.next().ok_or_else(|| {
                PacketError::new(
                    format!("nothing comes behind {}", quoted(word)),
                    format!("write {what} there"),
                )
            })
        };
        match word {
            "from" => {
                let end = self.end(next("where the packet comes from, such as 203.0.113.7,")?)?;
                self.source(end)
            }
            "to" | "->" => {
                let end = self.end(next("where the packet goes, such as 192.0.2.10:22,")?)?;
                self.destination(end)
            }
            "in" | "ingress" => self.direction(Direction::Ingress),
            "out" | "egress" => self.direction(Direction::Egress),
            "vlan" => {
                let id = next("a VLAN id, such as 10,")?;
                self.vlan(id)
            }
            _ => self.detail(word),
        }
    }

    /// What only packets of some protocols have.
    fn detail(&mut self, word: &str) -> Result<(), PacketError> {
        match self.pattern.protocol {
            Protocol::Number(protocol::TCP) if self.pattern.tcp_flags.is_none() => {
                let mut flags = 0;
                for name in word.split(',') {
                    flags |= tcp_flag(name).map_err(|error| unknown(word, error.into()))?;
                }
                self.pattern.tcp_flags = Some(flags);
                Ok(())
            }
            Protocol::Number(protocol::TCP) if tcp_flag(word).is_ok() => Err(PacketError::new(
                format!("{} comes behind other TCP flags", quoted(word)),
                "write them as one word, such as syn,ack",
            )),
            Protocol::Number(protocol::ICMP | protocol::ICMPV6)
                if self.pattern.icmp_type.is_none() =>
            {
                self.pattern.icmp_type = self.icmp_type(word)?;
                Ok(())
            }
            _ => Err(unknown(
                word,
                PacketError::new(
                    format!("{} is not expected here", quoted(word)),
                    format!("leave it out; a whole packet is `{EXAMPLE}`"),
                ),
            )),
        }
    }

    fn icmp_type(&self, word: &str) -> Result<Option<u8>, PacketError> {
        let (family, other, other_protocol) = match self.pattern.protocol {
            Protocol::Number(protocol::ICMPV6) => (IcmpFamily::V6, IcmpFamily::V4, "icmp"),
            _ => (IcmpFamily::V4, IcmpFamily::V6, "icmpv6"),
        };
        if family.type_number(word).is_none() && other.type_number(word).is_some() {
            return Err(PacketError::new(
                format!("{} is a type of {other_protocol}", quoted(word)),
                format!("begin the packet with {other_protocol}"),
            ));
        }
        icmp_type(&Scalar::Text(word.to_owned()), Some(family))
            .map_err(|error| unknown(word, error.into()))
    }

    fn source(&mut self, end: End) -> Result<(), PacketError> {
        if self.has_source {
            return Err(twice("where the packet comes from"));
        }
        self.has_source = true;
        self.pattern.source = end;
        Ok(())
    }

    fn destination(&mut self, end: End) -> Result<(), PacketError> {
        if self.has_destination {
            return Err(twice("where the packet goes"));
        }
        self.has_destination = true;
        self.pattern.destination = end;
        Ok(())
    }

    fn direction(&mut self, direction: Direction) -> Result<(), PacketError> {
        if self.has_direction {
            return Err(twice("whether the packet arrives or leaves"));
        }
        self.has_direction = true;
        self.pattern.direction = direction;
        Ok(())
    }

    fn vlan(&mut self, id: &str) -> Result<(), PacketError> {
        if self.pattern.vlan.is_some() {
            return Err(twice("in which VLAN the packet is"));
        }
        match vlan_range(&Scalar::Text(id.to_owned()))? {
            (first, last) if first == last => self.pattern.vlan = Some(first),
            _ => {
                return Err(PacketError::new(
                    format!("{} is more than one VLAN", quoted(id)),
                    "write the one that the packet is in",
                ));
            }
        }
        Ok(())
    }

    /// `192.0.2.10`, `192.0.2.0/24`, `office`, `any`, with `:443` behind it or that alone; `[2001:db8::1]:443`.
    fn end(&self, text: &str) -> Result<End, PacketError> {
        if WORDS.contains(&text) {
            return Err(PacketError::new(
                format!("{} stands where an address should", quoted(text)),
                format!("write it as in `{EXAMPLE}`"),
            ));
        }
        let (address, port) = self.split(text)?;
        let address = match address {
            "" | "any" => None,
            address if looks_like_address(address) => {
                let block = parse_block(address.as_bytes())
                    .map_err(|error| PacketError::new(error.to_string(), error.help()))?;
                Some(Whose::Block(block))
            }
            name => Some(Whose::Group(name.to_owned())),
        };
        let ports = port.map(|port| self.ports(port)).transpose()?;
        Ok(End { address, ports })
    }

    /// Address and port of an end. An IPv6 address with a port is in brackets, as RFC 3986 has it.
    fn split<'t>(&self, text: &'t str) -> Result<(&'t str, Option<&'t str>), PacketError> {
        if let Some(inner) = text.strip_prefix('[') {
            return match inner.split_once(']') {
                Some((address, "")) => Ok((address, None)),
                Some((address, rest)) if rest.starts_with(':') => Ok((address, Some(&rest[1..]))),
                _ => Err(PacketError::new(
                    format!("{} has a bracket that is not closed", quoted(text)),
                    "write an IPv6 address and its port as [2001:db8::1]:443",
                )),
            };
        }
        // More than one colon, or two beside each other, are those of an IPv6 address.
        match text.split_once(':') {
            Some((address, port)) if !port.contains(':') => Ok((address, Some(port))),
            _ => Ok((text, None)),
        }
    }

    fn ports(&self, text: &str) -> Result<(u16, u16), PacketError> {
        let has_ports = matches!(
            self.pattern.protocol,
            Protocol::Number(protocol::TCP | protocol::UDP | protocol::SCTP)
        );
        if has_ports {
            return Ok(port_range(&Scalar::Text(text.to_owned()))?);
        }
        let message = match self.pattern.protocol {
            Protocol::Any => "a port says nothing without its protocol".to_owned(),
            Protocol::Number(number) => format!("{} has no ports", values::protocol_text(number)),
        };
        Err(PacketError::new(
            message,
            format!("leave `:{text}` out, or begin the packet with tcp, udp or sctp"),
        ))
    }
}

/// The complaint about a word, unless it is a misspelling of one of [`WORDS`].
fn unknown(word: &str, otherwise: PacketError) -> PacketError {
    if looks_like_address(word) {
        return PacketError::new(
            format!(
                "it is not said whether the packet comes from {0} or goes to {0}",
                quoted(word)
            ),
            format!("write it as in `{EXAMPLE}`"),
        );
    }
    match closest(word, WORDS.iter().copied()) {
        Some(near) => PacketError::new(
            format!("{} is not expected here", quoted(word)),
            format!("did you mean `{near}`?"),
        ),
        None => otherwise,
    }
}

fn twice(what: &str) -> PacketError {
    PacketError::new(format!("it says twice {what}"), "write it once")
}
