//! Limits over real time: what comes in is the burst and the rate, to [`TOLERANCE`], from one CPU and from all.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use firewall_tests::net::traffic::{Echo, SILENCE, reaches, tcp, udp, udp_from};
use firewall_tests::net::{FramePort, Lab};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{MODES, rules};

/// How far from the rate what is let in may be.
const TOLERANCE: f64 = 0.05;
const PORT: u16 = 7000;

fn rule(limit: &str) -> String {
    format!(
        "name = \"game\"; action = \"accept\"; protocol = \"udp\"; ports = [{PORT}]; limit = {{ {limit} }}"
    )
}

/// Sends from each of `sources` on each of `cpus` as fast as it goes for `time`, and returns how many came in and how long it took.
fn flood(lab: &Lab, sources: &[Ipv4Addr], cpus: &[usize], time: Duration) -> Result<(u64, f64)> {
    let receiver = lab.inside.enter(|| {
        let socket = UdpSocket::bind((lab.inside.v4, PORT))?;
        socket.set_read_timeout(Some(SILENCE))?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
        Ok(socket)
    })?;
    let target = SocketAddr::new(lab.inside.v4.into(), PORT);
    let sockets: Vec<Vec<UdpSocket>> = cpus
        .iter()
        .map(|_| {
            sources
                .iter()
                .map(|&source| udp_from(&lab.outside, source))
                .collect()
        })
        .collect::<Result<_>>()?;
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let received = thread::scope(|scope| -> Result<u64> {
        for (&cpu, sockets) in cpus.iter().zip(&sockets) {
            let done = &done;
            scope.spawn(move || -> Result<()> {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set)?;
                while !done.load(Ordering::Relaxed) {
                    for socket in sockets {
                        socket.send_to(b"0123456789", target)?;
                    }
                }
                Ok(())
            });
        }
        let mut received = 0;
        while start.elapsed() < time {
            received += u64::from(receiver.recv(&mut [0; 16]).is_ok());
        }
        done.store(true, Ordering::Relaxed);
        Ok(received)
    })?;
    Ok((received, start.elapsed().as_secs_f64()))
}

fn close(what: &str, received: u64, expected: f64) -> Result<()> {
    let error = (received as f64 / expected - 1.0).abs();
    println!(
        "{what}: {received} of {expected:.0}, {:+.2} %",
        100.0 * (received as f64 / expected - 1.0)
    );
    ensure!(
        error <= TOLERANCE,
        "{what}: {received} came in, not {expected}"
    );
    Ok(())
}

fn all_cpus() -> Vec<usize> {
    (0..thread::available_parallelism().map_or(1, usize::from)).collect()
}

#[test]
fn a_rule_lets_in_its_rate_and_no_more() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[&rule("rate = \"2000/s\", burst = 100")]), mode)?;
        let time = Duration::from_secs(3);
        for cpus in [vec![0], all_cpus()] {
            // What was saved up meanwhile.
            thread::sleep(Duration::from_millis(100));
            let (received, seconds) = flood(&lab, &[lab.outside.v4], &cpus, time)?;
            let expected = 100.0 + 2_000.0 * seconds;
            close(&format!("{mode}, {} CPUs", cpus.len()), received, expected)?;
        }
        let stats = lab.stats()?;
        ensure!(stats.dropped("rate-limit") > 1_000, "{stats:?}");
        ensure!(
            stats.rules[0].limited == stats.dropped("rate-limit"),
            "{stats:?}"
        );
        // Each is a hit of its port, let in or not.
        let port = stats.port("udp", PORT).context("named")?;
        ensure!(port.packets == stats.rules[0].packets + stats.rules[0].limited);
    }
    Ok(())
}

#[test]
fn sources_have_a_limit_each_and_prefixes_share_one() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    for last in 8..=9 {
        lab.outside.ip(&format!(
            "address add 198.51.100.{last}/32 dev {}",
            lab.outside.interface()
        ))?;
        lab.inside.ip(&format!(
            "route add 198.51.100.{last}/32 dev {}",
            lab.inside.interface()
        ))?;
    }
    let sources = [
        lab.outside.v4,
        lab.stranger(),
        Ipv4Addr::new(198, 51, 100, 8),
        Ipv4Addr::new(198, 51, 100, 9),
    ];
    let time = Duration::from_secs(3);
    lab.apply(
        &rules(&[&rule("rate = \"500/s\", burst = 50, per = \"source\"")]),
        "native",
    )?;
    let (received, seconds) = flood(&lab, &sources, &all_cpus(), time)?;
    close("four sources", received, 4.0 * (50.0 + 500.0 * seconds))?;
    lab.apply(
        &rules(&[&rule(
            "rate = \"500/s\", burst = 50, per = \"source-prefix\"",
        )]),
        "native",
    )?;
    let (received, seconds) = flood(&lab, &sources, &all_cpus(), time)?;
    close("two prefixes", received, 2.0 * (50.0 + 500.0 * seconds))?;
    Ok(())
}

