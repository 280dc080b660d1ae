//! Which packets somebody wants to be told of.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use firewall_common::abi::event::{Budget, RULES_BASE};
use firewall_common::abi::image::Outcome;
use firewall_common::abi::reason::DropReason;
use ipnet::IpNet;

use super::{Rule, Seen};
use crate::kernel::description::Policy;
use crate::rules::model::Direction;
use crate::rules::names::closest;

/// What is asked for; what is left out stands for all.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only what is dropped for this reason, as `stats` names it (no-rule, rate-limit, ...); `rule` stands for all rules. May be given
    /// several times.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<DropReason>,
    /// Only what this rule decides; may be given several times. What it accepts is told of if it has `log`.
    #[arg(long, value_name = "NAME")]
    rule: Vec<String>,
    /// Only what comes from this address or network.
    #[arg(long, value_name = "CIDR", value_parser = network)]
    from: Option<IpNet>,
    /// Only what goes to this port.
    #[arg(long, value_name = "PORT")]
    to_port: Option<u16>,
    /// Only what arrives, or what leaves.
    #[arg(long, value_enum)]
    direction: Option<Way>,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// It arrives.
    In,
    /// It leaves.
    Out,
}

fn reason(text: &str) -> Result<DropReason, String> {
    let mut all = DropReason::ALL.iter();
    if let Some(&reason) = all.find(|reason| reason.label() == text) {
        return Ok(reason);
    }
    let labels = DropReason::ALL.iter().map(|reason| reason.label());
    Err(match closest(text, labels) {
        Some(near) => format!("did you mean {near}?"),
        None => "`firewall stats --format json` lists the reasons".to_owned(),
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| {
        "write an address or a network in CIDR notation, such as 198.51.100.7 or 2001:db8::/48"
            .to_owned()
    })
}

impl Filter {
    /// Whether a packet is asked for.
    pub(crate) fn takes(&self, seen: &Seen) -> bool {
        let is_reason = |reason: &DropReason| !seen.accepts && reason.label() == seen.reason;
        let is_rule = |rule: &String| match &seen.rule {
            Some(Rule::Named { name, .. }) => name == rule,
            Some(Rule::Gone) | None => false,
        };
        let is_from = |from: &IpNet| seen.source().is_some_and(|source| from.contains(&source));
        (self.reason.is_empty() || self.reason.iter().any(is_reason))
            && (self.rule.is_empty() || self.rule.iter().any(is_rule))
            && self.from.as_ref().is_none_or(is_from)
            && self.to_port.is_none_or(|port| seen.port() == Some(port))
            && match self.direction {
                None => true,
                Some(Way::In) => seen.direction == Direction::Ingress,
                Some(Way::Out) => seen.direction == Direction::Egress,
            }
    }

    /// Refuses rules that none of these policies has.
    pub(crate) fn check<'p>(&self, policies: impl Iterator<Item = &'p Policy>) -> Result<()> {
        let rules: BTreeSet<_> = policies
            .flat_map(|policy| &policy.rules)
            .map(|rule| rule.name.as_str())
            .collect();
        for name in &self.rule {
            if !rules.contains(name.as_str()) {
                match closest(name, rules.iter().copied()) {
                    Some(near) => bail!("there is no rule `{name}`; did you mean `{near}`?"),
                    None => {
                        bail!("there is no rule `{name}`; `firewall rules` lists those there are")
                    }
                }
            }
        }
        Ok(())
    }

    /// Which budgets, by number, give what is asked for under this policy. Addresses, ports and directions they do not tell.
    pub(crate) fn budgets(&self, policy: &Policy) -> impl Fn(u32) -> bool + use<> {
        let is_all = self.rule.is_empty() && self.reason.is_empty();
        let is_every_rule = self.reason.contains(&DropReason::Rule);
        let reasons = self.reason.iter().map(|reason| match reason {
            DropReason::EgressRateLimit => DropReason::RateLimit.number(),
            reason => reason.number(),
        });
        let mut numbers: BTreeSet<u32> = reasons.collect();
        for (subject, slot) in policy.slots.iter() {
            let rule = subject.rule().or_else(|| subject.over());
            if rule.is_some_and(|rule| self.rule.iter().any(|wanted| wanted == rule)) {
                // Whether it has `log` is not written down.
                for log in [false, true] {
                    numbers.insert(Budget::index(Outcome::new(false, log, slot), false));
                }
            }
        }
        move |number| is_all || numbers.contains(&number) || (is_every_rule && number >= RULES_BASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_known_by_its_name() {
        assert_eq!(reason("no-rule"), Ok(DropReason::NoRule));
        assert_eq!(reason("no_rule").unwrap_err(), "did you mean no-rule?");
        assert!(reason("because").unwrap_err().contains("lists the reasons"));
    }

    #[test]
    fn an_address_is_a_network_of_one() {
        let one = network("192.0.2.7").unwrap();
        assert!(one.contains(&IpAddr::from([192, 0, 2, 7])));
        assert!(!one.contains(&IpAddr::from([192, 0, 2, 8])));
        assert!(network("2001:db8::/32").is_ok());
        assert!(network("192.0.2.7/33").unwrap_err().contains("CIDR"));
    }
}
