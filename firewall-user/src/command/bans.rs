//! `firewall bans`: who is banned, until when, by whom and why.

pub(crate) mod saved;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use anyhow::Result;
use firewall_common::abi::ban::Prefix;
use firewall_common::abi::flow::Key;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{address, guards};
use crate::counters::Subject;
use crate::kernel::bans::{LiveBan, shown_length};
use crate::kernel::guard::{self, Found, Guard};
use crate::kernel::interface::{self, Interface};
use crate::kernel::pins;
use crate::output::{self, Output, duration, table};
use crate::{lock, privilege};

/// An address or a network that can be banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target(IpNet);

impl Target {
    /// As the table of bans has it.
    pub(crate) fn prefix(&self) -> Prefix {
        match self.0 {
            IpNet::V4(network) => Prefix {
                address: Key::mapped(network.network().into()),
                length: 96 + network.prefix_len(),
            },
            IpNet::V6(network) => {
                let bits = u128::from(network.network());
                Prefix {
                    address: [(bits >> 64) as u64, bits as u64],
                    length: network.prefix_len(),
                }
            }
        }
    }

    /// Whether an address is of it.
    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Whether all of `target` lies between two addresses.
pub(crate) fn is_inside(target: &Target, (first, last): &(IpAddr, IpAddr)) -> bool {
    let range = first..=last;
    range.contains(&&target.0.network()) && range.contains(&&target.0.broadcast())
}

/// Whether some of `target` lies between two addresses.
pub(crate) fn overlaps(target: &Target, (first, last): &(IpAddr, IpAddr)) -> bool {
    first.is_ipv4() == target.0.network().is_ipv4()
        && *first <= target.0.broadcast()
        && target.0.network() <= *last
}

impl From<IpAddr> for Target {
    fn from(address: IpAddr) -> Self {
        Self(IpNet::from(address.to_canonical()))
    }
}

impl From<&Prefix> for Target {
    fn from(prefix: &Prefix) -> Self {
        let address = address(prefix.address);
        let length = shown_length(prefix, prefix.length);
        Self(IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address)))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => unmapped(text.parse::<IpNet>().map_err(|_| {
                "write an address or a network, such as 203.0.113.7, 203.0.113.0/24 or 2001:db8::/48"
                    .to_owned()
            })?)?,
        };
        if network.prefix_len() == 0 {
            return Err(
                "that would ban everybody; `firewall apply` with rules that accept nothing does it"
                    .to_owned(),
            );
        }
        if network.trunc() != network {
            return Err(format!(
                "/{} leaves bits of the address unused: write {}",
                network.prefix_len(),
                network.trunc()
            ));
        }
        Ok(Self(network))
    }
}

/// A network of IPv4-mapped addresses is one of IPv4: no such address is ever on a wire.
fn unmapped(network: IpNet) -> Result<IpNet, String> {
    let IpNet::V6(v6) = network else {
        return Ok(network);
    };
    let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => {
            IpNet::new(IpAddr::V4(v4), length).map_err(|error| error.to_string())
        }
        _ if v6.contains(&mapped) && v6.prefix_len() > 0 => Err(
            "that holds all IPv4-mapped addresses; name networks of IPv4 and IPv6 apart".to_owned(),
        ),
        _ => Ok(network),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A ban. The shape is documented in the README and stable.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    interface: &'a str,
    /// Its first address.
    address: IpAddr,
    prefix: Target,
    /// Seconds until it ends; `null` if it does not.
    expires_s: Option<f64>,
    /// Seconds since it was given.
    banned_s: f64,
    /// `command`, or `rule NAME`.
    by: String,
    reason: Option<String>,
}

pub(crate) fn run(names: &[String], output: &Output) -> Result<()> {
    privilege::require()?;
    let _look = lock::shared()?;
    let mut rows = Vec::new();
    let mut summary = Vec::new();
    for (name, guard) in guards(names)? {
        let table = guard.bans()?;
        let bans = table.live();
        summary.push(format!(
            "{name}: {} banned; room for {}",
            output::count(bans.len() as u64),
            output::count(table.size() as u64)
        ));
        for ban in bans {
            let shown = Shown::new(&name, &guard, ban);
            output.json_line(&shown)?;
            rows.push(shown.row());
        }
    }
    if !rows.is_empty() {
        let heading = ["INTERFACE", "BANNED", "FOR", "SINCE", "BY", "REASON"];
        output.text(table(&heading, &[2, 3], rows))?;
    }
    output.text(summary.join("\n"))
}

