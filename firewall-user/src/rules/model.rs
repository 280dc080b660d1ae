//! A validated rule set: what a rule file means, with every name resolved.
//!
//! Only [`crate::rules::validate`] makes these from a file, so a [`RuleSet`] in hand is consistent: set indices are in
//! range, rule names are unique, port ranges are not reversed.

mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use firewall_common::abi::flow::{MAX_BUCKETS, MAX_TIMEOUT_TICKS, MIN_BUCKETS, Timeouts, WAYS};

pub use terms::{BanAfter, Bans, Limit, Limits, Per, Rate, Terms, Unit};

/// What is done with a packet that a rule or a default decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let it in (or out).
    Accept,
    /// Refuse it.
    Drop,
}

/// Which way a packet goes, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Arriving at the interface.
    Ingress,
    /// Leaving through the interface.
    Egress,
}

/// Index of an [`AddressSet`] in [`RuleSet::sets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub usize);

/// A set of addresses of both families as inclusive ranges, sorted, disjoint and not adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressSet {
    /// IPv4 ranges in host byte order, first and last address of each.
    pub v4: Vec<(u32, u32)>,
    /// IPv6 ranges in host byte order, first and last address of each.
    pub v6: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Whether `address` is in the set.
    pub fn holds(&self, address: IpAddr) -> bool {
        fn is_in<A: Ord + Copy>(ranges: &[(A, A)], address: A) -> bool {
            let after = ranges.partition_point(|&(first, _)| first <= address);
            after
                .checked_sub(1)
                .is_some_and(|before| address <= ranges[before].1)
        }
        match address {
            IpAddr::V4(address) => is_in(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.v6, address.to_bits()),
        }
    }
}

/// Which protocols a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Every protocol.
    Any,
    /// One IP protocol number (for IPv6 the upper-layer header's).
    Number(u8),
}

/// A condition on TCP flags, in the bit order of the header's flags byte (FIN = 1 .. CWR = 128).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags {
    /// Flags that must be set.
    pub set: u8,
    /// Flags that must not be set.
    pub clear: u8,
}

/// One rule, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique in the file; counters go by it.
    pub name: String,
    /// What happens to a packet that this rule is the first to match.
    pub action: Action,
    /// Which way the packets go.
    pub direction: Direction,
    /// Protocols covered.
    pub protocol: Protocol,
    /// Destination ports as inclusive ranges, sorted, disjoint and not adjacent. `None`: any. Only with TCP, UDP and SCTP.
    pub ports: Option<Vec<(u16, u16)>>,
    /// ICMP or ICMPv6 types, sorted, unique. `None`: any. Only with ICMP and ICMPv6.
    pub icmp_types: Option<Vec<u8>>,
    /// TCP flags condition. Only with TCP.
    pub tcp_flags: Option<TcpFlags>,
    /// Source addresses. `None`: any address of either family.
    pub from: Option<SetId>,
    /// Destination addresses. `None`: any address of either family.
    pub to: Option<SetId>,
    /// What it asks beyond that.
    pub terms: Terms,
    /// Whether packets it decides are sampled as events.
    pub log: bool,
    /// Why the rule is there.
    pub comment: Option<String>,
    /// Line of the rule's `[[rule]]` header in its file, from 1.
    pub line: usize,
}

/// Packets that pass before any rule is asked, each switchable in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Essentials {
    /// ARP.
    pub arp: bool,
    /// ICMPv6 133 to 136 with hop limit 255 (RFC 4861).
    pub neighbour_discovery: bool,
    /// ICMP type 3, ICMPv6 types 1 to 4.
    pub path_mtu: bool,
    /// DHCP answers to this host as a client (UDP 67 to 68, 547 to 546).
    pub dhcp_client: bool,
    /// IGMP and MLD.
    pub multicast_membership: bool,
    /// LLDP, LACP, STP.
    pub link_layer: bool,
}

impl Default for Essentials {
    fn default() -> Self {
        Self {
            arp: true,
            neighbour_discovery: true,
            path_mtu: true,
            dhcp_client: true,
            multicast_membership: true,
            link_layer: true,
        }
    }
}

/// What happens to packets that no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Arriving packets.
    pub ingress: Action,
    /// Leaving packets.
    pub egress: Action,
}

impl Defaults {
    /// What happens to packets of this direction.
    pub const fn of(&self, direction: Direction) -> Action {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            ingress: Action::Drop,
            egress: Action::Accept,
        }
    }
}

