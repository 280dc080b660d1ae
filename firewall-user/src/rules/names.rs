//! The names a rule file may use for numbers (protocols, services, ICMP types, TCP flags), and the closest known name to
//! one that is not known.

/// Protocols by name, from the IANA protocol numbers registry. The first name of a number is the one shown.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("eigrp", 88),
    ("ospf", 89),
    ("etherip", 97),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("carp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
    ("mpls-in-ip", 137),
];

/// TCP, UDP and SCTP ports by name, from the IANA service names registry; where usage and registry differ (prometheus,
/// memcached, redis and the like) the port that the software listens on. The first name of a number is the one shown.
const SERVICES: &[(&str, u16)] = &[
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("whois", 43),
    ("tacacs", 49),
    ("domain", 53),
    ("dns", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ident", 113),
    ("ntp", 123),
    ("imap", 143),
    ("snmp", 161),
    ("snmptrap", 162),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("kpasswd", 464),
    ("submissions", 465),
    ("isakmp", 500),
    ("syslog", 514),
    ("printer", 515),
    ("dhcpv6-client", 546),
    ("dhcpv6-server", 547),
    ("submission", 587),
    ("ipp", 631),
    ("ldaps", 636),
    ("kerberos-adm", 749),
    ("dns-over-tls", 853),
    ("rsync", 873),
    ("imaps", 993),
    ("pop3s", 995),
    ("openvpn", 1194),
    ("ms-sql", 1433),
    ("radius", 1812),
    ("radius-acct", 1813),
    ("mqtt", 1883),
    ("nfs", 2049),
    ("etcd-client", 2379),
    ("etcd-server", 2380),
    ("iscsi", 3260),
    ("mysql", 3306),
    ("rdp", 3389),
    ("epmd", 4369),
    ("ipsec-nat-t", 4500),
    ("sip", 5060),
    ("sips", 5061),
    ("postgresql", 5432),
    ("amqps", 5671),
    ("amqp", 5672),
    ("syslog-tls", 6514),
    ("kubernetes-api", 6443),
    ("redis", 6379),
    ("http-alt", 8080),
    ("mqtts", 8883),
    ("prometheus", 9090),
    ("kafka", 9092),
    ("alertmanager", 9093),
    ("node-exporter", 9100),
    ("mysqld-exporter", 9104),
    ("elasticsearch", 9200),
    ("git", 9418),
    ("kubelet", 10250),
    ("memcached", 11211),
    ("mongodb", 27017),
    ("wireguard", 51820),
];

/// ICMP types by name (RFC 792, RFC 950, RFC 1256).
const ICMP_TYPES: &[(&str, u8)] = &[
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
];

/// ICMPv6 types by name (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
const ICMPV6_TYPES: &[(&str, u8)] = &[
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-query", 130),
    ("mld-report", 131),
    ("mld-done", 132),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbor-solicitation", 135),
    ("neighbour-advertisement", 136),
    ("neighbor-advertisement", 136),
    ("redirect", 137),
    ("mldv2-report", 143),
];

/// TCP flags by name with their bit in the header's flags byte (RFC 9293, section 3.1).
const TCP_FLAGS: &[(&str, u8)] = &[
    ("fin", 1),
    ("syn", 2),
    ("rst", 4),
    ("psh", 8),
    ("ack", 16),
    ("urg", 32),
    ("ece", 64),
    ("cwr", 128),
];

/// What people write who come from other firewalls, and what it is called here.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("allow", "accept"),
    ("permit", "accept"),
    ("pass", "accept"),
    ("deny", "drop"),
    ("reject", "drop"),
    ("block", "drop"),
    ("discard", "drop"),
    ("in", "ingress"),
    ("input", "ingress"),
    ("inbound", "ingress"),
    ("incoming", "ingress"),
    ("out", "egress"),
    ("output", "egress"),
    ("outbound", "egress"),
    ("outgoing", "egress"),
    ("source", "from"),
    ("src", "from"),
    ("saddr", "from"),
    ("destination", "to"),
    ("dest", "to"),
    ("dst", "to"),
    ("daddr", "to"),
    ("dport", "ports"),
    ("dports", "ports"),
    ("destination-ports", "ports"),
    ("proto", "protocol"),
    ("target", "action"),
    ("verdict", "action"),
    ("description", "comment"),
    ("flags", "tcp-flags"),
    ("ndp", "neighbour-discovery"),
    ("pmtu", "path-mtu"),
    ("dhcp", "dhcp-client"),
    ("igmp", "multicast-membership"),
    ("mld", "multicast-membership"),
    ("lldp", "link-layer"),
    ("essential", "essentials"),
    ("addresses", "groups"),
    ("sets", "groups"),
    ("ipsec", "esp"),
    ("ipv6-icmp", "icmpv6"),
    ("icmp6", "icmpv6"),
    ("keepalived", "vrrp"),
    ("web", "http"),
    ("postgres", "postgresql"),
    ("mariadb", "mysql"),
    ("ping", "echo-request"),
    ("pong", "echo-reply"),
];

