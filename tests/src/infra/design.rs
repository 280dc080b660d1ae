//! The design of the site, as data: which servers there are, which services, and who may use which of whom.
//!
//! Addresses are those that the files in `rules/` speak of, which are in force as they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a machine is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Anybody.
    Internet,
    /// Where the operators sit.
    Office,
    /// HAProxy and keepalived: TLS ends here.
    Balancer,
    /// nginx.
    Web,
    /// The application.
    Application,
    /// The database that takes the writes.
    Primary,
    /// Its copy, for reading.
    Replica,
    /// Prometheus.
    Monitoring,
    /// The resolver.
    Names,
    /// The time server.
    Time,
    /// The mirror of packages.
    Mirror,
}

impl Role {
    /// Its rule file, below the workspace; `None` if it is not guarded here.
    pub fn rules(self) -> Option<&'static str> {
        match self {
            Self::Balancer => Some("rules/load-balancer.toml"),
            Self::Web => Some("rules/web.toml"),
            Self::Application => Some("rules/application.toml"),
            Self::Primary => Some("rules/db-primary.toml"),
            Self::Replica => Some("rules/db-replica.toml"),
            Self::Monitoring => Some("rules/monitoring.toml"),
            Self::Internet | Self::Office | Self::Names | Self::Time | Self::Mirror => None,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::Office => "office",
            Self::Balancer => "balancer",
            Self::Web => "web",
            Self::Application => "application",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Monitoring => "monitoring",
            Self::Names => "names",
            Self::Time => "time",
            Self::Mirror => "mirror",
        }
    }

    /// The network that it is in.
    pub fn segment(self) -> &'static Segment {
        let name = match self {
            Self::Internet => "internet",
            Self::Office => "office",
            Self::Balancer => "balancers",
            Self::Web => "web",
            Self::Application => "application",
            Self::Primary | Self::Replica => "databases",
            Self::Monitoring => "monitoring",
            Self::Names | Self::Time | Self::Mirror => "core",
        };
        let found = SEGMENTS.iter().find(|segment| segment.name == name);
        found.unwrap_or(&SEGMENTS[0])
    }
}

/// A network of its own, with the router's addresses in it.
#[derive(Debug)]
pub struct Segment {
    /// Also the name of the router's bridge.
    pub name: &'static str,
    /// The router's.
    pub v4: Ipv4Addr,
    /// Length of the IPv4 prefix.
    pub length: u8,
    /// The router's, in a /64.
    pub v6: Ipv6Addr,
}

const fn segment(name: &'static str, v4: [u8; 4], length: u8, v6: [u16; 2]) -> Segment {
    Segment {
        name,
        v4: Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]),
        length,
        v6: Ipv6Addr::new(0x2001, 0xdb8, v6[0], v6[1], 0, 0, 0, 1),
    }
}

/// Every network.
pub const SEGMENTS: &[Segment] = &[
    segment("internet", [198, 51, 100, 1], 24, [0x66, 0]),
    segment("office", [203, 0, 113, 1], 24, [1, 0]),
    segment("core", [192, 0, 2, 14], 28, [0, 0]),
    segment("balancers", [192, 0, 2, 30], 28, [0, 0x10]),
    segment("web", [192, 0, 2, 46], 28, [0, 0x20]),
    segment("application", [192, 0, 2, 62], 28, [0, 0x30]),
    segment("monitoring", [192, 0, 2, 78], 28, [0, 0x40]),
    segment("databases", [192, 0, 2, 94], 28, [0, 0x50]),
];

/// A machine of the site, or one that talks to it.
#[derive(Debug)]
pub struct Server {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
}

/// The last part of its IPv6 address reads as that of its IPv4 address.
const fn server(name: &'static str, role: Role, v4: [u8; 4], v6: [u16; 3]) -> Server {
    Server {
        name,
        role,
        v4: Ipv4Addr::new(v4[0], v4[1], v4[2], v4[3]),
        v6: Ipv6Addr::new(0x2001, 0xdb8, v6[0], v6[1], 0, 0, 0, v6[2]),
    }
}

