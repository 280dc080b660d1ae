//! What else there is on an interface and around it: programs of others, tc's filters, bonds and VLANs.

use super::finding::Finding;
use crate::kernel::filters;
use crate::kernel::interface::Interface;
use crate::kernel::programs::{self, Other, Place};

/// Every finding about programs of others on `interface`; those with ids in `ours` are ours.
pub(super) fn programs(interface: &Interface, ours: &[u32]) -> Vec<Finding> {
    let name = &interface.name;
    if let Err(error) = programs::has_tcx(interface) {
        let text =
            format!("the kernel has no tcx, which shows what leaves (CONFIG_NET_XGRESS): {error}");
        return vec![Finding::error("tcx", text)];
    }
    let others = programs::others(interface, ours);
    let mut findings: Vec<_> = others.iter().map(|other| program(name, other)).collect();
    match filters::kinds(interface) {
        Ok([arriving, leaving]) => {
            findings.extend(filter(name, "ingress", &arriving));
            findings.extend(filter(name, "egress", &leaving));
        }
        Err(error) => findings.push(Finding::note("filters", format!("{error:#}"))),
    }
    findings
}

fn program(name: &str, other: &Other) -> Finding {
    let link = other
        .link
        .map(|link| format!("bpftool link detach id {link}"));
    match other.place {
        Place::Xdp(mode) => {
            let keyword = match mode.as_str() {
                "native" => "xdpdrv",
                "generic" => "xdpgeneric",
                _ => "xdpoffload",
            };
            let off = link.unwrap_or_else(|| format!("ip link set dev {name} {keyword} off"));
            Finding::error(
                "xdp",
                format!("{other} is not this firewall's, and there is room for one"),
            )
            .mended_by(off)
        }
        Place::TcxEgress if other.is_ahead => {
            let off = link.unwrap_or_else(|| format!("bpftool net detach tcx_egress dev {name}"));
            Finding::warning(
                "tcx",
                format!(
                    "{other} sees packets before the firewall does, and can let them out unseen"
                ),
            )
            .mended_by(off)
        }
        Place::TcxEgress => {
            Finding::note("tcx", format!("{other} sees what the firewall lets out"))
        }
        Place::TcxIngress => {
            Finding::note("tcx", format!("{other} sees what the firewall lets in"))
        }
    }
}

/// They stand behind the firewall in both directions.
fn filter(name: &str, hook: &str, kinds: &[String]) -> Option<Finding> {
    if kinds.is_empty() {
        return None;
    }
    let direction = if hook == "ingress" { "in" } else { "out" };
    let found = Finding::note(
        "filters",
        format!(
            "filters of tc at {hook} ({}) may drop or redirect what the firewall lets {direction}; `tc filter show dev {name} \
             {hook}` lists them",
            kinds.join(", ")
        ),
    );
    Some(found)
}

/// Every finding about where `interface` stands among `all`, of which those called `guarded` are guarded. What is to be put in
/// force elsewhere is `file`.
pub(super) fn neighbours(
    interface: &Interface,
    all: &[Interface],
    guarded: &[String],
    file: &str,
) -> Vec<Finding> {
    let find = |index: Option<u32>| all.iter().find(|other| Some(other.index) == index);
    let is_guarded = |other: &Interface| guarded.contains(&other.name);
    let mut findings = Vec::new();
    if let Some(parent) = find(interface.vlan_of) {
        findings.push(vlan(&parent.name, is_guarded(parent), file));
    }
    if let Some(bond) = find(interface.port_of)
        && matches!(bond.software.as_deref(), Some("bond" | "team"))
        && is_guarded(interface)
        && !is_guarded(bond)
    {
        let ports = all.iter().filter(|other| other.port_of == Some(bond.index));
        let open = ports.filter(|port| !is_guarded(port));
        let open: Vec<_> = open.map(|port| &port.name[..]).collect();
        findings.push(bonded(&bond.name, &open, file));
    }
    findings
}

fn vlan(parent: &str, is_guarded: bool, file: &str) -> Finding {
    const CHECK: &str = "vlan";
    if is_guarded {
        let text = format!(
            "this is a VLAN of {parent}, which is guarded: its packets are decided there already"
        );
        return Finding::note(CHECK, text);
    }
    let text = format!(
        "this is a VLAN of {parent}, and only there can the program run in the driver; rules apply inside tags"
    );
    Finding::note(CHECK, text).mended_by(format!("firewall apply {file} -i {parent}"))
}

