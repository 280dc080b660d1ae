use std::path::Path;

use firewall_common::decide::{decide, egress};
use firewall_common::tables::HostWorld;

use super::*;
use crate::counters::Slots;
use crate::rules::compile::compile;

const RULES: &str = r#"
version = 1

[groups]
office = ["203.0.113.0/24", "2001:db8:1::/48"]

[[rule]]
name = "blocklist"
action = "drop"
from = ["203.0.113.66"]

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = ["http", "https", "3000-4000"]

[[rule]]
name = "ssh"
action = "accept"
protocol = "tcp"
ports = ["ssh"]
tcp-flags = { set = ["syn"], clear = ["ack"] }
from = ["office"]

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

/// A packet that shows that not all of `packet` becomes what is expected, if there is one; and then that is true.
fn shown(packet: &str, expect: Action) -> Option<String> {
    let loaded = crate::rules::parse("a.toml", RULES, Path::new(".")).expect("it is valid");
    let pattern: Pattern = packet.parse().expect(packet);
    let region = region::of(&pattern, &loaded.rule_set).expect(packet);
    let found = broken(&loaded.rule_set, &region, expect)?.packet;
    let compiled = compile(&loaded.rule_set, &Slots::default()).expect("it compiles");
    let world = HostWorld::new(&compiled.image, |_, _| {});
    let frame = found.frame();
    let decision = match found.direction {
        Direction::Ingress => decide(&frame[..], &world),
        Direction::Egress => egress::decide(&frame[..], &world),
    };
    assert_eq!(
        decision.accepts(),
        expect == Action::Drop,
        "{found}: {decision:?}"
    );
    Some(found.to_string())
}

#[test]
fn what_holds_and_what_does_not() {
    for (packet, holds_dropped, holds_accepted) in [
        ("tcp to :3306", false, false),
        ("tcp from 203.0.113.66 to :443", true, false),
        ("tcp from 198.51.100.7 to :443", false, true),
        ("tcp to :443", false, false),
        ("tcp to :2999", true, false),
        ("tcp to :3000-4000", false, false),
        ("tcp from 2001:db8:1::/48 to :22", false, true),
        ("tcp from office to :22", false, false),
        ("tcp from 198.51.100.0/24 to :22", true, false),
        // Rules see the flags.
        ("tcp from 2001:db8:1::7 to :22 syn,ack", true, false),
        ("tcp from 2001:db8:1::7 to :22 syn", false, true),
        ("icmp to 192.0.2.1 echo-request", false, false),
        (
            "icmp from 198.51.100.7 to 192.0.2.1 echo-request",
            false,
            true,
        ),
        ("icmpv6 echo-request", true, false),
        ("udp to 192.0.2.53:53 out", false, true),
        ("udp to :53 out", false, false),
        ("udp to 192.0.2.54:53 out", true, false),
        ("tcp out", true, false),
    ] {
        let dropped = shown(packet, Action::Drop).is_none();
        let accepted = shown(packet, Action::Accept).is_none();
        assert_eq!(
            (dropped, accepted),
            (holds_dropped, holds_accepted),
            "{packet}"
        );
    }
}

#[test]
fn essentials_pass_before_the_rules() {
    for (packet, passes) in [
        (
            "icmpv6 neighbour-solicitation",
            "icmpv6 2001:db8:1::7 -> 2001:db8::1 neighbour-solicitation",
        ),
        (
            "udp from 198.51.100.7 to :68",
            "udp 198.51.100.7:67 -> 192.0.2.1:68",
        ),
        (
            "udp from fe80::/10 to :546",
            "udp [fe80::]:547 -> [2001:db8::1]:546",
        ),
        ("igmp to 224.0.0.0/4", "igmp 198.51.100.7 -> 224.0.0.0"),
        (
            "icmpv6 from fe80::/10 mld-query",
            "icmpv6 fe80:: -> 2001:db8::1 mld-query",
        ),
        ("udp to :67 out", "udp 198.51.100.7:68 -> 192.0.2.1:67 out"),
        (
            "icmp time-exceeded out",
            "icmp 198.51.100.7 -> 192.0.2.1 time-exceeded out",
        ),
    ] {
        assert_eq!(shown(packet, Action::Drop).as_deref(), Some(passes));
    }
    // All of these pass, whatever the rules; of others only those with one source port, or from or to some addresses.
    assert_eq!(shown("icmpv6 neighbour-solicitation", Action::Accept), None);
    assert!(shown("udp to :68", Action::Accept).is_some());
    assert_eq!(shown("igmp to 224.0.0.0/4", Action::Accept), None);
    assert!(shown("igmp", Action::Accept).is_some());
    assert_eq!(shown("igmp out", Action::Accept), None);
}