/// What is remembered of the connections that this host opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// Flows that can be followed at once, from [`Flows::MIN_SIZE`] to [`Flows::MAX_SIZE`].
    pub size: u32,
    /// How long each lives after its last packet that left; 1 second to [`Flows::MAX_TIMEOUT_S`].
    pub timeouts: Timeouts,
}

impl Flows {
    /// Fewest flows that a file may ask for.
    pub const MIN_SIZE: u32 = 1024;
    /// Most flows that a file may ask for: the largest table, 1.1 GiB, is then half full.
    pub const MAX_SIZE: u32 = 8 << 20;
    /// Longest timeout, 365 days, in seconds. A tick of the flow table is at least a second, so all of it can be told.
    pub const MAX_TIMEOUT_S: u32 = 365 * 86_400;

    /// Buckets of the table that follows `size` flows: a power of two, with room for at least twice as many.
    pub const fn buckets(&self) -> u32 {
        (2 * self.size).div_ceil(WAYS as u32).next_power_of_two()
    }
}

const _: () = assert!(Flows::MAX_TIMEOUT_S < MAX_TIMEOUT_TICKS);
const _: () = assert!(2 * Flows::MIN_SIZE >= MIN_BUCKETS * WAYS as u32);
const _: () = assert!(2 * Flows::MAX_SIZE <= MAX_BUCKETS * WAYS as u32);

impl Default for Flows {
    fn default() -> Self {
        Self {
            size: 65_536,
            timeouts: Timeouts::default(),
        }
    }
}

/// The VLANs whose frames may arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlans {
    /// Whether frames of no VLAN may, which are those without tag and those with priority tags alone (VID 0).
    pub untagged: bool,
    /// VLAN ids as inclusive ranges, sorted, disjoint and not adjacent. Every tag of a frame must be of one of them.
    pub ids: Vec<(u16, u16)>,
}

impl Vlans {
    /// Largest VLAN id; 4095 is reserved (IEEE 802.1Q, table 9-2).
    pub const MAX_ID: u16 = 4094;
}

/// A whole validated rule file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// What no rule decides.
    pub defaults: Defaults,
    /// What passes before the rules.
    pub essentials: Essentials,
    /// What is remembered of connections that this host opens.
    pub flows: Flows,
    /// What is remembered for limits.
    pub limits: Limits,
    /// How many bans there can be, and who is never cut.
    pub bans: Bans,
    /// Whose frames may arrive; any VLAN's if there is nothing.
    pub vlans: Option<Vlans>,
    /// Every address set that a rule names in `from` or `to`; equal sets appear once.
    pub sets: Vec<AddressSet>,
    /// The rules, first match wins.
    pub rules: Vec<Rule>,
    /// Group names of the file, for messages and live edits, each with its resolved set.
    pub groups: BTreeMap<String, AddressSet>,
    /// The address lists that groups are made of, by their path in the file.
    pub lists: BTreeMap<String, NamedList>,
}

/// What an address list is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedList {
    /// Groups that are this list.
    pub groups: BTreeSet<String>,
    /// All groups that it is part of, these among them.
    pub within: BTreeSet<String>,
    /// Sets of [`RuleSet::sets`] that it is part of.
    pub sets: BTreeSet<SetId>,
    /// Whether more depends on it: a set that is now the same as one without it, or who is never banned.
    pub is_entangled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_its_ranges_with_both_ends() {
        let set = AddressSet {
            v4: vec![(5, 7), (9, 9)],
            v6: vec![],
        };
        let holds = |address: u32| set.holds(std::net::Ipv4Addr::from_bits(address).into());
        let held: Vec<u32> = (0..12).filter(|&address| holds(address)).collect();
        assert_eq!(held, [5, 6, 7, 9]);
        assert!(!set.holds(std::net::Ipv6Addr::from_bits(5).into()));
    }

    #[test]
    fn a_flow_table_has_room_for_twice_as_many_flows() {
        let slots = |size| {
            let flows = Flows {
                size,
                ..Flows::default()
            };
            flows.buckets() * WAYS as u32
        };
        assert_eq!(slots(65_536), 131_072);
        assert_eq!(slots(65_537), 262_144);
        assert_eq!(slots(Flows::MAX_SIZE), MAX_BUCKETS * WAYS as u32);
    }
}
