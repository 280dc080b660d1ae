//! `firewall flows`: what this host has opened, and what may therefore come in.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Result;
use clap::Args;
use firewall_common::abi::flow::{Key, State};
use firewall_common::parse::protocol;
use ipnet::IpNet;
use serde::Serialize;

use super::{address, guard};
use crate::kernel::flows::LiveFlow;
use crate::output::{self, Output, duration, table};
use crate::rules::names;
use crate::{lock, privilege};

/// Which flows to list.
#[derive(Args, Debug, Default)]
pub(crate) struct Filter {
    /// Only of this protocol: tcp, udp, icmp (of both families), another name or a number.
    #[arg(long, value_parser = protocols, value_name = "PROTOCOL")]
    protocol: Option<Protocols>,
    /// Only in this state, such as established or unanswered.
    #[arg(long, value_parser = state)]
    state: Option<&'static str>,
    /// Only with this end here: address or network, with or without port, such as 192.0.2.1, 192.0.2.0/24:53,
    /// `[2001:db8::1]:443` or :443.
    #[arg(long, value_name = "END")]
    local: Option<End>,
    /// Only with this end there, written alike.
    #[arg(long, value_name = "END")]
    remote: Option<End>,
    /// No more than so many.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The numbers that a protocol's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Protocols(Vec<u8>);

/// What an end of a flow must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    network: Option<IpNet>,
    port: Option<u16>,
}

/// The flows of an interface's network namespace. The shape is documented in the README and stable.
#[derive(Debug, Serialize)]
struct Flows<'a> {
    interface: &'a str,
    /// Slots of the table.
    size: u32,
    flows: Vec<Flow>,
    /// Flows that the filter lets through, listed or beyond the limit.
    total: usize,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct Flow {
    protocol: String,
    local: Place,
    remote: Place,
    /// Of ICMP echo.
    identifier: Option<u16>,
    state: &'static str,
    age_s: u64,
    idle_s: u64,
    packets_out: u32,
    packets_in: u32,
}

#[derive(Debug, Serialize)]
struct Place {
    address: IpAddr,
    /// `null` where the protocol has none.
    port: Option<u16>,
}

pub(crate) fn run(name: &str, filter: &Filter, output: &Output) -> Result<()> {
    privilege::require()?;
    let _look = lock::shared()?;
    let (_, guard) = guard(name)?;
    let mut found: Vec<Flow> = guard
        .flows()?
        .iter()
        .filter(|flow| filter.admits(flow))
        .map(Flow::new)
        .collect();
    found.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let total = found.len();
    found.truncate(filter.limit.unwrap_or(total));
    let flows = Flows {
        interface: name,
        size: guard.flow_table()?.size(),
        flows: found,
        total,
    };
    show(&flows, output)?;
    output.json(&flows)
}

fn show(flows: &Flows<'_>, output: &Output) -> Result<()> {
    if !flows.flows.is_empty() {
        let heading = [
            "PROTOCOL", "LOCAL", "REMOTE", "STATE", "AGE", "IDLE", "OUT", "IN",
        ];
        let rows = flows.flows.iter().map(|flow| {
            vec![
                flow.protocol.clone(),
                flow.local.shown(flow.identifier),
                flow.remote.shown(None),
                flow.state.to_owned(),
                duration(flow.age_s),
                duration(flow.idle_s),
                output::count(flow.packets_out.into()),
                output::count(flow.packets_in.into()),
            ]
        });
        output.text(table(&heading, &[4, 5, 6, 7], rows))?;
    }
    output.text(format_args!(
        "{}: {} flows, {} shown; room for {}",
        flows.interface,
        output::count(flows.total as u64),
        output::count(flows.flows.len() as u64),
        output::count(flows.size.into()),
    ))
}

impl Flow {
    pub(super) fn new(
        LiveFlow {
            record,
            age_s,
            idle_s,
        }: &LiveFlow,
    ) -> Self {
        let Key {
            local,
            remote,
            protocol,
            local_port,
            remote_port,
        } = record.key;
        let has_ports = has_ports(protocol);
        let place = |halves, port| Place {
            address: address(halves),
            port: has_ports.then_some(port),
        };
        Self {
            protocol: names::protocol_name(protocol)
                .map_or_else(|| protocol.to_string(), str::to_owned),
            local: place(local, local_port),
            remote: place(remote, remote_port),
            identifier: is_icmp(protocol).then_some(local_port),
            state: record.state().label(),
            age_s: *age_s,
            idle_s: *idle_s,
            packets_out: record.sent.packets,
            packets_in: record.received.packets,
        }
    }

    /// `udp 192.0.2.1:40000 to 203.0.113.7:53`.
    pub(super) fn ends(&self) -> String {
        let local = self.local.shown(self.identifier);
        format!("{} {local} to {}", self.protocol, self.remote.shown(None))
    }

    /// The most recent first, then by what it is.
    fn rank(&self) -> impl Ord + '_ {
        let end = |place: &Place| (place.address, place.port);
        (
            self.idle_s,
            &self.protocol[..],
            end(&self.remote),
            end(&self.local),
            self.identifier,
        )
    }
}

