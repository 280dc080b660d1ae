//! The flow table from outside: who shares it, how long it stays, and what the command says of it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, MapInfo, loaded_maps};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use firewall_common::abi::ABI_VERSION;
use firewall_common::abi::flow::{
    BUCKET_WORDS, Key, Received, Sent, SlotWord, State, TICK_MASK, Timeouts, WAYS,
};
use firewall_tests::net::traffic::{udp_from, wait_until};
use firewall_tests::net::{FramePort, Host, Lab, PINS};
use firewall_tests::packets::{ethernet_to, ethertype, ipv4_between, udp};
use firewall_user::kernel::guard::{Found, Guard};
use serde_json::Value;

use crate::probe::{InForce, policy};
use crate::rules;

/// The folder of an interface.
fn pins(interface: &str) -> std::path::PathBuf {
    Path::new(PINS)
        .join(interface)
        .join(format!("v{ABI_VERSION}"))
}

fn table_of(interface: &str) -> Result<u32> {
    Ok(MapInfo::from_pin(pins(interface).join("FLOWS"))?.id())
}

/// The kernel's jiffies, as the programs know them.
fn jiffies(interface: &str) -> Result<u64> {
    let clock = SchedClassifier::from_pin(pins(interface).join("clock"))?;
    let mut frame = [0; 64];
    let options = TestRunOptions {
        data_in: Some(&[0; 64]),
        data_out: Some(&mut frame),
        ..TestRunOptions::new()
    };
    clock.test_run(options)?;
    let (jiffies, _) = frame.split_first_chunk().context("a short frame")?;
    Ok(u64::from_ne_bytes(*jiffies))
}

/// The tick that flows are stamped with now.
fn clock(interface: &str) -> Result<u32> {
    let settings = MapData::from_pin(pins(interface).join("FLOW_SETTINGS"))?;
    let settings: Array<MapData, [u32; 32]> = Array::try_from(Map::Array(settings))?;
    // Behind seven words of seed and the mask.
    let tick_shift = settings.get(&0, 0)?[15];
    ensure!((6..=11).contains(&tick_shift), "{tick_shift}");
    Ok((jiffies(interface)? >> tick_shift) as u32)
}

/// Puts a flow into the table, in the first slot of a bucket, as the program for what leaves would.
fn record(interface: &str, bucket: u32, key: Key, state: State, tick: u32) -> Result<()> {
    let map = MapData::from_pin(pins(interface).join("FLOWS"))?;
    let mut buckets: Array<MapData, [u64; BUCKET_WORDS]> = Array::try_from(Map::Array(map))?;
    let sent = Sent {
        created: tick,
        window_bits: 17,
        packets: 3,
    };
    let received = Received {
        picked_up: 0,
        local_scale: 0,
        remote_scale: 0,
        window_bits: 17,
        packets: 2,
    };
    let mut words = [0; BUCKET_WORDS];
    words[0] = SlotWord::new(SlotWord::FIRST_TAG, tick, state).0;
    words[WAYS..2 * WAYS].copy_from_slice(&[
        key.local[0],
        key.local[1],
        key.remote[0],
        key.remote[1],
        key.selector(),
        0,
        sent.to_word(),
        received.to_word(),
    ]);
    Ok(buckets.set(bucket, words, 0)?)
}

fn flows(host: &Host, interface: &str, more: &[&str]) -> Result<Value> {
    let arguments = [&["flows", "-i", interface, "--format", "json"], more].concat();
    let text = host.firewall(&arguments)?.success()?;
    serde_json::from_str(&text).with_context(|| text)
}

fn key(protocol: u8, local: Ipv4Addr, local_port: u16, remote_port: u16) -> Key {
    Key {
        local: Key::mapped(local.into()),
        remote: Key::mapped(Ipv4Addr::new(198, 51, 100, 7).into()),
        protocol,
        local_port,
        remote_port,
    }
}

