//! Bans: given by hand and by rules, for addresses and networks, until their time is over, with no process of ours running.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use firewall_tests::net::traffic::{
    Echo, SILENCE, exchange, mapped, reaches, tcp, udp, udp_from, wait_until,
};
use firewall_tests::net::{Host, Lab, Outcome};
use serde::Deserialize;

use crate::{MODES, rules};

const SERVED: &str = "name = \"game\"; action = \"accept\"; protocol = \"udp\"; ports = [7000]";
const SERVED_TCP: &str = "name = \"echo\"; action = \"accept\"; protocol = \"tcp\"; ports = [7001]";

/// A line of `firewall bans --format json`: exactly these fields.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Banned {
    interface: String,
    address: IpAddr,
    prefix: String,
    expires_s: Option<f64>,
    banned_s: f64,
    by: String,
    reason: Option<String>,
}

fn bans(lab: &Lab) -> Result<Vec<Banned>> {
    let said = lab
        .inside
        .firewall(&["bans", "--format", "json"])?
        .success()?;
    said.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not documented: {line}")))
        .collect()
}

fn firewall(lab: &Lab, words: &str) -> Result<Outcome> {
    lab.inside
        .firewall(&words.split_whitespace().collect::<Vec<_>>())
}

fn ban(lab: &Lab, words: &str) -> Result<String> {
    firewall(lab, &format!("ban {words}"))?.success()
}

#[test]
fn a_ban_cuts_at_once_and_ends_by_itself() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&rules(&[SERVED]), mode)?;
        let receiver = udp(&lab.inside, 7000)?;
        let target = SocketAddr::new(lab.inside.v4.into(), 7000);
        let source = udp_from(&lab.outside, lab.outside.v4)?;
        let other = udp_from(&lab.outside, lab.stranger())?;
        ensure!(reaches(&source, target, &receiver)?);

        let before = Instant::now();
        ban(&lab, &format!("{} --for 12s --reason test", lab.outside.v4))?;
        let after = Instant::now();
        ensure!(!reaches(&source, target, &receiver)?, "banned");
        ensure!(reaches(&other, target, &receiver)?, "another");
        let listed = bans(&lab)?;
        let [one] = &listed[..] else {
            anyhow::bail!("{listed:?}");
        };
        ensure!(one.interface == lab.inside.interface() && one.address == lab.outside.v4);
        ensure!(one.prefix == format!("{}/32", lab.outside.v4), "{one:?}");
        ensure!(
            one.by == "command" && one.reason.as_deref() == Some("test"),
            "{one:?}"
        );
        let left = one.expires_s.context("it ends")?;
        ensure!(
            (0.1..=12.0).contains(&left) && (11.9..12.1).contains(&(one.banned_s + left)),
            "{one:?}"
        );
        let dropped = lab.stats_when(|stats| stats.dropped("banned") > 0)?;
        ensure!(dropped.port("udp", 7000).context("named")?.packets >= 3);

        // Nothing of ours runs from here on.
        receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
        let mut ended = None;
        while before.elapsed() < Duration::from_secs(40) && ended.is_none() {
            if reaches(&source, target, &receiver)? {
                ended = Some(Instant::now());
            }
        }
        let ended = ended.context("it never ended")?;
        let time = Duration::from_secs(12);
        println!(
            "{mode}: {:.3?} after the command began, {:.3?} after it ended",
            ended - before,
            ended - after
        );
        ensure!(ended - before >= time && ended - after <= time + Duration::from_millis(200));
        ensure!(bans(&lab)?.is_empty());
    }
    Ok(())
}

