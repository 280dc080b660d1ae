//! Sessions that last, such as those of ssh: older than the firewall, and idle for longer than their flow's entry lives.
//! Exchanges over UDP that were idle for as long go on when this host speaks again.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{
    Echo, PATIENCE, exchange, mapped, reaches, tcp, udp, wait_until,
};
use firewall_tests::net::{Host, Lab, MODES, rules};

const PORT: u16 = 2222;

/// Flows that live for as short as can be told.
pub(crate) const IMPATIENT: &str = "\n[flows.timeouts]\ntcp-established = \"1s\"\n";

fn live_flows(lab: &Lab, protocol: &str) -> Result<u64> {
    let arguments = [
        "flows",
        "-i",
        lab.inside.interface(),
        "--protocol",
        protocol,
        "--format",
        "json",
    ];
    let text = lab.inside.firewall(&arguments)?.success()?;
    let flows: serde_json::Value = serde_json::from_str(&text)?;
    flows["total"].as_u64().context(text)
}

/// Waits until no flow of TCP is left.
pub(crate) fn wait_until_forgotten(lab: &Lab) -> Result<()> {
    wait_until("the flows are forgotten", || {
        Ok(live_flows(lab, "tcp")? == 0)
    })
}

fn connect(from: &Host, to: SocketAddr) -> Result<TcpStream> {
    from.enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))
}

#[test]
fn a_session_goes_on_though_its_flow_is_forgotten() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let (_inside, _outside) = (
            Echo::start(&lab.inside, PORT)?,
            Echo::start(&lab.outside, PORT)?,
        );
        let ends = [
            (IpAddr::from(lab.inside.v4), IpAddr::from(lab.outside.v4)),
            (lab.inside.v6.into(), lab.outside.v6.into()),
        ];
        // Somebody's login, and this host's own session elsewhere: all from before the firewall.
        let mut sessions = Vec::new();
        for (inside, outside) in ends {
            sessions.push((
                connect(&lab.outside, SocketAddr::new(inside, PORT))?,
                "in",
                inside,
            ));
            sessions.push((
                connect(&lab.inside, SocketAddr::new(outside, PORT))?,
                "out",
                outside,
            ));
        }
        for (session, _, _) in &mut sessions {
            exchange(session, 100)?;
        }
        lab.apply(&(rules(&[]) + IMPATIENT), mode)?;
        for round in ["the first time", "after a pause"] {
            let before = lab.stats()?;
            for (session, way, address) in &mut sessions {
                let what = || format!("{mode}, {way} by {address}, {round}");
                exchange(session, 100_000).with_context(what)?;
            }
            // Whoever speaks first finds no flow, and what comes back finds one.
            let after = lab.stats()?;
            for reason in ["connection", "answer"] {
                let passed = after.passed(reason) > before.passed(reason);
                ensure!(passed, "{mode}, {reason}, {round}: {after:#?}");
            }
            wait_until_forgotten(&lab)?;
        }
        // What goes on is no way in for anybody else.
        for (inside, _) in ends {
            let to = SocketAddr::new(inside, PORT);
            ensure!(
                !tcp(&lab.outside, to, 1)?,
                "{mode}: a new session with {to}"
            );
        }
    }
    Ok(())
}

/// Has this host speak, and hears it.
fn speak(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Result<()> {
    from.send_to(b"?", mapped(from, to)?)?;
    receiver.recv(&mut [0; 8]).context("what leaves")?;
    Ok(())
}

#[test]
fn an_exchange_over_udp_that_was_idle_goes_on_with_the_next_packet_that_leaves() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (near, far) = (udp(&lab.inside, PORT)?, udp(&lab.outside, PORT)?);
    let short = "\n[flows.timeouts]\nudp = \"1s\"\nudp-stream = \"1s\"\n";
    lab.apply(&(rules(&[]) + short), "native")?;
    for (inside, outside) in [
        (IpAddr::from(lab.inside.v4), IpAddr::from(lab.outside.v4)),
        (lab.inside.v6.into(), lab.outside.v6.into()),
    ] {
        let (inside, outside) = (
            SocketAddr::new(inside, PORT),
            SocketAddr::new(outside, PORT),
        );
        let before = lab.stats()?.dropped("flow-expired");
        // A conversation and one question have different timeouts; the second one is in the slot of the first.
        for (round, questions) in (1..).zip([3, 1]) {
            let what = format!("{inside}, round {round}");
            for _ in 0..questions {
                speak(&near, outside, &far)?;
                ensure!(reaches(&far, inside, &near)?, "{what}: no answer");
            }
            wait_until(
                "the flow is forgotten",
                || Ok(live_flows(&lab, "udp")? == 0),
            )
            .with_context(|| what.clone())?;
            ensure!(!reaches(&far, inside, &near)?, "{what}: too late an answer");
            let expired = lab.stats()?.dropped("flow-expired") - before;
            ensure!(expired == round, "{what}: {:#?}", lab.stats()?);
        }
        speak(&near, outside, &far)?;
        ensure!(reaches(&far, inside, &near)?, "{inside}: it goes on");
    }
    let stats = lab.stats()?;
    ensure!(stats.passed("answer") == 10, "{stats:#?}");
    ensure!(stats.totals.dropped.packets == 4, "{stats:#?}");
    Ok(())
}
