//! What this host asks for comes back; what nobody asked for does not.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use firewall_tests::net::traffic::{
    Echo, PATIENCE, SILENCE, exchange, mapped, ping, reaches, receive, tcp, udp, wait_until,
};
use firewall_tests::net::{FramePort, Lab, Stats};
use firewall_tests::packets::{
    ethernet_to, ethertype, icmp, ipv4_between, ipv6_between, tcp_flag, tcp_from, udp as datagram,
};

use socket2::{Domain, Socket, Type};

use crate::{MODES, rules};

const PORT: u16 = 8080;
const OTHER_PORT: u16 = 9090;
const UDP_PORT: u16 = 7000;

/// A server with one service; everything else that comes in must be an answer.
const SERVICES: [&str; 1] =
    [r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#];

/// The same for SYN alone.
const FOR_SYN: &str = r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]; tcp-flags = { set = ["syn"], clear = ["ack"] }"#;

/// A server, and an allowlist of what leaves.
const EGRESS: &str = r#"
version = 1
[defaults]
ingress = "drop"
egress = "drop"

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [8080]

[[rule]]
name = "resolver"
action = "accept"
direction = "egress"
protocol = "udp"
ports = [7000]
"#;

/// Has `from` send to `to`, and `to`, which is bound to `receiver`, answer; whether both arrived.
fn asks(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Result<bool> {
    let mut buffer = [0; 64];
    from.send_to(b"question", mapped(from, to)?)?;
    let (_, back) = receiver.recv_from(&mut buffer).context("the question")?;
    receiver.send_to(b"answer", back)?;
    let Some(length) = receive(from, &mut buffer)? else {
        return Ok(false);
    };
    ensure!(&buffer[..length] == b"answer");
    Ok(true)
}

fn connect(lab: &Lab, to: SocketAddr) -> Result<TcpStream> {
    lab.inside
        .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))
}

#[test]
fn what_the_host_asks_for_comes_back() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _service = Echo::start(&lab.outside, OTHER_PORT)?;
        let resolver = udp(&lab.outside, UDP_PORT)?;
        let client = udp(&lab.inside, 0)?;
        lab.apply(&rules(&SERVICES), mode)?;
        for address in [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)] {
            let mut stream = connect(&lab, SocketAddr::new(address, OTHER_PORT))?;
            exchange(&mut stream, 1 << 20).with_context(|| format!("{mode}, {address}"))?;
            ensure!(
                asks(&client, SocketAddr::new(address, UDP_PORT), &resolver)?,
                "{mode}: no answer over UDP from {address}"
            );
            ensure!(
                ping(&lab.inside, address, "")?,
                "{mode}: {address} does not answer a ping"
            );
        }
        let stats = lab.stats()?;
        ensure!(stats.passed("answer") > 20, "{stats:#?}");
        ensure!(stats.totals.dropped.packets == 0, "{stats:#?}");
    }
    Ok(())
}

