//! SYNs above their rate: what an answer costs beside the kernel's helper, and how many a processor gives beside nftables.

use std::net::{IpAddr, Ipv6Addr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{ProgramFd, Xdp, XdpMode},
};
use etherparse::{PacketBuilder, TcpOptionElement};
use firewall_common::abi::reason::PassReason;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::{Bench, traffic};
use crate::{
    abi::FRAMES,
    cidr::Family,
    frame::{Frames, HOST_V4, HOST_V6, TIME_TO_LIVE, collect},
    harness::{OBJECT, load},
    hook::Hook,
    namespace::{FAR, NEAR, Namespace, run as command},
    nftables,
    policy::Policy,
    random::Random,
    report::{Better, FIREWALL, Section},
    statistics::Spread,
};

/// This section.
pub(crate) const SECTION: Section = Section {
    id: "cookies",
    title: "SYNs above the rate of a rule, answered with cookies",
    unit: "ns/SYN",
    note: "Above an empty XDP program, 65,536 different SYNs to a socket that listens. Each frame is as long as its answer, so \
           that the next finds the buffer as it was: its tail stays where it is, though the firewall asks for it. Beside it, a \
           program that looks the socket up and has the kernel make the cookie, without looking at anything else or writing the \
           answer; and one that looks the socket up alone.",
    better: Better::Lower,
};

/// What an answer costs beside the helper.
pub(crate) const RATIO: Section = Section {
    id: "cookies-ratio",
    title: "An answer beside what the kernel takes for it",
    unit: "ratio",
    note: "The helper alone is what the program with look-up and cookie takes above the one with the look-up. The aim is at most 2.5.",
    better: Better::Lower,
};

/// Answers on live frames.
pub(crate) const RATE: Section = Section {
    id: "cookies-rate",
    title: "SYNs answered per second on one processor, through a veth pair",
    unit: "answers/s",
    note: "SYNs of many sources as fast as they are answered, sending and counting included: SYN+ACKs are counted where they \
           arrive, which is in an XDP program for the firewall and in netdev ingress for nftables. A bare XDP_DROP, which answers \
           nothing, is how many SYNs are sent. Of the stretches of 1,024 SYNs in a round the lower quartile \
           counts: one takes nftables nearly as long as a clock tick, so that other processes disturb many. nftables is measured over IPv4.",
    better: Better::Higher,
};

/// Answers beside nftables'.
pub(crate) const RATE_RATIO: Section = Section {
    id: "cookies-rate-ratio",
    title: "Answers per second beside those of nftables' synproxy",
    unit: "ratio",
    note: "Sending is no work of either, but takes the same time on both sides. The aim is at least 5.",
    better: Better::Higher,
};

const BOTH: &str = "look-up and cookie";
const LOOK_UP: &str = "look-up alone";
const BARE: &str = "bare XDP_DROP, SYNs";
const AIM_HELPER: f64 = 2.5;
const AIM_SYNPROXY: f64 = 5.0;
const PORT: u16 = 443;
/// All SYNs but the first are answered.
const POLICY: &str = "version = 1\n[[rule]]\nname = \"web\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [443]\n\
                      syn-cookies = { above = \"1/d\" }\n";
const FAMILIES: [(&str, Family); 2] = [("IPv4", Family::V4), ("IPv6", Family::V6)];
const NEAR_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NANOSECONDS: f64 = 1e9;
/// Nanoseconds for a SYN that the length of a run on live frames is for.
const USUAL: f64 = 500.0;
/// SYNs that may stay without answer: what is on its way when the count is read.
const UNANSWERED: f64 = 0.01;

/// Measures the section.
///
/// # Errors
///
/// What failed.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    // A thread of its own, because it moves into another network namespace and does not come back.
    std::thread::scope(|scope| scope.spawn(|| inside(bench)).join())
        .map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
}

fn inside(bench: &mut Bench) -> Result<()> {
    let _namespace = Namespace::enter()?;
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here)?;
    set_up()?;
    let _socket = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    let path = bench.file("cookies.toml", POLICY)?;
    let mut policy = Policy::load(&path)?;
    let mut minimal = Ebpf::load(OBJECT)?;
    for (name, family) in FAMILIES {
        let frames = syns(family)?;
        bench.harness.send(&frames)?;
        cost(bench, name, family, &mut policy, &mut minimal).context(name)?;
    }
    load(&mut minimal, "count_answers")?;
    for (name, family) in FAMILIES {
        let frames = syns(family)?;
        bench.harness.send(&frames)?;
        rate(bench, name, family, &mut policy, &mut minimal).context(name)?;
    }
    Ok(())
}

