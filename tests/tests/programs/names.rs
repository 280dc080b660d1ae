//! Names: answers over UDP, over TCP where they were truncated, and in fragments where they are large.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{mapped, udp};
use firewall_tests::net::{Lab, MODES, rules};

use crate::dnsmasq;

/// What a resolver and its clients agree on at most (RFC 6891, 6.2.5).
const BUFFER: usize = 4096;

/// A TXT record of so many bytes, in strings of 200.
fn text_record(name: &str, bytes: usize) -> String {
    let strings = vec!["0123456789".repeat(20); bytes / 200].join(",");
    format!("--txt-record={name},{strings}")
}

/// What drill says when it asks `server`; `question` is cut at spaces.
pub(crate) fn ask(lab: &Lab, server: IpAddr, question: &str) -> Result<String> {
    let mut command = Command::new("drill");
    // Not the resolvers of this machine.
    command.args(["-c", "/dev/null"]).args(question.split(' '));
    // The server goes before the name.
    command.arg(format!("@{server}"));
    lab.inside
        .run(&mut command)?
        .success()
        .with_context(|| format!("{question} @{server}"))
}

/// The size that drill has printed of an answer.
fn size(answer: &str) -> Result<usize> {
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: "))
        .with_context(|| format!("no size: {answer}"))?;
    Ok(line.trim().parse()?)
}

fn is_truncated(answer: &str) -> bool {
    let flags = answer.lines().find(|line| line.starts_with(";; flags: "));
    flags.is_some_and(|line| line.split([' ', ';']).any(|flag| flag == "tc"))
}

#[test]
fn names_are_found_over_udp_in_fragments_and_over_tcp() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _server = dnsmasq(
            &lab,
            &[
                format!(
                    "--host-record=www.example.test,{},{}",
                    lab.stranger(),
                    "2001:db8::80"
                ),
                text_record("large.example.test", 3000),
                text_record("huge.example.test", 6000),
                format!("--edns-packet-max={BUFFER}"),
                format!("--listen-address={},{}", lab.outside.v4, lab.outside.v6),
                "--bind-interfaces".to_owned(),
            ],
        )?;
        lab.apply(&rules(&[]), mode)?;
        let servers = [IpAddr::from(lab.outside.v4), IpAddr::from(lab.outside.v6)];
        for server in servers {
            let answer = ask(&lab, server, "www.example.test A")?;
            ensure!(
                answer.contains(&lab.stranger().to_string()),
                "{mode}: {answer}"
            );
            let answer = ask(&lab, server, "www.example.test AAAA")?;
            ensure!(answer.contains("2001:db8::80"), "{mode}: {answer}");

            // More than a packet holds, whole, in three fragments.
            let before = lab.stats()?.passed("fragment");
            let answer = ask(&lab, server, &format!("-b {BUFFER} large.example.test TXT"))?;
            ensure!(
                !is_truncated(&answer) && size(&answer)? > 3000,
                "{mode}: {answer}"
            );
            let stats = lab.stats()?;
            ensure!(stats.passed("fragment") == before + 2, "{mode}: {stats:#?}");

            // More than the buffer holds: the answer says so, and the client asks again over TCP.
            let answer = ask(&lab, server, &format!("-b {BUFFER} huge.example.test TXT"))?;
            ensure!(is_truncated(&answer), "{mode}: {answer}");
            let answer = ask(&lab, server, "-a huge.example.test TXT")?;
            ensure!(
                !is_truncated(&answer) && size(&answer)? > 6000,
                "{mode}: {answer}"
            );
        }
        let stats = lab.stats()?;
        ensure!(stats.passed("answer") > 16, "{mode}: {stats:#?}");
        ensure!(stats.totals.dropped.packets == 0, "{mode}: {stats:#?}");
        ensure!(stats.passed("fragment-early") == 0, "{mode}: {stats:#?}");
    }
    Ok(())
}

/// The near miss: a large datagram that answers nothing is refused with all its fragments, whatever port it comes from.
#[test]
fn a_large_answer_to_no_question_is_refused() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let victim = udp(&lab.inside, 5000)?;
    let forger = udp(&lab.outside, 53)?;
    let mut buffer = [0; BUFFER];
    let addresses = [IpAddr::from(lab.inside.v4), IpAddr::from(lab.inside.v6)];
    let send = |address: IpAddr| -> Result<()> {
        forger.send_to(&[0; 3000], mapped(&forger, SocketAddr::new(address, 5000))?)?;
        Ok(())
    };
    for address in addresses {
        send(address)?;
        ensure!(
            victim.recv(&mut buffer)? == 3000,
            "without a firewall it arrives"
        );
    }
    lab.apply(&rules(&[]), "native")?;
    for address in addresses {
        send(address)?;
        ensure!(victim.recv(&mut buffer).is_err(), "{address}: it arrived");
    }
    let stats = lab.stats()?;
    ensure!(stats.dropped("no-rule") == 2, "{stats:#?}");
    ensure!(stats.dropped("fragment-denied") == 4, "{stats:#?}");
    ensure!(stats.totals.dropped.packets == 6, "{stats:#?}");
    // And one to the same socket that it has asked for arrives.
    let asker = lab.outside.v4;
    victim.send_to(b"?", mapped(&victim, SocketAddr::new(asker.into(), 53))?)?;
    send(addresses[0])?;
    ensure!(victim.recv(&mut buffer)? == 3000, "an answer has to arrive");
    Ok(())
}
