//! Ethernet, VLAN tags and what is neither IP nor listed.

use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::parse::protocol::{TCP, UDP};

use super::{Cases, Expected, Under};
use crate::packets::*;

pub(super) fn add(cases: &mut Cases) {
    good(cases);
    tags(cases);
    truncated(cases);
    unlisted(cases);
    vlans(cases);
}

fn good(cases: &mut Cases) {
    cases.one("web over IPv4", web_v4(), Expected::web());
    cases.one("web over IPv6", web_v6(), Expected::web());
    cases.one("padded to 60 bytes", padded(&web_v4(), 60), Expected::web());
}

fn tags(cases: &mut Cases) {
    const Q: u16 = ethertype::VLAN;
    const AD: u16 = ethertype::SERVICE_VLAN;
    let allowed: [(&str, &[(u16, u16)]); 8] = [
        ("802.1Q", &[(Q, 7)]),
        ("802.1ad", &[(AD, 7)]),
        ("802.1ad and 802.1Q", &[(AD, 7), (Q, 8)]),
        ("802.1Q and 802.1ad", &[(Q, 7), (AD, 8)]),
        ("802.1Q twice", &[(Q, 7), (Q, 8)]),
        ("priority tag", &[(Q, 0)]),
        ("priority tag twice", &[(Q, 0), (Q, 0)]),
        ("VLAN 4095", &[(Q, 4095)]),
    ];
    for (name, tags) in allowed {
        cases.one(format!("{name}, IPv4"), web_tagged(tags), Expected::web());
        let ipv6 = tagged(tags, ethertype::IPV6, &ipv6(TCP, &syn()));
        cases.one(format!("{name}, IPv6"), ipv6, Expected::web());
        let denied = tagged(tags, ethertype::IPV4, &ipv4(TCP, &tcp(8080, tcp_flag::SYN)));
        cases.one(format!("{name}, no rule"), denied, Expected::no_rule());
        let arp = tagged(tags, ethertype::ARP, &arp());
        cases.one(format!("{name}, ARP"), arp, Expected::pass(PassReason::Arp));
    }
    let too_many: [(&str, &[(u16, u16)]); 5] = [
        ("three tags", &[(Q, 7), (Q, 8), (Q, 9)]),
        ("three tags, 802.1ad first", &[(AD, 7), (Q, 8), (Q, 9)]),
        ("three priority tags", &[(Q, 0); 3]),
        ("eight priority tags", &[(Q, 0); 8]),
        ("eight 802.1ad tags", &[(AD, 0); 8]),
    ];
    for (name, tags) in too_many {
        let reason = DropReason::VlanTooManyTags;
        cases.refused(name, reason, web_tagged(tags), web_tagged(&tags[..2]));
    }
    let unknown = [
        ("QinQ of old, 0x9100", 0x9100),
        ("0x9200", 0x9200),
        ("0x9300", 0x9300),
        ("MACsec", 0x88e5),
    ];
    for (name, tag) in unknown {
        let reason = DropReason::EthertypeUnlisted;
        cases.refused(name, reason, web_tagged(&[(tag, 7)]), web_tagged(&[(Q, 7)]));
        let inner = format!("{name} behind 802.1Q");
        cases.refused(
            &inner,
            reason,
            web_tagged(&[(Q, 7), (tag, 8)]),
            web_tagged(&[(Q, 7), (AD, 8)]),
        );
    }
}

fn truncated(cases: &mut Cases) {
    let reason = DropReason::EthernetTruncated;
    for length in 0..at::NETWORK {
        let name = format!("{length} bytes of an Ethernet header");
        cases.refused(&name, reason, cut(&web_v4(), length), web_v4());
    }
    let tag = [(ethertype::VLAN, 7)];
    let tags = [(ethertype::SERVICE_VLAN, 7), (ethertype::VLAN, 8)];
    for length in 0..4 {
        let one = cut(&web_tagged(&tag), 14 + length);
        cases.refused(
            &format!("{length} bytes of a tag"),
            reason,
            one,
            web_tagged(&tag),
        );
        let two = cut(&web_tagged(&tags), 18 + length);
        cases.refused(
            &format!("{length} bytes of a second tag"),
            reason,
            two,
            web_tagged(&tags),
        );
    }
    let whole = ethernet_to(BRIDGE_GROUP, 3, &[0x42, 0x42, 3]);
    for length in 0..3 {
        let name = format!("{length} bytes of an LLC header");
        let cut = cut(&whole, 14 + length);
        let passes = Expected::pass(PassReason::LinkLayer);
        cases.pair(
            &name,
            (cut, Expected::drop(reason)),
            (whole.clone(), passes),
        );
    }
}

