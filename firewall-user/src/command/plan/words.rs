//! Sets of packets in the words of a rule file: `tcp 22 from office (203.0.113.0/24) to any`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use firewall_common::parse::protocol;
use ipnet::{Ipv4Subnets, Ipv6Subnets};

use crate::output;
use crate::rules::diff::Change;
use crate::rules::model::{AddressSet, TcpFlags};
use crate::rules::names;
use crate::rules::region::{FlagSet, ServiceSet, Services};

/// Address blocks and services that are listed before the rest is only counted.
const LISTED: usize = 4;

/// Names for sets of addresses, those of the new file first.
pub(super) struct Words<'a> {
    groups: [&'a BTreeMap<String, AddressSet>; 2],
}

impl<'a> Words<'a> {
    /// With these groups, those of the new file first.
    pub(super) fn new(groups: [&'a BTreeMap<String, AddressSet>; 2]) -> Self {
        Self { groups }
    }

    /// What packets a change is about.
    pub(super) fn packets(&self, change: &Change) -> String {
        let families = change.services.families();
        let sides = [&change.from, &change.to];
        format!(
            "{} from {} to {}",
            services(&change.services),
            self.addresses(sides, families),
            self.addresses([sides[1], sides[0]], [false; 2]),
        )
    }

    /// One side of some packets, beside the other one. Where both are of one family alone although the other is `possible` too,
    /// and no block tells, the word for everything does.
    fn addresses(&self, [set, other]: [&AddressSet; 2], possible: [bool; 2]) -> String {
        let any = match ([!set.v4.is_empty(), !set.v6.is_empty()], possible) {
            ([true, false], [_, true]) if is_full(other) => "any IPv4 address",
            ([false, true], [true, _]) if is_full(other) => "any IPv6 address",
            _ => "any",
        };
        if is_full(set) {
            return any.to_owned();
        }
        let rest = complement(set);
        let (words, named) = if rest.v4.len() + rest.v6.len() < set.v4.len() + set.v6.len() {
            (format!("{any} but "), &rest)
        } else {
            (String::new(), set)
        };
        match self.group(named) {
            Some(name) => format!("{words}{name} ({})", blocks(named)),
            None => words + &blocks(named),
        }
    }

    /// The group that has these addresses, of the families that there are any of.
    pub(super) fn group(&self, set: &AddressSet) -> Option<&'a str> {
        let same = |group: &AddressSet| {
            (set.v4.is_empty() || set.v4 == group.v4) && (set.v6.is_empty() || set.v6 == group.v6)
        };
        let groups = self.groups.into_iter().flatten();
        let mut found = groups.filter(|(_, group)| same(group));
        found.next().map(|(name, _)| &name[..])
    }
}

/// Whether it is every address of each family that it has any of.
fn is_full(set: &AddressSet) -> bool {
    matches!(set.v4[..], [] | [(0, u32::MAX)])
        && matches!(set.v6[..], [] | [(0, u128::MAX)])
        && !(set.v4.is_empty() && set.v6.is_empty())
}

/// What is not in the set, of the families that it has any of.
fn complement(set: &AddressSet) -> AddressSet {
    AddressSet {
        v4: gaps(
            &set.v4,
            0,
            u32::MAX,
            |a| a.checked_sub(1),
            |a| a.checked_add(1),
        ),
        v6: gaps(
            &set.v6,
            0,
            u128::MAX,
            |a| a.checked_sub(1),
            |a| a.checked_add(1),
        ),
    }
}

/// What is between `least` and `most` and in no range; nothing where there are no ranges.
fn gaps<N: Copy + Ord>(
    ranges: &[(N, N)],
    least: N,
    most: N,
    before: impl Fn(N) -> Option<N>,
    behind: impl Fn(N) -> Option<N>,
) -> Vec<(N, N)> {
    let firsts = std::iter::once(Some(least)).chain(ranges.iter().map(|range| behind(range.1)));
    let lasts = (ranges.iter().map(|range| before(range.0))).chain(std::iter::once(Some(most)));
    let gaps = firsts
        .zip(lasts)
        .filter_map(|(first, last)| Some((first?, last?)));
    if ranges.is_empty() {
        return Vec::new();
    }
    gaps.filter(|(first, last)| first <= last).collect()
}