/// The guarded host at the far end, which reaches all sources through the near one.
fn set_up() -> Result<()> {
    for (link, address) in [(NEAR, NEAR_ADDRESS), (FAR, FAR_ADDRESS)] {
        let address = address.map(|byte| format!("{byte:02x}")).join(":");
        command(&["ip", "link", "set", link, "address", &address])?;
    }
    command(&["ip", "link", "set", "lo", "up"])?;
    let near = NEAR_ADDRESS.map(|byte| format!("{byte:02x}")).join(":");
    let routes = [
        (format!("{HOST_V4}/24"), "192.0.2.1"),
        (format!("{HOST_V6}/64"), "2001:db8::1"),
    ];
    for (address, gateway) in routes {
        let version = if address.contains(':') { "-6" } else { "-4" };
        let mut add = vec!["ip", version, "address", "add", &address, "dev", FAR];
        if version == "-6" {
            add.push("nodad");
        }
        command(&add)?;
        command(&[
            "ip",
            version,
            "neighbour",
            "add",
            gateway,
            "lladdr",
            &near,
            "dev",
            FAR,
            "nud",
            "permanent",
        ])?;
        command(&[
            "ip", version, "route", "add", "default", "via", gateway, "dev", FAR,
        ])?;
    }
    for (name, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        (&format!("ipv4/conf/{FAR}/rp_filter"), "0"),
        ("ipv4/tcp_timestamps", "1"),
        ("ipv4/tcp_syncookies", "2"),
    ] {
        sysctl(name, value)?;
    }
    Ok(())
}

/// In this thread's network namespace.
fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))
}

/// SYNs with one option, as the answers have it, so that IPv6's are as long as these; IPv4's have padding as they do.
fn syns(family: Family) -> Result<Frames> {
    let mut random = Random::new(443);
    collect(|_, buffer| {
        let ethernet = PacketBuilder::ethernet2(NEAR_ADDRESS, FAR_ADDRESS);
        let (source, mss) = match family {
            Family::V4 => (
                family.address(0x0a00_0000 | u128::from(random.below(1 << 24))),
                1460,
            ),
            Family::V6 => (
                family.address(0x2001_0db8_0009 << 80 | u128::from(random.bits())),
                1440,
            ),
        };
        let ip = match source {
            IpAddr::V4(source) => ethernet.ipv4(source.octets(), HOST_V4.octets(), TIME_TO_LIVE),
            IpAddr::V6(source) => ethernet.ipv6(source.octets(), HOST_V6.octets(), TIME_TO_LIVE),
        };
        let sequence = random.bits() as u32;
        ip.tcp(random.port(), PORT, sequence, 64_240)
            .syn()
            .options(&[TcpOptionElement::MaximumSegmentSize(mss)])?
            .write(buffer, &[])?;
        buffer.resize(crate::abi::FRAME_BYTES, 0);
        Ok(())
    })
}

/// What an answer costs, and what the kernel takes for it.
fn cost(
    bench: &mut Bench,
    name: &str,
    family: Family,
    policy: &mut Policy,
    minimal: &mut Ebpf,
) -> Result<()> {
    let hook = Hook::Syn(family);
    let firewall = policy.program_at(hook)?;
    let answer = timed(bench, hook, &firewall, || answered(policy))?;
    bench.report.add(&SECTION, name, FIREWALL, answer);
    let programs = match family {
        Family::V4 => ["cookie_v4", "look_up_v4"],
        Family::V6 => ["cookie_v6", "look_up_v6"],
    };
    let mut medians = Vec::new();
    for (program, subject) in programs.into_iter().zip([BOTH, LOOK_UP]) {
        let program = load(minimal, program)?;
        let spread = timed(bench, hook, &program, || counted(minimal))?;
        bench.report.add(&SECTION, name, subject, spread);
        medians.push(spread.median);
    }
    let case = format!("{name}, beside look-up and cookie");
    let ratio = Spread::exactly(answer.median / medians[0]);
    bench.report.add(&RATIO, &case, FIREWALL, ratio);
    let case = format!("{name}, beside the helper alone");
    let ratio = Spread::exactly(answer.median / (medians[0] - medians[1]));
    bench.report.add(&RATIO, &case, FIREWALL, ratio);
    bench.report.aim(Some(AIM_HELPER));
    Ok(())
}

