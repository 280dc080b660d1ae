//! Addresses and CIDRs as rule files and address lists write them, and sets of them.
//!
//! Lists of a million lines are usual (block lists), so the way of a well-formed address is short and allocates nothing;
//! what is wrong with a bad one is found out afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::model::AddressSet;
use super::shown::quoted;

/// One address or CIDR, as its first and last address in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Block {
    /// IPv4.
    V4(u32, u32),
    /// IPv6.
    V6(u128, u128),
}

/// As an address or a CIDR, written in the one way that RFC 5952 has for IPv6.
impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, length, most) = match *self {
            Self::V4(first, last) => {
                let length = (first ^ last).leading_zeros();
                (IpAddr::V4(Ipv4Addr::from_bits(first)), length, 32)
            }
            Self::V6(first, last) => {
                let length = (first ^ last).leading_zeros();
                (IpAddr::V6(Ipv6Addr::from_bits(first)), length, 128)
            }
        };
        write!(f, "{address}")?;
        match length == most {
            true => Ok(()),
            false => write!(f, "/{length}"),
        }
    }
}

/// Why a text is not an address or CIDR, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AddressError {
    message: String,
    help: String,
}

impl AddressError {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }

    /// What to write instead.
    pub fn help(&self) -> &str {
        &self.help
    }
}

/// Reads an address or CIDR.
pub fn parse_block(text: &[u8]) -> Result<Block, AddressError> {
    let whole = |text: &[u8]| {
        block(text)
            .filter(|&(_, length)| length == text.len())
            .map(|(block, _)| block)
    };
    if let Some(block) = whole(text) {
        return Ok(block);
    }
    let plain = without_v4_tail(text).and_then(|plain| whole(plain.as_bytes()));
    plain.ok_or_else(|| diagnose(&String::from_utf8_lossy(text)))
}

/// An address or CIDR at the start of `text`, and its length.
pub(super) fn block(text: &[u8]) -> Option<(Block, usize)> {
    v4_block(text).or_else(|| v6_block(text))
}

