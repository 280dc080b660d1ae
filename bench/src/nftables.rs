//! The same rules for nftables, in the ingress hook of a link: the earliest place where nftables sees a packet.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    cidr::{Cidr, Family},
    frame::Service,
    namespace::{FAR, NEAR, run},
    rule_list::Rule,
};

/// Subject of rules one by one.
pub(crate) const RULES: &str = "nftables, rules";
/// Subject of one set.
pub(crate) const SET: &str = "nftables, set";

/// Subject of SYNs that it answers.
pub(crate) const SYNPROXY: &str = "nftables, synproxy";

const TABLE: &str = "table netdev bench";
const PROXY: &str = "table inet proxy";

/// One rule a rule, all of which drop: so only finding the rule is measured.
pub(crate) fn rules(rules: &[Rule]) -> String {
    let mut body = String::new();
    for rule in rules {
        let (protocol, port) = protocol_and_port(rule.service);
        let _ = writeln!(
            body,
            "ip saddr {} {protocol} dport {port} counter drop",
            prefix(rule.from)
        );
    }
    chain("", &body)
}

/// One set of source, protocol and port.
pub(crate) fn concatenated_set(rules: &[Rule]) -> String {
    let elements: Vec<_> = rules
        .iter()
        .map(|rule| {
            let (protocol, port) = protocol_and_port(rule.service);
            format!("{} . {protocol} . {port}", prefix(rule.from))
        })
        .collect();
    let set = format!(
        "set rules {{ type ipv4_addr . inet_proto . inet_service; flags interval; elements = {{ {} }}; }}",
        elements.join(", ")
    );
    chain(
        &set,
        "ip saddr . ip protocol . th dport @rules counter drop\n",
    )
}

/// One set of sources to refuse; the others may reach two ports, which drops them here too.
pub(crate) fn refused(family: Family, cidrs: &[Cidr]) -> String {
    let elements: Vec<_> = cidrs.iter().map(|&cidr| prefix(cidr)).collect();
    let (kind, field) = match family {
        Family::V4 => ("ipv4_addr", "ip saddr"),
        Family::V6 => ("ipv6_addr", "ip6 saddr"),
    };
    let set = format!(
        "set refused {{ type {kind}; flags interval; auto-merge; elements = {{ {} }}; }}",
        elements.join(", ")
    );
    chain(
        &set,
        &format!("{field} @refused counter drop\ntcp dport {{ 80, 443 }} counter drop\n"),
    )
}

/// Answers SYNs to `port` in the place of who listens there, and counts the answers where they arrive: in the ingress hook of the
/// other end, which drops all that comes.
pub(crate) fn synproxy(port: u16) -> String {
    format!(
        "{TABLE}\ndelete {TABLE}\n{TABLE} {{\ncounter answers {{ }}\n\
         chain ingress {{\ntype filter hook ingress device \"{NEAR}\" priority 0; policy drop;\n\
         tcp flags & (syn | ack) == syn | ack counter name answers drop\n}}\n}}\n\
         {PROXY}\ndelete {PROXY}\n{PROXY} {{\n\
         chain prerouting {{\ntype filter hook prerouting priority raw; policy accept;\n\
         tcp dport {port} tcp flags syn notrack\n}}\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n\
         tcp dport {port} ct state invalid,untracked synproxy mss 1460 wscale 7\nct state invalid drop\n}}\n}}\n"
    )
}

/// Answers that [`synproxy`] has counted.
///
/// # Errors
///
/// What `nft` says.
pub(crate) fn answers() -> Result<u64> {
    let text = run(&["nft", "list", "counter", "netdev", "bench", "answers"])?;
    let mut words = text
        .split_whitespace()
        .skip_while(|&word| word != "packets");
    let number = words.nth(1).context("no such counter")?;
    Ok(number.parse()?)
}

/// Takes [`synproxy`] away.
///
/// # Errors
///
/// What `nft` says.
pub(crate) fn unload_synproxy() -> Result<()> {
    run(&["nft", "delete", PROXY])
        .map(drop)
        .and_then(|()| unload())
}

/// Puts a rule set in force; the one before is gone.
///
/// # Errors
///
/// What `nft` says.
pub(crate) fn load(file: &Path) -> Result<()> {
    let file = file.to_str().context("a path that is not text")?;
    run(&["nft", "-f", file]).map(drop)
}

/// Takes all of it away.
///
/// # Errors
///
/// What `nft` says.
pub(crate) fn unload() -> Result<()> {
    run(&["nft", "delete", "table", "netdev", "bench"]).map(drop)
}

fn chain(set: &str, body: &str) -> String {
    format!(
        "{TABLE}\ndelete {TABLE}\n{TABLE} {{\n{set}\nchain ingress {{\n\
         type filter hook ingress device \"{FAR}\" priority 0; policy drop;\n{body}}}\n}}\n"
    )
}

fn protocol_and_port(service: Service) -> (&'static str, u16) {
    match service {
        Service::Tcp(port) => ("tcp", port),
        Service::Udp(port) => ("udp", port),
        Service::Echo => ("icmp", 0),
    }
}

/// Without the length where it is a single address, which nft wants so.
fn prefix(cidr: Cidr) -> String {
    match cidr.family.address(cidr.first) {
        IpAddr::V4(address) if cidr.length == 32 => address.to_string(),
        IpAddr::V6(address) if cidr.length == 128 => address.to_string(),
        _ => cidr.to_string(),
    }
}