#[test]
fn bytes_and_connections_are_limited_as_such() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    // A datagram of 10 bytes makes a frame of 52.
    lab.apply(
        &rules(&[&rule("rate = \"52000/s\", burst = 5200, unit = \"bytes\"")]),
        "native",
    )?;
    let (received, seconds) = flood(&lab, &[lab.outside.v4], &all_cpus(), Duration::from_secs(3))?;
    close("bytes", received, 100.0 + 1_000.0 * seconds)?;

    let echo = "name = \"echo\"; action = \"accept\"; protocol = \"tcp\"; ports = [7001]; \
                limit = { rate = \"1/m\", burst = 3, per = \"source\", unit = \"connections\" }";
    lab.apply(&rules(&[echo]), "native")?;
    let _echo = Echo::start(&lab.inside, 7001)?;
    for (to, count) in [(lab.inside.v4.into(), 3), (lab.inside.v6.into(), 3)] {
        let target = SocketAddr::new(to, 7001);
        let opened: Vec<bool> = (0..5)
            .map(|_| tcp(&lab.outside, target, 200_000))
            .collect::<Result<_>>()?;
        ensure!(
            opened == [true, true, true, false, false],
            "{count} of {opened:?}"
        );
    }
    let stats = lab.stats()?;
    let mut ports = stats.ports.iter();
    let port = ports.find(|port| port.port == 7001).context("named")?;
    // Each connect sends its SYN once, or again where the machine is slow.
    ensure!((10..=14).contains(&port.connections), "{port:?}");

    // UDP: the first datagram of a pair of ports is a connection, what follows is not.
    lab.apply(
        &rules(&[&rule("rate = \"1/m\", burst = 2, unit = \"connections\"")]),
        "native",
    )?;
    let receiver = udp(&lab.inside, PORT)?;
    let target = SocketAddr::new(lab.inside.v4.into(), PORT);
    let sockets: Vec<UdpSocket> = (0..3)
        .map(|_| udp_from(&lab.outside, lab.outside.v4))
        .collect::<Result<_>>()?;
    for _ in 0..5 {
        let reached: Vec<bool> = sockets
            .iter()
            .map(|socket| reaches(socket, target, &receiver))
            .collect::<Result<_>>()?;
        ensure!(reached == [true, true, false], "{reached:?}");
    }
    Ok(())
}

#[test]
fn a_flood_of_spoofed_sources_lifts_nobodys_limit() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = rules(&[&rule("rate = \"6/m\", burst = 6, per = \"source\"")])
        .replace("version = 1\n", "version = 1\n[limits]\nsize = 1024\n");
    lab.apply(&file, "native")?;
    let receiver = udp(&lab.inside, PORT)?;
    let target = SocketAddr::new(lab.inside.v4.into(), PORT);
    let source = udp_from(&lab.outside, lab.outside.v4)?;
    for _ in 0..20 {
        source.send_to(b"x", target)?;
    }
    ensure!(firewall_tests::net::traffic::drain(&receiver)? == 6);
    ensure!(!reaches(&source, target, &receiver)?, "over its limit");
    // Room for 4,096 sources: four times as many, and more.
    let cable = FramePort::open(&lab.outside)?;
    let mac = lab.inside.hardware_address()?;
    let start = Instant::now();
    for number in 0..20_000u32 {
        let [_, a, b, c] = number.wrapping_mul(2_654_435_761).to_be_bytes();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac)
            .ipv4([10, a, b, c], lab.inside.v4.octets(), 64)
            .udp(40_000, PORT);
        let mut frame = Vec::with_capacity(builder.size(1));
        builder.write(&mut frame, b"x")?;
        cable.send(&frame)?;
    }
    let stats =
        lab.stats_when(|stats| stats.rules[0].packets + stats.rules[0].limited >= 20_000 + 20)?;
    println!(
        "20,000 sources in {:.1?}: {} let in, {} not",
        start.elapsed(),
        stats.rules[0].packets,
        stats.rules[0].limited
    );
    // A token comes every ten seconds.
    if start.elapsed() < Duration::from_secs(8) {
        firewall_tests::net::traffic::drain(&receiver)?;
        ensure!(
            !reaches(&source, target, &receiver)?,
            "its limit was lifted"
        );
    }
    Ok(())
}

