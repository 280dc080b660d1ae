//! Frames with names and what must happen to them. A case is mostly a pair: a frame that gets a reason, and its near miss,
//! which differs in the one thing that the reason is about and does not get it.

mod essential;
mod ethernet;
mod ipv4;
mod ipv6;
mod rules;
mod transport;

use std::sync::LazyLock;

use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::protocol;

use crate::policy::{Counted, Policy};

/// Which of the corpus' policies a case is decided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Under {
    /// A server's rules; what none matches is dropped.
    Server,
    /// The same with all essentials switched off.
    Bare,
    /// One rule that drops; what it does not match is accepted.
    Open,
    /// The server's rules, for VLANs 7 and 100 to 110 only, and nothing untagged.
    Tagged,
}

/// What must happen to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Who decides.
    pub by: By,
    /// The port whose hits count the frame, if a rule names it: protocol and number.
    pub port: Option<(u8, u16)>,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Dropped without a rule.
    Drop(DropReason),
    /// Let through without a rule.
    Pass(PassReason),
    /// Decided by the rule with this name.
    Rule(&'static str),
}

/// A frame with a name.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique in the corpus.
    pub name: String,
    /// The policy.
    pub under: Under,
    /// The frame.
    pub frame: Vec<u8>,
    /// What must happen.
    pub expected: Expected,
    /// Name of the near miss, which is a case of its own.
    pub near_miss: Option<String>,
}

/// Every case.
pub static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut cases = Cases::default();
    ethernet::add(&mut cases);
    ipv4::add(&mut cases);
    ipv6::add(&mut cases);
    transport::add(&mut cases);
    essential::add(&mut cases);
    rules::add(&mut cases);
    cases.list
});

/// Reasons that no frame by itself gets under a policy that the compiler made, each with the test that sees to it. The
/// corpus knows neither flows nor what leaves, nor the host's own addresses.
pub const NOT_FROM_A_FRAME: &[(DropReason, &str)] = &[
    (
        DropReason::Rule,
        "the rule's own counter counts; verdicts.rs: no_case_counts_the_reason_rule",
    ),
    (
        DropReason::BrokenTables,
        "verdicts.rs: broken_tables_drop; parity.rs: damaged_images_decide_alike",
    ),
    (DropReason::TcpOutOfWindow, FLOWS),
    (DropReason::FlowState, FLOWS),
    (DropReason::FlowExpired, FLOWS),
    (DropReason::IcmpRate, FLOWS),
    (DropReason::Banned, LIMITS),
    (DropReason::RateLimit, LIMITS),
    (DropReason::EgressRateLimit, LIMITS),
    (DropReason::EgressNoRule, EGRESS),
    (DropReason::EgressMalformed, EGRESS),
    (DropReason::EgressFragment, EGRESS_FRAGMENTS),
    (
        DropReason::FragmentLater,
        "decide/fragment/tests.rs; parity.rs: early_fragments_are_limited",
    ),
    (
        DropReason::FragmentDenied,
        "decide/fragment/tests.rs; parity.rs: later_fragments_follow_the_first",
    ),
];

/// Like [`NOT_FROM_A_FRAME`], for what passes.
pub const NOT_PASSED_BY_A_FRAME: &[(PassReason, &str)] = &[
    (
        PassReason::Open,
        "takes a first policy that nobody confirms: namespaces/trials.rs; parity.rs: an_open_image_lets_everything_in",
    ),
    (PassReason::Answer, FLOWS),
    (
        PassReason::Fragment,
        "decide/fragment/tests.rs; parity.rs: later_fragments_follow_the_first",
    ),
    (PassReason::Connection, FLOWS),
    (
        PassReason::Cookie,
        "takes a cookie of this host: namespaces/replies.rs: \
         a_rule_for_new_connections_alone_serves_them_with_syn_cookies_too",
    ),
    (
        PassReason::SynCookie,
        "takes a flood: namespaces/cookies.rs; limits.rs",
    ),
    (PassReason::EgressDefault, EGRESS),
    (PassReason::EgressReply, EGRESS),
    (PassReason::EgressEssential, EGRESS),
    (PassReason::EgressConnection, EGRESS),
    (PassReason::EgressFragment, EGRESS_FRAGMENTS),
];

const LIMITS: &str = "takes others before: limits.rs, namespaces/limits.rs and namespaces/bans.rs";
const FLOWS: &str =
    "takes a packet that left before: flows.rs, namespaces/replies.rs and decide/flow/tests.rs";
const EGRESS_FRAGMENTS: &str = "is about what leaves: namespaces/fragments.rs: what_leaves_in_fragments_leaves_whole_or_not_at_all";
const EGRESS: &str = "is about what leaves: flows.rs and namespaces/replies.rs";

const SERVER: &str = r#"
version = 1

[groups]
office = ["192.0.2.128/25", "2001:db8:0ff1::/48"]
refused = ["203.0.113.0/24", "2001:db8:bad::/48"]

[[rule]]
name = "refused"
action = "drop"
from = ["refused"]
log = true

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [80, 443]

[[rule]]
name = "ssh"
action = "accept"
protocol = "tcp"
ports = [22]
from = ["office"]
tcp-flags = { set = ["syn"], clear = ["ack"] }

[[rule]]
name = "dns"
action = "accept"
protocol = "udp"
ports = [53]

