//! What set-up is for, and the tools each purpose takes: one table.

use clap::ValueEnum;

/// What somebody wants to do after set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Compile the firewall with its eBPF program
    Build,
    /// Run the tests, those in network namespaces included
    Test,
    /// Run the demonstration on real traffic
    Demo,
    /// Run the whole infrastructure that the firewall is for
    Infra,
    /// Measure, beside other firewalls
    Bench,
    /// Make the Debian package
    Package,
}

impl Purpose {
    /// Every purpose.
    pub(crate) const ALL: [Self; 6] = [
        Self::Build,
        Self::Test,
        Self::Demo,
        Self::Infra,
        Self::Bench,
        Self::Package,
    ];

    /// Whether programs are loaded into this machine's kernel, and so pinned in bpffs.
    pub(super) fn loads_programs(self) -> bool {
        !matches!(self, Self::Build | Self::Package)
    }

    /// Whether Debian packages are made, for use or to be tested.
    pub(super) fn packs(self) -> bool {
        matches!(self, Self::Test | Self::Package)
    }

    /// The tools that this purpose takes, beside the eBPF toolchain that all of them take.
    pub(super) fn tools(self) -> impl Iterator<Item = &'static Tool> {
        TOOLS
            .iter()
            .filter(move |tool| tool.purposes.contains(&self))
    }
}

/// A command that some purpose needs.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The name it is called by.
    pub(super) command: &'static str,
    /// The Debian package that has it.
    pub(super) package: &'static str,
    /// Who needs it.
    pub(super) purposes: &'static [Purpose],
    /// What for, as told to the person who waits for the download.
    pub(super) why: &'static str,
    /// Arguments with which it only shows something.
    pub(super) check: &'static [&'static str],
    /// Variables that point it to its data when it is not installed; paths below the place it is unpacked to.
    /// `{multiarch}` stands for the directory of this architecture.
    pub(super) data: &'static [(&'static str, &'static str)],
    /// What runs it if it is a script: a path below `/`, of a package that its own depends on.
    pub(super) interpreter: Option<&'static str>,
}

/// What runs Python's scripts, and where Debian puts their modules.
const PYTHON: &str = "usr/bin/python3";
const PYTHON_DATA: &[(&str, &str)] = &[("PYTHONPATH", "usr/lib/python3/dist-packages")];