#[test]
fn what_leaves_can_be_limited_and_answers_are_not() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let asks = format!(
        "name = \"asks\"; action = \"accept\"; direction = \"egress\"; protocol = \"udp\"; ports = [{PORT}]; \
         limit = {{ rate = \"6/m\", burst = 3 }}"
    );
    let connects =
        "name = \"connects\"; action = \"accept\"; direction = \"egress\"; protocol = \"tcp\"";
    let answers = "name = \"all\"; action = \"accept\"; protocol = \"tcp\"; limit = { rate = \"1/h\", burst = 1 }";
    let file = rules(&[&asks, connects, answers]).replace(
        "version = 1\n",
        "version = 1\n[defaults]\negress = \"drop\"\n",
    );
    lab.apply(&file, "native")?;
    let there = udp(&lab.outside, PORT)?;
    let here = udp(&lab.inside, 5_000)?;
    let target = SocketAddr::new(lab.outside.v4.into(), PORT);
    let sent = (0..10).filter(|_| here.send_to(b"x", target).is_ok());
    sent.count();
    ensure!(firewall_tests::net::traffic::drain(&there)? == 3);
    let stats = lab.stats_when(|stats| stats.dropped("egress-rate-limit") >= 7)?;
    ensure!(stats.egress.dropped.packets >= 7, "{stats:?}");
    // What this host has asked is answered, though there is more of it than the rule for what arrives lets in.
    let _echo = Echo::start(&lab.outside, 9_001)?;
    for to in [lab.outside.v4.into(), lab.outside.v6.into()] {
        ensure!(tcp(&lab.inside, SocketAddr::new(to, 9_001), 1_000_000)?);
    }
    Ok(())
}

#[test]
fn ports_are_counted_whether_a_rule_names_them_or_not() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let served =
        format!("name = \"game\"; action = \"accept\"; protocol = \"udp\"; ports = [{PORT}]");
    lab.apply(&rules(&[&served]), "native")?;
    let source = udp_from(&lab.outside, lab.outside.v4)?;
    for (port, count) in [(PORT, 5), (1900, 7), (5353, 3)] {
        for _ in 0..count {
            source.send_to(b"0123456789", SocketAddr::new(lab.inside.v4.into(), port))?;
        }
    }
    for _ in 0..2 {
        ensure!(!tcp(
            &lab.outside,
            SocketAddr::new(lab.inside.v6.into(), 23),
            1
        )?);
    }
    let interface = lab.inside.interface();
    let said = lab
        .inside
        .firewall(&["ports", "-i", interface, "--format", "json"])?
        .success()?;
    let shown: serde_json::Value = serde_json::from_str(&said)?;
    let port = |list: &str, protocol: &str, port: u16| {
        shown[list]
            .as_array()
            .and_then(|ports| {
                ports
                    .iter()
                    .find(|one| one["port"] == port && one["protocol"] == protocol)
            })
            .cloned()
            .with_context(|| format!("{protocol} {port} is not {list}: {said}"))
    };
    let named = port("named", "udp", PORT)?;
    ensure!(named["packets"] == 5 && named["bytes"] == 5 * 52, "{named}");
    let knocked = port("unnamed", "udp", 1900)?;
    ensure!(
        knocked["packets"] == 7 && knocked["bytes"] == 7 * 52,
        "{knocked}"
    );
    ensure!(port("unnamed", "udp", 5353)?["packets"] == 3);
    let telnet = port("unnamed", "tcp", 23)?;
    // Each connect sends its SYN once, or again where the machine is slow.
    ensure!(
        telnet["connections"] == telnet["packets"] && telnet["packets"].as_u64() >= Some(2),
        "{telnet}"
    );
    let text = lab
        .inside
        .firewall(&["ports", "-i", interface])?
        .success()?;
    ensure!(
        text.contains("udp 1900") && text.contains("no rule names"),
        "{text}"
    );
    Ok(())
}