/// Longest word that suggestions are sought for: a known name is never longer, and the search takes time with its square.
const MAX_WORD_CHARS: usize = 64;

/// Number of the protocol called `name`.
pub fn protocol_number(name: &str) -> Option<u8> {
    number_of(PROTOCOLS, name)
}

/// Usual name of an IP protocol number.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    name_of(PROTOCOLS, number)
}

/// Every protocol name.
pub fn protocol_names() -> impl Iterator<Item = &'static str> {
    names(PROTOCOLS)
}

/// Port of the service called `name`.
pub fn service_port(name: &str) -> Option<u16> {
    number_of(SERVICES, name)
}

/// Usual name of the service on a port.
pub fn service_name(port: u16) -> Option<&'static str> {
    name_of(SERVICES, port)
}

/// Every service name.
pub fn service_names() -> impl Iterator<Item = &'static str> {
    names(SERVICES)
}

/// Which family's ICMP a type belongs to; the same names have other numbers in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpFamily {
    /// ICMP, protocol 1.
    V4,
    /// ICMPv6, protocol 58.
    V6,
}

impl IcmpFamily {
    fn types(self) -> &'static [(&'static str, u8)] {
        match self {
            Self::V4 => ICMP_TYPES,
            Self::V6 => ICMPV6_TYPES,
        }
    }

    /// Number of the type called `name`.
    pub fn type_number(self, name: &str) -> Option<u8> {
        number_of(self.types(), name)
    }

    /// Usual name of a type.
    pub fn type_name(self, number: u8) -> Option<&'static str> {
        name_of(self.types(), number)
    }

    /// Every type name.
    pub fn type_names(self) -> impl Iterator<Item = &'static str> {
        names(self.types())
    }
}

/// Bit of the TCP flag called `name` in the header's flags byte.
pub fn tcp_flag_bit(name: &str) -> Option<u8> {
    number_of(TCP_FLAGS, name)
}

/// Every TCP flag name, in bit order.
pub fn tcp_flag_names() -> impl Iterator<Item = &'static str> {
    names(TCP_FLAGS)
}

fn number_of<N: Copy>(table: &[(&str, N)], name: &str) -> Option<N> {
    table
        .iter()
        .find(|entry| entry.0 == name)
        .map(|entry| entry.1)
}

fn name_of<N: Copy + PartialEq>(table: &[(&'static str, N)], number: N) -> Option<&'static str> {
    table
        .iter()
        .find(|entry| entry.1 == number)
        .map(|entry| entry.0)
}

fn names<N>(table: &'static [(&'static str, N)]) -> impl Iterator<Item = &'static str> {
    table.iter().map(|entry| entry.0)
}