/// The first blocks of a set, and how many more there are.
fn blocks(set: &AddressSet) -> String {
    let count = all_blocks(set).count();
    // One more takes no more room than saying so.
    let listed = if count == LISTED + 1 { count } else { LISTED };
    let mut text = all_blocks(set).take(listed).collect::<Vec<_>>().join(", ");
    if count > listed {
        let more = output::count((count - listed) as u64);
        text += &format!(" … and {more} more");
    }
    text
}

/// Every block of a set, as a rule file would have it.
pub(super) fn all_blocks(set: &AddressSet) -> impl Iterator<Item = String> {
    let v4 = set.v4.iter().flat_map(|&(first, last)| {
        let [first, last] = [first, last].map(Ipv4Addr::from_bits);
        Ipv4Subnets::new(first, last, 0).map(|net| match net.prefix_len() {
            32 => net.addr().to_string(),
            _ => net.to_string(),
        })
    });
    let v6 = set.v6.iter().flat_map(|&(first, last)| {
        let [first, last] = [first, last].map(Ipv6Addr::from_bits);
        Ipv6Subnets::new(first, last, 0).map(|net| match net.prefix_len() {
            128 => net.addr().to_string(),
            _ => net.to_string(),
        })
    });
    v4.chain(v6)
}

/// Services by protocol: `tcp 22,80-90`, `any protocol`, `any protocol but tcp 22`.
fn services(services: &Services) -> String {
    let flags = flags(services);
    let own = services.by_protocol();
    let others = services.others().by_protocol();
    let mut text = if flags.is_some() || own.len() <= others.len() {
        listed(&own)
    } else if others.is_empty() {
        "any protocol".to_owned()
    } else {
        format!("any protocol but {}", listed(&others))
    };
    if let Some(flags) = flags {
        text += &format!(" with {flags}");
    }
    text
}

fn listed(sets: &[ServiceSet]) -> String {
    let shown = if sets.len() == LISTED + 1 {
        sets.len()
    } else {
        sets.len().min(LISTED)
    };
    let texts = sets[..shown].iter().map(|set| {
        let name = protocol(set.protocol);
        match set.is_all {
            true => name,
            false => format!("{name} {}", some(&values(set))),
        }
    });
    let mut text = texts.collect::<Vec<_>>().join(", ");
    if sets.len() > shown {
        text += &format!(" … and {} more", sets.len() - shown);
    }
    text
}

/// A protocol by its name if it has one.
pub(super) fn protocol(number: u8) -> String {
    names::protocol_name(number).map_or_else(|| format!("protocol {number}"), str::to_owned)
}

/// Ports or ICMP types.
pub(super) fn values(set: &ServiceSet) -> Vec<String> {
    match set.protocol {
        protocol::ICMP | protocol::ICMPV6 => set.type_names(),
        _ => set.ranges.iter().map(|&range| span(range)).collect(),
    }
}

/// The first of some values, and how many more there are.
fn some(values: &[String]) -> String {
    const SHOWN: usize = 8;
    if values.len() <= SHOWN + 1 {
        return values.join(",");
    }
    let more = output::count((values.len() - SHOWN) as u64);
    format!("{} … and {more} more", values[..SHOWN].join(","))
}

fn span((low, high): (u16, u16)) -> String {
    if low == high {
        low.to_string()
    } else {
        format!("{low}-{high}")
    }
}