fn unlisted(cases: &mut Cases) {
    let reason = DropReason::EthertypeUnlisted;
    let ip = ipv4(TCP, &syn());
    let behind = |header: &[u8]| [header, &ip].concat();
    let frames = [
        ("MPLS", 0x8847, behind(&[0, 0, 0x11, 64])),
        ("MPLS multicast", 0x8848, behind(&[0, 0, 0x11, 64])),
        (
            "PPPoE session",
            0x8864,
            behind(&[0x11, 0, 0, 1, 0, 42, 0, 0x21]),
        ),
        ("PPPoE discovery", 0x8863, behind(&[0x11, 9, 0, 0, 0, 0])),
        (
            "transparent bridging",
            0x6558,
            ethernet(ethertype::IPV4, &ip),
        ),
        ("RARP", 0x8035, arp()),
        ("IPX", 0x8137, ip.clone()),
        ("EAPOL", 0x888e, ip.clone()),
        ("PTP", 0x88f7, ip.clone()),
        ("ethertype 0xffff", 0xffff, ip.clone()),
        ("smallest ethertype", 0x0600, ip.clone()),
        ("largest 802.3 length", 0x05ff, ip.clone()),
        ("raw 802.3", 0x0028, behind(&[0xff, 0xff])),
        ("LLC with IP", 0x0028, behind(&[0x06, 0x06, 0x03])),
        (
            "SNAP with IP",
            0x0030,
            behind(&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
        ),
        (
            "SNAP with ARP",
            0x0030,
            [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 6], &arp()[..]].concat(),
        ),
    ];
    for (name, kind, payload) in frames {
        cases.refused(
            name,
            reason,
            ethernet(kind, &payload),
            ethernet(ethertype::IPV4, &ip),
        );
    }
    let dns = udp(40_000, 53, &[0; 12]);
    let swapped = ethernet(ethertype::IPV6, &ipv4(UDP, &dns));
    cases.pair(
        "IPv4 under the ethertype of IPv6",
        (
            padded(&swapped, 80),
            Expected::drop(DropReason::Ipv6Version),
        ),
        (v4(UDP, &dns), Expected::dns()),
    );
    cases.pair(
        "IPv6 under the ethertype of IPv4",
        (
            ethernet(ethertype::IPV4, &ipv6(UDP, &dns)),
            Expected::drop(DropReason::Ipv4Version),
        ),
        (v6(UDP, &dns), Expected::dns()),
    );
}

fn vlans(cases: &mut Cases) {
    const Q: u16 = ethertype::VLAN;
    const AD: u16 = ethertype::SERVICE_VLAN;
    let reason = DropReason::VlanNotListed;
    cases.under(Under::Tagged);
    type Tags<'a> = &'a [(u16, u16)];
    let pairs: [(&str, Tags<'_>, Tags<'_>); 8] = [
        ("untagged", &[], &[(Q, 7)]),
        ("a priority tag", &[(Q, 0)], &[(Q, 0), (Q, 7)]),
        ("two priority tags", &[(Q, 0), (AD, 0)], &[(AD, 7), (Q, 0)]),
        ("a VLAN below the list", &[(Q, 6)], &[(AD, 7)]),
        ("a VLAN before a range", &[(Q, 99)], &[(Q, 100)]),
        ("a VLAN behind a range", &[(Q, 111)], &[(Q, 110)]),
        ("the inner VLAN", &[(AD, 7), (Q, 8)], &[(AD, 7), (Q, 105)]),
        ("the outer VLAN", &[(AD, 8), (Q, 7)], &[(AD, 105), (Q, 7)]),
    ];
    for (name, tags, listed) in pairs {
        let name = format!("{name} is not listed");
        cases.refused(&name, reason, web_tagged(tags), web_tagged(listed));
        // Not even what would pass before the rules, and no later fragment.
        let of = |tags, kind, packet: &[u8]| tagged(tags, kind, packet);
        cases.pair(
            &format!("ARP, {name}"),
            (of(tags, ethertype::ARP, &arp()), Expected::drop(reason)),
            (
                of(listed, ethertype::ARP, &arp()),
                Expected::pass(PassReason::Arp),
            ),
        );
        let later = ipv4_fragment(8, false, UDP, &[0; 16]);
        cases.pair(
            &format!("a later fragment, {name}"),
            (of(tags, ethertype::IPV4, &later), Expected::drop(reason)),
            (
                of(listed, ethertype::IPV4, &later),
                Expected::pass(PassReason::FragmentEarly),
            ),
        );
    }
    // The upper bits of the control field are priority and drop eligibility.
    let prioritised = patched(&web_tagged(&[(Q, 7)]), 14, &[0xf0, 7]);
    cases.one("VLAN 7 with a priority", prioritised, Expected::web());
    let denied = tagged(
        &[(Q, 7)],
        ethertype::IPV4,
        &ipv4(TCP, &tcp(8080, tcp_flag::SYN)),
    );
    cases.one("a listed VLAN, no rule", denied, Expected::no_rule());
    cases.under(Under::Server);
}

fn web_tagged(tags: &[(u16, u16)]) -> Vec<u8> {
    tagged(tags, ethertype::IPV4, &ipv4(TCP, &syn()))
}
