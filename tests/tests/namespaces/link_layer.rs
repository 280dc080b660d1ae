//! What lies below IP: neighbours are found though all else is dropped, and VLAN tags hide nothing.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Result, ensure};
use firewall_tests::net::traffic::{Echo, tcp};
use firewall_tests::net::{FramePort, Lab, skip};
use firewall_tests::packets;

use crate::{MODES, rules};

const PORT: u16 = 8080;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

const WEB: &str = r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#;

/// Forgets who the neighbours are, on both ends.
fn forget_neighbours(lab: &Lab) -> Result<()> {
    for host in [&lab.outside, &lab.inside] {
        for family in ["-4", "-6"] {
            host.ip(&format!(
                "{family} neighbour flush dev {}",
                host.interface()
            ))?;
        }
    }
    Ok(())
}

#[test]
fn neighbours_are_found_though_all_else_is_dropped() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _web = Echo::start(&lab.inside, PORT)?;
        lab.apply(&rules(&[WEB]), mode)?;
        for address in [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)] {
            forget_neighbours(&lab)?;
            ensure!(
                tcp(&lab.outside, SocketAddr::new(address, PORT), 1000)?,
                "{mode}: {address}"
            );
        }
        let stats = lab.stats()?;
        ensure!(
            stats.passed("arp") > 0 && stats.passed("neighbour-discovery") > 0,
            "{stats:#?}"
        );
    }
    Ok(())
}

/// The near miss: that it is the essentials which let neighbours be found.
#[test]
fn neighbours_are_not_found_where_the_file_says_so() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _web = Echo::start(&lab.inside, PORT)?;
        let essentials = "\n[essentials]\narp = false\nneighbour-discovery = false\n";
        lab.apply(&(rules(&[WEB]) + essentials), mode)?;
        for address in [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)] {
            forget_neighbours(&lab)?;
            let reached = tcp(&lab.outside, SocketAddr::new(address, PORT), 1000);
            // The host outside may give up on its neighbour, which is an error, before the time is up.
            ensure!(!reached.unwrap_or(false), "{mode}: {address}");
        }
        let stats = lab.stats()?;
        ensure!(
            stats.passed("arp") == 0 && stats.passed("neighbour-discovery") == 0,
            "{stats:#?}"
        );
        ensure!(stats.dropped("essential-off") > 0, "ARP: {stats:#?}");
        ensure!(
            stats.dropped("no-rule") > 0,
            "neighbour discovery goes to the rules: {stats:#?}"
        );
    }
    Ok(())
}

/// A VLAN of some kind on both ends of a cable.
struct Vlan {
    /// `802.1Q`, or `802.1ad` with an 802.1Q inside.
    name: &'static str,
    /// Arguments of `ip link add ... type vlan`, from the outermost tag on.
    tags: &'static [&'static str],
    /// Whether the tag is part of the frame, or told beside it as network cards do.
    in_frame: bool,
}

const VLANS: [Vlan; 3] = [
    Vlan {
        name: "802.1Q in the frame",
        tags: &["id 5"],
        in_frame: true,
    },
    Vlan {
        name: "802.1Q beside the frame",
        tags: &["id 5"],
        in_frame: false,
    },
    Vlan {
        name: "802.1ad in the frame",
        tags: &["proto 802.1ad id 6", "id 7"],
        in_frame: true,
    },
];

impl Vlan {
    /// Makes the VLAN's interfaces on both ends, with addresses in 198.51.100.0/24 and 2001:db8:5::/64.
    fn lay(&self, lab: &Lab) -> Result<()> {
        for (host, last) in [(&lab.outside, 1), (&lab.inside, 2)] {
            if self.in_frame {
                let features =
                    "rxvlan off txvlan off rx-vlan-stag-hw-parse off tx-vlan-stag-hw-insert off";
                host.must(&format!("ethtool -K {} {features}", host.interface()))?;
            }
            let mut parent = host.interface().to_owned();
            for (depth, tag) in self.tags.iter().enumerate() {
                let vlan = format!("{}{depth}", host.interface());
                host.ip(&format!(
                    "link add link {parent} name {vlan} type vlan {tag}"
                ))?;
                host.ip(&format!("link set {vlan} up"))?;
                parent = vlan;
            }
            host.ip(&format!("address add 203.0.113.{last}/24 dev {parent}"))?;
            host.ip(&format!(
                "address add 2001:db8:5::{last}/64 dev {parent} nodad"
            ))?;
        }
        Ok(())
    }
}

/// Whether this kernel can end a VLAN.
fn has_vlan_interfaces(lab: &Lab) -> Result<bool> {
    let name = format!("{}0", lab.inside.interface());
    let words = [
        "link",
        "add",
        "link",
        lab.inside.interface(),
        "name",
        &name,
        "type",
        "vlan",
        "id",
        "1",
    ];
    let made = lab.inside.run(Command::new("ip").args(words))?;
    if made.code == Some(0) {
        lab.inside.ip(&format!("link delete {name}"))?;
        return Ok(true);
    }
    ensure!(made.stderr.contains("Unknown device type"), "{made}");
    skip("this kernel has no VLAN interfaces (CONFIG_VLAN_8021Q)")?;
    Ok(false)
}