/// An IPv4 address or CIDR at the start of `text`, and its length.
fn v4_block(text: &[u8]) -> Option<(Block, usize)> {
    let mut at = 0;
    let mut address = 0;
    for octet in 0..4 {
        if octet > 0 {
            if text.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
        let (value, digits) = number(&text[at..], 3)?;
        address = address << 8 | u32::from(u8::try_from(value).ok()?);
        at += digits;
    }
    if text.get(at) != Some(&b'/') {
        return Some((Block::V4(address, address), at));
    }
    let (prefix, digits) = number(&text[at + 1..], 2)?;
    let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
    (prefix <= 32 && address & host == 0)
        .then_some((Block::V4(address, address | host), at + 1 + digits))
}

/// An IPv6 address or CIDR at the start of `text`, and its length. Forms with an IPv4 tail are left to [`parse_block`].
fn v6_block(text: &[u8]) -> Option<(Block, usize)> {
    let mut at = 0;
    // The groups before `::` fill the address from the left, those after it from the right.
    let (mut left, mut right) = (0_u128, 0_u128);
    let (mut count, mut gap) = (0_u32, None);
    loop {
        if text[at..].starts_with(b"::") && gap.is_none() {
            (gap, left, right) = (Some(count), right, 0);
            at += 2;
            if !text.get(at).is_some_and(u8::is_ascii_hexdigit) {
                break;
            }
        } else if count > 0 {
            if text.get(at) != Some(&b':') {
                break;
            }
            at += 1;
        }
        let (group, digits) = hex_group(&text[at..])?;
        at += digits;
        count += 1;
        if count > 8 {
            return None;
        }
        right = right << 16 | u128::from(group);
    }
    let address = match gap {
        None if count == 8 => right,
        // `::` stands for one group at least, so at most seven are written.
        Some(before) if count < 8 => left.checked_shl(16 * (8 - before)).unwrap_or(0) | right,
        _ => return None,
    };
    let mut prefix = 128;
    if text.get(at) == Some(&b'/') {
        let (length, digits) = number(&text[at + 1..], 3)?;
        prefix = length;
        at += 1 + digits;
    }
    let mapped = address >> 32 == 0xffff && prefix >= 96;
    let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
    (prefix <= 128 && address & host == 0 && !mapped)
        .then_some((Block::V6(address, address | host), at))
}

/// One to four hexadecimal digits at the start of `text`, and their count.
fn hex_group(text: &[u8]) -> Option<(u16, usize)> {
    let mut value = 0;
    let mut digits = 0;
    while let Some(digit) = text.get(digits).and_then(|&b| char::from(b).to_digit(16)) {
        if digits == 4 {
            return None;
        }
        value = value << 4 | digit;
        digits += 1;
    }
    (digits > 0).then_some((u16::try_from(value).ok()?, digits))
}

/// An IPv6 address whose last 32 bits are written as an IPv4 address, as CIDR or not, in the form without.
fn without_v4_tail(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (address, prefix) = text.split_at(text.find('/').unwrap_or(text.len()));
    let groups = address
        .parse::<Ipv6Addr>()
        .ok()?
        .segments()
        .map(|group| format!("{group:x}"));
    Some(groups.join(":") + prefix)
}

/// A decimal number of at most `most` digits and without leading zeros at the start of `text`, and its length.
fn number(text: &[u8], most: usize) -> Option<(u32, usize)> {
    let mut value = 0;
    let mut digits = 0;
    while let Some(digit) = text
        .get(digits)
        .map(|b| b.wrapping_sub(b'0'))
        .filter(|&d| d < 10)
    {
        if digits == most || (digits == 1 && value == 0) {
            return None;
        }
        value = value * 10 + u32::from(digit);
        digits += 1;
    }
    (digits > 0).then_some((value, digits))
}

/// What is wrong with `text`, which is no address. Only called on the way to an error.
fn diagnose(text: &str) -> AddressError {
    let shown = quoted(text);
    let trimmed = text.trim();
    if trimmed.len() != text.len() && parse_block(trimmed.as_bytes()).is_ok() {
        return AddressError::new(
            format!("{shown} has spaces around the address"),
            format!("write {trimmed}"),
        );
    }
    if text.contains('%') {
        let message =
            format!("{shown} has a zone (the part from `%` on); rules are about addresses only");
        return AddressError::new(
            message,
            "leave the zone out: the rules apply to the interface they are loaded on",
        );
    }
    let (address, prefix) = text
        .split_once('/')
        .map_or((text, None), |(a, p)| (a, Some(p)));
    match (address.parse::<IpAddr>(), prefix) {
        (Ok(address), prefix) => diagnose_prefix(&shown, address, prefix),
        (Err(_), prefix) => diagnose_address(&shown, address, prefix),
    }
}

/// The address is one, so it is the prefix, or how the two go together.
fn diagnose_prefix(shown: &str, address: IpAddr, prefix: Option<&str>) -> AddressError {
    let (family, most) = if address.is_ipv4() {
        ("IPv4", 32)
    } else {
        ("IPv6", 128)
    };
    let Some(length) = prefix.map_or(Some(most), |p| p.parse::<u8>().ok().filter(|&l| l <= most))
    else {
        let mask = prefix
            .and_then(|p| p.parse::<Ipv4Addr>().ok())
            .map(Ipv4Addr::to_bits);
        return match (address, mask) {
            (IpAddr::V4(address), Some(mask))
                if mask.leading_ones() + mask.trailing_zeros() >= 32 =>
            {
                let network = Ipv4Addr::from_bits(address.to_bits() & mask);
                let help = format!("write {network}/{}", mask.leading_ones());
                AddressError::new(
                    format!("{shown} has a netmask instead of a prefix length"),
                    help,
                )
            }
            _ => AddressError::new(
                format!("{shown} has no valid prefix length"),
                format!("{family} has prefix lengths from /0 to /{most}"),
            ),
        };
    };
    let network = match ipnet::IpNet::new(address, length) {
        Ok(net) => net.trunc(),
        Err(_) => unreachable!("the length was compared with the family's"),
    };
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
        && length >= 96
    {
        let help = match length {
            128 => format!("write {v4}"),
            _ => {
                let host = u32::MAX.checked_shr(u32::from(length) - 96).unwrap_or(0);
                format!(
                    "write {}/{}",
                    Ipv4Addr::from_bits(v4.to_bits() & !host),
                    length - 96
                )
            }
        };
        let message = format!("{shown} is an IPv4 address in IPv6 form, which no packet carries");
        return AddressError::new(message, help);
    }
    if network.addr() != address {
        return AddressError::new(
            format!("{shown} has host bits set: /{length} leaves bits of {address} unused"),
            format!("write {network} for the whole network, or {address} for the one address"),
        );
    }
    // All that is left is a spelling that the strict reader refuses: a leading zero or plus sign in the prefix length.
    let message = format!("{shown} has a prefix length with a leading zero or sign");
    AddressError::new(message, format!("write {address}/{length}"))
}

/// The address is none; guess what was meant.
fn diagnose_address(shown: &str, address: &str, prefix: Option<&str>) -> AddressError {
    let error = |what: &str, help: String| AddressError::new(format!("{shown} {what}"), help);
    let suffix = prefix.map(|p| format!("/{p}")).unwrap_or_default();
    if let Some((first, last)) = address.split_once('-')
        && let (Ok(first), Ok(last), None) = (first.trim().parse(), last.trim().parse(), prefix)
    {
        return error("is a range of addresses", range_help(first, last));
    }
    if let Some(inner) = address.strip_prefix('[')
        && let Some(inner) = inner.split(']').next()
        && inner.parse::<Ipv6Addr>().is_ok()
    {
        return error(
            "has brackets",
            format!("write {inner}{suffix}, and ports in `ports`"),
        );
    }
    if let Some((host, port)) = address.split_once(':')
        && host.parse::<Ipv4Addr>().is_ok()
        && port.parse::<u16>().is_ok()
    {
        return error(
            "has a port",
            format!("write {host} here and {port} in the rule's `ports`"),
        );
    }
    let parts: Vec<&str> = address.split('.').collect();
    let values: Option<Vec<u32>> = parts.iter().map(|p| p.parse().ok()).collect();
    if let Some(values) = values.filter(|_| !address.contains('+')) {
        if let Some(large) = values.iter().find(|&&v| v > 255) {
            let help = "the four numbers of an IPv4 address go from 0 to 255".to_owned();
            return error(&format!("is not an address: {large} is above 255"), help);
        }
        let mut octets: Vec<String> = values.iter().map(u32::to_string).collect();
        if parts.len() == 4 {
            let help = format!(
                "write {}{suffix}; elsewhere a leading zero means octal",
                octets.join(".")
            );
            return error("has leading zeros", help);
        }
        octets.resize(4, "0".to_owned());
        let whole: Result<ipnet::Ipv4Net, _> = format!("{}{suffix}", octets.join(".")).parse();
        return match whole {
            Ok(net) if parts.len() < 4 && prefix.is_some() => {
                error("is not a whole address", format!("write {}", net.trunc()))
            }
            _ => error(
                "is not an address",
                "an IPv4 address has four numbers: 192.0.2.1".to_owned(),
            ),
        };
    }
    error(
        "is not an address",
        "write an address (192.0.2.1, 2001:db8::1) or a CIDR (192.0.2.0/24, 2001:db8::/32)"
            .to_owned(),
    )
}

/// The CIDRs that make up a range of addresses, if it is one and they are few.
fn range_help(first: IpAddr, last: IpAddr) -> String {
    let blocks: Vec<String> = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) if a <= b => ipnet::Ipv4Subnets::new(a, b, 0)
            .take(5)
            .map(|n| n.to_string())
            .collect(),
        (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => ipnet::Ipv6Subnets::new(a, b, 0)
            .take(5)
            .map(|n| n.to_string())
            .collect(),
        _ => Vec::new(),
    };
    match blocks.len() {
        1..=4 => format!("write it as CIDRs: {}", blocks.join(", ")),
        _ => "write it as CIDRs, such as 192.0.2.0/24".to_owned(),
    }
}