/// Every tool.
pub(super) const TOOLS: &[Tool] = &[
    Tool {
        command: "ip",
        package: "iproute2",
        purposes: &[Purpose::Test, Purpose::Demo, Purpose::Infra, Purpose::Bench],
        why: "makes the network namespaces and the links between them",
        check: &["-Version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "nginx",
        package: "nginx",
        purposes: &[Purpose::Test, Purpose::Demo, Purpose::Infra],
        why: "the server that the firewall guards",
        check: &["-v"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "nmap",
        package: "nmap",
        purposes: &[Purpose::Test, Purpose::Demo],
        why: "the attacker's port scan",
        check: &["--version"],
        data: &[("NMAPDIR", "usr/share/nmap")],
        interpreter: None,
    },
    Tool {
        command: "ping",
        package: "iputils-ping",
        purposes: &[Purpose::Test, Purpose::Demo, Purpose::Infra],
        why: "shows that ICMP passes where a rule lets it",
        check: &["-V"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "bpftool",
        package: "bpftool",
        purposes: &[Purpose::Test, Purpose::Bench],
        why: "looks at programs and maps from outside the firewall",
        check: &["version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "tshark",
        package: "tshark",
        purposes: &[Purpose::Test],
        why: "reads captures of dropped packets, as Wireshark does",
        check: &["--version"],
        data: &[("WIRESHARK_DATA_DIR", "usr/share/wireshark")],
        interpreter: None,
    },
    Tool {
        command: "ethtool",
        package: "ethtool",
        purposes: &[Purpose::Test, Purpose::Infra, Purpose::Bench],
        why: "sets queues and offloads of the links",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "busybox",
        package: "busybox",
        purposes: &[Purpose::Test],
        why: "DHCP client and traceroute, for traffic as hosts have it",
        check: &["--list"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "chronyd",
        package: "chrony",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "NTP server and client, for the time asked through the firewall",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "curl",
        package: "curl",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "downloads through the firewall",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "dnsmasq",
        package: "dnsmasq-base",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "server for DNS, DHCP and router advertisements",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "drill",
        package: "ldnsutils",
        purposes: &[Purpose::Test],
        why: "DNS client, for names asked through the firewall",
        check: &["-v"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "fail2ban-client",
        package: "fail2ban",
        purposes: &[Purpose::Test],
        why: "asks the fail2ban server to ban and to unban",
        check: &["--version"],
        data: PYTHON_DATA,
        interpreter: Some(PYTHON),
    },
    Tool {
        command: "fail2ban-server",
        package: "fail2ban",
        purposes: &[Purpose::Test],
        why: "bans by the firewall whoever fails to log in",
        check: &["--version"],
        data: PYTHON_DATA,
        interpreter: Some(PYTHON),
    },
    Tool {
        command: "keepalived",
        package: "keepalived",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "VRRP between two hosts, one of them guarded",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "prometheus",
        package: "prometheus",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "scrapes the metrics, evaluates rules and fires alerts",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "promtool",
        package: "prometheus",
        purposes: &[Purpose::Test],
        why: "checks and tests alert and recording rules",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "ssh",
        package: "openssh-client",
        purposes: &[Purpose::Test],
        why: "a login that outlasts the start of the firewall",
        check: &["-V"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "ssh-keygen",
        package: "openssh-client",
        purposes: &[Purpose::Test],
        why: "keys for that login",
        check: &["-?"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "sshd",
        package: "openssh-server",
        purposes: &[Purpose::Test],
        why: "where that login goes",
        check: &["-V"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "nft",
        package: "nftables",
        purposes: &[Purpose::Test, Purpose::Bench],
        why: "nftables, to compare with",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "haproxy",
        package: "haproxy",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "the load balancers, where TLS of the infrastructure ends",
        check: &["-v"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "mariadb",
        package: "mariadb-client-core",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "asks the databases of the infrastructure on their own machines",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "mariadbd",
        package: "mariadb-server-core",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "the database of the infrastructure, primary and replica",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "openssl",
        package: "openssl",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "makes the certificate of the infrastructure",
        check: &["version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "prometheus-mysqld-exporter",
        package: "prometheus-mysqld-exporter",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "metrics of the databases",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "prometheus-node-exporter",
        package: "prometheus-node-exporter",
        purposes: &[Purpose::Test, Purpose::Infra],
        why: "metrics of the machines",
        check: &["--version"],
        data: &[],
        interpreter: None,
    },
    Tool {
        command: "xdp-filter",
        package: "xdp-tools",
        purposes: &[Purpose::Bench],
        why: "xdp-filter, to compare with",
        check: &["help"],
        data: &[("LIBXDP_OBJECT_PATH", "usr/lib/{multiarch}/bpf")],
        interpreter: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn building_takes_no_tool_and_loads_no_program() {
        assert_eq!(Purpose::Build.tools().count(), 0);
        assert!(!Purpose::Build.loads_programs());
    }

    #[test]
    fn a_purpose_takes_its_tools_and_no_other() {
        let demo: Vec<_> = Purpose::Demo.tools().map(|tool| tool.command).collect();
        assert!(
            demo.contains(&"nginx") && !demo.contains(&"xdp-filter"),
            "{demo:?}"
        );
        let bench: Vec<_> = Purpose::Bench.tools().map(|tool| tool.command).collect();
        assert!(
            bench.contains(&"xdp-filter") && !bench.contains(&"nginx"),
            "{bench:?}"
        );
    }

    #[test]
    fn every_tool_is_for_something_and_says_for_what() {
        for tool in TOOLS {
            assert!(
                !tool.purposes.is_empty() && !tool.why.is_empty(),
                "{}",
                tool.command
            );
        }
    }
}
