//! `firewall explain`: what the kernel would do with a packet is what it does, and asking changes nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::IpFragOffset;
use firewall_common::parse::protocol::{TCP, UDP};
use firewall_tests::net::traffic::{Echo, mapped, tcp, udp, wait_until};
use firewall_tests::net::{Lab, Outcome};
use firewall_tests::packets::{
    ethernet, ethertype, ipv4_between, ipv4_with, patched, tcp_flag, tcp_from, udp as datagram,
};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde::Deserialize;
use serde_json::Value;

use crate::{MODES, rules};

const ECHO: u16 = 7001;
const RESOLVER: u16 = 7053;

const POLICY: [&str; 5] = [
    "name = \"refused\"; action = \"drop\"; from = [\"203.0.113.66\"]",
    "name = \"echo\"; action = \"accept\"; protocol = \"tcp\"; ports = [7001]",
    "name = \"ssh\"; action = \"accept\"; protocol = \"tcp\"; ports = [22]; from = [\"203.0.113.0/24\"]",
    "name = \"slow\"; action = \"accept\"; protocol = \"udp\"; ports = [7000]; \
     limit = { rate = \"1/h\", burst = 1, per = \"source\" }",
    "name = \"questions\"; direction = \"egress\"; action = \"accept\"; protocol = \"udp\"; ports = [7053]",
];

fn policy() -> String {
    rules(&POLICY) + "\n[defaults]\negress = \"drop\"\n"
}

/// What `firewall explain --format json` says of a packet: exactly these fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explained {
    packet: String,
    interface: Option<String>,
    #[serde(rename = "file")]
    _file: String,
    generation: Option<u64>,
    frame_bytes: u32,
    stages: Vec<Stage>,
    ban: Option<String>,
    nearly_untold: Option<String>,
    verdict: String,
    reason: String,
    sentence: String,
    rule: Option<Named>,
    same_programs: Option<bool>,
    agrees: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    stage: String,
    says: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    line: usize,
}

impl Explained {
    fn says(&self, stage: &str) -> &str {
        let mut stages = self.stages.iter();
        stages
            .find(|found| found.stage == stage)
            .map_or("", |found| &found.says)
    }

    /// Verdict, and the rule or the reason.
    fn end(&self) -> (&str, &str) {
        let by = self.rule.as_ref().map_or(&self.reason, |rule| &rule.name);
        (&self.verdict, by)
    }
}

fn run(lab: &Lab, words: &[&str]) -> Result<Outcome> {
    let arguments = [&["explain", "-i", lab.inside.interface()], words].concat();
    lab.inside.firewall(&arguments)
}

fn explain(lab: &Lab, packet: &str) -> Result<Explained> {
    let said = run(lab, &["--format", "json", packet])?.success()?;
    let explained: Explained =
        serde_json::from_str(&said).with_context(|| format!("not documented: {said}"))?;
    ensure!(
        explained.agrees && explained.same_programs == Some(true),
        "{explained:?}"
    );
    ensure!(explained.interface.as_deref() == Some(lab.inside.interface()));
    ensure!(explained.generation == Some(1) && explained.frame_bytes >= 42);
    ensure!(!explained.sentence.is_empty());
    Ok(explained)
}

/// Writes a recording of these frames, a millisecond apart.
fn record(lab: &Lab, name: &str, frames: &[Vec<u8>]) -> Result<PathBuf> {
    let file = lab.directory().join(name);
    let mut writer = PcapWriter::new(std::fs::File::create(&file)?)?;
    for (millisecond, frame) in (0..).zip(frames) {
        let at = Duration::from_millis(1_700_000_000_000 + millisecond);
        writer.write_packet(&PcapPacket::new(at, frame.len() as u32, frame))?;
    }
    Ok(file)
}

/// Verdict and reason or rule of each frame of a recording, and how many the totals count.
fn replay(lab: &Lab, file: &Path, more: &[&str]) -> Result<Vec<(String, String)>> {
    let file = file.to_str().context("a path that is not UTF-8")?;
    let said = run(lab, &[&["--format", "json", "--pcap", file], more].concat())?.success()?;
    let mut lines: Vec<Value> = said
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect::<Result<_>>()?;
    let totals = lines.pop().context("no totals")?;
    ensure!(totals["packets"] == lines.len(), "{said}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(lines
        .iter()
        .map(|line| {
            let by = match &line["rule"]["name"] {
                Value::Null => text(&line["reason"]),
                name => text(name),
            };
            (text(&line["verdict"]), by)
        })
        .collect())
}

