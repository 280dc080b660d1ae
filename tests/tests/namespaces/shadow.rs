//! A candidate beside the rules in force: what is counted as different is what is different once it is in force itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use firewall_common::parse::protocol;
use firewall_tests::net::traffic::{drain, udp, udp_from};
use firewall_tests::net::{FramePort, Lab};
use firewall_tests::packets::{
    ethernet_to, ethertype, icmp, ipv4_between, ipv6_between, tcp_flag, tcp_from, udp as datagram,
};
use firewall_tests::policy::{Counted, Policy};
use serde_json::Value;

use crate::rules;

/// Where this host sends to: the first is refused by the candidate only, the second by what is in force only.
const LEAVES: [u16; 3] = [9000, 9001, 9002];
/// How many datagrams go to each.
const LEAVING: [u64; 3] = [3, 2, 4];

const SOURCES_V4: [[u8; 4]; 3] = [[203, 0, 113, 5], [203, 0, 113, 70], [203, 0, 113, 200]];
const SOURCES_V6: [u16; 2] = [5, 70];

/// The rules in force.
fn in_force() -> String {
    rules(&[
        r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [80, 443]"#,
        r#"name = "dns"; action = "accept"; protocol = "udp"; ports = [53]; from = ["203.0.113.0/25"]"#,
        r#"name = "ping"; action = "accept"; protocol = "icmp"; icmp-types = ["echo-request"]"#,
        r#"name = "log"; direction = "egress"; action = "drop"; protocol = "udp"; ports = [9001]"#,
    ])
}

/// Those that are asked beside them.
fn candidate() -> String {
    rules(&[
        r#"name = "refused"; action = "drop"; from = ["203.0.113.64/26", "2001:db8:2::46"]"#,
        r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [80]"#,
        r#"name = "dns"; action = "accept"; protocol = "udp"; ports = [53]"#,
        r#"name = "ping6"; action = "accept"; protocol = "icmpv6"; icmp-types = ["echo-request"]"#,
        r#"name = "backup"; direction = "egress"; action = "drop"; protocol = "udp"; ports = [9000]"#,
    ])
}

/// A frame that comes, and how a sample of it looks.
struct Frame {
    bytes: Vec<u8>,
    shown: Value,
}

/// What comes in, frame by frame, and how many of the datagrams to each port leave.
type Seen = (Vec<bool>, Vec<u64>);

/// Packets, bytes and connections, and samples.
pub(crate) type Told = ([u64; 3], Vec<Value>);

/// Direction, rule and difference.
pub(crate) type Subject = (&'static str, Option<String>, &'static str);

#[test]
fn a_candidate_s_counts_are_what_enforcing_it_shows_native() -> Result<()> {
    a_candidate_s_counts_are_what_enforcing_it_shows("native")
}

#[test]
fn a_candidate_s_counts_are_what_enforcing_it_shows_generic() -> Result<()> {
    a_candidate_s_counts_are_what_enforcing_it_shows("generic")
}

fn a_candidate_s_counts_are_what_enforcing_it_shows(mode: &str) -> Result<()> {
    let (Some(lab), Some(enforced)) = (Lab::new()?, Lab::new()?) else {
        return Ok(());
    };
    // What each of the two does by itself.
    enforced.apply(&in_force(), mode)?;
    let (old, left_old) = send(&enforced, &frames(&enforced)?)?;
    enforced.apply(&candidate(), mode)?;
    let (new, left_new) = send(&enforced, &frames(&enforced)?)?;

    lab.apply(&in_force(), mode)?;
    let file = lab.write("candidate.toml", &candidate())?;
    lab.apply_file(&file, &["--shadow"])?;
    let attached = lab.inside.attached()?.context("nothing is attached")?;
    ensure!(attached.mode == mode, "{attached:?}");
    let frames = frames(&lab)?;
    let (seen, left) = send(&lab, &frames)?;
    ensure!(
        seen == old && left == left_old,
        "enforcement has changed: {left:?}"
    );

    let (mut expected, mut packets) = (BTreeMap::<Subject, [u64; 3]>::new(), BTreeMap::new());
    let policy = Policy::parse(&candidate())?;
    for ((frame, old), new) in frames.iter().zip(old).zip(new) {
        if old == new {
            continue;
        }
        let subject = ("ingress", deciding(&policy, &frame.bytes), would(new));
        let [count, bytes, connections] = expected.entry(subject.clone()).or_default();
        *count += 1;
        *bytes += frame.bytes.len() as u64;
        *connections += u64::from(frame.shown["protocol"] == "tcp");
        packets
            .entry(subject)
            .or_insert_with(Vec::new)
            .push(&frame.shown);
    }
    // 5 bytes of payload, and three headers.
    let size = 5 + 8 + 20 + 14;
    for (rule, (old, new)) in [Some("backup"), None, None]
        .into_iter()
        .zip(left_old.into_iter().zip(left_new))
    {
        if old != new {
            let subject = ("egress", rule.map(str::to_owned), would(new > old));
            expected.insert(subject, [old.abs_diff(new), old.abs_diff(new) * size, 0]);
        }
    }
    ensure!(
        expected.len() == 6,
        "too few differences to be sure: {expected:?}"
    );
    let found = shadow(&lab)?;
    let counts: BTreeMap<_, _> = found
        .iter()
        .map(|(subject, (counts, _))| (subject.clone(), *counts))
        .collect();
    ensure!(counts == expected, "{counts:#?}, and not {expected:#?}");
    for (subject, (counts, samples)) in found {
        // Rules share the places for samples, and so one may have fewer than packets.
        ensure!(
            !samples.is_empty() && samples.len() as u64 <= counts[0].min(3),
            "{subject:?}: {samples:?}"
        );
        if subject.0 == "ingress" {
            for sample in samples {
                ensure!(
                    packets[&subject].contains(&&sample),
                    "{subject:?}: {sample}"
                );
            }
        }
    }
    lab.inside
        .firewall(&["shadow", "drop", "-i", lab.inside.interface()])?
        .success()?;
    ensure!(
        send(&lab, &frames)? == (seen, left),
        "enforcement is another without it"
    );
    Ok(())
}

