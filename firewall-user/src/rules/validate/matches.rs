//! What a rule matches beside addresses: protocol, ports, ICMP types and TCP flags.

use toml::Spanned;

use super::super::model::{Protocol, TcpFlags};
use super::super::names::IcmpFamily;
use super::super::shown::quoted;
use super::super::typed::{RawFlags, Scalar, Scalars};
use super::super::values::{icmp_type, port_range, protocol, protocol_text, tcp_flag};
use super::{ICMP, ICMPV6, SCTP, TCP, UDP, Validator, join};

impl Validator<'_> {
    pub(super) fn protocol(&mut self, scalar: &Spanned<Scalar>) -> Option<Protocol> {
        self.known(scalar, protocol(scalar.get_ref()))
    }

    /// Ports as sorted, disjoint, not adjacent ranges. `protocol` is `None` if it was wrong, which has been said.
    pub(super) fn ports(&mut self, list: &Scalars, protocol: Option<Protocol>) -> Vec<(u16, u16)> {
        match protocol {
            None | Some(Protocol::Number(TCP | UDP | SCTP)) => {}
            Some(Protocol::Any) => {
                let help = "add protocol = \"tcp\" (or \"udp\" or \"sctp\"): other protocols have no ports";
                self.error(list.span(), "this rule names ports but no protocol", help);
            }
            Some(Protocol::Number(number)) => {
                let message = format!("{} has no ports", protocol_text(number));
                self.error(
                    list.span(),
                    message,
                    "leave `ports` out, or write protocol = \"tcp\", \"udp\" or \"sctp\"",
                );
            }
        }
        if list.get_ref().is_empty() {
            let help = "name at least one port, or leave `ports` out for any port";
            self.error(
                list.span(),
                "this list of ports is empty, so the rule could never match",
                help,
            );
        }
        let mut ranges: Vec<(u16, u16)> = Vec::with_capacity(list.get_ref().len());
        for port in list.get_ref().iter().flatten() {
            match port_range(port.get_ref()) {
                Ok(range) => ranges.push(range),
                Err((message, help)) => self.error(port.span(), message, help),
            }
        }
        join(&mut ranges);
        ranges
    }

    pub(super) fn icmp_types(&mut self, list: &Scalars, protocol: Option<Protocol>) -> Vec<u8> {
        let family = match protocol {
            Some(Protocol::Number(ICMP)) => Some(IcmpFamily::V4),
            Some(Protocol::Number(ICMPV6)) => Some(IcmpFamily::V6),
            None => None,
            Some(Protocol::Any | Protocol::Number(_)) => {
                let help =
                    "write protocol = \"icmp\" (for IPv4) or \"icmpv6\" (for IPv6), in a rule each";
                self.error(list.span(), "only ICMP and ICMPv6 have ICMP types", help);
                None
            }
        };
        if list.get_ref().is_empty() {
            let help = "name at least one type, or leave `icmp-types` out for any type";
            self.error(
                list.span(),
                "this list of ICMP types is empty, so the rule could never match",
                help,
            );
        }
        let mut types = Vec::with_capacity(list.get_ref().len());
        for scalar in list.get_ref().iter().flatten() {
            match icmp_type(scalar.get_ref(), family) {
                Ok(number) => types.extend(number),
                Err((message, help)) => self.error(scalar.span(), message, help),
            }
        }
        types.sort_unstable();
        types.dedup();
        types
    }

    pub(super) fn tcp_flags(
        &mut self,
        flags: &Spanned<RawFlags>,
        protocol: Option<Protocol>,
    ) -> Option<TcpFlags> {
        match protocol {
            None | Some(Protocol::Number(TCP)) => {}
            Some(Protocol::Any | Protocol::Number(_)) => {
                self.error(
                    flags.span(),
                    "only TCP has TCP flags",
                    "write protocol = \"tcp\", or leave `tcp-flags` out",
                );
            }
        }
        let raw = flags.get_ref();
        if raw.set.is_empty() && raw.clear.is_empty() {
            let help = "write tcp-flags = { set = [\"syn\"], clear = [\"ack\"] }, or leave it out";
            self.error(flags.span(), "these TCP flags ask for nothing", help);
            return None;
        }
        let set = self.flag_bits(&raw.set, 0);
        let clear = self.flag_bits(&raw.clear, set);
        Some(TcpFlags { set, clear })
    }

    /// Bits of the flags of a list; none of them may be in `taken`.
    fn flag_bits(&mut self, list: &[Option<Spanned<String>>], taken: u8) -> u8 {
        let mut bits = 0;
        for flag in list.iter().flatten() {
            let name = flag.get_ref();
            match tcp_flag(name) {
                Ok(bit) if taken & bit != 0 => {
                    let message = format!(
                        "{} cannot be both set and clear, so the rule could never match",
                        quoted(name)
                    );
                    self.error(flag.span(), message, "take it out of one of the two lists");
                }
                Ok(bit) => bits |= bit,
                Err((message, help)) => self.error(flag.span(), message, help),
            }
        }
        bits
    }
}