/// Has the host inside ask the one outside, and stay asking; returns the port that an answer goes to.
fn ask(lab: &Lab) -> Result<u16> {
    let (asking, asked) = (udp(&lab.inside, 0)?, udp(&lab.outside, RESOLVER)?);
    let to = SocketAddr::new(lab.outside.v4.into(), RESOLVER);
    asking.send_to(b"?", mapped(&asking, to)?)?;
    asked.recv(&mut [0; 8]).context("the question")?;
    Ok(asking.local_addr()?.port())
}

#[test]
fn the_kernel_is_asked_about_a_packet() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&policy(), mode)?;
        let _echo = Echo::start(&lab.inside, ECHO)?;
        let at = SocketAddr::new(lab.inside.v4.into(), ECHO);
        ensure!(tcp(&lab.outside, at, 1)?, "{mode}: traffic");
        let (host, other) = (lab.inside.v4, lab.outside.v4);

        // What answers a question must be asked about before nobody waits for it any more.
        let port = ask(&lab)?;
        let answer = explain(&lab, &format!("udp {other}:{RESOLVER} -> {host}:{port}"))?;
        ensure!(answer.end() == ("accept", "answer"), "{mode}: {answer:?}");

        let accepted = explain(&lab, "tcp from 203.0.113.7 to :7001")?;
        ensure!(accepted.end() == ("accept", "echo"), "{accepted:?}");
        // What was not written is an address of the interface.
        ensure!(accepted.packet == format!("tcp 203.0.113.7:40000 -> {host}:7001 syn"));
        let line = accepted.rule.as_ref().map(|rule| rule.line);
        ensure!(line == Some(8), "{accepted:?}");

        let refused = explain(&lab, "tcp from 198.51.100.9 to :22")?;
        ensure!(refused.end() == ("drop", "no-rule"), "{refused:?}");
        ensure!(
            refused.says("nearly")
                == "rule `ssh` (line 14) would accept it, but source 198.51.100.9 is not in 203.0.113.0/24",
            "{refused:?}"
        );

        for (packet, end) in [
            ("tcp from 203.0.113.66 to :7001", ("drop", "refused")),
            (
                "tcp from 203.0.113.7 to :7001 syn,fin",
                ("drop", "tcp-flags-syn-fin"),
            ),
            (
                &format!("udp {other}:9 -> {host}:{port}"),
                ("drop", "no-rule"),
            ),
            (
                &format!("udp to {other}:{RESOLVER} out"),
                ("accept", "questions"),
            ),
            (&format!("udp to {other}:9 out"), ("drop", "egress-no-rule")),
            (
                &format!("tcp {host}:7001 -> {other}:9 syn,ack out"),
                ("accept", "egress-reply"),
            ),
        ] {
            let explained = explain(&lab, packet)?;
            ensure!(explained.end() == end, "{mode}: {explained:?}");
        }
        if mode == MODES[0] {
            held_back(&lab)?;
        }
    }
    Ok(())
}

/// Limits and bans as they are now.
fn held_back(lab: &Lab) -> Result<()> {
    let (host, other) = (lab.inside.v4, lab.outside.v4);
    let slow = format!("udp {other}:4000 -> {host}:7000");
    // Asking takes nothing from the bucket.
    for _ in 0..2 {
        ensure!(explain(lab, &slow)?.end() == ("accept", "slow"));
    }
    let sender = udp(&lab.outside, 0)?;
    let to = SocketAddr::new(host.into(), 7000);
    sender.send_to(b"!", mapped(&sender, to)?)?;
    lab.stats_when(|stats| stats.rule("slow") == Some(1))?;
    let limited = explain(lab, &slow)?;
    ensure!(
        limited.verdict == "drop" && limited.reason == "rate-limit",
        "{limited:?}"
    );
    ensure!(
        limited.end().1 == "slow" && !limited.says("limit").is_empty(),
        "{limited:?}"
    );

    let ban = [
        "ban",
        "198.51.100.0/24",
        "--for",
        "10m",
        "--reason",
        "ticket 4711",
    ];
    lab.inside.firewall(&ban)?.success()?;
    let banned = explain(lab, "tcp from 198.51.100.9 to :7001")?;
    ensure!(banned.end() == ("drop", "banned"), "{banned:?}");
    let who = banned.ban.as_deref().context("which ban")?;
    ensure!(
        who.starts_with("198.51.100.0/24 for 9 min") && who.contains("ticket 4711"),
        "{who}"
    );
    Ok(())
}

