//! Essentials as sets of packets: what passes before any rule is asked ([`firewall_common::decide::essential`]).

use firewall_common::parse::protocol;

use crate::rules::model::{AddressSet, Direction, RuleSet};
use crate::rules::region::services::number;
use crate::rules::region::{Example, Region, Services, ranges};

/// fe80::/10, and the unspecified address.
const LINK_LOCAL_OR_NONE: [(u128, u128); 2] =
    [(0, 0), (0xfe80 << 112, (0xfe80 << 112) | (u128::MAX >> 10))];
/// 224.0.0.0/4.
const GROUPS_V4: (u32, u32) = (0xe000_0000, 0xefff_ffff);

/// An essential.
struct Essential {
    key: &'static str,
    is_on: bool,
    /// What passes by it, whatever its source port and hop limit.
    numbers: Vec<(u32, u32)>,
    /// Only from this port.
    source_port: Option<u16>,
    /// Only from these.
    from: Option<AddressSet>,
    /// Only to these.
    to: Option<AddressSet>,
    /// Whether all of these packets pass, with the hop limit that they have: rules are never asked about them.
    all: bool,
}

/// A packet of the region that an essential lets through, and the essential's key.
pub(super) fn passing(rule_set: &RuleSet, region: &Region) -> Option<(Example, &'static str)> {
    essentials(rule_set, region.direction)
        .into_iter()
        .find_map(|essential| {
            let both = Region {
                direction: region.direction,
                from: meet(&region.from, &essential.from),
                to: meet(&region.to, &essential.to),
                services: Services {
                    numbers: ranges::intersection(&region.services.numbers, &essential.numbers),
                    flags: region.services.flags.clone(),
                },
            };
            let mut example = super::region::any(&both)?;
            if let Some(port) = essential.source_port {
                example.transport.source_port = port;
            }
            Some((example, essential.key))
        })
}

/// What of the region rules are asked about.
pub(super) fn without_passed(rule_set: &RuleSet, region: &Region) -> Region {
    let mut asked = region.clone();
    for essential in essentials(rule_set, region.direction) {
        let is_whole =
            is_inside(&region.from, &essential.from) && is_inside(&region.to, &essential.to);
        if essential.all && is_whole {
            let numbers = &asked.services.numbers;
            asked.services.numbers = ranges::intersection(numbers, &complement(&essential.numbers));
        }
    }
    asked
}

/// The essentials of a direction that are switched on.
fn essentials(rule_set: &RuleSet, direction: Direction) -> Vec<Essential> {
    let is_on = &rule_set.essentials;
    let leaves = direction == Direction::Egress;
    let types = |protocol: u8, first: u8, last: u8| {
        (
            number(protocol, u16::from(first) << 8),
            number(protocol, u16::from(last) << 8 | 0xff),
        )
    };
    let icmp = |first, last| types(protocol::ICMP, first, last);
    let icmpv6 = |first, last| types(protocol::ICMPV6, first, last);
    let port = |port| (number(protocol::UDP, port), number(protocol::UDP, port));
    let whole = |key, is_on, numbers, all| Essential {
        key,
        is_on,
        numbers,
        source_port: None,
        from: None,
        to: None,
        all,
    };
    let link_local = || AddressSet {
        v4: Vec::new(),
        v6: LINK_LOCAL_OR_NONE.to_vec(),
    };
    let any_v4 = AddressSet {
        v4: vec![(0, u32::MAX)],
        v6: Vec::new(),
    };
    let groups_v4 = AddressSet {
        v4: vec![GROUPS_V4],
        v6: Vec::new(),
    };
    let any_v6 = || AddressSet {
        v4: Vec::new(),
        v6: vec![(0, u128::MAX)],
    };
    let igmp = vec![(number(protocol::IGMP, 0), number(protocol::IGMP, u16::MAX))];
    let mld = vec![icmpv6(130, 132), icmpv6(143, 143)];
    // From a server to a client, or the other way.
    let ports = |server, client| {
        if leaves {
            [client, server]
        } else {
            [server, client]
        }
    };
    let dhcp = |of_family, [from, to]: [u16; 2]| Essential {
        source_port: Some(from),
        from: Some(of_family),
        ..whole("dhcp-client", is_on.dhcp_client, vec![port(to)], false)
    };
    let membership = |numbers| {
        let is_on = is_on.multicast_membership;
        whole("multicast-membership", is_on, numbers, true)
    };
    let all = [
        whole(
            "neighbour-discovery",
            is_on.neighbour_discovery,
            vec![icmpv6(133, 137)],
            true,
        ),
        // What arrives of these has to answer something, which rules are asked before.
        whole(
            "path-mtu",
            is_on.path_mtu && leaves,
            vec![icmp(3, 3), icmp(11, 12), icmpv6(1, 4)],
            true,
        ),
        dhcp(any_v4, ports(67, 68)),
        dhcp(
            if leaves { any_v6() } else { link_local() },
            ports(547, 546),
        ),
        Essential {
            to: (!leaves).then_some(groups_v4),
            ..membership(igmp)
        },
        Essential {
            from: (!leaves).then(link_local),
            ..membership(mld)
        },
    ];
    all.into_iter().filter(|one| one.is_on).collect()
}

/// Whether all of some addresses are among the others; `None` stands for any address.
fn is_inside(some: &Option<AddressSet>, others: &Option<AddressSet>) -> bool {
    others.is_none() || (some.is_some() && meet(some, others) == *some)
}

/// What is in both; `None` stands for any address.
fn meet(some: &Option<AddressSet>, others: &Option<AddressSet>) -> Option<AddressSet> {
    match (some, others) {
        (Some(some), Some(others)) => Some(AddressSet {
            v4: ranges::intersection(&some.v4, &others.v4),
            v6: ranges::intersection(&some.v6, &others.v6),
        }),
        (some, others) => some.clone().or_else(|| others.clone()),
    }
}

/// Every service that is in none of these ranges, which are sorted and disjoint.
fn complement(numbers: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut free = Vec::new();
    let mut next = 0;
    for &(first, last) in numbers {
        if next < first {
            free.push((next, first - 1));
        }
        next = last + 1;
    }
    free.push((next, u32::MAX));
    free
}
