//! Packets that the programs have told of, with the names of what has decided them.

pub(crate) mod filter;
pub(crate) mod stream;

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use firewall_common::abi::event::Event;
use firewall_common::abi::image::Outcome;
use firewall_common::abi::reason::DropReason;
use firewall_common::parse::{Parsed, parse};

use crate::explain::Cause;
use crate::kernel::description::Description;
use crate::kernel::events::{Reader, Told};
use crate::rules::model::Direction;
use crate::rules::packet::{Concrete, Upper};

/// A packet that was told of.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Where it was seen.
    pub(crate) interface: Rc<str>,
    /// When, since 1970.
    pub(crate) at: Duration,
    pub(crate) direction: Direction,
    /// Whether it went on.
    pub(crate) accepts: bool,
    /// The reason's name in counters.
    pub(crate) reason: &'static str,
    pub(crate) rule: Option<Rule>,
    /// The generation that has decided.
    pub(crate) generation: u64,
    /// Bytes of the whole frame.
    pub(crate) frame_bytes: u32,
    /// Its first bytes.
    pub(crate) frame: Vec<u8>,
    /// What was in it, if it can be read.
    pub(crate) packet: Option<Concrete>,
}

/// The rule that has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// One of the generation that decided.
    Named { name: String, line: usize },
    /// That generation is not in memory any more.
    Gone,
}

impl Seen {
    /// Its verdict in a sentence.
    pub(crate) const fn verdict(&self) -> &'static str {
        if self.accepts { "accepted" } else { "dropped" }
    }

    /// The rule or the reason.
    pub(crate) fn why(&self) -> String {
        let by_rule = self.reason == DropReason::Rule.label();
        match &self.rule {
            None => self.reason.to_owned(),
            Some(Rule::Named { name, .. }) if by_rule => format!("rule {name}"),
            Some(Rule::Named { name, .. }) => format!("{}, rule {name}", self.reason),
            Some(Rule::Gone) => format!("{} of generation {}, gone", self.reason, self.generation),
        }
    }

    /// The same for who sees nothing else of it: ``dropped by rule `web` (line 4)``.
    pub(crate) fn sentence(&self) -> String {
        let (verdict, reason) = (self.verdict(), self.reason);
        let by_rule = reason == DropReason::Rule.label();
        match &self.rule {
            None => format!("{verdict}: {reason}"),
            Some(Rule::Named { name, line }) if by_rule => {
                format!("{verdict} by rule `{name}` (line {line})")
            }
            Some(Rule::Named { name, line }) => {
                format!("{verdict}: {reason}, rule `{name}` (line {line})")
            }
            Some(Rule::Gone) => format!(
                "{verdict}: {reason}, by generation {}, which is not in memory any more",
                self.generation
            ),
        }
    }

    /// What it is, in the notation of `explain` if it can be read.
    pub(crate) fn shown(&self) -> String {
        if let Some(packet) = &self.packet {
            return packet.to_string();
        }
        let ethertype = match self.frame.get(12..14) {
            Some(&[upper, lower]) => format!(", ethertype 0x{upper:02x}{lower:02x}"),
            _ => String::new(),
        };
        let out = match self.direction {
            Direction::Ingress => "",
            Direction::Egress => " out",
        };
        format!("frame of {} bytes{ethertype}{out}", self.frame_bytes)
    }

    /// The port it goes to.
    pub(crate) fn port(&self) -> Option<u16> {
        self.ports().map(|(_, destination)| destination)
    }

    /// Source and destination port.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        match self.packet?.upper {
            Upper::Tcp {
                source,
                destination,
                ..
            }
            | Upper::Ports {
                source,
                destination,
            } => Some((source, destination)),
            Upper::Icmp(_) | Upper::Other => None,
        }
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.packet.map(|packet| packet.source)
    }
}

/// The names of what decides on an interface, by generation.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<u64, Option<Description>>);

impl Names {
    /// What `reader` was told on `interface`, where CLOCK_MONOTONIC began so long after 1970.
    pub(crate) fn seen(
        &mut self,
        Told { event, frame }: Told,
        interface: &Rc<str>,
        since_1970: Duration,
        reader: &Reader,
    ) -> Result<Seen> {
        let outcome = Outcome(event.outcome);
        let slot = outcome.counter();
        let (reason, rule) = match Cause::without_rule(slot) {
            Some(cause) => (cause.label(), None),
            None => self.by_rule(&event, outcome, reader)?,
        };
        let direction = match event.is_egress {
            0 => Direction::Ingress,
            _ => Direction::Egress,
        };
        Ok(Seen {
            interface: Rc::clone(interface),
            at: since_1970 + Duration::from_nanos(event.at_ns),
            direction,
            accepts: outcome.accepts(),
            reason,
            rule,
            generation: event.generation,
            frame_bytes: event.frame_bytes,
            packet: packet(&frame, event.frame_bytes, direction),
            frame,
        })
    }

