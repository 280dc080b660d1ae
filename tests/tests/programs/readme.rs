//! The rule file for a web server that README.md shows: it does what is said there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, SILENCE, exchange, tcp, udp_from};
use firewall_tests::net::{Lab, workspace};

use crate::dnsmasq;
use crate::downloads::{fetch_all, nginx};
use crate::names::ask;

/// The application server's port there.
const APPLICATION: u16 = 8080;
/// One of the application servers, and who resolves names and tells the time.
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 50), Ipv4Addr::new(192, 0, 2, 3)];

/// The code block of README.md that has the line `line`.
fn example(line: &str) -> Result<String> {
    let text = fs::read_to_string(workspace().join("README.md"))?;
    // Every other piece is code.
    let blocks = text.split("\n```").skip(1).step_by(2);
    let block = blocks
        .filter_map(|block| block.strip_prefix("toml\n"))
        .find(|block| block.lines().any(|one| one == line));
    Ok(block
        .with_context(|| format!("no example has {line}"))?
        .to_owned())
}

#[test]
fn the_web_server_of_the_readme_serves_and_reaches_what_it_needs_and_nothing_else() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let [application, resolver] = SERVERS;
    for address in SERVERS {
        lab.outside.ip(&format!(
            "address add {address}/24 dev {}",
            lab.outside.interface()
        ))?;
    }
    let _application = Echo::start(&lab.outside, APPLICATION)?;
    let _resolver = dnsmasq(
        &lab,
        &[
            format!("--host-record=www.example.test,{application}"),
            // This one also where no rule lets it be asked.
            format!("--listen-address={resolver},{}", lab.outside.v4),
            "--bind-interfaces".to_owned(),
        ],
    )?;
    let time = lab.outside.enter(|| {
        let socket = UdpSocket::bind((resolver, 123))?;
        socket.set_read_timeout(Some(SILENCE))?;
        Ok(socket)
    })?;
    let _web = nginx(&lab, &lab.inside)?;
    lab.apply(&example(r#"name = "dns and time""#)?, "native")?;

    fetch_all(&lab, &lab.outside, &lab.inside, "a page")?;
    for question in ["www.example.test A", "-t www.example.test A"] {
        let answer = ask(&lab, resolver.into(), question)?;
        ensure!(answer.contains(&application.to_string()), "{answer}");
    }
    let clock = udp_from(&lab.inside, lab.inside.v4)?;
    clock.set_read_timeout(Some(SILENCE))?;
    let mut buffer = [0; 8];
    clock.send_to(b"when?", (resolver, 123))?;
    let (_, from) = time.recv_from(&mut buffer).context("the time is asked")?;
    time.send_to(b"now", from)?;
    ensure!(clock.recv(&mut buffer)? == 3, "the time is told");

    let connect = |address: IpAddr, port: u16| -> Result<Option<TcpStream>> {
        let to = SocketAddr::new(address, port);
        let connected = lab
            .inside
            .enter(|| Ok(TcpStream::connect_timeout(&to, SILENCE)))?;
        match connected {
            Err(error) if error.kind() != std::io::ErrorKind::TimedOut => {
                Err(error).with_context(|| format!("connecting to {to}"))
            }
            connected => Ok(connected.ok()),
        }
    };
    let mut stream = connect(application.into(), APPLICATION)?.context("the application")?;
    exchange(&mut stream, 1 << 20)?;
    let stats = lab.stats()?;
    for rule in ["web", "application", "dns and time", "dns over tcp"] {
        ensure!(stats.rule(rule) > Some(0), "{rule}: {stats:#?}");
    }
    ensure!(stats.rule("dns and time") == Some(2), "{stats:#?}");
    ensure!(stats.totals.dropped.packets == 0, "{stats:#?}");
    ensure!(stats.egress.dropped.packets == 0, "{stats:#?}");

    // Another host, another family, another port, and a resolver that is not listed.
    for (address, port) in [
        (lab.outside.v4.into(), APPLICATION),
        (lab.outside.v6.into(), APPLICATION),
        (application.into(), APPLICATION + 1),
        (resolver.into(), APPLICATION),
        (lab.outside.v4.into(), 53),
    ] {
        ensure!(connect(address, port)?.is_none(), "{address}, {port}");
    }
    // The kernel may tell the sender that its datagram was dropped.
    let _ = clock.send_to(b"when?", (lab.outside.v4, 123));
    let stats = lab.stats()?;
    ensure!(stats.dropped("egress-no-rule") == 6, "{stats:#?}");
    // What is open goes on.
    exchange(&mut stream, 10_000)
}

#[test]
fn the_limits_and_bans_of_the_readme_hold() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(
        &example("name = \"trap\"                          # nobody has any business there")?,
        "native",
    )?;
    let _web = Echo::start(&lab.inside, 80)?;
    let _ssh = Echo::start(&lab.inside, 22)?;
    let to = |port| SocketAddr::new(lab.inside.v6.into(), port);
    ensure!(tcp(&lab.outside, to(80), 1_000)?);
    let logins: Vec<bool> = (0..6)
        .map(|_| tcp(&lab.outside, to(22), 10))
        .collect::<Result<_>>()?;
    ensure!(
        logins == [true, true, true, true, false, false],
        "{logins:?}"
    );
    ensure!(tcp(&lab.outside, to(80), 1_000)?, "not banned yet");
    for _ in 0..3 {
        ensure!(!tcp(&lab.outside, to(23), 1)?);
    }
    ensure!(!tcp(&lab.outside, to(80), 1)?, "banned by the trap");
    let said = lab.inside.firewall(&["bans"])?.success()?;
    ensure!(said.contains("rule trap"), "{said}");
    Ok(())
}