impl<'a> Shown<'a> {
    fn new(interface: &'a str, guard: &Guard, ban: LiveBan) -> Self {
        let prefix = Target::from(&ban.prefix);
        Self {
            interface,
            address: prefix.0.addr(),
            prefix,
            expires_s: ban.left_ns.map(seconds),
            banned_s: seconds(ban.age_ns),
            by: by(guard, ban.about.by),
            reason: ban.reason,
        }
    }

    fn row(&self) -> Vec<String> {
        let time = |seconds: f64| duration(seconds.round() as u64);
        vec![
            self.interface.to_owned(),
            self.prefix.to_string(),
            self.expires_s.map_or_else(|| "ever".to_owned(), time),
            time(self.banned_s),
            self.by.clone(),
            self.reason.clone().unwrap_or_default(),
        ]
    }
}

/// Who gave a ban, by the counter slot of a rule.
pub(super) fn by(guard: &Guard, slot: u32) -> String {
    if slot == 0 {
        return "command".to_owned();
    }
    let mut slots = guard.description.policy.slots.iter();
    let subject = slots.find(|(_, known)| *known == slot);
    match subject {
        Some((Subject::Over(name), _)) => format!("rule {name}"),
        _ => "a rule that is gone".to_owned(),
    }
}

fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000) as f64 / 1000.0
}

/// The bans that an interface begins with: those meant for all, from the other guarded ones of the network namespace, and what it had
/// itself before it was removed or made again, or what is saved of it.
pub(crate) fn inherited(newcomer: &Interface, is_stale: bool) -> Result<Vec<LiveBan>> {
    let mut bans = Vec::new();
    match is_stale {
        true => bans.extend(guard::stale_bans(&newcomer.name)?),
        false => bans.extend(saved::of(&newcomer.name)?),
    }
    let pinned = pins::interfaces()?;
    for interface in interface::all()? {
        if interface.name != newcomer.name
            && pinned.contains(&interface.name)
            && let Found::Guard(other) = Guard::find(&interface)?
        {
            let live = other.bans()?.live();
            bans.extend(live.into_iter().filter(|ban| ban.about.everywhere));
        }
    }
    // Of several for one prefix, the one that ends last.
    bans.sort_by_key(|ban| {
        (
            ban.prefix,
            std::cmp::Reverse(ban.left_ns.unwrap_or(u64::MAX)),
        )
    });
    bans.dedup_by_key(|ban| ban.prefix);
    Ok(bans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_and_networks() {
        let target = |text: &str| text.parse::<Target>();
        for (text, shown) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7/32", "203.0.113.7"),
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("2001:db8::/48", "2001:db8::/48"),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ] {
            let parsed = target(text).unwrap();
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(Target::from(&parsed.prefix()), parsed, "{text}");
        }
        for wrong in [
            "",
            "host",
            "203.0.113.7/24",
            "203.0.113.0/33",
            "0.0.0.0/0",
            "::/0",
            "::/8",
            "::ffff:0:0/96",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        assert!(
            target("203.0.113.7/24")
                .unwrap_err()
                .contains("203.0.113.0/24")
        );
    }

    #[test]
    fn ranges_hold_targets_or_meet_them() {
        let target: Target = "192.0.2.0/24".parse().unwrap();
        let range = |first: &str, last: &str| (first.parse().unwrap(), last.parse().unwrap());
        let whole = range("192.0.2.0", "192.0.2.255");
        let part = range("192.0.2.255", "192.0.3.7");
        let beside = range("192.0.3.0", "192.0.3.7");
        assert!(is_inside(&target, &whole) && overlaps(&target, &whole));
        assert!(!is_inside(&target, &part) && overlaps(&target, &part));
        assert!(!is_inside(&target, &beside) && !overlaps(&target, &beside));
        assert!(!overlaps(&target, &range("::", "ffff::")));
    }
}