    /// What has decided, where the counter is the rule's or the port's.
    fn by_rule(
        &mut self,
        event: &Event,
        outcome: Outcome,
        reader: &Reader,
    ) -> Result<(&'static str, Option<Rule>)> {
        let description = match self.0.entry(event.generation) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => {
                unknown.insert(reader.description(event)?)
            }
        };
        let policy = description.as_ref().map(|known| &known.policy);
        let cause = policy.and_then(|policy| Cause::of(outcome.counter(), policy));
        if let Some(cause) = cause {
            let rule = cause.rule().map(|rule| Rule::Named {
                name: rule.name.clone(),
                line: rule.line,
            });
            return Ok((cause.label(), rule));
        }
        let is_egress = event.is_egress != 0;
        Ok(if outcome.is_held() && is_egress {
            (DropReason::EgressRateLimit.label(), Some(Rule::Gone))
        } else if outcome.is_held() {
            (DropReason::RateLimit.label(), Some(Rule::Gone))
        } else if outcome.is_default() {
            (DropReason::NoRule.label(), None)
        } else {
            (DropReason::Rule.label(), Some(Rule::Gone))
        })
    }
}

/// What is in a frame of so many bytes, of which there are the first. The rest counts as zeros, which nobody looks at.
fn packet(frame: &[u8], frame_bytes: u32, direction: Direction) -> Option<Concrete> {
    let mut whole = frame.to_vec();
    whole.resize(frame.len().max(frame_bytes as usize), 0);
    let Ok(Parsed::Ip(packet)) = parse(whole.as_slice()) else {
        return None;
    };
    Some(Concrete {
        vlan: vlan(frame),
        ..Concrete::of(&packet, direction)
    })
}

/// The VLAN id of a frame's first tag (IEEE 802.1Q, 802.1ad), if it is of a VLAN.
fn vlan(frame: &[u8]) -> Option<u16> {
    const ID: u16 = 0x0fff;
    match *frame.get(12..16)? {
        [0x81, 0x00, upper, lower] | [0x88, 0xa8, upper, lower] => {
            let id = u16::from_be_bytes([upper, lower]) & ID;
            (id != 0).then_some(id)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::packet::{Host, Pattern};

    fn seen(text: &str) -> Seen {
        let pattern: Pattern = text.parse().unwrap();
        let concrete = pattern.concrete(&Host::default()).unwrap();
        let frame = concrete.frame();
        let bytes = frame.len() as u32;
        Seen {
            interface: "fwt0".into(),
            at: Duration::ZERO,
            direction: concrete.direction,
            accepts: false,
            reason: DropReason::NoRule.label(),
            rule: None,
            generation: 3,
            frame_bytes: bytes,
            packet: packet(&frame, bytes, concrete.direction),
            frame,
        }
    }

    #[test]
    fn a_packet_is_shown_as_it_is_written() {
        for text in [
            "tcp 198.51.100.9:40000 -> 192.0.2.2:22 syn",
            "udp [2001:db8::9]:40000 -> [2001:db8::2]:53 vlan 10",
            "icmp 192.0.2.2 -> 198.51.100.9 echo-request out",
        ] {
            assert_eq!(seen(text).shown(), text);
        }
    }

    #[test]
    fn a_long_packet_is_read_from_its_first_bytes() {
        let text = "udp 198.51.100.9:40000 -> 192.0.2.2:53";
        let mut frame = seen(text).frame;
        // Lengths of IP and UDP, as if a kilobyte followed.
        frame[16..18].copy_from_slice(&1_052u16.to_be_bytes());
        frame[38..40].copy_from_slice(&1_032u16.to_be_bytes());
        let long = packet(&frame, 1_066, Direction::Ingress).unwrap();
        assert_eq!(long.to_string(), text);
        assert_eq!(packet(&frame, frame.len() as u32, Direction::Ingress), None);
    }

    #[test]
    fn who_has_decided_is_told_by_name_or_as_gone() {
        let mut one = seen("tcp to :22 out");
        assert_eq!(one.sentence(), "dropped: no-rule");
        one.reason = DropReason::Rule.label();
        one.rule = Some(Rule::Named {
            name: "web".to_owned(),
            line: 4,
        });
        assert_eq!(one.why(), "rule web");
        assert_eq!(one.sentence(), "dropped by rule `web` (line 4)");
        one.reason = DropReason::RateLimit.label();
        assert_eq!(one.why(), "rate-limit, rule web");
        assert_eq!(one.sentence(), "dropped: rate-limit, rule `web` (line 4)");
        one.rule = Some(Rule::Gone);
        assert_eq!(one.why(), "rate-limit of generation 3, gone");
        one.packet = None;
        assert_eq!(one.shown(), "frame of 54 bytes, ethertype 0x0800 out");
    }
}