impl Place {
    fn shown(&self, identifier: Option<u16>) -> String {
        match (self.address, self.port, identifier) {
            (address, None, Some(identifier)) => format!("{address} id {identifier}"),
            (address, None, None) => address.to_string(),
            (IpAddr::V4(address), Some(port), _) => format!("{address}:{port}"),
            (IpAddr::V6(address), Some(port), _) => format!("[{address}]:{port}"),
        }
    }
}

impl Filter {
    fn admits(&self, flow: &LiveFlow) -> bool {
        let key = &flow.record.key;
        let of_protocol = |protocols: &Protocols| protocols.0.contains(&key.protocol);
        self.protocol.as_ref().is_none_or(of_protocol)
            && self
                .state
                .is_none_or(|state| flow.record.state().label() == state)
            && self
                .local
                .is_none_or(|end| end.admits(key.protocol, key.local, key.local_port))
            && self
                .remote
                .is_none_or(|end| end.admits(key.protocol, key.remote, key.remote_port))
    }
}

impl End {
    fn admits(self, protocol: u8, halves: [u64; 2], port: u16) -> bool {
        self.network
            .is_none_or(|network| network.contains(&address(halves)))
            && self
                .port
                .is_none_or(|wanted| has_ports(protocol) && wanted == port)
    }
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (network, rest) = rest.split_once(']').ok_or("there is no `]` to the `[`")?;
                let port = rest
                    .strip_prefix(':')
                    .ok_or("write the port behind the brackets, as in [2001:db8::1]:443")?;
                (network, Some(port))
            }
            // More than one colon is an IPv6 address.
            None => match text.split_once(':') {
                Some((network, port)) if !port.contains(':') => (network, Some(port)),
                _ => (text, None),
            },
        };
        let port = port
            .map(|port| {
                port.parse()
                    .map_err(|_| format!("`{port}` is not a port from 0 to 65535"))
            })
            .transpose()?;
        let network = match network {
            "" if port.is_some() => None,
            network => Some(parse_network(network).ok_or_else(|| {
                format!("`{network}` is neither an address nor a network such as 192.0.2.0/24")
            })?),
        };
        Ok(Self { network, port })
    }
}

fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse().ok().map(|address: IpAddr| address.into());
    text.parse().ok().or_else(address)
}

fn protocols(text: &str) -> Result<Protocols, String> {
    if text == "icmp" {
        return Ok(Protocols(vec![protocol::ICMP, protocol::ICMPV6]));
    }
    let number = names::protocol_number(text).or_else(|| text.parse().ok());
    number
        .map(|number| Protocols(vec![number]))
        .ok_or_else(|| format!("`{text}` is neither tcp, udp, icmp nor a number from 0 to 255"))
}

fn state(text: &str) -> Result<&'static str, String> {
    let mut labels = State::ALL.iter().map(|state| state.label());
    labels.find(|label| *label == text).ok_or_else(|| {
        let mut labels: Vec<&str> = Vec::new();
        for state in State::ALL {
            if !labels.contains(&state.label()) {
                labels.push(state.label());
            }
        }
        format!("the states are {}", labels.join(", "))
    })
}

fn is_icmp(number: u8) -> bool {
    [protocol::ICMP, protocol::ICMPV6].contains(&number)
}

fn has_ports(number: u8) -> bool {
    [protocol::TCP, protocol::UDP].contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_an_address_or_network_with_or_without_port() {
        let end = |network: Option<&str>, port| {
            let network = network.map(|network| network.parse().unwrap());
            Ok(End { network, port })
        };
        assert_eq!("192.0.2.1".parse(), end(Some("192.0.2.1/32"), None));
        assert_eq!(
            "192.0.2.0/24:53".parse(),
            end(Some("192.0.2.0/24"), Some(53))
        );
        assert_eq!("2001:db8::1".parse(), end(Some("2001:db8::1/128"), None));
        assert_eq!("2001:db8::/32".parse(), end(Some("2001:db8::/32"), None));
        assert_eq!(
            "[2001:db8::1]:443".parse(),
            end(Some("2001:db8::1/128"), Some(443))
        );
        assert_eq!(":443".parse(), end(None, Some(443)));
        for wrong in [
            "",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "[2001:db8::1]",
            "[2001:db8::1",
            "host:1",
        ] {
            assert!(wrong.parse::<End>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_end_admits_what_lies_in_it() {
        let mapped = Key::mapped(0xc000_0205);
        let end = |text: &str| text.parse::<End>().unwrap();
        assert!(end("192.0.2.0/24").admits(protocol::TCP, mapped, 1));
        assert!(end("192.0.2.5:1").admits(protocol::TCP, mapped, 1));
        assert!(!end("192.0.2.5:2").admits(protocol::TCP, mapped, 1));
        assert!(!end("192.0.2.4").admits(protocol::TCP, mapped, 1));
        assert!(!end("::/0").admits(protocol::TCP, mapped, 1));
        // An identifier is no port.
        assert!(!end(":1").admits(protocol::ICMP, mapped, 1));
    }

    #[test]
    fn states_and_protocols_have_names() {
        assert_eq!(state("established"), Ok("established"));
        let said = state("open").unwrap_err();
        assert!(
            said.contains("syn-sent") && said.matches(" answered").count() == 1,
            "{said}"
        );
        assert_eq!(protocols("icmp").unwrap().0, [1, 58]);
        assert_eq!(protocols("47").unwrap().0, [47]);
        assert!(protocols("256").is_err());
    }
}