#[test]
fn what_nobody_asked_for_is_refused() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _service = Echo::start(&lab.inside, OTHER_PORT)?;
    let asked = udp(&lab.outside, UDP_PORT)?;
    let stranger = udp(&lab.outside, UDP_PORT + 1)?;
    let client = udp(&lab.inside, 0)?;
    lab.apply(&rules(&SERVICES), "native")?;

    let to_asked = SocketAddr::new(lab.outside.v4.into(), UDP_PORT);
    ensure!(
        asks(&client, to_asked, &asked)?,
        "the one that was asked answers"
    );
    let port = client.local_addr()?.port();
    let inside = SocketAddr::new(lab.inside.v4.into(), port);
    ensure!(
        !reaches(&stranger, inside, &client)?,
        "another port is no answer"
    );
    ensure!(
        !reaches(&asked, SocketAddr::new(lab.inside.v6.into(), port), &client)?,
        "another address is no answer"
    );
    ensure!(reaches(&asked, inside, &client)?, "the flow is still there");
    ensure!(
        !ping(&lab.outside, lab.inside.v4.into(), "")?,
        "nobody may ping"
    );
    ensure!(
        !tcp(
            &lab.outside,
            SocketAddr::new(lab.inside.v4.into(), OTHER_PORT),
            1
        )?,
        "no rule serves this port"
    );

    // Answers to questions that were never asked, and the scans that rely on them.
    let before = lab.stats()?;
    let port_outside = FramePort::open(&lab.outside)?;
    let mac = lab.inside.hardware_address()?;
    let flags = [
        tcp_flag::ACK,
        tcp_flag::SYN | tcp_flag::ACK,
        tcp_flag::RST,
        tcp_flag::RST | tcp_flag::ACK,
        tcp_flag::FIN | tcp_flag::ACK,
    ];
    for flags in flags {
        for source in [53, 123, 443] {
            let segment = tcp_from(source, 40_000, flags);
            let v4 = ipv4_between(lab.outside.v4, lab.inside.v4, 6, &segment);
            port_outside.send(&ethernet_to(mac, ethertype::IPV4, &v4))?;
            let v6 = ipv6_between(lab.outside.v6, lab.inside.v6, 6, &segment);
            port_outside.send(&ethernet_to(mac, ethertype::IPV6, &v6))?;
        }
    }
    for source in [53, 123, 443] {
        let message = datagram(source, 40_000, b"unasked");
        let v4 = ipv4_between(lab.outside.v4, lab.inside.v4, 17, &message);
        port_outside.send(&ethernet_to(mac, ethertype::IPV4, &v4))?;
    }
    let reply = ipv4_between(lab.outside.v4, lab.inside.v4, 1, &icmp(0, 0));
    port_outside.send(&ethernet_to(mac, ethertype::IPV4, &reply))?;
    let sent = flags.len() as u64 * 6 + 3 + 1;
    lab.stats_when(|stats| stats.dropped("no-rule") == before.dropped("no-rule") + sent)?;
    Ok(())
}

#[test]
fn a_connection_older_than_the_firewall_goes_on() -> Result<()> {
    let plain = rules(&SERVICES);
    for (mode, policy) in [
        ("native", &plain[..]),
        ("generic", &plain),
        ("native", EGRESS),
    ] {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _ssh = Echo::start(&lab.inside, OTHER_PORT)?;
        let _remote = Echo::start(&lab.outside, OTHER_PORT)?;
        for address in [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)] {
            let to = SocketAddr::new(address, OTHER_PORT);
            let mut inbound = lab
                .outside
                .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
            exchange(&mut inbound, 10)?;
            let outside = if address.is_ipv4() {
                lab.outside.v4.into()
            } else {
                lab.outside.v6.into()
            };
            let mut outbound = connect(&lab, SocketAddr::new(outside, OTHER_PORT))?;
            exchange(&mut outbound, 10)?;

            lab.apply(policy, mode)?;
            exchange(&mut inbound, 100_000).with_context(|| format!("{mode}, in by {address}"))?;
            exchange(&mut outbound, 100_000)
                .with_context(|| format!("{mode}, out to {outside}"))?;
            let stats = lab.stats()?;
            ensure!(stats.passed("connection") > 0, "{stats:#?}");
            let is_filtered = policy == EGRESS;
            ensure!(
                (stats.passed("egress-connection") > 0) == is_filtered,
                "{stats:#?}"
            );
            ensure!(
                !tcp(&lab.outside, to, 1)?,
                "{mode}: a new connection to the same port is refused"
            );
            lab.inside
                .firewall(&["detach", "-i", lab.inside.interface()])?
                .success()?;
        }
    }
    Ok(())
}