[[rule]]
name = "diameter"
action = "accept"
protocol = "sctp"
ports = [3868]

[[rule]]
name = "ping"
action = "accept"
protocol = "icmp"
icmp-types = ["echo-request"]

[[rule]]
name = "ping over IPv6"
action = "accept"
protocol = "icmpv6"
icmp-types = ["echo-request"]

[[rule]]
name = "tunnel"
action = "accept"
protocol = "gre"
"#;

const BARE: &str = r#"
[essentials]
arp = false
neighbour-discovery = false
path-mtu = false
dhcp-client = false
multicast-membership = false
link-layer = false
"#;

const OPEN: &str = r#"
version = 1

[defaults]
ingress = "accept"

[[rule]]
name = "no telnet"
action = "drop"
protocol = "tcp"
ports = [23]
"#;

const TAGGED: &str = r#"
[vlans]
untagged = false
ids = [7, "100-110"]
"#;

impl Under {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Server, Self::Bare, Self::Open, Self::Tagged];

    /// The policy as a rule file.
    pub fn toml(self) -> String {
        match self {
            Self::Server => SERVER.to_owned(),
            Self::Bare => format!("{SERVER}{BARE}"),
            Self::Open => OPEN.to_owned(),
            Self::Tagged => format!("{SERVER}{TAGGED}"),
        }
    }

    /// The policy itself.
    pub fn policy(self) -> &'static Policy {
        static POLICIES: LazyLock<[Policy; 4]> = LazyLock::new(|| {
            let parsed = |under: Under| Policy::parse(&under.toml());
            Under::ALL.map(|under| parsed(under).expect("the corpus' policies are right"))
        });
        &POLICIES[self as usize]
    }
}

impl Expected {
    const fn drop(reason: DropReason) -> Self {
        Self {
            by: By::Drop(reason),
            port: None,
        }
    }

    const fn pass(reason: PassReason) -> Self {
        Self {
            by: By::Pass(reason),
            port: None,
        }
    }

    const fn rule(name: &'static str) -> Self {
        Self {
            by: By::Rule(name),
            port: None,
        }
    }

    /// No rule matches.
    const fn no_rule() -> Self {
        Self::drop(DropReason::NoRule)
    }

    /// Accepted for TCP port 80, what most good frames are.
    const fn web() -> Self {
        Self::rule("web").hits(protocol::TCP, 80)
    }

    const fn dns() -> Self {
        Self::rule("dns").hits(protocol::UDP, 53)
    }

    /// A rule names the port that the frame is for.
    const fn hits(self, protocol: u8, port: u16) -> Self {
        Self {
            port: Some((protocol, port)),
            ..self
        }
    }

    /// What a frame of `bytes` is counted as, sorted.
    pub fn counted(&self, bytes: u32) -> Vec<(Counted, u32)> {
        let by = match self.by {
            By::Drop(reason) => Counted::Drop(reason),
            By::Pass(reason) => Counted::Pass(reason),
            By::Rule(name) => Counted::Rule(name.to_owned()),
        };
        let port = self
            .port
            .map(|(protocol, port)| Counted::Port(protocol, port));
        let mut counted: Vec<_> = [Some(by), port]
            .into_iter()
            .flatten()
            .map(|c| (c, bytes))
            .collect();
        counted.sort();
        counted
    }
}

/// The corpus as it is written down.
#[derive(Default)]
struct Cases {
    list: Vec<Case>,
    under: Option<Under>,
}

impl Cases {
    /// What follows is decided by another policy.
    fn under(&mut self, under: Under) {
        self.under = Some(under);
    }

    /// A case without near miss: it is one itself, or part of a family that lists both sides.
    fn one(&mut self, name: impl Into<String>, frame: Vec<u8>, expected: Expected) {
        self.push(name.into(), frame, expected, None);
    }

    /// A frame that must be dropped for `reason`, and its near miss, which must be accepted for port 80.
    fn refused(&mut self, name: &str, reason: DropReason, frame: Vec<u8>, mended: Vec<u8>) {
        self.pair(
            name,
            (frame, Expected::drop(reason)),
            (mended, Expected::web()),
        );
    }

    /// A case and its near miss.
    fn pair(&mut self, name: &str, case: (Vec<u8>, Expected), near_miss: (Vec<u8>, Expected)) {
        let near = format!("{name}: near miss");
        self.push(name.to_owned(), case.0, case.1, Some(near.clone()));
        self.push(near, near_miss.0, near_miss.1, None);
    }

    /// An essential without its switch; the near miss is the same frame with it.
    fn switched_off(&mut self, name: &str, frame: &[u8], on: Expected, off: Expected) {
        let (near, under) = (format!("{name}, switched on"), self.under);
        self.under(Under::Bare);
        self.push(
            format!("{name}, switched off"),
            frame.to_vec(),
            off,
            Some(near.clone()),
        );
        self.under(Under::Server);
        self.push(near, frame.to_vec(), on, None);
        self.under = under;
    }

    fn push(
        &mut self,
        name: String,
        frame: Vec<u8>,
        expected: Expected,
        near_miss: Option<String>,
    ) {
        let under = self.under.unwrap_or(Under::Server);
        self.list.push(Case {
            name,
            under,
            frame,
            expected,
            near_miss,
        });
    }
}
