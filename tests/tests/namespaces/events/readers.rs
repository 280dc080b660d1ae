//! Readers that are slow, killed or too many, floods, and captures.

use super::*;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use firewall_common::abi::event::{BUDGETS, Budget, MAP_EVENT_BUDGETS};
use firewall_common::abi::reason::DropReason;
use firewall_tests::net::traffic::wait_until;

/// Readers are forgotten after three seconds; a little more.
const FORGOTTEN: Duration = Duration::from_millis(3_500);

/// Packets that readers were told of, and that there was no budget for, of all that no rule names.
fn budget(lab: &Lab) -> Result<(u64, u64)> {
    const WORDS: usize = size_of::<Budget>() / 8;
    let path = lab.inside.state().join(MAP_EVENT_BUDGETS);
    let budgets: aya::maps::PerCpuArray<MapData, [u64; WORDS]> =
        aya::maps::PerCpuArray::try_from(Map::PerCpuArray(MapData::from_pin(path)?))?;
    ensure!(budgets.len() == BUDGETS);
    let of_all = budgets.get(&DropReason::NoRule.number(), 0)?;
    Ok(of_all.iter().fold((0, 0), |(told, withheld), words| {
        (told + words[1], withheld + words[2])
    }))
}

/// Sends datagrams that no rule accepts until it is done, from two threads.
fn flood(lab: &Lab, done: &AtomicBool) -> Result<()> {
    let send = || -> Result<()> {
        let sender = udp_from(&lab.outside, lab.outside.v4)?;
        while !done.load(Ordering::Relaxed) {
            sender.send_to(b"flood", (lab.inside.v4, NOBODYS))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(send);
        send()?;
        join(other)
    })
}

/// Floods for `time`, while datagrams of a rule go on; how many of these there were.
fn flood_for(lab: &Lab, time: Duration) -> Result<u64> {
    let done = AtomicBool::new(false);
    let flow = thread::scope(|scope| -> Result<_> {
        let flooding = scope.spawn(|| flood(lab, &done));
        let flow = scope.spawn(|| accepted_by_both(lab, &done));
        thread::sleep(time);
        done.store(true, Ordering::Relaxed);
        join(flooding)?;
        join(flow)
    })?;
    ensure!(flow.lost == 0 && flow.sent > 0, "{flow:?}");
    Ok(flow.sent)
}

#[test]
fn a_flood_is_told_of_so_many_times_a_second_and_the_rest_is_counted() -> Result<()> {
    const RATE: u64 = 20;
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        lab.apply(&in_force(), mode)?;
        let rate = RATE.to_string();
        let watch = [
            "watch", "--format", "json", "--reason", "no-rule", "--rate", &rate,
        ];
        let child = listen(&lab, &watch, 0)?;
        let started = Instant::now();
        flood_for(&lab, Duration::from_secs(2))?;
        let (lines, summary) = told(child.interrupt()?)?;
        let took = started.elapsed().as_secs_f64();
        let (_, cpus) = (0, std::thread::available_parallelism()?.get() as f64);
        // A tick is cut into by both ends, and its budget is a whole number.
        let most = cpus * (took + 1.0) * (RATE as f64 + 8.0);
        ensure!(
            lines.len() >= RATE as usize && (lines.len() as f64) < most,
            "{mode}: {} lines in {took:.1} s, {most:.0} are allowed",
            lines.len(),
        );
        let stats = lab.stats()?;
        let dropped = stats.dropped("no-rule");
        let withheld = summary["withheld"].as_u64().context("a number")?;
        ensure!(
            lines.len() as u64 + withheld == dropped && summary["lost"] == 0,
            "{mode}: {} and {summary}, but {dropped} dropped",
            lines.len(),
        );
        ensure!(
            withheld > 10 * lines.len() as u64,
            "{mode}: no flood, {summary}"
        );
        println!(
            "{mode}: {} told, {withheld} withheld in {took:.1} s",
            lines.len()
        );
    }
    Ok(())
}

#[test]
fn a_reader_that_was_killed_is_forgotten_and_nobody_is_told() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let send = || sender.send_to(b"?", (lab.inside.v4, NOBODYS));
    send()?;
    ensure!(budget(&lab)? == (0, 0), "nobody reads, and was told");

    let child = listen(&lab, &["watch"], 0)?;
    send()?;
    wait_until("told", || Ok(budget(&lab)? == (1, 0)))?;
    child.signal(Signal::KILL)?;
    child.end()?;
    thread::sleep(FORGOTTEN);
    for _ in 0..20 {
        send()?;
    }
    lab.stats_when(|stats| stats.dropped("no-rule") == 22)?;
    ensure!(
        budget(&lab)? == (1, 0),
        "nobody reads any more, and was told"
    );

    // The place of the one that was killed is free again.
    let child = lab
        .inside
        .start_firewall(&["watch", "--count", "1", "--format", "json"])?;
    let deadline = Instant::now() + TURN;
    while budget(&lab)?.0 == 1 {
        ensure!(Instant::now() < deadline, "it never reads");
        send()?;
        thread::sleep(READ);
    }
    let (lines, _) = told(child.wait_with_output()?)?;
    ensure!(lines.len() == 1 && lines[0]["port"] == NOBODYS, "{lines:?}");
    Ok(())
}