#[test]
fn the_interfaces_of_a_namespace_share_one_table() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let one = lab.inside.interface().to_owned();
    let other = format!("{one}b");
    lab.inside
        .ip(&format!("link add {other} type veth peer name {one}c"))?;
    let inside = |arguments: &[&str]| lab.inside.firewall(arguments)?.success();

    inside(&["apply", file, "-i", &one, "-i", &other])?;
    let table = table_of(&one)?;
    ensure!(table_of(&other)? == table, "each has its own");
    // A datagram's fragments may come through both.
    let fragments = [&one, &other]
        .map(|interface| MapInfo::from_pin(pins(interface).join("FRAGMENTS")).map(|map| map.id()));
    let [of_one, of_other] = fragments;
    ensure!(of_one? == of_other?, "each remembers its own fragments");
    // Another namespace has its own.
    lab.outside
        .firewall(&["apply", file, "-i", lab.outside.interface()])?
        .success()?;
    ensure!(
        table_of(lab.outside.interface())? != table,
        "two namespaces have one table"
    );

    let now = clock(&one)?;
    record(
        &one,
        5,
        key(17, lab.inside.v4, 4000, 53),
        State::UdpAnswered,
        now,
    )?;
    let listed = flows(&lab.inside, &other, &[])?;
    ensure!(listed["total"] == 1, "{listed}");
    ensure!(flows(&lab.outside, lab.outside.interface(), &[])?["total"] == 0);

    // One goes and comes back, and finds what it has left.
    inside(&["detach", "-i", &one])?;
    ensure!(flows(&lab.inside, &other, &[])?["total"] == 1, "it is lost");
    inside(&["apply", file, "-i", &one])?;
    ensure!(table_of(&one)? == table, "another table");
    ensure!(flows(&lab.inside, &one, &[])?["total"] == 1, "it is lost");

    inside(&["detach", "-i", &one, "-i", &other])?;
    for interface in [&one, &other] {
        ensure!(
            !Path::new(PINS).join(interface).exists(),
            "{interface} has pins"
        );
    }
    wait_until("the table is gone", || {
        Ok(!loaded_maps()
            .filter_map(Result::ok)
            .any(|map| map.id() == table))
    })
}

#[test]
fn an_answer_may_come_back_through_another_interface() -> Result<()> {
    const RESOLVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &rules(&[]))?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let one = lab.inside.interface().to_owned();
    let other = format!("{one}b");
    for command in [
        format!("link add {other} up type veth peer name {one}c"),
        format!("link set {one}c up"),
        format!("address add 203.0.113.1/24 dev {other}"),
        format!("neighbour add {RESOLVER} lladdr 02:00:00:00:00:09 dev {other}"),
    ] {
        lab.inside.ip(&command)?;
    }
    lab.inside
        .firewall(&["apply", file, "-i", &one, "-i", &other])?
        .success()?;
    let client = udp_from(&lab.inside, Ipv4Addr::new(203, 0, 113, 1))?;
    let port = client.local_addr()?.port();
    let answer = |source_port: u16| -> Result<()> {
        let header = udp(source_port, port, b"answer");
        let packet = ipv4_between(RESOLVER, Ipv4Addr::new(203, 0, 113, 1), 17, &header);
        let frame = ethernet_to(lab.inside.hardware_address()?, ethertype::IPV4, &packet);
        FramePort::open(&lab.outside)?.send(&frame)
    };

    answer(53)?;
    wait_until("it is refused before the question", || {
        Ok(lab.stats()?.totals.dropped.packets == 1)
    })?;
    client.send_to(b"question", (RESOLVER, 53))?;
    answer(54)?;
    wait_until("another port is no answer", || {
        Ok(lab.stats()?.totals.dropped.packets == 2)
    })?;
    ensure!(lab.stats()?.passed("answer") == 0);
    answer(53)?;
    wait_until("the answer passes", || {
        Ok(lab.stats()?.passed("answer") == 1)
    })
}

