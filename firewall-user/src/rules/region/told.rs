//! Services as a person would list them: by protocol, and flags by a condition that has them.

use super::ranges;
use super::services::{ALL, Services, families, flag_bytes, of_protocol, selector};
use crate::rules::model::TcpFlags;
use crate::rules::names::IcmpFamily;
use firewall_common::abi::image::Selector;

/// Services of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSet {
    /// Its number.
    pub protocol: u8,
    /// Ports, or ICMP types and codes as `type << 8 | code`: inclusive ranges, sorted. Empty for protocols that have neither.
    pub ranges: Vec<(u16, u16)>,
    /// Whether it is all of the protocol.
    pub is_all: bool,
}

/// Flags of TCP segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagSet {
    /// All that fulfil a condition.
    Condition(TcpFlags),
    /// So many of so many combinations that some TCP sends.
    Combinations(usize, usize),
}

impl Services {
    /// Leaves those of TCP that have flags which fulfil a condition.
    pub fn restrict_flags(&mut self, condition: TcpFlags) {
        self.flags = ranges::intersection(&self.flags, &flag_bytes(Some(condition)));
    }

    /// All services that are not among these, whatever the flags.
    pub fn others(&self) -> Self {
        let mut outside = Vec::new();
        let mut next = 0;
        for &(first, last) in &self.numbers {
            if next < first {
                outside.push((next, first - 1));
            }
            next = last + 1;
        }
        outside.push((next, u32::MAX));
        Self {
            numbers: ranges::intersection(&ALL, &outside),
            flags: flag_bytes(None),
        }
    }

    /// By protocol, ascending.
    pub fn by_protocol(&self) -> Vec<ServiceSet> {
        let of_number = |number: u8| {
            let all = [of_protocol(number)];
            let own = ranges::intersection(&self.numbers, &all);
            let values = own.iter().map(|&(first, last)| (first as u16, last as u16));
            (!own.is_empty()).then(|| ServiceSet {
                protocol: number,
                ranges: match selector(number) {
                    Some(_) => values.collect(),
                    None => Vec::new(),
                },
                is_all: own == ranges::intersection(&ALL, &all),
            })
        };
        (0..=u8::MAX).filter_map(of_number).collect()
    }

    /// Whether packets with one of them can be IPv4, and IPv6.
    pub fn families(&self) -> [bool; 2] {
        families(&self.numbers)
    }

    /// The flags, by the shortest condition that has just them if there is one; `None` if they make no difference.
    pub fn flags(&self) -> Option<FlagSet> {
        if self.flags == flag_bytes(None) {
            return None;
        }
        // The ECN flags aside, three states of six flags.
        let conditions = (0..64u8).flat_map(|set| {
            let clears = (0..64u8).filter(move |clear| set & clear == 0);
            clears.map(move |clear| TcpFlags { set, clear })
        });
        let fitting = conditions.filter(|&flags| flag_bytes(Some(flags)) == self.flags);
        let shortest = fitting.min_by_key(|flags| {
            (
                (flags.set | flags.clear).count_ones(),
                flags.clear.count_ones(),
            )
        });
        let count = |bytes: &[(u32, u32)]| {
            let lengths = bytes.iter().map(|&(first, last)| last - first + 1);
            lengths.sum::<u32>() as usize
        };
        Some(match shortest {
            Some(flags) => FlagSet::Condition(flags),
            None => FlagSet::Combinations(count(&self.flags), count(&flag_bytes(None))),
        })
    }

    /// Whether a port of a protocol, or a type and code, is among them.
    pub fn has(&self, protocol: u8, value: u16) -> bool {
        ranges::contain(&self.numbers, super::services::number(protocol, value))
    }
}

impl ServiceSet {
    /// ICMP types by name; where not all codes of a type are there, `TYPE/CODE`.
    pub fn type_names(&self) -> Vec<String> {
        let family = match selector(self.protocol) {
            Some(Selector::Icmpv6) => IcmpFamily::V6,
            _ => IcmpFamily::V4,
        };
        let name = |kind: u8| {
            let known = family.type_name(kind);
            known.map_or_else(|| kind.to_string(), str::to_owned)
        };
        let mut names = Vec::new();
        for &(first, last) in &self.ranges {
            for kind in (first >> 8) as u8..=(last >> 8) as u8 {
                let all = (u16::from(kind) << 8, u16::from(kind) << 8 | 0xff);
                let (low, high) = (first.max(all.0) as u8, last.min(all.1) as u8);
                names.push(match (low, high) {
                    (0, 0xff) => name(kind),
                    (low, high) if low == high => format!("{}/{low}", name(kind)),
                    (low, high) => format!("{}/{low}-{high}", name(kind)),
                });
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use firewall_common::parse::protocol;

    use super::*;

    #[test]
    fn others_are_all_that_is_not_there() {
        assert!(Services::any().others().by_protocol().is_empty());
        let ssh = Services::ports(protocol::TCP, &[(22, 22)]);
        assert_eq!(ssh.others().others(), ssh);
        let all = ssh.others().by_protocol();
        assert_eq!(all.len(), 256);
        let tcp = all
            .iter()
            .find(|set| set.protocol == protocol::TCP)
            .unwrap();
        assert_eq!(
            (&tcp.ranges[..], tcp.is_all),
            (&[(1, 21), (23, 65_535)][..], false)
        );
    }

    #[test]
    fn flags_are_told_by_the_shortest_condition() {
        let mut tcp = Services::protocol(protocol::TCP);
        for (set, clear) in [(2, 16), (0, 4), (16, 0)] {
            let flags = TcpFlags { set, clear };
            tcp.flags = flag_bytes(None);
            tcp.restrict_flags(flags);
            let told = tcp.flags();
            let Some(FlagSet::Condition(told)) = told else {
                panic!("{told:?}");
            };
            assert_eq!(flag_bytes(Some(told)), tcp.flags);
            assert!((told.set | told.clear).count_ones() <= (set | clear).count_ones());
        }
        tcp.flags = vec![(2, 2), (16, 16)];
        assert!(matches!(tcp.flags(), Some(FlagSet::Combinations(2, _))));
    }

    #[test]
    fn types_have_their_names_and_codes_that_are_alone_their_numbers() {
        let names = |ranges: &[(u16, u16)]| {
            let set = ServiceSet {
                protocol: protocol::ICMP,
                ranges: ranges.to_vec(),
                is_all: false,
            };
            set.type_names()
        };
        assert_eq!(names(&[(0x0800, 0x08ff)]), ["echo-request"]);
        assert_eq!(names(&[(0x0304, 0x0304)]), ["destination-unreachable/4"]);
    }
}