/// A flow that has missed packets is not the last word on a connection that the kernel knows.
#[test]
fn a_connection_whose_flow_has_missed_packets_goes_on() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _remote = Echo::start(&lab.outside, OTHER_PORT)?;
    // Both keep the namespace's flow table alive while the first interface is off.
    let other = format!("{}b", lab.inside.interface());
    lab.inside
        .ip(&format!("link add {other} up type veth peer name {other}c"))?;
    let plain = lab.write("plain.toml", &rules(&SERVICES))?;
    let filtered = lab.write("filtered.toml", EGRESS)?;
    let both = |file: &std::path::Path| lab.apply_file(file, &["-i", &other]);
    both(&plain)?;
    for address in [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)] {
        let mut stream = connect(&lab, SocketAddr::new(address, OTHER_PORT))?;
        exchange(&mut stream, 10_000)?;
        // Another policy lets no such connection be opened, and records none.
        both(&filtered)?;
        exchange(&mut stream, 1 << 20).with_context(|| format!("{address}, egress filtered"))?;
        both(&plain)?;
        exchange(&mut stream, 1 << 20).with_context(|| format!("{address}, open again"))?;
        lab.inside
            .firewall(&["detach", "-i", lab.inside.interface()])?
            .success()?;
        exchange(&mut stream, 4 << 20)?;
        both(&plain)?;
        exchange(&mut stream, 1 << 20).with_context(|| format!("{address}, guarded again"))?;
    }
    Ok(())
}

#[test]
fn errors_about_packets_of_this_host_come_in_and_others_do_not() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&SERVICES), "native")?;
    // Nobody listens there: the answer is an ICMP error, which the socket reports.
    for address in [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)] {
        let client = lab.inside.enter(|| {
            let any: IpAddr = if address.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect((address, UDP_PORT))?;
            Ok(socket)
        })?;
        client.send(b"anybody there?")?;
        let error = client.recv(&mut [0; 8]).expect_err("nobody is there");
        ensure!(
            error.kind() == ErrorKind::ConnectionRefused,
            "{address}: {error}"
        );
    }
    let stats = lab.stats()?;
    ensure!(stats.passed("path-mtu") == 2, "{stats:#?}");

    // Errors about flows that there are not, and about packets of somebody else.
    let port = FramePort::open(&lab.outside)?;
    let mac = lab.inside.hardware_address()?;
    let error = |quoted: &[u8]| {
        let message = [&icmp(3, 4)[..8], quoted].concat();
        ethernet_to(
            mac,
            ethertype::IPV4,
            &ipv4_between(lab.outside.v4, lab.inside.v4, 1, &message),
        )
    };
    let never_sent = datagram(5353, 5353, b"never sent");
    port.send(&error(&ipv4_between(
        lab.inside.v4,
        lab.outside.v4,
        17,
        &never_sent,
    )))?;
    let served = tcp_from(PORT, 40_000, tcp_flag::ACK);
    port.send(&error(&ipv4_between(
        lab.outside.v4,
        lab.inside.v4,
        6,
        &served,
    )))?;
    port.send(&error(&[0x45; 19]))?;
    // A served port's answers are not followed; an error about one is let in.
    port.send(&error(&ipv4_between(
        lab.inside.v4,
        lab.outside.v4,
        6,
        &served,
    )))?;
    lab.stats_when(|stats| {
        stats.dropped("icmp-unrelated") == 2
            && stats.dropped("icmp-malformed") == 1
            && stats.passed("path-mtu") == 3
    })?;
    Ok(())
}