#[test]
fn networks_and_both_families_are_banned_and_unbanned() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED_TCP]), "native")?;
    let _echo = Echo::start(&lab.inside, 7001)?;
    let [v4, v6] = [
        SocketAddr::new(lab.inside.v4.into(), 7001),
        SocketAddr::new(lab.inside.v6.into(), 7001),
    ];
    let reached =
        || -> Result<[bool; 2]> { Ok([tcp(&lab.outside, v4, 1)?, tcp(&lab.outside, v6, 1)?]) };
    ensure!(reached()? == [true; 2]);
    ban(&lab, "192.0.2.0/24")?;
    ensure!(reached()? == [false, true]);
    ban(&lab, &format!("{}", lab.outside.v6))?;
    ensure!(reached()? == [false; 2]);
    ensure!(bans(&lab)?.iter().all(|ban| ban.expires_s.is_none()));
    // Banning again renews, and says so.
    let said = ban(&lab, "192.0.2.0/24 --for 1h")?;
    ensure!(said.contains("as before"), "{said}");
    let listed = bans(&lab)?;
    ensure!(listed.len() == 2 && listed[0].expires_s.is_some_and(|left| left > 3_500.0));

    let said = firewall(&lab, &format!("unban {}", lab.outside.v4))?;
    ensure!(said.stderr.contains("still cut"), "{said:?}");
    said.success()?;
    ensure!(reached()? == [false; 2]);
    firewall(&lab, "unban 192.0.0.0/16 2001:db8::/32")?.success()?;
    ensure!(bans(&lab)?.is_empty());
    firewall(&lab, "unban 0.0.0.0/1")?.success()?;
    ensure!(reached()? == [true; 2]);

    for wrong in [
        "ban host",
        "ban 0.0.0.0/0",
        "ban 192.0.2.1/24",
        "ban 192.0.2.1 --for 0s",
    ] {
        let refused = firewall(&lab, wrong)?;
        let said = refused.failure(2)?;
        ensure!(!said.is_empty(), "{wrong}");
    }
    Ok(())
}

#[test]
fn bans_of_several_programs_stay_apart() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED]), "native")?;
    let only = || -> Result<(Option<String>, Option<f64>)> {
        let mut listed = bans(&lab)?;
        let one = listed.pop().context("nobody is banned")?;
        ensure!(listed.is_empty(), "{listed:?}");
        Ok((one.reason, one.expires_s))
    };
    for (words, reason, seconds) in [
        ("--for 10m --reason one", "one", Some(600.0)),
        ("--for 5m --reason two", "one", Some(600.0)),
        ("--for 1h --reason two", "two", Some(3600.0)),
        ("--reason three", "three", None),
        ("--for 1h --reason two", "three", None),
    ] {
        let said = ban(&lab, &format!("192.0.2.9 --keep-longer {words}"))?;
        let kept = !words.ends_with(reason);
        ensure!(said.contains("for longer already") == kept, "{said}");
        let (why, left) = only()?;
        ensure!(why.as_deref() == Some(reason), "{words}: {why:?}");
        let near = left
            .zip(seconds)
            .is_some_and(|(left, all)| left > all - 60.0 && left <= all);
        ensure!(
            near || left.is_none() && seconds.is_none(),
            "{words}: {left:?}"
        );
    }
    // Another prefix is another ban, and without being asked to, none is kept.
    ban(&lab, "192.0.2.8/31 --keep-longer --for 1m")?;
    ensure!(bans(&lab)?.len() == 2);
    let said = firewall(&lab, "unban 192.0.2.0/24 --reason two")?.success()?;
    ensure!(said.contains("not banned for that reason"), "{said}");
    ensure!(bans(&lab)?.len() == 2);
    firewall(&lab, "unban 192.0.2.0/24 --reason three")?.success()?;
    ensure!(only()?.0.is_none());
    ban(&lab, "192.0.2.8/31 --for 5s")?;
    ensure!(only()?.1.is_some_and(|left| left <= 5.0));
    Ok(())
}

#[test]
fn a_ban_cuts_what_was_open_and_no_answer() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED_TCP]), "native")?;
    let _inside = Echo::start(&lab.inside, 7001)?;
    let _outside = Echo::start(&lab.outside, 9001)?;
    let connect = |from: &Host, to: IpAddr, port| {
        from.enter(|| Ok(TcpStream::connect(SocketAddr::new(to, port))?))
    };
    let mut theirs = connect(&lab.outside, lab.inside.v4.into(), 7001)?;
    let mut ours = connect(&lab.inside, lab.outside.v4.into(), 9001)?;
    exchange(&mut theirs, 1_000)?;
    exchange(&mut ours, 1_000)?;
    ban(&lab, &format!("{} {}", lab.outside.v4, lab.outside.v6))?;

    theirs.set_read_timeout(Some(SILENCE))?;
    std::io::Write::write_all(&mut theirs, b"more")?;
    ensure!(theirs.read(&mut [0; 4]).is_err(), "their connection is cut");
    // What this host has asked is answered, whoever is banned.
    exchange(&mut ours, 100_000)?;
    ensure!(tcp(
        &lab.inside,
        SocketAddr::new(lab.outside.v6.into(), 9001),
        1_000
    )?);
    // Neighbours are still found, and so the ban can be lifted from there.
    lab.outside.must("ip neigh flush all")?;
    ensure!(tcp(
        &lab.inside,
        SocketAddr::new(lab.outside.v4.into(), 9001),
        10
    )?);
    Ok(())
}