/// Every machine but the router.
pub const SERVERS: &[Server] = &[
    server("client", Role::Internet, [198, 51, 100, 7], [0x66, 0, 7]),
    server("office", Role::Office, [203, 0, 113, 10], [1, 0, 0x10]),
    server("lb1", Role::Balancer, [192, 0, 2, 17], [0, 0x10, 0x17]),
    server("lb2", Role::Balancer, [192, 0, 2, 18], [0, 0x10, 0x18]),
    server("web1", Role::Web, [192, 0, 2, 33], [0, 0x20, 0x33]),
    server("web2", Role::Web, [192, 0, 2, 34], [0, 0x20, 0x34]),
    server("app1", Role::Application, [192, 0, 2, 49], [0, 0x30, 0x49]),
    server("db1", Role::Primary, [192, 0, 2, 81], [0, 0x50, 0x81]),
    server("db2", Role::Replica, [192, 0, 2, 82], [0, 0x50, 0x82]),
    server("mon1", Role::Monitoring, [192, 0, 2, 65], [0, 0x40, 0x65]),
    server("dns", Role::Names, [192, 0, 2, 2], [0, 0, 2]),
    server("ntp", Role::Time, [192, 0, 2, 3], [0, 0, 3]),
    server("mirror", Role::Mirror, [192, 0, 2, 4], [0, 0, 4]),
];

/// The router, in none of the networks more than in others.
pub const ROUTER: Server = server("router", Role::Internet, [198, 51, 100, 1], [0x66, 0, 1]);

/// The address that the two balancers share: the site's.
pub const SITE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 20)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0x10, 0, 0, 0, 0x20)),
];

/// The name that its certificate is for.
pub const SITE_NAME: &str = "www.example.test";

/// What a service is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// ICMP echo.
    Ping,
}

/// A service that is looked for at every machine.
#[derive(Debug)]
pub struct Service {
    /// What the map calls it.
    pub name: &'static str,
    /// How it is reached.
    pub kind: Kind,
}

const fn tcp(name: &'static str, port: u16) -> Service {
    Service {
        name,
        kind: Kind::Tcp(port),
    }
}

const fn udp(name: &'static str, port: u16) -> Service {
    Service {
        name,
        kind: Kind::Udp(port),
    }
}

/// Every service, also some that nobody may use: what attackers look for first. `app-stats`, `haproxy`, `firewall`, `node` and
/// `mysqld` are metrics for Prometheus.
pub const SERVICES: &[Service] = &[
    Service {
        name: "ping",
        kind: Kind::Ping,
    },
    tcp("ssh", 22),
    tcp("http", 80),
    tcp("https", 443),
    tcp("app", 8080),
    tcp("app-stats", 8081),
    tcp("memcached", 11_211),
    tcp("mysql", 3306),
    tcp("haproxy", 8404),
    tcp("firewall", 9590),
    tcp("node", 9100),
    tcp("mysqld", 9104),
    tcp("prometheus", 9090),
    tcp("grafana", 3000),
    tcp("syslog-tls", 6514),
    tcp("smtp", 25),
    tcp("redis", 6379),
    tcp("reverse-shell", 4444),
    tcp("dns-tcp", 53),
    udp("dns", 53),
    udp("ntp", 123),
    udp("quic", 443),
    udp("syslog", 514),
    udp("snmp", 161),
];

/// Who may use which services of whom.
#[derive(Debug)]
pub struct Permission {
    /// Who begins.
    pub from: &'static [Role],
    /// Who serves.
    pub to: &'static [Role],
    /// Names of [`SERVICES`].
    pub services: &'static [&'static str],
}

/// Every machine that is guarded.
const GUARDED: &[Role] = &[
    Role::Balancer,
    Role::Web,
    Role::Application,
    Role::Primary,
    Role::Replica,
    Role::Monitoring,
];

/// Those of them that fetch updates. Web servers, which strangers come closest to, have them brought.
const INNER: &[Role] = &[
    Role::Balancer,
    Role::Application,
    Role::Primary,
    Role::Replica,
    Role::Monitoring,
];

/// Who is not: nothing keeps these from trying.
const UNGUARDED: &[Role] = &[
    Role::Internet,
    Role::Office,
    Role::Names,
    Role::Time,
    Role::Mirror,
];

const ALL_SERVICES: &[&str] = &[
    "ping",
    "ssh",
    "http",
    "https",
    "app",
    "app-stats",
    "memcached",
    "mysql",
    "haproxy",
    "firewall",
    "node",
    "mysqld",
    "prometheus",
    "grafana",
    "syslog-tls",
    "smtp",
    "redis",
    "reverse-shell",
    "dns-tcp",
    "dns",
    "ntp",
    "quic",
    "syslog",
    "snmp",
];

const fn may(
    from: &'static [Role],
    to: &'static [Role],
    services: &'static [&'static str],
) -> Permission {
    Permission { from, to, services }
}