#[test]
fn a_recording_is_decided_packet_by_packet() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&POLICY[..4]), "native")?;
    let (host, other) = (lab.inside.v4, lab.outside.v4);
    let v4 = |from, to, protocol, payload: &[u8]| {
        ethernet(ethertype::IPV4, &ipv4_between(from, to, protocol, payload))
    };
    // A server answers with the next number of what this host sent.
    let numbered = |segment: Vec<u8>, sequence: u32, acknowledgment: u32| {
        patched(
            &patched(&segment, 4, &sequence.to_be_bytes()),
            8,
            &acknowledgment.to_be_bytes(),
        )
    };
    let syn = numbered(tcp_from(50_000, 80, tcp_flag::SYN), 100, 0);
    let syn_ack = numbered(
        tcp_from(80, 50_000, tcp_flag::SYN | tcp_flag::ACK),
        900,
        101,
    );
    let ack = numbered(tcp_from(50_000, 80, tcp_flag::ACK), 101, 901);
    let conversation = [
        v4(host, other, TCP, &syn),
        v4(other, host, TCP, &syn_ack),
        v4(host, other, TCP, &ack),
        v4(
            other,
            host,
            TCP,
            &numbered(tcp_from(80, 50_000, tcp_flag::ACK), 901, 101),
        ),
    ];
    let file = record(&lab, "conversation.pcap", &conversation)?;
    let text = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|&(a, b)| (a.to_owned(), b.to_owned()))
            .collect()
    };
    let (left, answered) = (("accept", "egress-default"), ("accept", "answer"));
    let found = replay(&lab, &file, &["--host", &host.to_string()])?;
    ensure!(
        found == text(&[left, answered, left, answered]),
        "{found:?}"
    );
    // Taken for what arrives, nothing has been asked.
    let found = replay(&lab, &file, &[])?;
    ensure!(
        found.iter().all(|(verdict, _)| verdict == "drop"),
        "{found:?}"
    );
    let found = replay(&lab, &file, &["--out"])?;
    ensure!(
        found.iter().all(|(verdict, _)| verdict == "accept"),
        "{found:?}"
    );

    // Fragments: the second follows the first, and nobody knows whose the last is.
    let pieces = |port, identification: u16| {
        let whole = datagram(4000, port, &[0; 24]);
        let piece = |part: &[u8], offset: u16, more| {
            let packet = ipv4_with(UDP, part, |header| {
                (header.source, header.destination) = (other.octets(), host.octets());
                (header.identification, header.dont_fragment) = (identification, false);
                header.more_fragments = more;
                header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
            });
            ethernet(ethertype::IPV4, &packet)
        };
        [piece(&whole[..16], 0, true), piece(&whole[16..], 2, false)]
    };
    let [first, second] = pieces(7000, 1);
    let [refused_first, refused_second] = pieces(7002, 2);
    let [_, lost] = pieces(7000, 3);
    let frames = [first, second, refused_first, refused_second, lost];
    let file = record(&lab, "fragments.pcap", &frames)?;
    let found = replay(&lab, &file, &[])?;
    let wanted = text(&[
        ("accept", "slow"),
        ("accept", "fragment"),
        ("drop", "no-rule"),
        ("drop", "fragment-denied"),
        ("accept", "fragment-early"),
    ]);
    ensure!(found == wanted, "{found:?}");
    // The file alone says the same.
    let rules = lab.directory().join("rules.toml");
    let (rules, file) = (
        rules.to_str().context("UTF-8")?,
        file.to_str().context("UTF-8")?,
    );
    let said = lab
        .inside
        .firewall(&["explain", "--pcap", file, "--rules", rules])?
        .success()?;
    for by in [
        "rule slow",
        "fragment-denied",
        "fragment-early",
        "5 packets",
    ] {
        ensure!(said.contains(by), "{said}");
    }
    Ok(())
}

/// What is in every pinned map that packets change, by name.
fn state(lab: &Lab) -> Result<BTreeMap<&'static str, String>> {
    const MAPS: [&str; 13] = [
        "FLOWS",
        "FLOW_PORTS",
        "FLOW_SETTINGS",
        "BANS",
        "BAN_SETTINGS",
        "BAN_FILTERS",
        "BAN_REASONS",
        "LIMITS",
        "LIMIT_SETTINGS",
        "FRAGMENTS",
        "KNOCKS",
        "COUNTERS_0",
        "CONTROL",
    ];
    MAPS.iter()
        .map(|&name| {
            let path = lab.inside.state().join(name);
            let dump = format!("bpftool map dump pinned {}", path.display());
            Ok((name, lab.inside.must(&dump)?))
        })
        .collect()
}

