//! Sessions that last, such as those of ssh: older than the firewall, and idle for longer than their flow's entry lives.

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{Echo, PATIENCE, exchange, tcp, wait_until};
use firewall_tests::net::{Host, Lab, MODES, rules};

const PORT: u16 = 2222;

/// Flows that live for as short as can be told.
pub(crate) const IMPATIENT: &str = "\n[flows.timeouts]\ntcp-established = \"1s\"\n";

fn live_flows(lab: &Lab) -> Result<u64> {
    let arguments = [
        "flows",
        "-i",
        lab.inside.interface(),
        "--protocol",
        "tcp",
        "--format",
        "json",
    ];
    let text = lab.inside.firewall(&arguments)?.success()?;
    let flows: serde_json::Value = serde_json::from_str(&text)?;
    flows["total"].as_u64().context(text)
}

/// Waits until no flow of TCP is left.
pub(crate) fn wait_until_forgotten(lab: &Lab) -> Result<()> {
    wait_until("the flows are forgotten", || Ok(live_flows(lab)? == 0))
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
