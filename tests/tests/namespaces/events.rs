//! Events: packets that are dropped, and those that rules with `log` accept, are told of as they are decided, in a number that no
//! flood makes larger, and to nobody who does not read.

mod readers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use firewall_common::abi::event::{MAP_EVENT_SETTINGS, READERS, Settings};
use firewall_common::parse::protocol;
use firewall_tests::net::traffic::{mapped, udp, udp_from};
use firewall_tests::net::{FramePort, Lab, Outcome};
use firewall_tests::packets::{
    ethernet_to, ethertype, icmp, ipv4_between, ipv6_between, patched, tagged, tcp_flag, tcp_from,
    udp as datagram,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::switching::{accepted_by_both, join};
use crate::{MODES, rules};

/// Ports of [`in_force`].
const SERVED: u16 = 7000;
const FEW: u16 = 7001;
const TRAP: u16 = 7002;
const QUIET: u16 = 9999;
/// Ports that no rule names.
const NOBODYS: u16 = 7999;

/// How long it may take until what was told is read: some looks into the ring buffer.
const READ: Duration = Duration::from_millis(300);
/// As long as a command waits for its turn, and a while.
const TURN: Duration = Duration::from_secs(90);

fn in_force() -> String {
    rules(&[
        r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [80]; log = true"#,
        r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#,
        r#"name = "few"; action = "accept"; protocol = "udp"; ports = [7001]; limit = { rate = "1/h", burst = 1 }"#,
        r#"name = "trap"; action = "drop"; protocol = "udp"; ports = [7002]; log = true"#,
        r#"name = "stranger"; action = "drop"; from = ["198.51.100.0/24"]"#,
        r#"name = "quiet"; direction = "egress"; action = "drop"; protocol = "udp"; ports = [9999]; log = true"#,
    ])
}

/// A reader at work, whose output is read meanwhile: a pipe that is full would keep it waiting.
pub(crate) struct Listening {
    pid: Pid,
    ended: thread::JoinHandle<std::io::Result<Output>>,
}

/// Starts a reader and waits until the programs know of it, so many being at work already.
pub(crate) fn listen(lab: &Lab, command: &[&str], before: usize) -> Result<Listening> {
    let child = lab.inside.start_firewall(command)?;
    let pid = Pid::from_child(&child);
    let ended = thread::spawn(|| child.wait_with_output());
    until_read(lab, before)?;
    Ok(Listening { pid, ended })
}

impl Listening {
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// Interrupts it as Ctrl-C does, when it has read what there is.
    pub(crate) fn interrupt(self) -> Result<Output> {
        thread::sleep(READ);
        self.signal(Signal::INT)?;
        self.end()
    }

    /// Waits until it ends.
    pub(crate) fn end(self) -> Result<Output> {
        match self.ended.join() {
            Ok(output) => Ok(output?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Waits until more read than so many. All commands of this machine take turns, those of other tests too.
pub(crate) fn until_read(lab: &Lab, before: usize) -> Result<()> {
    let deadline = Instant::now() + TURN;
    while readers(lab)? <= before {
        ensure!(Instant::now() < deadline, "it never reads");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// How many read, or were killed a moment ago.
pub(crate) fn readers(lab: &Lab) -> Result<usize> {
    const WORDS: usize = size_of::<Settings<u64>>() / 8;
    const FIRST: usize = std::mem::offset_of!(Settings<u64>, readers) / 8;
    let path = lab.inside.state().join(MAP_EVENT_SETTINGS);
    let settings: Array<MapData, [u64; WORDS]> =
        Array::try_from(Map::Array(MapData::from_pin(path)?))?;
    let words = settings.get(&0, 0)?;
    let mut readers = words[FIRST..].chunks(2).take(READERS as usize);
    // A place that is free has 0; one whose reader was killed has a time that is over.
    let until = words[0];
    Ok(readers
        .by_ref()
        .filter(|reader| reader[0] != 0 && until != 0)
        .count())
}

/// The lines of a reader, and its summary.
pub(crate) fn told(output: Output) -> Result<(Vec<Value>, Value)> {
    let outcome = Outcome::from(output);
    ensure!(outcome.code == Some(0), "{outcome}");
    let lines = outcome.stdout.lines().map(serde_json::from_str);
    let summary = outcome.stderr.lines().last().context("no summary")?;
    Ok((
        lines.collect::<Result<_, _>>()?,
        serde_json::from_str(summary).with_context(|| outcome.stderr.clone())?,
    ))
}

/// Direction, verdict, reason, rule and packet; without the packet where it cannot be read.
type Line = (String, String, String, String, String);

fn line(value: &Value) -> Line {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    (
        word(&value["direction"]),
        word(&value["verdict"]),
        word(&value["reason"]),
        word(&value["rule"]["name"]),
        word(&value["packet"]),
    )
}

#[test]
fn every_drop_is_told_with_what_has_decided_it_native() -> Result<()> {
    every_drop_is_told_with_what_has_decided_it("native")
}

#[test]
fn every_drop_is_told_with_what_has_decided_it_generic() -> Result<()> {
    every_drop_is_told_with_what_has_decided_it("generic")
}

fn every_drop_is_told_with_what_has_decided_it(mode: &str) -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), mode)?;
    let interface = lab.inside.interface();
    let child = listen(&lab, &["watch", "-i", interface, "--format", "json"], 0)?;

    let port = FramePort::open(&lab.outside)?;
    let mut expected: Vec<Line> = Vec::new();
    for Sent { frame, line } in arriving(&lab)? {
        port.send(&frame)?;
        expected.extend(line);
    }
    let mine = udp(&lab.inside, 4711)?;
    for (host, text) in [
        (
            IpAddr::from(lab.outside.v4),
            format!("{}:4711 -> {}:{QUIET}", lab.inside.v4, lab.outside.v4),
        ),
        (
            IpAddr::from(lab.outside.v6),
            format!("[{}]:4711 -> [{}]:{QUIET}", lab.inside.v6, lab.outside.v6),
        ),
    ] {
        // The kernel may say that it was dropped.
        let _ = mine.send_to(b"?", mapped(&mine, SocketAddr::new(host, QUIET))?);
        let packet = format!("udp {text} out");
        let (out, drop, rule, quiet) = ("out", "drop", "rule", "quiet");
        expected.push([out, drop, rule, quiet, &packet].map(str::to_owned).into());
    }

    let (lines, summary) = told(child.interrupt()?)?;
    let mut seen: Vec<Line> = lines.iter().map(line).collect();
    seen.sort();
    expected.sort();
    ensure!(seen == expected, "{mode}: not {expected:#?}, but {seen:#?}");
    ensure!(summary["taken"] == lines.len(), "{summary}");
    ensure!(
        summary["withheld"] == 0 && summary["lost"] == 0,
        "{summary}"
    );
    for one in &lines {
        ensure!(
            one["interface"] == interface && one["generation"] == 1,
            "{one}"
        );
        let is_rule = one["rule"].is_object();
        ensure!(
            !is_rule || one["rule"]["line"].as_u64().is_some_and(|line| line > 1),
            "{one}"
        );
    }
    ensure!(readers(&lab)? == 0, "it has gone, and has a place still");
    Ok(())
}

/// A frame, and what is told of it if anything is.
struct Sent {
    frame: Vec<u8>,
    line: Option<Line>,
}

fn arriving(lab: &Lab) -> Result<Vec<Sent>> {
    let to = lab.inside.hardware_address()?;
    let mut all = Vec::new();
    let mut send = |frame: Vec<u8>, line: Option<[&str; 4]>| {
        let line = line.map(|[verdict, reason, rule, packet]| {
            ["in", verdict, reason, rule, packet]
                .map(str::to_owned)
                .into()
        });
        all.push(Sent { frame, line });
    };
    let stranger = lab.stranger();
    let (v4, v6) = (
        (lab.outside.v4, lab.inside.v4),
        (lab.outside.v6, lab.inside.v6),
    );
    let by_v4 = |from: Ipv4Addr, number: u8, payload: &[u8]| {
        ethernet_to(
            to,
            ethertype::IPV4,
            &ipv4_between(from, v4.1, number, payload),
        )
    };
    let by_v6 = |number: u8, payload: &[u8]| {
        ethernet_to(
            to,
            ethertype::IPV6,
            &ipv6_between(v6.0, v6.1, number, payload),
        )
    };
    let syn = tcp_from(40_000, 22, tcp_flag::SYN);
    let web = tcp_from(40_000, 80, tcp_flag::SYN);
    let null = tcp_from(40_001, 22, 0);
    let game = datagram(40_000, SERVED, b"x");
    let few = datagram(40_000, FEW, b"x");
    let trap = datagram(40_000, TRAP, b"x");
    let long = datagram(40_002, NOBODYS, &[7; 1_000]);

    let ends = |port: u16, to: u16| format!("{}:{port} -> {}:{to}", v4.0, v4.1);
    let ends_v6 = |port: u16, to: u16| format!("[{}]:{port} -> [{}]:{to}", v6.0, v6.1);
    for (frame, line) in [
        (
            by_v4(v4.0, protocol::TCP, &syn),
            [
                "drop",
                "no-rule",
                "-",
                &format!("tcp {} syn", ends(40_000, 22)),
            ],
        ),
        (
            by_v6(protocol::TCP, &syn),
            [
                "drop",
                "no-rule",
                "-",
                &format!("tcp {} syn", ends_v6(40_000, 22)),
            ],
        ),
        (
            by_v4(v4.0, protocol::TCP, &web),
            [
                "accept",
                "rule",
                "web",
                &format!("tcp {} syn", ends(40_000, 80)),
            ],
        ),
        (
            by_v6(protocol::TCP, &web),
            [
                "accept",
                "rule",
                "web",
                &format!("tcp {} syn", ends_v6(40_000, 80)),
            ],
        ),
        (
            by_v4(v4.0, protocol::UDP, &trap),
            [
                "drop",
                "rule",
                "trap",
                &format!("udp {}", ends(40_000, TRAP)),
            ],
        ),
        (
            by_v6(protocol::UDP, &trap),
            [
                "drop",
                "rule",
                "trap",
                &format!("udp {}", ends_v6(40_000, TRAP)),
            ],
        ),
        (
            by_v4(v4.0, protocol::UDP, &long),
            [
                "drop",
                "no-rule",
                "-",
                &format!("udp {}", ends(40_002, NOBODYS)),
            ],
        ),
        (
            by_v4(v4.0, protocol::TCP, &null),
            ["drop", "tcp-flags-null", "-", "-"],
        ),
        (
            by_v6(protocol::TCP, &null),
            ["drop", "tcp-flags-null", "-", "-"],
        ),
        (
            by_v4(stranger, protocol::ICMP, &icmp(8, 0)),
            [
                "drop",
                "rule",
                "stranger",
                &format!("icmp {stranger} -> {} echo-request", v4.1),
            ],
        ),
        (
            patched(&by_v4(v4.0, protocol::TCP, &syn), 14, &[0x65]),
            ["drop", "ipv4-version", "-", "-"],
        ),
        (
            ethernet_to(to, 0x1234, &[0; 50]),
            ["drop", "ethertype-unlisted", "-", "-"],
        ),
    ] {
        send(frame, Some(line));
    }
    let mut tag = tagged(
        &[(ethertype::VLAN, 10)],
        ethertype::IPV4,
        &ipv4_between(
            v4.0,
            v4.1,
            protocol::TCP,
            &tcp_from(40_003, 22, tcp_flag::SYN),
        ),
    );
    tag[..6].copy_from_slice(&to);
    send(
        tag,
        Some([
            "drop",
            "no-rule",
            "-",
            &format!("tcp {} syn vlan 10", ends(40_003, 22)),
        ]),
    );
    // One is let in, and the next is more than the limit.
    send(by_v4(v4.0, protocol::UDP, &few), None);
    send(
        by_v4(v4.0, protocol::UDP, &few),
        Some([
            "drop",
            "rate-limit",
            "few",
            &format!("udp {}", ends(40_000, FEW)),
        ]),
    );
    // What a rule without `log` accepts is nobody's business.
    send(by_v4(v4.0, protocol::UDP, &game), None);
    Ok(all)
}

#[test]
fn filters_show_what_is_asked_for_and_nothing_else() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--reason", "no-rule"], &["no-rule"; 3]),
        (&["--rule", "trap", "--rule", "web"], &["rule"; 4]),
        (
            &["--reason", "tcp-flags-null", "--reason", "rate-limit"],
            &["tcp-flags-null"; 2],
        ),
        (
            &["--from", "2001:db8::/32", "--to-port", "22"],
            &["no-rule"],
        ),
        (&["--from", "198.51.100.7"], &["rule"]),
        (&["--direction", "out"], &[]),
        (&["--to-port", "7999", "--direction", "in"], &["no-rule"]),
    ];
    let mut children = Vec::new();
    // No more than there are places.
    for (filter, expected) in cases {
        let arguments = [&["watch", "--format", "json"], filter].concat();
        children.push((listen(&lab, &arguments, children.len())?, filter, expected));
        if children.len() == READERS as usize {
            send_and_compare(&lab, &mut children)?;
        }
    }
    send_and_compare(&lab, &mut children)
}

/// Readers with their filters, and the reasons that each is to be told.
type Filtered<'a> = Vec<(Listening, &'a [&'a str], &'a [&'a str])>;

fn send_and_compare(lab: &Lab, children: &mut Filtered<'_>) -> Result<()> {
    let port = FramePort::open(&lab.outside)?;
    let frames = arriving(lab)?;
    // But for the limit and the tag.
    for Sent { frame, .. } in &frames[..12] {
        port.send(frame)?;
    }
    for (child, filter, expected) in children.drain(..) {
        let (lines, _) = told(child.interrupt()?)?;
        let reasons: Vec<_> = lines
            .iter()
            .filter_map(|line| line["reason"].as_str())
            .collect();
        ensure!(reasons == expected, "{filter:?}: {lines:#?}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_asked_for_is_refused() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let watch = |arguments: &[&str]| lab.inside.firewall(&[&["watch"], arguments].concat());
    let refused = watch(&[])?.failure(1)?;
    ensure!(
        refused.contains("no interface of this network namespace is guarded"),
        "{refused}"
    );
    lab.apply(&in_force(), "native")?;
    for (arguments, code, says) in [
        (["--rule", "wab"], 1, "did you mean `web`?"),
        (["--reason", "norule"], 2, "did you mean no-rule?"),
        (["--from", "somebody"], 2, "CIDR"),
        (["--count", "0"], 2, "0"),
        (["--interface", "fwt-none"], 1, "no interface fwt-none"),
    ] {
        let refused = watch(&arguments)?.failure(code)?;
        ensure!(refused.contains(says), "{arguments:?}: {refused}");
    }
    ensure!(readers(&lab)? == 0);
    Ok(())
}

#[test]
fn what_a_generation_decided_that_is_gone_is_told_as_gone() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let child = listen(&lab, &["watch", "--format", "json"], 0)?;
    child.signal(Signal::STOP)?;
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let send = |port: u16| sender.send_to(b"?", (lab.inside.v4, port));
    for port in [TRAP, NOBODYS] {
        send(port)?;
    }
    // Its place is taken by the third after it at the latest.
    for number in 0..4 {
        lab.apply(&(in_force() + &format!("\n# {number}\n")), "native")?;
    }
    send(TRAP)?;
    child.signal(Signal::CONT)?;
    let (lines, _) = told(child.interrupt()?)?;
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["generation"].as_u64(),
                &line["rule"]["name"],
                &line["reason"],
            )
        })
        .collect();
    let (null, rule) = (Value::Null, Value::from("rule"));
    let expected = [
        (Some(1), &null, &rule),
        (Some(1), &null, &Value::from("no-rule")),
        (Some(5), &Value::from("trap"), &rule),
    ];
    // The last is told only if all that took less time than a reader may be silent.
    ensure!(told == expected || told == expected[..2], "{lines:#?}");
    Ok(())
}