/// A connection whose SYN the kernel has answered, and of which no more has come, is one that anybody can forge.
#[test]
fn errors_about_half_open_connections_do_not_come_in() -> Result<()> {
    const CLIENT_PORT: u16 = 40_000;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let _service = Echo::start(&lab.inside, PORT)?;
    // What answers a connection answers no SYN, so of its packets the kernel alone knows.
    lab.apply(&rules(&[FOR_SYN]), "native")?;
    let address = SocketAddr::new(lab.inside.v4.into(), PORT);
    let mut whole = lab.outside.enter(|| Ok(TcpStream::connect(address)?))?;
    exchange(&mut whole, 10)?;

    // An address from which nothing comes back.
    let [a, b, c, _] = lab.outside.v4.octets();
    let forged = Ipv4Addr::new(a, b, c, 200);
    let [theirs, ours] = [
        lab.outside.hardware_address()?,
        lab.inside.hardware_address()?,
    ];
    let theirs_text = theirs.map(|byte| format!("{byte:02x}")).join(":");
    let interface = lab.inside.interface();
    lab.inside.ip(&format!(
        "neigh add {forged} lladdr {theirs_text} dev {interface}"
    ))?;
    let mut syn = Vec::new();
    PacketBuilder::ethernet2(theirs, ours)
        .ipv4(forged.octets(), lab.inside.v4.octets(), 64)
        .tcp(CLIENT_PORT, PORT, 1, 64_240)
        .syn()
        .write(&mut syn, &[])?;
    let port = FramePort::open(&lab.outside)?;
    port.send(&syn)?;
    wait_until("the kernel answers", || {
        // SYN_RECV, as include/net/tcp_states.h numbers it.
        let sockets = lab.inside.must("cat /proc/net/tcp /proc/net/tcp6")?;
        Ok(sockets
            .lines()
            .any(|line| line.split_whitespace().nth(3) == Some("03")))
    })?;

    let ends = [
        (forged, CLIENT_PORT),
        (lab.outside.v4, whole.local_addr()?.port()),
    ];
    for (peer, its_port) in ends {
        let quoted = tcp_from(PORT, its_port, tcp_flag::ACK);
        let quoted = ipv4_between(lab.inside.v4, peer, 6, &quoted);
        let message = [&icmp(3, 4)[..8], &quoted].concat();
        let error = ipv4_between(lab.outside.v4, lab.inside.v4, 1, &message);
        port.send(&ethernet_to(ours, ethertype::IPV4, &error))?;
    }
    lab.stats_when(|stats| stats.dropped("icmp-unrelated") == 1 && stats.passed("path-mtu") == 1)?;
    Ok(())
}

#[test]
fn only_what_egress_rules_allow_leaves() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _web = Echo::start(&lab.inside, PORT)?;
        let _service = Echo::start(&lab.outside, OTHER_PORT)?;
        let resolver = udp(&lab.outside, UDP_PORT)?;
        let other = udp(&lab.outside, UDP_PORT + 1)?;
        let client = udp(&lab.inside, 0)?;
        lab.apply(EGRESS, mode)?;
        for address in [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)] {
            ensure!(
                asks(&client, SocketAddr::new(address, UDP_PORT), &resolver)?,
                "{address}"
            );
            // The kernel may tell the sender that its datagram was dropped.
            let _ = client.send_to(
                b"probe",
                mapped(&client, SocketAddr::new(address, UDP_PORT + 1))?,
            );
            ensure!(
                other.recv(&mut [0; 8]).is_err(),
                "{address}: it must not leave"
            );
            let refused = lab.inside.enter(|| {
                let to = SocketAddr::new(address, OTHER_PORT);
                Ok(TcpStream::connect_timeout(&to, SILENCE).is_err())
            })?;
            ensure!(refused, "{address}: no connection may leave");
        }
        for address in [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)] {
            ensure!(
                tcp(&lab.outside, SocketAddr::new(address, PORT), 100_000)?,
                "{address}: the served port answers"
            );
        }
        let stats = lab.stats()?;
        ensure!(stats.dropped("egress-no-rule") == 4, "{stats:#?}");
        ensure!(stats.rule("resolver") == Some(2), "{stats:#?}");
        ensure!(stats.passed("egress-reply") > 10, "{stats:#?}");
    }
    Ok(())
}

/// TCP connections from the host inside, and the other ends.
fn connections(lab: &Lab, count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    let listener = lab
        .outside
        .enter(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, OTHER_PORT))?))?;
    let addresses = [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)];
    let mut connections = Vec::new();
    for address in addresses.into_iter().cycle().take(count) {
        let near = connect(lab, SocketAddr::new(address, OTHER_PORT))?;
        near.set_read_timeout(Some(SILENCE))?;
        connections.push((near, listener.accept()?.0));
    }
    Ok(connections)
}