#[test]
fn tagged_connections_are_decided_like_any_other() -> Result<()> {
    match Lab::new()? {
        Some(lab) if has_vlan_interfaces(&lab)? => {}
        _ => return Ok(()),
    }
    for vlan in &VLANS {
        for mode in MODES {
            let Some(lab) = Lab::new()? else {
                return Ok(());
            };
            vlan.lay(&lab)?;
            let name = vlan.name;
            let (_web, _other) = (
                Echo::start(&lab.inside, PORT)?,
                Echo::start(&lab.inside, PORT + 1)?,
            );
            let addresses =
                ["203.0.113.2", "2001:db8:5::2"].map(|address| address.parse::<IpAddr>());
            for address in addresses.clone() {
                let reached = tcp(&lab.outside, SocketAddr::new(address?, PORT + 1), 10)?;
                ensure!(reached, "{name}: without a firewall everything works");
            }
            lab.apply(&rules(&[WEB]), mode)?;
            for address in addresses {
                let address = address?;
                ensure!(
                    tcp(&lab.outside, SocketAddr::new(address, PORT), 100_000)?,
                    "{name}, {mode}: {address}"
                );
                ensure!(
                    !tcp(&lab.outside, SocketAddr::new(address, PORT + 1), 1)?,
                    "{name}, {mode}: {address}"
                );
            }
            let stats = lab.stats()?;
            ensure!(
                stats.dropped("no-rule") == 2 && stats.totals.dropped.packets == 2,
                "{name}, {mode}: {stats:#?}"
            );
        }
    }
    Ok(())
}

/// As above, on any kernel: tagged datagrams, caught behind the firewall.
#[test]
fn tagged_datagrams_are_decided_like_any_other() -> Result<()> {
    const GAME: &str = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#;
    const TAGS: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 5)], &[(0x88a8, 6), (0x8100, 7)]];
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[GAME]), mode)?;
        let (sender, receiver) = (
            FramePort::open(&lab.outside)?,
            FramePort::listen(&lab.inside)?,
        );
        for tags in TAGS {
            for (port, payload) in [(7000, "to be let in"), (7001, "to be refused")] {
                let datagram = packets::udp(40_000, port, payload.as_bytes());
                sender.send(&packets::tagged(
                    tags,
                    0x0800,
                    &packets::v4(17, &datagram)[ETHERNET..],
                ))?;
                sender.send(&packets::tagged(
                    tags,
                    0x86dd,
                    &packets::v6(17, &datagram)[ETHERNET..],
                ))?;
            }
        }
        let received = receiver.received()?;
        let count = |payload: &str| {
            received
                .iter()
                .filter(|frame| frame.ends_with(payload.as_bytes()))
                .count()
        };
        ensure!(count("to be let in") == 6, "{mode}: {received:x?}");
        ensure!(count("to be refused") == 0, "{mode}: {received:x?}");
        let stats = lab.stats()?;
        ensure!(
            stats.rule("game") == Some(6) && stats.dropped("no-rule") == 6,
            "{mode}: {stats:#?}"
        );
    }
    Ok(())
}

#[test]
fn a_third_tag_is_dropped() -> Result<()> {
    const TAG: (u16, u16) = (0x8100, 5);
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[r#"name = "everything"; action = "accept""#]), mode)?;
        let port = FramePort::open(&lab.outside)?;
        let packet = &packets::web_v4()[ETHERNET..];
        port.send(&packets::tagged(&[TAG; 2], 0x0800, packet))?;
        port.send(&packets::tagged(&[TAG; 3], 0x0800, packet))?;
        let stats = lab.stats_when(|stats| stats.totals.dropped.packets > 0)?;
        ensure!(
            stats.dropped("vlan-too-many-tags") == 1,
            "{mode}: {stats:#?}"
        );
        ensure!(
            stats.rule("everything").is_some_and(|packets| packets > 0),
            "{mode}, two tags: {stats:#?}"
        );
    }
    Ok(())
}

#[test]
fn only_listed_vlans_arrive() -> Result<()> {
    const FILE: &str = "version = 1\n\n[vlans]\nuntagged = false\nids = [5, \"100-110\"]\n\n[[rule]]\n\
                        name = \"everything\"\naction = \"accept\"\n";
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        // A veth has the switch of network cards that take tags away, and it is on.
        let refused = lab.apply(FILE, mode).expect_err("the tags are hidden");
        let told = format!(
            "ethtool -K {} rxvlan off rx-vlan-stag-hw-parse off",
            lab.inside.interface()
        );
        ensure!(format!("{refused:#}").contains(&told), "{refused:#}");
        ensure!(lab.inside.attached()?.is_none(), "attached all the same");
        lab.inside.must(&told)?;
        lab.apply(FILE, mode)?;
        let port = FramePort::open(&lab.outside)?;
        let packet = &packets::web_v4()[ETHERNET..];
        let before = lab.stats()?;
        let frames: [&[(u16, u16)]; 6] = [
            &[],
            &[(0x8100, 0)],
            &[(0x8100, 6)],
            &[(0x8100, 5)],
            &[(0x88a8, 5), (0x8100, 110)],
            &[(0x88a8, 5), (0x8100, 111)],
        ];
        for tags in frames {
            port.send(&packets::tagged(tags, 0x0800, packet))?;
        }
        let stats = lab.stats_when(|stats| stats.rule("everything") == Some(2))?;
        let refused = stats.dropped("vlan-not-listed") - before.dropped("vlan-not-listed");
        // The hosts' own neighbour discovery is untagged too.
        ensure!(refused >= 4, "{mode}: {stats:#?}");
    }
    Ok(())
}
