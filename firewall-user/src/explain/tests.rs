use std::path::Path;
use std::time::Duration;

use firewall_common::abi::reason::{DropReason, PassReason};

use super::judge::{Judge, Judged};
use super::met::Ground;
use super::simulated::{Memory, Simulated};
use super::*;
use crate::policy;
use crate::rules::packet::{Concrete, Host, Pattern};

const FILE: &str = r#"
version = 1

[vlans]
ids = [10]

[groups]
operators = ["203.0.113.0/24", "198.51.100.1", "198.51.100.3", "198.51.100.5", "2001:db8:1::/48"]

[[rule]]
name = "blocklist"
action = "drop"
from = ["198.51.100.66"]

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = ["http", "https"]

[[rule]]
name = "ssh"
action = "accept"
protocol = "tcp"
ports = ["ssh"]
tcp-flags = { set = ["syn"], clear = ["ack"] }
from = ["operators"]

[[rule]]
name = "dns"
action = "accept"
protocol = "udp"
ports = ["domain"]
limit = { rate = "1/h", burst = 1, per = "source" }

[[rule]]
name = "ping"
action = "accept"
protocol = "icmp"
icmp-types = ["echo-request"]

[[rule]]
name = "resolver"
direction = "egress"
action = "accept"
protocol = "udp"
ports = ["domain"]
to = ["192.0.2.53"]

[defaults]
egress = "drop"
"#;

fn concrete(text: &str) -> Concrete {
    let pattern: Pattern = text.parse().expect(text);
    pattern.concrete(&Host::default()).expect(text)
}

/// What becomes of these packets, one after the other, under the rules above.
fn judged(packets: &[&str], each: impl FnMut(&str, &Judged<'_>)) {
    let mut each = each;
    let loaded = crate::rules::parse("a.toml", FILE, Path::new(".")).expect("it is valid");
    let prepared = policy::prepare(&loaded, None, 0).expect("it compiles");
    let memory = Memory::new(&loaded.rule_set);
    let ground = Ground {
        image: &prepared.image,
        policy: &prepared.policy,
        rule_set: Some(&loaded.rule_set),
    };
    let mut judge = Judge::File(Box::new(Simulated::new(&prepared.image, &memory)));
    for (second, text) in (1..).zip(packets) {
        let packet = concrete(text);
        let at = Duration::from_secs(second);
        let judged = judge.decide(&packet.frame(), packet.direction, at, ground);
        let judged = judged.expect(text);
        assert!(judged.agrees, "{text}: {judged:?}");
        each(text, &judged);
    }
}

#[test]
fn what_a_packet_meets() {
    let mut all = String::new();
    judged(
        &[
            "tcp from 203.0.113.7 to :443",
            "tcp from 203.0.113.7 to :22",
            "tcp from 198.51.100.9 to :22",
            "tcp from 203.0.113.7 to :22 ack",
            "tcp from 198.51.100.66 to :443",
            "tcp from 203.0.113.7 to :443 vlan 11",
            "tcp from 203.0.113.7 to :443 vlan 10",
            "tcp from 203.0.113.7 to :8080",
            "tcp from 203.0.113.7 to :8080 syn,fin",
            "udp from 203.0.113.7 to :53",
            "udp from 203.0.113.7 to :53",
            "icmp timestamp-request",
            "icmpv6 echo-request",
            "icmpv6 neighbour-solicitation",
            "tcp to :25 out",
            "udp to 192.0.2.54:53 out",
            "udp to 192.0.2.53:53 out",
            "udp from 192.0.2.53:53 to 192.0.2.10:40000",
            "tcp from :443 to 203.0.113.7:40000 syn,ack out",
        ],
        |text, judged| {
            all += &format!("{text}\n");
            for stage in &judged.met.stages {
                all += &format!("    {}: {}\n", stage.stage, stage.says);
            }
            let (label, rule) = (judged.cause.label(), judged.cause.rule());
            let rule = rule.map_or(String::new(), |rule| format!(", {}", called(rule)));
            all += &format!("  {:?}: {label}{rule}\n", judged.action);
        },
    );
    insta::assert_snapshot!(all);
}

#[test]
fn only_what_the_tables_allow_is_believed() {
    judged(&["tcp from 198.51.100.9 to :22"], |_, judged| {
        let allows = |slot, cause: Cause<'_>| judged.met.allows(slot, &cause);
        let pass = |reason: PassReason| allows(reason.counter(), Cause::Pass(reason));
        let drop = |reason: DropReason| allows(reason.counter(), Cause::Drop(reason));
        assert!(pass(PassReason::Answer) && pass(PassReason::Connection));
        assert!(drop(DropReason::FlowExpired) && drop(DropReason::Banned));
        assert!(!pass(PassReason::Arp) && !pass(PassReason::SynCookie));
        assert!(!drop(DropReason::TcpFlagsNull) && !drop(DropReason::RateLimit));
    });
    judged(&["tcp to :22 syn,fin"], |_, judged| {
        let reason = DropReason::Banned;
        assert!(!judged.met.allows(reason.counter(), &Cause::Drop(reason)));
    });
}