/// Spoofed packets to open and closed ports, ten times as many as the table has slots, open no flow and close none; nor do the
/// answers to those that are served.
#[test]
fn a_flood_from_outside_leaves_flows_alive() -> Result<()> {
    // So few for the table that no bucket is full by chance: of a thousand with half a flow each, one in 300,000 tables has
    // a bucket with more than eight.
    const CLIENTS: usize = 200;
    const CONNECTIONS: usize = 100;
    const FLOWS: usize = 2 * CLIENTS + CONNECTIONS;
    const SIZE: u32 = 4_096;
    const GAME: u16 = 7777;
    const ROUND: u32 = 2_048;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    // Nothing is to end by itself while the flood lasts.
    let text = format!(
        "{}\n[flows]\nsize = {SIZE}\n[flows.timeouts]\nudp = \"1h\"\nudp-stream = \"1h\"\n",
        rules(&[
            SERVICES[0],
            &format!(r#"name = "game"; action = "accept"; protocol = "udp"; ports = [{GAME}]"#)
        ])
    );
    let _web = Echo::start(&lab.inside, PORT)?;
    let game = udp(&lab.inside, GAME)?;
    let resolver = udp(&lab.outside, UDP_PORT)?;
    // Where the spoofed sources are (RFC 2544, C.2.2), so that they are answered.
    lab.inside
        .ip(&format!("route add 198.18.0.0/15 via {}", lab.outside.v4))?;
    lab.apply(&text, "native")?;
    let clients: Vec<UdpSocket> = (0..CLIENTS)
        .map(|_| udp(&lab.inside, 0))
        .collect::<Result<_>>()?;
    let ends = [
        (IpAddr::from(lab.inside.v4), IpAddr::from(lab.outside.v4)),
        (lab.inside.v6.into(), lab.outside.v6.into()),
    ];
    for client in &clients {
        for (_, outside) in ends {
            let to = SocketAddr::new(outside, UDP_PORT);
            ensure!(asks(client, to, &resolver)?, "before the flood");
        }
    }
    let mut connections = connections(&lab, CONNECTIONS)?;
    let before = lab.stats()?;
    ensure!(before.flows.size >= 8_192, "{before:#?}");
    ensure!(before.flows.used == FLOWS as u64, "{before:#?}");

    let port = FramePort::open(&lab.outside)?;
    let mac = lab.inside.hardware_address()?;
    let frame = |number: u32| {
        let (protocol, payload) = match number % 4 {
            0 => (6, tcp_from(40_000, PORT, tcp_flag::SYN)),
            1 => (6, tcp_from(40_000, OTHER_PORT, tcp_flag::SYN)),
            2 => (17, datagram(53, GAME, b"flood")),
            _ => (
                17,
                datagram(53, 40_000 + (number % 10_000) as u16, b"flood"),
            ),
        };
        if (number / 4).is_multiple_of(4) {
            let source = Ipv6Addr::from((0x2001_0db8_0f00 << 80) + u128::from(number));
            let packet = ipv6_between(source, lab.inside.v6, protocol, &payload);
            ethernet_to(mac, ethertype::IPV6, &packet)
        } else {
            let source = Ipv4Addr::from(0xc612_0000 + number % 0x2_0000);
            let packet = ipv4_between(source, lab.inside.v4, protocol, &payload);
            ethernet_to(mac, ethertype::IPV4, &packet)
        }
    };
    let decided = |stats: &Stats| stats.totals.accepted.packets + stats.totals.dropped.packets;
    let enough = decided(&before) + 10 * before.flows.size;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let answering = scope.spawn(|| {
            let mut buffer = [0; 64];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = game.recv_from(&mut buffer) {
                    // Those of IPv6 have no checksum and do not come so far; there is a way back to the others.
                    let _ = game.send_to(&buffer[..length], from);
                }
            }
        });
        let flood = || -> Result<()> {
            let mut sent = 0;
            // A queue may overflow, so that it takes more than are counted, but not many more.
            while decided(&lab.stats()?) < enough {
                ensure!(u64::from(sent) < 2 * enough, "only few of {sent} arrive");
                (sent..sent + ROUND).try_for_each(|number| port.send(&frame(number)))?;
                sent += ROUND;
            }
            Ok(())
        };
        let flooded = flood();
        is_over.store(true, Ordering::Relaxed);
        ensure!(answering.join().is_ok(), "the game has ended");
        flooded
    })?;

    let flooded = lab.stats()?;
    ensure!(
        flooded.passed("egress-reply") >= before.passed("egress-reply") + 1_000,
        "the game has answered few: {flooded:#?}"
    );
    let mut alive = 0;
    let mut buffer = [0; 64];
    for client in &clients {
        for (inside, _) in ends {
            let back = SocketAddr::new(inside, client.local_addr()?.port());
            resolver.send_to(b"still there", mapped(&resolver, back)?)?;
            alive += usize::from(client.recv(&mut buffer).is_ok());
        }
    }
    for (near, far) in &mut connections {
        far.write_all(b"still there")?;
        alive += usize::from(near.read(&mut buffer).is_ok_and(|length| length > 0));
    }
    let stats = lab.stats()?;
    ensure!(
        alive * 1_000 >= FLOWS * 999,
        "{alive} of {FLOWS} flows are still answered: {stats:#?}"
    );
    ensure!(stats.flows == before.flows, "{before:#?}, {stats:#?}");
    // It was the flows that let in what is older than the flood, not the kernel's word on connections.
    ensure!(stats.passed("connection") == 0, "{stats:#?}");
    Ok(())
}