#[test]
fn flows_are_listed_as_documented() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let interface = lab.inside.interface();
    let local = lab.inside.v4;
    let now = clock(interface)?;
    let ago = |ticks: u32| now.wrapping_sub(ticks) & TICK_MASK;
    record(
        interface,
        0,
        key(6, local, 40_000, 443),
        State::Established,
        ago(60),
    )?;
    record(interface, 1, key(17, local, 4000, 53), State::UdpSent, now)?;
    record(
        interface,
        2,
        key(1, local, 77, 0),
        State::EchoAnswered,
        ago(3),
    )?;
    // Its timeout has passed.
    record(
        interface,
        16_383,
        key(17, local, 4001, 53),
        State::UdpSent,
        ago(60),
    )?;

    let all = flows(&lab.inside, interface, &[])?;
    ensure!(
        (&all["interface"], &all["size"], &all["total"])
            == (&interface.into(), &131_072.into(), &3.into()),
        "{all}"
    );
    // The most recent first.
    let ports: Vec<_> = all["flows"]
        .as_array()
        .context("no list")?
        .iter()
        .map(|flow| flow["remote"]["port"].as_u64())
        .collect();
    ensure!(ports == [Some(53), None, Some(443)], "{all}");
    let tcp = &all["flows"][2];
    // A tick is a second or two, and this may have taken one.
    let idle = tcp["idle_s"].as_u64().context("no idle time")?;
    ensure!((60..130).contains(&idle), "{tcp}");
    let expected = serde_json::json!({
        "protocol": "tcp", "local": {"address": local, "port": 40_000},
        "remote": {"address": "198.51.100.7", "port": 443}, "identifier": null, "state": "established",
        "age_s": idle, "idle_s": idle, "packets_out": 3, "packets_in": 2,
    });
    ensure!(*tcp == expected, "{tcp}");
    ensure!(all["flows"][1]["identifier"] == 77, "{all}");

    for (filter, expected) in [
        (&["--protocol", "udp"] as &[_], 1),
        (&["--protocol", "icmp"], 1),
        (&["--protocol", "132"], 0),
        (&["--state", "established"], 1),
        (&["--local", "192.0.2.0/24"], 3),
        (&["--local", ":4000"], 1),
        (&["--remote", "198.51.100.7:443"], 1),
        (&["--remote", "2001:db8::/32"], 0),
        (&["--limit", "1"], 3),
    ] {
        let found = flows(&lab.inside, interface, filter)?;
        ensure!(found["total"] == expected, "{filter:?}: {found}");
    }
    let limited = flows(&lab.inside, interface, &["--limit", "1"])?;
    ensure!(limited["flows"].as_array().map(Vec::len) == Some(1));
    let text = lab
        .inside
        .firewall(&["flows", "-i", interface])?
        .success()?;
    ensure!(text.contains(&format!("{local} id 77")), "{text}");
    ensure!(lab.stats()?.flows.used == 3);
    let status = lab
        .inside
        .firewall(&["status", "-i", interface])?
        .success()?;
    ensure!(status.contains("flows: 3 of 131,072"), "{status}");
    Ok(())
}

#[test]
fn the_clock_tells_the_kernels_jiffies() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let interface = lab.inside.interface();
    let told = || -> Result<u64> {
        let text = std::fs::read_to_string("/proc/timer_list")?;
        let line = text.lines().find_map(|line| line.strip_prefix("jiffies: "));
        Ok(line.context("no jiffies")?.parse()?)
    };
    let Ok(before) = told() else {
        return firewall_tests::net::skip("this kernel has no /proc/timer_list");
    };
    let jiffies = jiffies(interface)?;
    let after = told()?;
    ensure!(
        (before..=after).contains(&jiffies),
        "{jiffies} is not in {before}..={after}"
    );
    Ok(())
}