#[test]
fn never_ban_means_never() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let never = format!(
        "version = 1\n[bans]\nnever-ban = [\"{}\", \"2001:db8::/32\"]\n",
        lab.outside.v4
    );
    lab.apply(&rules(&[SERVED]).replace("version = 1\n", &never), "native")?;
    let receiver = udp(&lab.inside, 7000)?;
    let target = SocketAddr::new(lab.inside.v4.into(), 7000);
    let source = udp_from(&lab.outside, lab.outside.v4)?;
    let other = udp_from(&lab.outside, lab.stranger())?;

    for whom in [lab.outside.v4.to_string(), "2001:db8:1::/48".to_owned()] {
        let said = firewall(&lab, &format!("ban {whom}"))?.failure(1)?;
        ensure!(said.contains("never-ban"), "{said}");
    }
    // Whoever lies in a banned network and is never banned, is not.
    let said = firewall(&lab, "ban 192.0.0.0/16 198.51.100.0/24")?;
    ensure!(said.stderr.contains("will not be cut"), "{said:?}");
    said.success()?;
    ensure!(reaches(&source, target, &receiver)?);
    ensure!(!reaches(&other, target, &receiver)?);
    // Without the list the ban holds for all of it.
    lab.apply(&rules(&[SERVED]), "native")?;
    ensure!(!reaches(&source, target, &receiver)?);
    Ok(())
}

#[test]
fn a_rule_bans_by_itself() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let knock = "name = \"knock\"; action = \"drop\"; protocol = \"udp\"; ports = [23]; \
                     ban = { after = 5, within = \"10s\", for = \"8s\" }";
        lab.apply(&rules(&[knock, SERVED]), mode)?;
        let receiver = udp(&lab.inside, 7000)?;
        let target = SocketAddr::new(lab.inside.v4.into(), 7000);
        let trap = SocketAddr::new(lab.inside.v4.into(), 23);
        let source = udp_from(&lab.outside, lab.outside.v4)?;
        let other = udp_from(&lab.outside, lab.stranger())?;
        for _ in 0..4 {
            source.send_to(b"x", trap)?;
        }
        ensure!(reaches(&source, target, &receiver)?, "four are not five");
        source.send_to(b"x", trap)?;
        other.send_to(b"x", trap)?;
        wait_until("the ban", || Ok(!bans(&lab)?.is_empty()))?;
        let listed = bans(&lab)?;
        ensure!(
            listed.len() == 1
                && listed[0].by == "rule knock"
                && listed[0].address == lab.outside.v4,
            "{listed:?}"
        );
        ensure!(!reaches(&source, target, &receiver)?);
        ensure!(reaches(&other, target, &receiver)?);
        let start = Instant::now();
        while !reaches(&source, target, &receiver)? {
            ensure!(start.elapsed() < Duration::from_secs(9), "it never ends");
        }
        ensure!(lab.stats()?.rule("knock") == Some(6));
    }
    Ok(())
}

#[test]
fn a_rule_bans_whom_it_limits_but_nobody_who_is_never_banned() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let limited = format!(
        "{SERVED}; limit = {{ rate = \"5/s\", burst = 5, per = \"source\" }}; \
         ban = {{ after = 10, within = \"10s\", for = \"1h\" }}"
    );
    let never = format!(
        "version = 1\n[bans]\nnever-ban = [\"{}\"]\n",
        lab.stranger()
    );
    lab.apply(
        &rules(&[&limited]).replace("version = 1\n", &never),
        "native",
    )?;
    let _receiver = udp(&lab.inside, 7000)?;
    let target = SocketAddr::new(lab.inside.v4.into(), 7000);
    for source in [lab.outside.v4, lab.stranger()] {
        let socket = udp_from(&lab.outside, source)?;
        for _ in 0..30 {
            socket.send_to(b"x", target)?;
        }
    }
    wait_until("the ban", || Ok(!bans(&lab)?.is_empty()))?;
    let listed = bans(&lab)?;
    ensure!(
        listed.len() == 1 && listed[0].address == lab.outside.v4 && listed[0].by == "rule game",
        "{listed:?}"
    );
    let stats =
        lab.stats_when(|stats| stats.dropped("banned") + stats.dropped("rate-limit") >= 49)?;
    // Five came in, ten were over the limit, and then the ban held the rest.
    ensure!(stats.dropped("banned") >= 14, "{stats:?}");
    Ok(())
}