/// Where more flows are opened than there are slots, the oldest unanswered ones go, and are counted.
#[test]
fn a_full_table_gives_way_to_new_flows() -> Result<()> {
    const SIZE: u64 = 1_024;
    // So few that no bucket of the smallest table gets more than eight of them.
    const CLIENTS: usize = 30;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let resolver = udp(&lab.outside, UDP_PORT)?;
    let many = udp(&lab.inside, 0)?;
    let text = format!(
        "{}\n[flows]\nsize = {SIZE}\n[flows.timeouts]\nudp = \"1h\"\nudp-stream = \"1h\"\n",
        rules(&SERVICES)
    );
    lab.apply(&text, "native")?;
    let slots = lab.stats()?.flows.size;
    ensure!(slots == 2 * SIZE, "{slots} slots");
    // Nobody answers there, but for the kernel, with errors.
    let storm = |first: u16| -> Result<()> {
        (first..first + 2 * slots as u16).try_for_each(|port| {
            let to = SocketAddr::new(lab.outside.v4.into(), port);
            many.send_to(b"anybody there?", mapped(&many, to)?)?;
            Ok(())
        })
    };

    storm(20_000)?;
    let full = lab.stats()?.flows;
    // Each took a free slot or somebody's, and nothing else has ended a flow.
    ensure!(full.created == 2 * slots, "{full:?}");
    ensure!(full.used == full.created - full.evicted, "{full:?}");
    ensure!(full.used <= slots && full.used > slots * 9 / 10, "{full:?}");

    let to = SocketAddr::new(lab.outside.v4.into(), UDP_PORT);
    let clients: Vec<UdpSocket> = (0..CLIENTS)
        .map(|_| udp(&lab.inside, 0))
        .collect::<Result<_>>()?;
    for client in &clients {
        ensure!(asks(client, to, &resolver)?, "the newest flow is answered");
    }
    // Those that were answered stay before those that were not, however new.
    storm(30_000)?;
    for client in &clients {
        let back = SocketAddr::new(lab.inside.v4.into(), client.local_addr()?.port());
        resolver.send_to(b"still there", mapped(&resolver, back)?)?;
        ensure!(client.recv(&mut [0; 64]).is_ok(), "{:#?}", lab.stats()?);
    }
    let flows = lab.stats()?.flows;
    let opened = 4 * slots + CLIENTS as u64;
    ensure!(flows.created == opened, "{flows:?}");
    ensure!(flows.used == flows.created - flows.evicted, "{flows:?}");
    ensure!(flows.used <= slots, "{flows:?}");
    ensure!(flows.contended == 0, "{flows:?}");
    Ok(())
}