#[test]
fn asking_changes_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let striking = "name = \"trap\"; action = \"drop\"; protocol = \"tcp\"; ports = [23]; \
                    ban = { after = 1, within = \"1m\", for = \"1h\" }";
    // Small tables, which are soon read.
    let small = "\n[flows]\nsize = 1024\n[limits]\nsize = 1024\n[bans]\nsize = 1024\n";
    let policy = rules(&[&POLICY[..4], &[striking]].concat()) + small;
    lab.apply(&policy, "native")?;
    let port = ask(&lab)?;
    lab.inside
        .firewall(&["ban", "198.51.100.0/24"])?
        .success()?;
    // Without a carrier and IPv6 nobody sends anything, once what was on its way has come.
    let ipv6 = format!("ipv6/conf/{}/disable_ipv6", lab.inside.interface());
    lab.inside.sysctl(&ipv6, "1")?;
    lab.outside
        .ip(&format!("link set {} down", lab.outside.interface()))?;
    let mut before = state(&lab)?;
    wait_until("it is quiet", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = state(&lab)?;
        Ok(std::mem::replace(&mut before, now) == before)
    })?;
    ensure!(
        !lab.inside
            .firewall(&["flows", "-i", lab.inside.interface()])?
            .success()?
            .contains(": 0 flows")
    );

    let (host, other): (IpAddr, IpAddr) = (lab.inside.v4.into(), lab.outside.v4.into());
    for packet in [
        // Moves a counter, takes from a bucket, bans, knocks, is banned, moves a flow on, opens one.
        "tcp from 203.0.113.7 to :7001".to_owned(),
        "udp from 203.0.113.7 to :7000".to_owned(),
        "tcp from 203.0.113.7 to :23".to_owned(),
        "udp from 203.0.113.7 to :9".to_owned(),
        "tcp from 198.51.100.7 to :7001".to_owned(),
        format!("udp {other}:{RESOLVER} -> {host}:{port}"),
        "udp to 203.0.113.7:53 out".to_owned(),
    ] {
        explain(&lab, &packet)?;
    }
    let after = state(&lab)?;
    for (name, values) in &before {
        let pairs = values.lines().zip(after[name].lines());
        let changed: Vec<_> = pairs.filter(|(before, after)| before != after).collect();
        ensure!(after[name] == *values, "{name}: {changed:?}");
    }
    Ok(())
}

#[test]
fn what_is_explained_is_what_is_in_force_whatever_the_file_is_now() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&policy(), "native")?;
    lab.write("rules.toml", &rules(&POLICY[..1]))?;
    let refused = explain(&lab, "tcp from 198.51.100.9 to :22")?;
    ensure!(refused.end() == ("drop", "no-rule"), "{refused:?}");
    ensure!(refused.says("nearly").contains("`ssh`"), "{refused:?}");
    ensure!(refused.nearly_untold.is_none(), "{refused:?}");
    Ok(())
}

#[test]
fn a_file_that_breaks_its_own_assertion_is_not_applied() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let assertion = |expect: &str| {
        format!(
            "\n[[assert]]\npacket = \"tcp to :7001\"\nexpect = \"{expect}\"\nmessage = \"see ticket 4711\"\n"
        )
    };
    // But for those that are refused before, everybody reaches it.
    lab.apply(&(rules(&POLICY[1..]) + &assertion("accept")), "native")?;
    let broken = lab.write("broken.toml", &(rules(&POLICY) + &assertion("accept")))?;
    let broken = broken.to_str().context("a path that is not UTF-8")?;
    let said = (lab.inside)
        .firewall(&["apply", broken, "-i", lab.inside.interface()])?
        .failure(1)?;
    for part in ["see ticket 4711", "tcp 203.0.113.66:", "name = \"refused\""] {
        ensure!(said.contains(part), "{said}");
    }
    let accepted = explain(&lab, "tcp from 203.0.113.66 to :7001")?;
    ensure!(accepted.end() == ("accept", "echo"), "{accepted:?}");
    Ok(())
}

#[test]
fn what_cannot_be_explained_says_why() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("rules.toml", &policy())?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let explain = |words: &[&str]| lab.inside.firewall(&[&["explain"], words].concat());
    for (words, code, says) in [
        (
            &["tcp to :22", "-i", lab.inside.interface()][..],
            1,
            "is not guarded",
        ),
        (
            &["tcp to :22", "--rules", "/nowhere.toml"],
            1,
            "cannot be read",
        ),
        (
            &["tcp to :sssh", "--rules", file],
            1,
            "did you mean \"ssh\"?",
        ),
        (
            &["--pcap", file, "--rules", file],
            1,
            "no pcap or pcapng file",
        ),
        (&["tcp to :22"], 2, "--interface"),
        (&["--rules", file], 2, "PACKET"),
        (&["tcp to :22", "--rules", file, "--out"], 2, "PACKET"),
    ] {
        let said = explain(words)?.failure(code)?;
        ensure!(said.contains(says), "{words:?}: {said}");
    }
    Ok(())
}