/// Gathers blocks and sets in any order and makes one [`AddressSet`] of them.
#[derive(Default)]
pub struct SetBuilder {
    /// Ranges as `first << 32 | last`, which sort as the pairs would and much faster.
    v4: Vec<u64>,
    v6: Vec<(u128, u128)>,
}

impl SetBuilder {
    /// Adds a block.
    pub fn push(&mut self, block: Block) {
        match block {
            Block::V4(first, last) => self.v4.push(u64::from(first) << 32 | u64::from(last)),
            Block::V6(first, last) => self.v6.push((first, last)),
        }
    }

    /// Adds all of a set.
    pub fn add_set(&mut self, set: &AddressSet) {
        self.v4.extend(
            set.v4
                .iter()
                .map(|&(first, last)| u64::from(first) << 32 | u64::from(last)),
        );
        self.v6.extend_from_slice(&set.v6);
    }

    /// Everything added, sorted, overlapping and adjacent ranges merged.
    pub fn finish(mut self) -> AddressSet {
        self.v4.sort_unstable();
        self.v6.sort_unstable_by_key(|range| range.0);
        let mut set = AddressSet::default();
        for packed in self.v4 {
            let (first, last) = ((packed >> 32) as u32, packed as u32);
            match set.v4.last_mut() {
                Some(range) if first <= range.1.saturating_add(1) => range.1 = range.1.max(last),
                _ => set.v4.push((first, last)),
            }
        }
        for (first, last) in self.v6 {
            match set.v6.last_mut() {
                Some(range) if first <= range.1.saturating_add(1) => range.1 = range.1.max(last),
                _ => set.v6.push((first, last)),
            }
        }
        set
    }
}

