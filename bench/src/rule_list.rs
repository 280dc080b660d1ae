//! Rules of the form "source CIDR, protocol, destination port: accept", and packets that match them or not.

use std::fmt::Write as _;

use anyhow::Result;

use crate::{
    cidr::{Cidr, Cover, Family, Mix},
    frame::{Frames, Packet, Service, frames},
    random::Random,
};

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// Source.
    pub(crate) from: Cidr,
    /// Protocol and port.
    pub(crate) service: Service,
}

/// Random rules: CIDRs of [`Mix::Rules`], half of them TCP and half UDP, any port from 1024. The last rule's CIDR is a
/// /16, so that many different packets match it.
pub(crate) fn take(count: usize, random: &mut Random) -> Vec<Rule> {
    let mut cidrs = Mix::Rules.take(count, random);
    if let Some(last) = cidrs.last_mut() {
        *last = Cidr::around(Family::V4, last.first, 16);
    }
    cidrs
        .into_iter()
        .map(|from| Rule {
            from,
            service: match random.below(2) {
                0 => Service::Tcp(random.port()),
                _ => Service::Udp(random.port()),
            },
        })
        .collect()
}

/// Which packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Matching the last rule.
    Last,
    /// From anywhere outside all CIDRs to a port that no rule names.
    NoneUnnamed,
    /// From anywhere outside all CIDRs to a port that a rule names.
    NoneNamed,
    /// Matching a random rule.
    Any,
}

impl Traffic {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Last, Self::NoneUnnamed, Self::NoneNamed, Self::Any];

    /// As a person calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Last => "match the last",
            Self::NoneUnnamed => "match none, port not named",
            Self::NoneNamed => "match none, port named",
            Self::Any => "match any",
        }
    }

    /// Whether the rules accept these packets.
    pub(crate) const fn accepted(self) -> bool {
        matches!(self, Self::Last | Self::Any)
    }

    /// The packets.
    ///
    /// # Errors
    ///
    /// If a frame cannot be written.
    pub(crate) fn frames(self, rules: &[Rule], random: &mut Random) -> Result<Frames> {
        let cidrs: Vec<_> = rules.iter().map(|rule| rule.from).collect();
        let cover = Cover::of(&cidrs);
        frames(random, |random| {
            let rule = match self {
                Self::Last => rules[rules.len() - 1],
                _ => rules[random.below(rules.len() as u64) as usize],
            };
            match self {
                Self::Last | Self::Any => Packet::new(rule.from.member(random), rule.service),
                Self::NoneNamed => Packet::new(cover.outside(random), rule.service),
                Self::NoneUnnamed => Packet::new(cover.outside(random), unnamed(rules, random)),
            }
        })
    }
}

fn unnamed(rules: &[Rule], random: &mut Random) -> Service {
    loop {
        let service = Service::Tcp(random.port());
        // Ten thousand rules name a seventh of the ports.
        if !rules.iter().any(|rule| rule.service == service) {
            return service;
        }
    }
}

/// The rules as a rule file.
pub(crate) fn file(rules: &[Rule]) -> String {
    let mut text = "version = 1\n".to_owned();
    for (number, rule) in (1..).zip(rules) {
        let (protocol, port) = match rule.service {
            Service::Tcp(port) => ("tcp", port),
            Service::Udp(port) => ("udp", port),
            Service::Echo => ("icmp", 0),
        };
        let _ = write!(
            text,
            "\n[[rule]]\nname = \"rule {number}\"\naction = \"accept\"\nprotocol = \"{protocol}\"\nports = [{port}]\n\
             from = [\"{}\"]\n",
            rule.from
        );
    }
    text
}