/// A socket that waits for the answer to a SYN that was not let out is no connection: nobody can have seen the SYN.
#[test]
fn what_answers_a_syn_that_did_not_leave_is_refused() -> Result<()> {
    const LOCAL_PORT: u16 = 40_000;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(EGRESS, "native")?;
    let _waits = lab.inside.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(lab.inside.v4.into(), LOCAL_PORT).into())?;
        socket.set_nonblocking(true)?;
        let to = SocketAddr::new(lab.outside.v4.into(), OTHER_PORT);
        ensure!(socket.connect(&to.into()).is_err(), "it is connected");
        Ok(socket)
    })?;
    lab.stats_when(|stats| stats.dropped("egress-no-rule") >= 1)?;
    let answer = tcp_from(OTHER_PORT, LOCAL_PORT, tcp_flag::SYN | tcp_flag::ACK);
    let packet = ipv4_between(lab.outside.v4, lab.inside.v4, 6, &answer);
    let frame = ethernet_to(lab.inside.hardware_address()?, ethertype::IPV4, &packet);
    FramePort::open(&lab.outside)?.send(&frame)?;
    let stats = lab.stats_when(|stats| stats.dropped("no-rule") == 1)?;
    ensure!(stats.passed("connection") == 0, "{stats:#?}");
    Ok(())
}

/// Makes two connections, one over either family, to a port that a rule opens for SYN alone. Tells what was counted; nothing
/// where this cannot be tried.
fn connections_by_a_rule_for_syn(egress: &str, syn_cookies: u8) -> Result<Option<Stats>> {
    let Some(lab) = Lab::new()? else {
        return Ok(None);
    };
    lab.inside
        .must(&format!("sysctl -q net.ipv4.tcp_syncookies={syn_cookies}"))?;
    let _service = Echo::start(&lab.inside, PORT)?;
    let rule = rules(&[FOR_SYN]);
    lab.apply(
        &format!("{rule}\n[defaults]\negress = \"{egress}\"\n"),
        "native",
    )?;
    for address in [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)] {
        ensure!(
            tcp(&lab.outside, SocketAddr::new(address, PORT), 100_000)?,
            "egress {egress}, {address}: {:#?}",
            lab.stats()?
        );
    }
    lab.stats().map(Some)
}

/// In a flood the kernel answers with cookies and keeps nothing: what then completes a handshake belongs to no connection yet.
#[test]
fn a_rule_for_new_connections_alone_serves_them_with_syn_cookies_too() -> Result<()> {
    // Always, and not only where the queue of a listening socket is full.
    const ALWAYS: u8 = 2;
    for egress in ["accept", "drop"] {
        let Some(stats) = connections_by_a_rule_for_syn(egress, ALWAYS)? else {
            return Ok(());
        };
        ensure!(stats.passed("cookie") == 2, "{stats:#?}");
    }
    Ok(())
}

/// A rule for SYN alone lets whole connections through: what follows is an answer to what has left, or belongs to a connection
/// that the kernel knows, which also is why it leaves where egress rules let nothing out but answers.
#[test]
fn a_rule_for_new_connections_alone_serves_them() -> Result<()> {
    const IN_NEED: u8 = 1;
    for egress in ["accept", "drop"] {
        let Some(stats) = connections_by_a_rule_for_syn(egress, IN_NEED)? else {
            return Ok(());
        };
        ensure!(stats.rule("web") == Some(2), "{stats:#?}");
        ensure!(stats.passed("answer") > 2, "{stats:#?}");
        ensure!(stats.egress.dropped.packets == 0, "{stats:#?}");
        let open = stats.passed("egress-connection");
        ensure!((open > 2) == (egress == "drop"), "{stats:#?}");
    }
    Ok(())
}