fn bonded(bond: &str, open: &[&str], file: &str) -> Finding {
    const CHECK: &str = "bond";
    if open.is_empty() {
        return Finding::ok(CHECK, format!("all ports of {bond} are guarded"));
    }
    let arguments: Vec<_> = open.iter().map(|port| format!("-i {port}")).collect();
    Finding::error(
        CHECK,
        format!(
            "{bond} takes packets through {} too, where nothing is filtered",
            open.join(", ")
        ),
    )
    .mended_by(format!("firewall apply {file} {}", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;
    use crate::kernel::interface::Mode;

    fn other(place: Place) -> Other {
        Other {
            id: 7,
            name: Some("drop_all".to_owned()),
            place,
            link: None,
            is_ahead: false,
        }
    }

    #[test]
    fn a_program_in_the_way_is_taken_off_by_what_holds_it() {
        let generic = other(Place::Xdp(Mode::Generic));
        let found = program("eth0", &generic);
        assert_eq!(found.severity, Severity::Error);
        assert!(
            found
                .finding
                .starts_with("XDP program 7 `drop_all` in generic mode"),
            "{found:?}"
        );
        assert_eq!(
            found.remedy.as_deref(),
            Some("ip link set dev eth0 xdpgeneric off")
        );

        let linked = Other {
            link: Some(3),
            ..other(Place::Xdp(Mode::Native))
        };
        let found = program("eth0", &linked);
        assert_eq!(found.remedy.as_deref(), Some("bpftool link detach id 3"));
    }

    #[test]
    fn of_tcx_programs_only_those_ahead_are_warned_of() {
        let ahead = Other {
            is_ahead: true,
            ..other(Place::TcxEgress)
        };
        let found = program("eth0", &ahead);
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(
            found.remedy.as_deref(),
            Some("bpftool net detach tcx_egress dev eth0")
        );
        for place in [Place::TcxEgress, Place::TcxIngress] {
            assert_eq!(program("eth0", &other(place)).severity, Severity::Note);
        }
    }

    #[test]
    fn filters_are_told_with_their_kinds() {
        assert_eq!(filter("eth0", "ingress", &[]), None);
        let kinds = ["bpf".to_owned(), "flower".to_owned()];
        let found = filter("eth0", "egress", &kinds).unwrap();
        assert!(found.finding.contains("(bpf, flower)"), "{found:?}");
        assert!(found.finding.contains("lets out"), "{found:?}");
    }

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            name: name.to_owned(),
            index,
            mtu: 1500,
            is_up: true,
            hardware_address: None,
            is_loopback: false,
            is_ethernet: true,
            kind: None,
            software: None,
            card: None,
            port_of: None,
            vlan_of: None,
            xdp: Vec::new(),
        }
    }

    #[test]
    fn a_bond_is_guarded_with_all_its_ports_or_as_a_whole() {
        let bond = Interface {
            software: Some("bond".to_owned()),
            ..interface(1, "bond0")
        };
        let port = |index, name| Interface {
            port_of: Some(1),
            ..interface(index, name)
        };
        let all = [bond, port(2, "eth0"), port(3, "eth1"), interface(4, "eth2")];
        let said = |guarded: &[&str]| {
            let guarded: Vec<_> = guarded.iter().map(|&name| name.to_owned()).collect();
            let found = neighbours(&all[1], &all, &guarded, "web.toml");
            found
                .into_iter()
                .map(|found| (found.severity, found.remedy))
                .collect::<Vec<_>>()
        };
        let remedy = Some("firewall apply web.toml -i eth1".to_owned());
        assert_eq!(said(&["eth0"]), [(Severity::Error, remedy)]);
        assert_eq!(said(&["eth0", "eth1"]), [(Severity::Ok, None)]);
        assert_eq!(said(&["eth0", "bond0"]), []);
        assert_eq!(said(&[]), []);
    }

    #[test]
    fn a_vlan_is_better_guarded_where_its_frames_come_in() {
        let below = interface(1, "eth0");
        let above = Interface {
            vlan_of: Some(1),
            ..interface(2, "eth0.10")
        };
        let all = [below, above];
        let open = &neighbours(&all[1], &all, &[], "FILE")[0];
        assert_eq!(open.remedy.as_deref(), Some("firewall apply FILE -i eth0"));
        let guarded = &neighbours(&all[1], &all, &["eth0".to_owned()], "FILE")[0];
        assert_eq!((guarded.severity, &guarded.remedy), (Severity::Note, &None));
        assert_eq!(neighbours(&all[0], &all, &[], "FILE"), []);
    }
}
