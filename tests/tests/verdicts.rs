//! The corpus through the host's decision: each frame's verdict, reason and counters, and that the corpus leaves nothing out.

use std::collections::{BTreeSet, HashSet};

use firewall_common::abi::flow::Key;
use firewall_common::abi::fragment::FragmentKey;
use firewall_common::abi::image::Line;
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::decide::{Cause, Decision, decide, egress};
use firewall_common::parse::{IpHeader, Transport, transport::TCP_HEADER};
use firewall_common::tables::{
    HostTables, HostWorld, Limited, MaybeBans, MaybeFlows, MaybeLimits, Tally, World,
};
use firewall_tests::corpus::{self, By, Case, Under};
use firewall_tests::packets::*;
use firewall_tests::policy::{Counted, decide_by};
use firewall_tests::reference;
use firewall_user::rules::model::Action;

#[test]
fn every_case_gets_its_verdict_and_counters() {
    let mut wrong = Vec::new();
    for case in corpus::ALL.iter() {
        let policy = case.under.policy();
        let effect = policy.decide(&case.frame);
        let accepts = accepts(case);
        let counted = case.expected.counted(case.frame.len() as u32);
        if effect.decision.accepts() != accepts || policy.meaning(&effect) != counted {
            wrong.push(format!(
                "{}: expected {:?}, got {effect:?}",
                case.name, case.expected
            ));
        }
    }
    println!("{} frames decided", corpus::ALL.len());
    assert!(
        wrong.is_empty(),
        "{} cases differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The corpus checks the reference too, so that it can be trusted with random frames.
#[test]
fn the_reference_gives_every_case_the_same() {
    for case in corpus::ALL.iter() {
        let outcome = reference::decide(&case.under.policy().rule_set, &case.frame);
        let counted: Vec<Counted> = case
            .expected
            .counted(0)
            .into_iter()
            .map(|(counted, _)| counted)
            .collect();
        assert_eq!(
            (outcome.accepts, outcome.counted),
            (accepts(case), counted),
            "{}",
            case.name
        );
    }
}

#[test]
fn every_drop_reason_has_a_frame_and_a_near_miss() {
    let elsewhere: HashSet<_> = corpus::NOT_FROM_A_FRAME
        .iter()
        .map(|(reason, _)| *reason)
        .collect();
    for &reason in DropReason::ALL {
        let has = has_pair(By::Drop(reason));
        assert_eq!(
            has,
            !elsewhere.contains(&reason),
            "{} (a near miss: {has})",
            reason.label()
        );
    }
}

#[test]
fn every_pass_reason_has_a_frame_and_a_near_miss() {
    let elsewhere: HashSet<_> = corpus::NOT_PASSED_BY_A_FRAME
        .iter()
        .map(|(reason, _)| *reason)
        .collect();
    for &reason in PassReason::ALL {
        let has = has_pair(By::Pass(reason));
        assert_eq!(
            has,
            !elsewhere.contains(&reason),
            "{} (a near miss: {has})",
            reason.label()
        );
    }
}

#[test]
fn every_rule_of_the_policies_has_a_frame_and_a_near_miss() {
    for under in Under::ALL {
        for rule in &under.policy().rule_set.rules {
            let has = corpus::ALL
                .iter()
                .any(|case| matches!(case.expected.by, By::Rule(name) if name == rule.name));
            assert!(has, "{}", rule.name);
        }
    }
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = corpus::ALL.iter().map(|case| &case.name).collect();
    let doubled: Vec<_> = corpus::ALL
        .iter()
        .filter(|case| case.near_miss.is_none())
        .map(|case| &case.name)
        .collect();
    assert_eq!(
        doubled.iter().collect::<BTreeSet<_>>().len(),
        doubled.len(),
        "names without near miss"
    );
    assert!(names.len() > 500, "{} names", names.len());
}

/// `Rule` is a number for metrics; the rule's own counter counts instead.
#[test]
fn no_case_counts_the_reason_rule() {
    for case in corpus::ALL.iter() {
        let effect = case.under.policy().decide(&case.frame);
        assert!(
            effect
                .counted
                .iter()
                .all(|(slot, _)| *slot != DropReason::Rule.counter()),
            "{}",
            case.name
        );
    }
}

/// Cut anywhere inside the packet, a frame that was let in is dropped, and for being cut rather than for lack of a rule.
#[test]
fn what_is_cut_is_refused() {
    let mut cuts = 0;
    for case in corpus::ALL.iter().filter(|case| accepts(case)) {
        let policy = case.under.policy();
        let whole = policy.decide(&case.frame).decision;
        let end = end_of_packet(&case.frame);
        for length in 0..case.frame.len() {
            let decision = policy.decide(&case.frame[..length]).decision;
            if length >= end {
                assert_eq!(decision, whole, "{}: padding cut to {length}", case.name);
            } else {
                let reason = match decision.cause() {
                    Cause::Drop(reason) => reason,
                    other => panic!("{}: cut to {length} of {end} gives {other:?}", case.name),
                };
                let of_length = [
                    DropReason::EthernetTruncated,
                    DropReason::Ipv4Truncated,
                    DropReason::Ipv4LengthLong,
                    DropReason::Ipv6Truncated,
                    DropReason::Ipv6LengthLong,
                ];
                assert!(
                    of_length.contains(&reason),
                    "{}: cut to {length} gives {reason:?}",
                    case.name
                );
            }
            cuts += 1;
        }
    }
    println!("{cuts} cuts");
    assert!(cuts > 10_000, "only {cuts}");
}

/// Whatever stands in the padding, and however much of it there is, the verdict stays.
#[test]
fn padding_decides_nothing() {
    for case in corpus::ALL.iter() {
        let policy = case.under.policy();
        let Ok(reference::Seen::Ip(_)) = reference::read(&case.frame) else {
            continue;
        };
        let whole = policy.decide(&case.frame).decision;
        for more in [1, 4, 20, 46] {
            let frame = padded(&case.frame, case.frame.len() + more);
            let effect = policy.decide(&frame);
            assert_eq!(
                effect.decision, whole,
                "{} with {more} bytes of padding",
                case.name
            );
            assert!(
                effect
                    .counted
                    .iter()
                    .all(|(_, bytes)| *bytes == frame.len() as u32)
            );
        }
    }
}

/// Under no policy is a malformed frame let in: neither by a default nor by a rule that matches everything.
#[test]
fn what_is_malformed_is_refused_whatever_the_rules() {
    const EVERYTHING: &str = "version = 1\n[[rule]]\nname = \"all\"\naction = \"accept\"\n";
    let everything = firewall_tests::policy::Policy::parse(EVERYTHING).unwrap();
    for case in corpus::ALL.iter() {
        let By::Drop(reason) = case.expected.by else {
            continue;
        };
        // These are refused for what the rules say, not for what they look like.
        if matches!(
            reason,
            DropReason::NoRule
                | DropReason::EssentialOff
                | DropReason::VlanNotListed
                | DropReason::IcmpUnrelated
                | DropReason::IcmpMalformed
        ) {
            continue;
        }
        for policy in [&everything, Under::Open.policy(), Under::Bare.policy()] {
            assert_eq!(
                policy.decide(&case.frame).decision,
                Decision::dropped(reason),
                "{}",
                case.name
            );
        }
    }
}

#[test]
fn broken_tables_drop() {
    let cut_off = Under::Server.policy().compiled.image[..1].to_vec();
    let wild = vec![
        Line {
            words: [u64::MAX; 8]
        };
        4
    ];
    let frames = [
        web_v4(),
        web_v6(),
        v4(17, &udp(40_000, 53, &[])),
        v4(99, &[]),
    ];
    for image in [Vec::new(), cut_off, wild] {
        for frame in &frames {
            let effect = decide_by(&image, frame);
            assert_eq!(effect.decision, Decision::dropped(DropReason::BrokenTables));
            let own = (DropReason::BrokenTables.counter(), frame.len() as u32);
            assert!(effect.counted.contains(&own), "{effect:?}");
        }
    }
    for frame in [web_v4(), ethernet(ethertype::ARP, &arp())] {
        assert_eq!(
            decide(&frame[..], &NoTables),
            Decision::dropped(DropReason::BrokenTables)
        );
    }
}

/// A world where no policy was ever activated.
struct NoTables;

impl World for NoTables {
    type Tables = HostTables<'static>;
    type Flows = MaybeFlows<'static>;
    type Bans = MaybeBans<'static>;
    type Limits = MaybeLimits<'static>;

    fn tables(&self) -> Option<Self::Tables> {
        None
    }

    fn knock(&self, _: &Transport, _: Tally, _: u32) {}

    fn now_ns(&self, _: bool) -> u64 {
        0
    }

    fn bans(&self) -> &Self::Bans {
        &MaybeBans(None)
    }

    fn limits(&self) -> &Self::Limits {
        &MaybeLimits(None)
    }

    fn flows(&self) -> &Self::Flows {
        &MaybeFlows(None)
    }

    fn has_connection(&self, _: &Key, _: bool) -> bool {
        false
    }

    fn acknowledges_cookie(&self, _: IpHeader<'_>, _: &[u8; TCP_HEADER]) -> bool {
        false
    }

    fn admits(&self, _: Limited) -> bool {
        true
    }

    fn first_fragment(&self, _: &FragmentKey) -> Option<bool> {
        None
    }

    fn remember_fragment(&self, _: &FragmentKey, _: bool) {}

    fn count(&self, slot: u32, _: Tally) -> u32 {
        assert_eq!(slot, DropReason::BrokenTables.counter());
        0
    }
}

fn accepts(case: &Case) -> bool {
    match case.expected.by {
        By::Drop(_) => false,
        By::Pass(_) => true,
        By::Rule(name) => {
            let rules = &case.under.policy().rule_set.rules;
            rules
                .iter()
                .any(|rule| rule.name == name && rule.action == Action::Accept)
        }
    }
}

/// Whether some case gets `by` while the other one of its pair does not.
fn has_pair(by: By) -> bool {
    let cases = &*corpus::ALL;
    let by_name = |name: &String| {
        cases
            .iter()
            .find(|case| case.name == *name)
            .expect("near misses are cases")
    };
    let mut pairs = cases
        .iter()
        .filter_map(|case| Some((case, by_name(case.near_miss.as_ref()?))));
    pairs.any(|(one, other)| {
        let differ = one.frame != other.frame || one.under != other.under;
        differ && (one.expected.by == by) != (other.expected.by == by)
    })
}

/// Offset behind the last byte that is not padding; for ARP and link-layer frames, behind the headers that are looked at.
fn end_of_packet(frame: &[u8]) -> usize {
    let be16 = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let mut at = 12;
    while matches!(be16(at), 0x8100 | 0x88a8) {
        at += 4;
    }
    match be16(at) {
        0x0800 => at + 2 + be16(at + 4),
        0x86dd => at + 42 + be16(at + 6),
        0..0x0600 => at + 5,
        _ => at + 2,
    }
}

/// Who opens a connection from a served port is no server: egress rules decide that, as of any other port.
#[test]
fn a_served_port_answers_and_does_not_ask() {
    const FILE: &str = "version = 1\n[defaults]\negress = \"drop\"\n[[rule]]\nname = \"web\"\naction = \"accept\"\n\
                        protocol = \"tcp\"\nports = [8080]\n[[rule]]\nname = \"database\"\naction = \"accept\"\n\
                        direction = \"egress\"\nprotocol = \"tcp\"\nports = [5432]\n";
    let policy = firewall_tests::policy::Policy::parse(FILE).unwrap();
    let leaves = |source, destination, flags| {
        let segment = tcp_from(source, destination, flags);
        let world = HostWorld::new(&policy.compiled.image, |_, _| {});
        [v4(6, &segment), v6(6, &segment)].map(|frame| egress::decide(&frame[..], &world).accepts())
    };
    use tcp_flag::{ACK, RST, SYN};
    for flags in [SYN | ACK, ACK, RST, RST | ACK] {
        assert_eq!(leaves(8080, 40_000, flags), [true; 2], "{flags}");
        assert_eq!(leaves(8081, 40_000, flags), [false; 2], "{flags}");
    }
    assert_eq!(leaves(8080, 40_000, SYN), [false; 2]);
    assert_eq!(leaves(8080, 5432, SYN), [true; 2]);
    assert_eq!(leaves(40_000, 5432, SYN), [true; 2]);
    assert_eq!(leaves(40_000, 5433, SYN), [false; 2]);
}