#[test]
fn a_reader_that_is_slow_loses_events_and_keeps_nobody_waiting() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let watch = ["watch", "--format", "json", "--rate", "10000"];
    let slow = listen(&lab, &watch, 0)?;
    let quick = listen(&lab, &watch, 1)?;
    slow.signal(Signal::STOP)?;
    // Longer than it is waited for.
    flood_for(&lab, Duration::from_secs(4))?;
    slow.signal(Signal::CONT)?;
    thread::sleep(Duration::from_millis(1_500));
    // It has said that it reads once more, and is told of the next one.
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    sender.send_to(b"last", (lab.inside.v4, TRAP))?;
    let (slow, slow_summary) = told(slow.interrupt()?)?;
    let (quick, quick_summary) = told(quick.interrupt()?)?;
    ensure!(slow_summary["lost"].as_u64() > Some(100), "{slow_summary}");
    ensure!(slow.len() < quick.len(), "{slow_summary} {quick_summary}");
    for lines in [slow, quick] {
        let last = lines.last().context("no line")?;
        ensure!(last["rule"]["name"] == "trap", "{last}");
    }
    Ok(())
}

#[test]
fn readers_are_told_the_same_and_one_too_many_is_refused() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let watch = ["watch", "--format", "json"];
    let children: Vec<_> = (0..READERS as usize)
        .map(|before| listen(&lab, &watch, before))
        .collect::<Result<_>>()?;
    let refused = lab.inside.firewall(&["watch"])?.failure(1)?;
    ensure!(
        refused.contains("read already") && refused.contains("end one"),
        "{refused}"
    );
    let port = FramePort::open(&lab.outside)?;
    for Sent { frame, .. } in arriving(&lab)? {
        port.send(&frame)?;
    }
    let mut all = BTreeSet::new();
    for child in children {
        let (lines, _) = told(child.interrupt()?)?;
        ensure!(lines.len() == 14, "{lines:#?}");
        all.insert(lines.iter().map(line).collect::<Vec<_>>());
    }
    ensure!(all.len() == 1, "{all:#?}");
    Ok(())
}

#[test]
fn a_capture_is_read_by_wireshark_with_what_has_decided_as_comments() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let file = lab.directory().join("drops.pcapng");
    let path = file.to_str().context("a path that is not UTF-8")?;
    let capture = listen(&lab, &["capture", "-w", path, "--count", "15"], 0)?;
    let started = std::time::SystemTime::now();
    let port = FramePort::open(&lab.outside)?;
    for Sent { frame, .. } in arriving(&lab)? {
        port.send(&frame)?;
    }
    let mine: UdpSocket = udp(&lab.inside, 4711)?;
    let _ = mine.send_to(
        b"?",
        mapped(&mine, SocketAddr::new(lab.outside.v4.into(), QUIET))?,
    );
    let said = Outcome::from(capture.end()?);
    let said = said.stderr;
    ensure!(
        said.contains("15 packets written, 0 more were withheld and 0 lost"),
        "{said}"
    );

    let fields = [
        "frame.interface_name",
        "frame.comment",
        "frame.p2p_dir",
        "frame.len",
        "frame.time_epoch",
        "_ws.col.Protocol",
    ];
    let mut tshark = Command::new("tshark");
    // It writes what it remembers into its user's home.
    tshark.env("HOME", lab.directory()).args([
        "-r",
        path,
        "-n",
        "-T",
        "fields",
        "-E",
        "separator=|",
    ]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let read = lab.inside.run(&mut tshark)?.success()?;
    let packets: Vec<Vec<&str>> = read.lines().map(|line| line.split('|').collect()).collect();
    let comments: Vec<_> = packets.iter().map(|packet| packet[1]).collect();
    let (web, trap) = (
        "accepted by rule `web` (line 3)",
        "dropped by rule `trap` (line 23)",
    );
    ensure!(
        comments
            == [
                "dropped: no-rule",
                "dropped: no-rule",
                web,
                web,
                trap,
                trap,
                "dropped: no-rule",
                "dropped: tcp-flags-null",
                "dropped: tcp-flags-null",
                "dropped by rule `stranger` (line 30)",
                "dropped: ipv4-version",
                "dropped: ethertype-unlisted",
                "dropped: no-rule",
                "dropped: rate-limit, rule `few` (line 16)",
                "dropped by rule `quiet` (line 35)",
            ],
        "{read}"
    );
    let epoch = started.duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    for (index, packet) in packets.iter().enumerate() {
        let [interface, _, direction, bytes, time, _] = packet[..] else {
            anyhow::bail!("{packet:?}");
        };
        let is_last = index + 1 == packets.len();
        // Wireshark's words: 0 is sent, 1 is received.
        ensure!(
            interface == lab.inside.interface() && direction == if is_last { "0" } else { "1" },
            "{packet:?}"
        );
        ensure!(
            (time.parse::<f64>()? - epoch).abs() < 5.0,
            "{packet:?}, but it is {epoch}"
        );
        // Of the long one there are the first 256 bytes.
        ensure!(index != 6 || bytes == "1042", "{packet:?}");
    }
    ensure!(packets[0][5] == "TCP" && packets[14][5] == "UDP", "{read}");
    Ok(())
}