/// TCP flags where not all are meant: `syn, no ack`, or how many of their combinations there are.
pub(super) fn flags(services: &Services) -> Option<String> {
    let words = |bits: u8| {
        let set = names::tcp_flag_names()
            .filter(|name| names::tcp_flag_bit(name).is_some_and(|bit| bits & bit != 0));
        set.collect::<Vec<_>>().join(" ")
    };
    Some(match services.flags()? {
        FlagSet::Condition(TcpFlags { set, clear: 0 }) => words(set),
        FlagSet::Condition(TcpFlags { set: 0, clear }) => format!("no {}", words(clear)),
        FlagSet::Condition(TcpFlags { set, clear }) => {
            format!("{}, no {}", words(set), words(clear))
        }
        FlagSet::Combinations(count, all) => format!("{count} of {all} combinations of flags"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::model::{Action, Direction};

    const OFFICE: (u32, u32) = (0xcb00_7100, 0xcb00_71ff);

    fn v4(ranges: &[(u32, u32)]) -> AddressSet {
        AddressSet {
            v4: ranges.to_vec(),
            v6: Vec::new(),
        }
    }

    fn everyone() -> AddressSet {
        AddressSet {
            v4: vec![(0, u32::MAX)],
            v6: vec![(0, u128::MAX)],
        }
    }

    fn told(services: Services, from: AddressSet, to: AddressSet) -> String {
        let groups = BTreeMap::from([("office".to_owned(), v4(&[OFFICE]))]);
        let change = Change {
            direction: Direction::Ingress,
            now: Action::Accept,
            from,
            to,
            services,
            old: Default::default(),
            new: Default::default(),
        };
        Words::new([&groups, &BTreeMap::new()]).packets(&change)
    }

    #[test]
    fn addresses_are_named_listed_or_told_by_what_is_left_out() {
        let ssh = || Services::ports(protocol::TCP, &[(22, 22)]);
        let all_v4 = || v4(&[(0, u32::MAX)]);
        let but_office = v4(&[(0, OFFICE.0 - 1), (OFFICE.1 + 1, u32::MAX)]);
        let many: Vec<_> = (0..1000)
            .map(|n| (0xc000_0200 + 4 * n, 0xc000_0200 + 4 * n))
            .collect();
        for (from, to, expected) in [
            (everyone(), everyone(), "tcp 22 from any to any"),
            (
                v4(&[OFFICE]),
                all_v4(),
                "tcp 22 from office (203.0.113.0/24) to any",
            ),
            (all_v4(), all_v4(), "tcp 22 from any IPv4 address to any"),
            (
                all_v4(),
                v4(&[OFFICE]),
                "tcp 22 from any to office (203.0.113.0/24)",
            ),
            (
                but_office,
                all_v4(),
                "tcp 22 from any IPv4 address but office (203.0.113.0/24) to any",
            ),
            (
                v4(&[(0xc000_0201, 0xc000_0203)]),
                all_v4(),
                "tcp 22 from 192.0.2.1, 192.0.2.2/31 to any",
            ),
            (
                v4(&many),
                all_v4(),
                "tcp 22 from 192.0.2.0, 192.0.2.4, 192.0.2.8, 192.0.2.12 … and 996 more to any",
            ),
        ] {
            assert_eq!(told(ssh(), from, to), expected);
        }
    }

    #[test]
    fn services_are_listed_or_told_by_what_is_left_out() {
        let mut syn = Services::protocol(protocol::TCP);
        syn.restrict_flags(TcpFlags { set: 2, clear: 16 });
        let icmp = Services::protocol(protocol::ICMP);
        let ssh = Services::ports(protocol::TCP, &[(22, 22), (80, 90)]);
        for (services, from, expected) in [
            (Services::any(), everyone(), "any protocol from any to any"),
            (
                ssh.others(),
                everyone(),
                "any protocol but tcp 22,80-90 from any to any",
            ),
            (syn, everyone(), "tcp with syn, no ack from any to any"),
            // There is no other ICMP.
            (icmp, v4(&[(0, u32::MAX)]), "icmp from any to any"),
        ] {
            assert_eq!(told(services, from.clone(), from), expected);
        }
    }
}