#[test]
fn bans_outlive_other_rules_and_reach_new_interfaces() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED]), "native")?;
    ban(&lab, "203.0.113.7 --reason everywhere")?;
    let interface = lab.inside.interface();
    ban(&lab, &format!("203.0.113.8 -i {interface}"))?;
    lab.apply(&rules(&[SERVED, SERVED_TCP]), "native")?;
    ensure!(bans(&lab)?.len() == 2);
    // More ports than there is room for counters: the programs are replaced.
    let ports =
        "name = \"many\"; action = \"accept\"; protocol = \"tcp\"; ports = [\"10000-40000\"]";
    lab.apply(&rules(&[SERVED, ports]), "native")?;
    ensure!(bans(&lab)?.len() == 2);

    lab.inside
        .ip("link add fwtdummy0 type veth peer name fwtdummy1")?;
    let file = lab.write("second.toml", &rules(&[SERVED]))?;
    let file = file.to_str().context("UTF-8")?;
    firewall(&lab, &format!("apply {file} -i fwtdummy0"))?.success()?;
    let listed = bans(&lab)?;
    let on_new: Vec<_> = listed
        .iter()
        .filter(|ban| ban.interface == "fwtdummy0")
        .collect();
    ensure!(
        on_new.len() == 1 && on_new[0].prefix == "203.0.113.7/32",
        "{listed:?}"
    );
    ensure!(on_new[0].reason.as_deref() == Some("everywhere"));
    // Without -i all of them are meant.
    firewall(&lab, "unban 203.0.113.7")?.success()?;
    ensure!(bans(&lab)?.len() == 1);
    firewall(&lab, &format!("detach -i {interface} -i fwtdummy0"))?.success()?;
    let said = firewall(&lab, "bans")?.failure(1)?;
    ensure!(said.contains("guarded"), "{said}");
    Ok(())
}

#[test]
fn a_ban_cuts_every_fragment() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED]), "native")?;
    let receiver = udp(&lab.inside, 7000)?;
    let source = udp_from(&lab.outside, lab.outside.v4)?;
    let target = SocketAddr::new(lab.inside.v4.into(), 7000);
    source.send_to(&[7; 5_000], target)?;
    ensure!(receiver.recv(&mut [0; 8_000])? == 5_000);

    ban(&lab, &lab.outside.v4.to_string())?;
    let before = lab.stats()?;
    source.send_to(&[7; 5_000], target)?;
    ensure!(receiver.recv(&mut [0; 8_000]).is_err());
    // All four, and not the first for itself and the others because of it.
    let after = lab.stats_when(|stats| stats.dropped("banned") >= before.dropped("banned") + 4)?;
    ensure!(after.dropped("fragment-denied") == before.dropped("fragment-denied"));
    Ok(())
}

/// What a resolver says to this host is more than one frame holds.
#[test]
fn a_ban_cuts_no_answer_that_comes_in_fragments() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&rules(&[SERVED]), "native")?;
    let (resolver, asks) = (udp(&lab.outside, 53)?, udp(&lab.inside, 7002)?);
    ban(&lab, &format!("{} {}", lab.outside.v4, lab.outside.v6))?;
    for (outside, inside) in [
        (IpAddr::from(lab.outside.v4), IpAddr::from(lab.inside.v4)),
        (lab.outside.v6.into(), lab.inside.v6.into()),
    ] {
        asks.send_to(b"?", mapped(&asks, SocketAddr::new(outside, 53))?)?;
        resolver.recv(&mut [0; 8]).context("the question")?;
        let to = mapped(&resolver, SocketAddr::new(inside, 7002))?;
        resolver.send_to(&[7; 5_000], to)?;
        let length = asks.recv(&mut [0; 8_000]);
        ensure!(length.context("the answer")? == 5_000, "{outside}");
    }
    let stats = lab.stats()?;
    ensure!(stats.passed("fragment") >= 6 && stats.dropped("banned") == 0);
    Ok(())
}