#[test]
fn a_capture_can_be_cut_short_and_a_closed_pipe_is_no_failure() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let capture = listen(
        &lab,
        &["capture", "-w", "-", "--snap", "64", "--reason", "no-rule"],
        0,
    )?;
    let port = FramePort::open(&lab.outside)?;
    for Sent { frame, .. } in arriving(&lab)? {
        port.send(&frame)?;
    }
    let bytes = capture.interrupt()?.stdout;
    let mut reader = pcap_file::pcapng::PcapNgReader::new(&bytes[..])?;
    let mut lengths = Vec::new();
    while let Some(block) = reader.next_block() {
        if let pcap_file::pcapng::Block::EnhancedPacket(packet) = block? {
            lengths.push((packet.data.len(), packet.original_len));
        }
    }
    ensure!(
        lengths == [(54, 54), (64, 74), (64, 1042), (58, 58)],
        "{lengths:?}"
    );

    // Whoever reads has gone when the next packet comes.
    for command in [&["watch"][..], &["capture", "-w", "-"]] {
        let mut child = lab.inside.start_firewall(command)?;
        until_read(&lab, 0)?;
        drop(child.stdout.take());
        let sender = udp_from(&lab.outside, lab.outside.v4)?;
        sender.send_to(b"?", (lab.inside.v4, NOBODYS))?;
        let said: Outcome = child.wait_with_output()?.into();
        ensure!(
            said.code == Some(0) && said.stderr.is_empty(),
            "{command:?}: {said}"
        );
        ensure!(readers(&lab)? == 0, "{command:?} has a place still");
    }
    Ok(())
}

#[test]
fn reading_ends_with_the_interface_s_guard_and_begins_again_with_it() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let interface = lab.inside.interface();
    let child = listen(&lab, &["watch", "--format", "json"], 0)?;
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let send = || sender.send_to(b"?", (lab.inside.v4, TRAP));
    send()?;
    thread::sleep(READ);
    lab.inside
        .firewall(&["detach", "-i", interface])?
        .success()?;
    lab.apply(&in_force(), "native")?;
    until_read(&lab, 0)?;
    send()?;
    let (lines, summary) = told(child.interrupt()?)?;
    ensure!(lines.len() == 2 && summary["taken"] == 2, "{lines:?}");
    Ok(())
}

/// Whoever is not root can open no map, and so neither read packets nor have any sent.
#[test]
fn other_users_are_told_nothing() -> Result<()> {
    const OTHER: u32 = 65_534;
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    lab.apply(&in_force(), "native")?;
    let binary = lab.directory().join("firewall");
    fs::copy(firewall_tests::net::firewall()?, &binary)?;
    fs::set_permissions(lab.directory(), fs::Permissions::from_mode(0o755))?;
    let refused = |program: &mut Command| -> Result<String> {
        let outcome = lab.inside.run(program.uid(OTHER).gid(OTHER))?;
        ensure!(
            outcome.code != Some(0) && outcome.stdout.is_empty(),
            "{outcome}"
        );
        Ok(outcome.stderr)
    };
    for command in ["watch", "capture"] {
        let arguments = match command {
            "watch" => &["watch"][..],
            _ => &["capture", "-w", "-"],
        };
        let said = refused(Command::new(&binary).args(arguments))?;
        ensure!(said.contains("root"), "{said}");
    }
    let state = lab.inside.state();
    refused(
        Command::new("bpftool")
            .args(["map", "dump", "pinned"])
            .arg(state.join(MAP_EVENT_SETTINGS)),
    )?;
    let said = refused(Command::new("ls").arg(state))?;
    ensure!(said.contains("Permission denied"), "{said}");
    Ok(())
}