/// All that is meant to be possible. The rest is refused.
pub const DESIGN: &[Permission] = &[
    may(UNGUARDED, &[Role::Balancer], &["http", "https"]),
    may(&[Role::Office], GUARDED, &["ssh", "ping"]),
    may(
        &[Role::Office],
        &[Role::Monitoring],
        &["https", "grafana", "prometheus"],
    ),
    may(&[Role::Balancer], &[Role::Web], &["http", "https"]),
    may(&[Role::Web], &[Role::Application], &["app"]),
    may(
        &[Role::Application],
        &[Role::Primary, Role::Replica],
        &["mysql"],
    ),
    may(&[Role::Replica], &[Role::Primary], &["mysql"]),
    may(&[Role::Monitoring], GUARDED, &["ping", "node", "firewall"]),
    may(&[Role::Monitoring], &[Role::Balancer], &["haproxy"]),
    may(&[Role::Monitoring], &[Role::Application], &["app-stats"]),
    may(
        &[Role::Monitoring],
        &[Role::Primary, Role::Replica],
        &["mysqld"],
    ),
    may(GUARDED, &[Role::Monitoring], &["syslog-tls"]),
    may(GUARDED, &[Role::Names], &["dns", "dns-tcp"]),
    may(GUARDED, &[Role::Time], &["ntp"]),
    may(INNER, &[Role::Mirror], &["http", "https"]),
    // Nothing guards these from each other.
    may(UNGUARDED, UNGUARDED, ALL_SERVICES),
];

/// What a server lets out although the design has no such thing, because the rules for what leaves name networks and not
/// machines: there the receiver has to refuse it.
pub const LEAVES: &[Permission] = &[may(
    &[Role::Monitoring],
    GUARDED,
    &["haproxy", "app-stats", "mysqld"],
)];

/// Whether one of these permissions is for this.
fn has(permissions: &[Permission], from: Role, to: Role, service: &str) -> bool {
    permissions.iter().any(|one| {
        one.from.contains(&from) && one.to.contains(&to) && one.services.contains(&service)
    })
}

/// What is to become of a try, and who sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is answered.
    Served,
    /// The sender's own firewall keeps it, for this reason.
    KeptBySender(&'static str),
    /// The receiver's firewall drops it, for this reason.
    DroppedByReceiver(&'static str),
}

/// What the design says of a try.
pub fn fate(from: Role, to: Role, service: &Service) -> Fate {
    if has(DESIGN, from, to, service.name) {
        return Fate::Served;
    }
    if from.rules().is_some() && !has(LEAVES, from, to, service.name) {
        return Fate::KeptBySender("egress-no-rule");
    }
    // The databases have a rule that refuses strangers by name.
    let is_database = matches!(to, Role::Primary | Role::Replica);
    Fate::DroppedByReceiver(if is_database && service.name == "mysql" {
        "rule"
    } else {
        "no-rule"
    })
}

/// Whether the receiver alone would let it in: what is left of the design where the sender has no firewall.
pub fn fate_without_sender(from: Role, to: Role, service: &Service) -> bool {
    // What the whole world may, a server without a firewall may as well.
    let as_anybody = fate(Role::Internet, to, service) == Fate::Served;
    as_anybody || has(DESIGN, from, to, service.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_design_are_those_of_services() {
        let names: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
        assert_eq!(names, ALL_SERVICES);
        for permission in DESIGN.iter().chain(LEAVES) {
            for name in permission.services {
                assert!(names.contains(name), "{name}");
            }
        }
    }

    #[test]
    fn addresses_are_in_the_network_of_the_role() {
        for server in SERVERS {
            let segment = server.role.segment();
            let mask = u32::MAX << (32 - segment.length);
            let same_v4 = (server.v4.to_bits() ^ segment.v4.to_bits()) & mask == 0;
            let same_v6 = server.v6.segments()[..4] == segment.v6.segments()[..4];
            assert!(same_v4 && same_v6, "{server:?}");
        }
    }

    #[test]
    fn nobody_reaches_the_databases_but_the_application_and_the_replica() {
        let mysql = SERVICES.iter().find(|one| one.name == "mysql").unwrap();
        let all = SERVERS.iter().map(|server| server.role);
        let mut users: Vec<_> = all
            .filter(|from| fate(*from, Role::Primary, mysql) == Fate::Served)
            .collect();
        users.dedup();
        assert_eq!(users, [Role::Application, Role::Replica]);
    }
}