/// Measures the program, and sees that `count` has all SYNs that it gets but one.
fn timed(
    bench: &mut Bench,
    hook: Hook,
    program: &ProgramFd,
    count: impl Fn() -> Result<u64>,
) -> Result<Spread> {
    bench.harness.measure_at(hook, program)?;
    let before = count()?;
    bench.harness.once()?;
    let spread = bench.harness.nanoseconds()?;
    let counted = count()? - before;
    let driven = bench.harness.driven();
    ensure!(
        driven >= FRAMES as u64 && counted + 1 >= driven,
        "{counted} of {driven} SYNs are counted"
    );
    Ok(spread)
}

/// SYNs that the firewall has answered.
fn answered(policy: &Policy) -> Result<u64> {
    let counters = policy.instance.counters()?;
    let slot = PassReason::SynCookie.counter() as usize;
    Ok(counters.get(slot).context("no such counter")?.packets)
}

/// What the minimal programs have counted.
fn counted(minimal: &Ebpf) -> Result<u64> {
    let map = minimal.map("COOKIES").context("no such map")?;
    let counters: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
    Ok(counters.get(&0, 0)?.iter().sum())
}

/// Answers per second, in turn: one round of each after the other.
fn rate(
    bench: &mut Bench,
    name: &str,
    family: Family,
    policy: &mut Policy,
    minimal: &mut Ebpf,
) -> Result<()> {
    let near = traffic::index(NEAR)?;
    let rules = bench.file("synproxy.nft", &nftables::synproxy(PORT))?;
    let (mut bare, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.harness.effort().rounds {
        let link = traffic::attach(bench.harness.empty()?)?;
        let packets = bench.harness.effort().packets_at(0.0);
        let nanoseconds = bench.harness.live_spread(near, packets)?.low;
        bare.push(NANOSECONDS / nanoseconds);
        bench.harness.empty()?.detach(link)?;

        sysctl("ipv4/tcp_syncookies", "2")?;
        let link = traffic::attach(policy.instance.program())?;
        let counting = counter(minimal)?.attach(NEAR, XdpMode::Driver)?;
        let answers = flood(bench, near, || counted(minimal)).context(FIREWALL)?;
        counter(minimal)?.detach(counting)?;
        policy.instance.program().detach(link)?;
        ours.push(answers);

        if family == Family::V6 {
            continue;
        }
        sysctl("ipv4/tcp_syncookies", "1")?;
        nftables::load(&rules)?;
        sysctl("netfilter/nf_conntrack_tcp_loose", "0")?;
        theirs.push(flood(bench, near, nftables::answers).context(nftables::SYNPROXY)?);
        nftables::unload_synproxy()?;
    }
    let (bare, ours) = (Spread::of(bare), Spread::of(ours));
    bench.report.add(&RATE, name, BARE, bare);
    bench.report.add(&RATE, name, FIREWALL, ours);
    if theirs.is_empty() {
        return Ok(());
    }
    let theirs = Spread::of(theirs);
    bench.report.add(&RATE, name, nftables::SYNPROXY, theirs);
    let case = format!("{name}, sending included");
    let ratio = Spread::exactly(ours.median / theirs.median);
    bench.report.add(&RATE_RATIO, &case, FIREWALL, ratio);
    bench.report.aim(Some(AIM_SYNPROXY));
    let without_sending = |rate: Spread| 1.0 / rate.median - 1.0 / bare.median;
    let case = format!("{name}, without what a bare XDP_DROP takes");
    let ratio = Spread::exactly(without_sending(theirs) / without_sending(ours));
    bench.report.add(&RATE_RATIO, &case, FIREWALL, ratio);
    Ok(())
}

/// What counts the firewall's answers.
fn counter(minimal: &mut Ebpf) -> Result<&mut Xdp> {
    let program = minimal.program_mut("count_answers");
    Ok(program.context("no such program")?.try_into()?)
}

/// Answers per second to a run of SYNs, of which `count` tells.
fn flood(bench: &mut Bench, near: u32, count: impl Fn() -> Result<u64>) -> Result<f64> {
    let packets = bench.harness.effort().packets_at(USUAL);
    let before = count()?;
    let nanoseconds = bench.harness.live_spread(near, packets)?.low;
    let answers = (count()? - before) as f64;
    let sent = f64::from(packets);
    ensure!(
        answers >= (1.0 - UNANSWERED) * sent,
        "{answers} of {sent} SYNs are answered"
    );
    Ok(answers / sent * NANOSECONDS / nanoseconds)
}