/// Whether a text can only be meant as an address, so that no group may be called that.
pub(super) fn looks_like_address(text: &str) -> bool {
    let numeric = text.starts_with(|c: char| c.is_ascii_digit());
    text.contains([':', '/', '%'])
        || (numeric && (text.contains('.') || text.bytes().all(|b| b.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<Block> {
        parse_block(text.as_bytes()).ok()
    }

    fn set(v4: &[(u32, u32)]) -> AddressSet {
        let mut builder = SetBuilder::default();
        v4.iter()
            .for_each(|&(first, last)| builder.push(Block::V4(first, last)));
        builder.finish()
    }

    #[test]
    fn blocks() {
        let db8 = 0x2001_0db8_u128 << 96;
        for (text, wanted) in [
            ("192.0.2.1", Block::V4(0xc000_0201, 0xc000_0201)),
            ("192.0.2.0/24", Block::V4(0xc000_0200, 0xc000_02ff)),
            ("192.0.2.1/32", Block::V4(0xc000_0201, 0xc000_0201)),
            ("0.0.0.0/0", Block::V4(0, u32::MAX)),
            ("255.255.255.255", Block::V4(u32::MAX, u32::MAX)),
            ("::", Block::V6(0, 0)),
            ("::/0", Block::V6(0, u128::MAX)),
            ("2001:DB8::/32", Block::V6(db8, db8 | u128::MAX >> 32)),
            ("2001:db8::1/128", Block::V6(db8 | 1, db8 | 1)),
            (
                "2001:db8::192.0.2.1",
                Block::V6(db8 | 0xc000_0201, db8 | 0xc000_0201),
            ),
            ("::fffe:0:1", Block::V6(0xfffe_0000_0001, 0xfffe_0000_0001)),
        ] {
            assert_eq!(parse(text), Some(wanted), "{text}");
        }
    }

    /// Each with a piece of the help that it must come with.
    #[test]
    fn a_block_is_spelled_in_one_way() {
        for (written, alike) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8:0:0::1/128", "2001:db8::1"),
            ("2001:db8:0::/32", "2001:db8::/32"),
            ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
            ("::/0", "::/0"),
        ] {
            let block = parse_block(written.as_bytes()).unwrap();
            assert_eq!(block.to_string(), alike, "{written}");
            assert_eq!(parse_block(alike.as_bytes()).unwrap(), block, "{written}");
        }
    }

    #[test]
    fn near_misses_say_what_was_meant() {
        for (text, help) in [
            (
                "192.0.2.1/24",
                "write 192.0.2.0/24 for the whole network, or 192.0.2.1",
            ),
            ("0.0.0.1/0", "0.0.0.0/0"),
            ("192.0.2.0/33", "/0 to /32"),
            ("2001:db8::/129", "/0 to /128"),
            ("192.0.2.0/", "/0 to /32"),
            ("192.0.2.0/024", "write 192.0.2.0/24"),
            ("192.0.2.0/+24", "write 192.0.2.0/24"),
            ("192.0.2.1/255.255.255.0", "write 192.0.2.0/24"),
            ("192.0.2.0/255.0.255.0", "/0 to /32"),
            (
                "192.0.02.1",
                "write 192.0.2.1; elsewhere a leading zero means octal",
            ),
            ("10/8", "write 10.0.0.0/8"),
            ("192.0.2.1:80", "write 192.0.2.1 here and 80 in"),
            ("[2001:db8::1]:80", "write 2001:db8::1,"),
            ("192.0.2.0-192.0.2.255", "as CIDRs: 192.0.2.0/24"),
            ("::ffff:192.0.2.1", "write 192.0.2.1"),
            ("::ffff:192.0.2.0/120", "write 192.0.2.0/24"),
            ("::ffff:c000:201", "write 192.0.2.1"),
            ("fe80::1%eth0", "leave the zone out"),
            (" 192.0.2.1", "write 192.0.2.1"),
            ("1.2.3.4.5", "four numbers"),
            ("10.0.0", "four numbers"),
            ("10.1.2/8", "write 10.0.0.0/8"),
            ("1:2:3:4:5:6:7:8:9", "write an address"),
            ("1::2::3", "write an address"),
            ("1.2.3.-4", "write an address"),
            ("", "write an address"),
            ("example.com", "write an address"),
        ] {
            let error = parse_block(text.as_bytes()).expect_err(text);
            assert!(
                error.help().contains(help),
                "{text}: {error}: {}",
                error.help()
            );
        }
        assert!(parse_block(b"192.0.2.\xff").is_err());
    }

    #[test]
    fn ranges_are_merged_when_they_touch() {
        assert_eq!(set(&[(5, 9), (0, 4)]).v4, [(0, 9)]);
        assert_eq!(set(&[(5, 9), (0, 3)]).v4, [(0, 3), (5, 9)]);
        assert_eq!(set(&[(0, 9), (2, 3), (0, 9)]).v4, [(0, 9)]);
        assert_eq!(
            set(&[(u32::MAX, u32::MAX), (0, u32::MAX)]).v4,
            [(0, u32::MAX)]
        );
        assert_eq!(set(&[]), AddressSet::default());
    }

    #[test]
    fn names_that_look_like_addresses() {
        for text in [
            "192.0.2.1",
            "10",
            "10.0/8",
            "a/24",
            "fe80::1",
            "dead:beef",
            "1.2.3.4x",
            "eth%0",
        ] {
            assert!(looks_like_address(text), "{text}");
        }
        for text in ["office", "rack-1.dc2", "2nd-floor", "cafe", "büro"] {
            assert!(!looks_like_address(text), "{text}");
        }
    }

    proptest! {
        /// The hand-written reader takes what the standard library's takes.
        #[test]
        fn v6_like_the_standard_library(text in "([0-9a-f]{0,5}:){0,8}:?([0-9a-f]{0,4}:){0,3}[0-9a-f]{0,4}") {
            let ours = block(text.as_bytes()).filter(|b| b.1 == text.len()).map(|b| b.0);
            let theirs: Option<Ipv6Addr> = text.parse().ok();
            let theirs = theirs.filter(|a| a.to_ipv4_mapped().is_none()).map(|a| Block::V6(a.to_bits(), a.to_bits()));
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn v4_like_the_standard_library(text in "([0-9]{1,3}\\.){2,4}[0-9]{0,3}") {
            let ours = block(text.as_bytes()).filter(|b| b.1 == text.len()).map(|b| b.0);
            let theirs = text.parse().ok().map(|a: Ipv4Addr| Block::V4(a.to_bits(), a.to_bits()));
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn written_networks_are_read(address: u128, prefix in 0..=128_u8) {
            let net = ipnet::Ipv6Net::new(Ipv6Addr::from(address | 1 << 127), prefix).unwrap().trunc();
            let wanted = Block::V6(net.network().to_bits(), net.broadcast().to_bits());
            prop_assert_eq!(parse(&net.to_string()), Some(wanted));
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from(address as u32), prefix / 4).unwrap().trunc();
            let wanted = Block::V4(net.network().to_bits(), net.broadcast().to_bits());
            prop_assert_eq!(parse(&net.to_string()), Some(wanted));
        }
    }
}
