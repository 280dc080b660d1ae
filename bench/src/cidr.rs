//! Random CIDRs in documented mixes, and addresses inside and outside of them.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::random::Random;

/// A CIDR of either family; IPv4 addresses are in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cidr {
    /// First address.
    pub(crate) first: u128,
    /// Prefix length.
    pub(crate) length: u8,
    /// Family.
    pub(crate) family: Family,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The address with this number.
    pub(crate) const fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            Self::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }
}

impl Cidr {
    /// The CIDR of `length` that `address` lies in.
    pub(crate) const fn around(family: Family, address: u128, length: u8) -> Self {
        let host = Self::host_mask(family, length);
        Self {
            first: address & !host,
            length,
            family,
        }
    }

    const fn host_mask(family: Family, length: u8) -> u128 {
        match family.bits() - length {
            128 => u128::MAX,
            host_bits => (1 << host_bits) - 1,
        }
    }

    /// Last address.
    pub(crate) const fn last(self) -> u128 {
        self.first | Self::host_mask(self.family, self.length)
    }

    /// One of its addresses.
    pub(crate) const fn member(self, random: &mut Random) -> IpAddr {
        let host = random.wide() & Self::host_mask(self.family, self.length);
        self.family.address(self.first | host)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.family.address(self.first), self.length)
    }
}

/// How prefix lengths and places are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// IPv4 sources of rules: 50 % /32, 25 % /24, 24 % /16 to /31, 1 % /8 to /15, evenly.
    Rules,
    /// IPv4 as in lists of threats: 80 % /32, 15 % /24, 5 % /16 to /31, evenly.
    Threats,
    /// IPv4, /16 to /32 evenly. A million of them cover most of the address space, often twice and more.
    Even,
    /// IPv6 anywhere in 2000::/3: 10 % /128, the others /32 to /64 evenly.
    Spread,
    /// IPv6 inside 300 random /32s: 10 % /128, 30 % /64, 15 % /56, 45 % /48.
    Clustered,
}

impl Mix {
    /// Family of its addresses.
    pub(crate) const fn family(self) -> Family {
        match self {
            Self::Rules | Self::Threats | Self::Even => Family::V4,
            Self::Spread | Self::Clustered => Family::V6,
        }
    }

    /// As a person calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rules => "IPv4 /8-/32",
            Self::Threats => "IPv4 threat list",
            Self::Even => "IPv4 /16-/32",
            Self::Spread => "IPv6 spread",
            Self::Clustered => "IPv6 clustered",
        }
    }

    /// `count` different CIDRs.
    pub(crate) fn take(self, count: usize, random: &mut Random) -> Vec<Cidr> {
        let homes: Vec<u128> = (0..300).map(|_| global_v6(random)).collect();
        let mut seen = HashSet::with_capacity(count);
        let mut cidrs = Vec::with_capacity(count);
        while cidrs.len() < count {
            let cidr = Cidr::around(
                self.family(),
                self.place(&homes, random),
                self.length(random),
            );
            if seen.insert(cidr) {
                cidrs.push(cidr);
            }
        }
        cidrs
    }

    /// A random address of the part of the address space that the CIDRs come from.
    fn place(self, homes: &[u128], random: &mut Random) -> u128 {
        match self {
            Self::Rules | Self::Threats | Self::Even => unicast_v4(random),
            Self::Spread => global_v6(random),
            Self::Clustered => {
                let home = homes[random.below(homes.len() as u64) as usize];
                home >> 96 << 96 | random.wide() >> 32
            }
        }
    }

    const fn length(self, random: &mut Random) -> u8 {
        let percent = random.below(100);
        let length = match self {
            Self::Rules => match percent {
                0..50 => 32,
                50..75 => 24,
                75..99 => random.within(16, 31),
                _ => random.within(8, 15),
            },
            Self::Threats => match percent {
                0..80 => 32,
                80..95 => 24,
                _ => random.within(16, 31),
            },
            Self::Even => random.within(16, 32),
            Self::Spread => match percent {
                0..10 => 128,
                _ => random.within(32, 64),
            },
            Self::Clustered => match percent {
                0..10 => 128,
                10..40 => 64,
                40..55 => 56,
                _ => 48,
            },
        };
        length as u8
    }
}

/// An IPv4 address that may be a source: not in 0/8, 127/8 or from 224 on.
fn unicast_v4(random: &mut Random) -> u128 {
    loop {
        let address = random.bits() as u32;
        if !matches!(address >> 24, 0 | 127 | 224..) {
            return u128::from(address);
        }
    }
}

/// An address of 2000::/3.
const fn global_v6(random: &mut Random) -> u128 {
    random.wide() >> 3 | 1 << 125
}

/// What CIDRs cover, to find addresses that they do not.
#[derive(Debug)]
pub(crate) struct Cover {
    family: Family,
    ranges: Vec<(u128, u128)>,
}

impl Cover {
    /// What `cidrs`, all of one family, cover.
    pub(crate) fn of(cidrs: &[Cidr]) -> Self {
        let mut sorted: Vec<_> = cidrs.iter().map(|cidr| (cidr.first, cidr.last())).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::new();
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some(range) if first <= range.1 => range.1 = range.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self {
            family: cidrs.first().map_or(Family::V4, |cidr| cidr.family),
            ranges,
        }
    }

    /// A random address outside.
    pub(crate) fn outside(&self, random: &mut Random) -> IpAddr {
        loop {
            let address = match self.family {
                Family::V4 => unicast_v4(random),
                Family::V6 => self.near(random),
            };
            if !self.contains(address) {
                return self.family.address(address);
            }
        }
    }

    /// An IPv6 address that shares 32 bits with a covered one: others are told apart by the first bits, which is cheap.
    fn near(&self, random: &mut Random) -> u128 {
        let (first, _) = self.ranges[random.below(self.ranges.len() as u64) as usize];
        first >> 96 << 96 | random.wide() >> 32
    }

    fn contains(&self, address: u128) -> bool {
        let after = self.ranges.partition_point(|range| range.0 <= address);
        after > 0 && address <= self.ranges[after - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_are_different_and_have_no_host_bits() {
        for mix in [
            Mix::Rules,
            Mix::Threats,
            Mix::Even,
            Mix::Spread,
            Mix::Clustered,
        ] {
            let cidrs = mix.take(2000, &mut Random::new(1));
            assert_eq!(cidrs.iter().collect::<HashSet<_>>().len(), 2000, "{mix:?}");
            for cidr in cidrs {
                assert_eq!(cidr, Cidr::around(cidr.family, cidr.last(), cidr.length));
            }
        }
    }

    #[test]
    fn members_are_covered_and_outsiders_are_not() {
        let mut random = Random::new(2);
        for mix in [Mix::Even, Mix::Clustered] {
            let cidrs = mix.take(1000, &mut random);
            let cover = Cover::of(&cidrs);
            for cidr in &cidrs {
                let number = |address: IpAddr| match address {
                    IpAddr::V4(v4) => u128::from(v4.to_bits()),
                    IpAddr::V6(v6) => v6.to_bits(),
                };
                assert!(cover.contains(number(cidr.member(&mut random))));
                assert!(!cover.contains(number(cover.outside(&mut random))));
            }
        }
    }

    #[test]
    fn a_cidr_is_written_as_rule_files_take_it() {
        assert_eq!(
            Cidr::around(Family::V4, 0xc000_02ff, 24).to_string(),
            "192.0.2.0/24"
        );
        let documentation = 0x2001_0db8 << 96;
        assert_eq!(
            Cidr::around(Family::V6, documentation | 1, 32).to_string(),
            "2001:db8::/32"
        );
    }
}