/// The known name that was probably meant by `word`: what other firewalls' word for it stands for, or the name that is
/// the fewest typing slips away, if they are few.
pub fn closest<'n>(word: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let word: Vec<char> = word
        .chars()
        .take(MAX_WORD_CHARS + 1)
        .flat_map(char::to_lowercase)
        .collect();
    if word.len() > MAX_WORD_CHARS {
        return None;
    }
    let plain: String = word
        .iter()
        .map(|&c| if c == '_' || c == ' ' { '-' } else { c })
        .collect();
    let meant = OTHER_WORDS
        .iter()
        .find(|(other, _)| *other == plain)
        .map(|(_, ours)| *ours);
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        if meant == Some(name) {
            return Some(name);
        }
        let chars: Vec<char> = name
            .chars()
            .take(MAX_WORD_CHARS + 1)
            .flat_map(char::to_lowercase)
            .collect();
        // One slip in three characters; more would suggest words that have nothing in common.
        let allowed = (word.len().max(chars.len()) / 3).max(1);
        if chars.len() > MAX_WORD_CHARS || chars.len().abs_diff(word.len()) > allowed {
            continue;
        }
        let slips = slips(&word, &chars);
        // A name that shares no character with the word is none of its misspellings.
        if slips <= allowed && slips < word.len() && best.is_none_or(|(least, _)| slips < least) {
            best = Some((slips, name));
        }
    }
    best.map(|(_, name)| name)
}

/// Typing slips between two words: letters left out, added, replaced, or swapped with their neighbour (the optimal string
/// alignment distance).
fn slips(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1; b.len() + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lower_case() {
        fn check<N>(table: &[(&str, N)]) {
            for (n, (name, _)) in table.iter().enumerate() {
                assert!(
                    table[..n].iter().all(|(other, _)| other != name),
                    "{name} stands twice"
                );
                assert!(
                    name.bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                );
                assert!(name.len() <= MAX_WORD_CHARS);
            }
        }
        check(PROTOCOLS);
        check(SERVICES);
        check(ICMP_TYPES);
        check(ICMPV6_TYPES);
        check(TCP_FLAGS);
    }

    #[test]
    fn numbers_and_names() {
        assert_eq!(protocol_number("vrrp"), Some(112));
        assert_eq!(protocol_name(112), Some("vrrp"));
        assert_eq!(protocol_number("vrr"), None);
        assert_eq!(service_port("mysql"), Some(3306));
        assert_eq!(service_name(53), Some("domain"));
        assert_eq!(service_port("mysq"), None);
        assert_eq!(IcmpFamily::V4.type_number("echo-request"), Some(8));
        assert_eq!(IcmpFamily::V6.type_number("echo-request"), Some(128));
        assert_eq!(IcmpFamily::V4.type_number("packet-too-big"), None);
        assert_eq!(
            IcmpFamily::V6.type_name(135),
            Some("neighbour-solicitation")
        );
        assert_eq!(
            tcp_flag_names()
                .map(|n| tcp_flag_bit(n).unwrap())
                .fold(0, |a, b| a | b),
            255
        );
    }

    #[test]
    fn closest_name() {
        let keys = ["name", "action", "ports", "from", "icmp-types"];
        assert_eq!(closest("port", keys), Some("ports"));
        assert_eq!(closest("acton", keys), Some("action"));
        assert_eq!(closest("atcion", keys), Some("action"));
        assert_eq!(closest("icmp_types", keys), Some("icmp-types"));
        assert_eq!(closest("Source", keys), Some("from"));
        assert_eq!(closest("zzz", keys), None);
        assert_eq!(closest("", keys), None);
        assert_eq!(closest("a", ["b"]), None);
        assert_eq!(closest(&"x".repeat(100_000), keys), None);
    }

    #[test]
    fn slips_count_swaps_once() {
        let of = |a: &str, b: &str| {
            slips(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(of("htpt", "http"), 1);
        assert_eq!(of("http", "http"), 0);
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("kitten", "sitting"), 3);
    }
}