#[test]
fn a_program_for_what_leaves_that_was_taken_off_comes_back() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let interface = lab.inside.interface();
    let status = || -> Result<Value> {
        let arguments = ["status", "-i", interface, "--format", "json"];
        let text = lab.inside.firewall(&arguments)?.success()?;
        Ok(serde_json::from_str::<Value>(&text)?[0].take())
    };
    let program = lab.inside.egress()?;
    ensure!(status()?["egress_program_id"] == program[0]);
    let others = status()?;
    ensure!(others["others"] == serde_json::json!([]), "{others}");

    std::fs::remove_file(pins(interface).join("link-egress"))?;
    wait_until("it is off", || Ok(lab.inside.egress()?.is_empty()))?;
    ensure!(status()?["egress_program_id"].is_null());
    lab.apply_file(&file, &[])?;
    ensure!(lab.inside.egress()? == program, "it is not there again");
    ensure!(status()?["egress_program_id"] == program[0]);
    Ok(())
}

#[test]
fn other_timeouts_leave_the_table_as_it_is() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let interface = lab.inside.interface();
    let settings = || -> Result<[u32; 32]> {
        let map = MapData::from_pin(pins(interface).join("FLOW_SETTINGS"))?;
        Ok(Array::try_from(Map::Array(map))?.get(&0, 0)?)
    };
    let before = settings()?;
    ensure!(before[..14].iter().any(|&word| word != 0), "no seed");
    let longer = Timeouts {
        udp: 60,
        ..Timeouts::default()
    };
    lab.inside.enter(|| {
        let found = firewall_user::kernel::interface::find(interface)?.context("it is gone")?;
        let Found::Guard(guard) = Guard::find(&found)? else {
            bail!("not guarded");
        };
        guard.flow_table()?.set_timeouts(&longer)
    })?;
    let after = settings()?;
    // Seven words of 64 bits are the seed; mask and shift follow.
    ensure!(after[..16] == before[..16], "another seed or size");
    for (index, (before, after)) in before.iter().zip(&after).enumerate().skip(16) {
        let of_udp = [State::UdpSent, State::UdpAnswered]
            .iter()
            .any(|&state| state as usize == index - 16);
        ensure!(
            (after > before) == of_udp && after >= before,
            "state {}: {before}, {after}",
            index - 16
        );
    }
    // The next apply brings the file's back.
    lab.apply_file(&file, &[])?;
    ensure!(settings()? == before, "the file's timeouts do not hold");

    // So does going back, and a candidate brings its own.
    let text = policy(InForce::B) + "\n[flows.timeouts]\nudp = \"60s\"\n";
    let other = lab.write("b.toml", &text)?;
    lab.apply_file(&other, &[])?;
    ensure!(
        settings()? == after,
        "the other file's timeouts do not hold"
    );
    let run = |arguments: &[&str]| {
        lab.inside
            .firewall(&[arguments, &["-i", interface]].concat())
    };
    run(&["rollback"])?.success()?;
    ensure!(settings()? == before, "not those of what is in force again");
    lab.apply_file(&other, &["--shadow"])?;
    ensure!(settings()? == before, "a candidate has changed them");
    run(&["shadow", "promote"])?.success()?;
    ensure!(settings()? == after, "not those of the candidate");
    Ok(())
}

#[test]
fn addresses_in_json_are_as_they_are_on_the_wire() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let file = lab.write("a.toml", &policy(InForce::A))?;
    lab.apply_file(&file, &[])?;
    let interface = lab.inside.interface();
    let halves = |address: std::net::Ipv6Addr| {
        let bits = u128::from(address);
        [(bits >> 64) as u64, bits as u64]
    };
    let key = Key {
        local: halves(lab.inside.v6),
        remote: halves(lab.outside.v6),
        protocol: 6,
        local_port: 40_000,
        remote_port: 443,
    };
    record(interface, 0, key, State::Established, clock(interface)?)?;
    let filter = format!("[{}]:443", lab.outside.v6);
    let found = flows(&lab.inside, interface, &["--remote", &filter])?;
    let address = found["flows"][0]["local"]["address"].as_str();
    let address: IpAddr = address.context("no address")?.parse()?;
    ensure!(address == lab.inside.v6, "{found}");
    Ok(())
}