fn would(accept: bool) -> &'static str {
    if accept { "accept" } else { "refuse" }
}

/// The rule of the candidate that decides a frame; none for its default.
fn deciding(policy: &Policy, frame: &[u8]) -> Option<String> {
    let meaning = policy.meaning(&policy.decide(frame));
    meaning.into_iter().find_map(|(counted, _)| match counted {
        Counted::Rule(name) => Some(name),
        Counted::Drop(_) | Counted::Pass(_) | Counted::Port(..) => None,
    })
}

/// From each source SYNs, datagrams and echo requests, each another one, and of each kind another number.
fn frames(lab: &Lab) -> Result<Vec<Frame>> {
    let to = lab.inside.hardware_address()?;
    let mut frames = Vec::new();
    let v4 = SOURCES_V4.map(|source| IpAddr::from(Ipv4Addr::from(source)));
    let v6 = SOURCES_V6.map(|last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last)));
    for source in v4.into_iter().chain(v6) {
        for (kind, port) in [
            ("tcp", 80),
            ("tcp", 443),
            ("tcp", 22),
            ("udp", 53),
            ("udp", 5353),
            ("ping", 0),
        ] {
            for _ in 0..1 + frames.len() % 4 {
                let from = 40_000 + frames.len() as u16;
                let (number, payload) = match (kind, source.is_ipv4()) {
                    ("tcp", _) => (protocol::TCP, tcp_from(from, port, tcp_flag::SYN)),
                    ("udp", _) => (protocol::UDP, datagram(from, port, b"x")),
                    (_, true) => (
                        protocol::ICMP,
                        [icmp(8, 0), from.to_be_bytes().to_vec()].concat(),
                    ),
                    (_, false) => (
                        protocol::ICMPV6,
                        [icmp(128, 0), from.to_be_bytes().to_vec()].concat(),
                    ),
                };
                let (ethertype, packet, destination) = match source {
                    IpAddr::V4(source) => {
                        let to = lab.inside.v4;
                        (
                            ethertype::IPV4,
                            ipv4_between(source, to, number, &payload),
                            IpAddr::from(to),
                        )
                    }
                    IpAddr::V6(source) => {
                        let to = lab.inside.v6;
                        (
                            ethertype::IPV6,
                            ipv6_between(source, to, number, &payload),
                            IpAddr::from(to),
                        )
                    }
                };
                let (protocol, ports) = match number {
                    protocol::ICMP => ("icmp", (0, 8)),
                    protocol::ICMPV6 => ("icmpv6", (0, 128)),
                    _ => (kind, (from, port)),
                };
                frames.push(Frame {
                    bytes: ethernet_to(to, ethertype, &packet),
                    shown: serde_json::json!({
                        "protocol": protocol, "source": source, "source_port": ports.0,
                        "destination": destination, "port": ports.1,
                    }),
                });
            }
        }
    }
    Ok(frames)
}

/// Sends all that, and sees what gets through.
fn send(lab: &Lab, frames: &[Frame]) -> Result<Seen> {
    let (sender, receiver) = (
        FramePort::open(&lab.outside)?,
        FramePort::listen(&lab.inside)?,
    );
    for frame in frames {
        sender.send(&frame.bytes)?;
    }
    let received = receiver.received()?;
    let came = frames.iter().map(|frame| received.contains(&frame.bytes));
    let from_here = udp_from(&lab.inside, lab.inside.v4)?;
    let mut left = Vec::new();
    for (port, count) in LEAVES.into_iter().zip(LEAVING) {
        let receiver = udp(&lab.outside, port)?;
        for _ in 0..count {
            from_here.send_to(b"probe", SocketAddr::new(lab.outside.v4.into(), port))?;
        }
        left.push(drain(&receiver)?);
    }
    Ok((came.collect(), left))
}

/// What `firewall shadow` says: packets, bytes and connections, and samples without who has decided them.
pub(crate) fn shadow(lab: &Lab) -> Result<BTreeMap<Subject, Told>> {
    let arguments = ["shadow", "-i", lab.inside.interface(), "--format", "json"];
    let said: Value = serde_json::from_str(&lab.inside.firewall(&arguments)?.success()?)?;
    let rows = said[0]["differs"].as_array().context("no rows")?;
    let row = |row: &Value| -> Result<_> {
        let subject = (
            if row["direction"] == "egress" {
                "egress"
            } else {
                "ingress"
            },
            row["rule"].as_str().map(str::to_owned),
            would(row["would"] == "accept"),
        );
        let number = |name: &str| {
            row[name]
                .as_u64()
                .with_context(|| format!("no {name}: {row}"))
        };
        let mut samples = row["samples"].as_array().context("no samples")?.clone();
        for sample in &mut samples {
            let decided = sample
                .as_object_mut()
                .and_then(|sample| sample.remove("decided_by"));
            let decided = decided.context("who decided is not said")?;
            ensure!(decided.is_string(), "nobody has decided {sample}");
        }
        let counts = [number("packets")?, number("bytes")?, number("connections")?];
        Ok((subject, (counts, samples)))
    };
    rows.iter().map(row).collect()
}
