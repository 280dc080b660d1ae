//! A newer version takes over what an older one guards: no packet is lost or let in meanwhile, and what was known is known still.

mod killed;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapData, MapInfo, PerCpuArray};
use aya::util::nr_cpus;
use firewall_common::abi::ABI_VERSION;
use firewall_common::abi::counter::FLOWS_CREATED;
use firewall_tests::net::old::{Old, Version};
use firewall_tests::net::traffic::{mapped, reaches, udp, udp_from, wait_until};
use firewall_tests::net::{Lab, Outcome};
use serde_json::Value;

use crate::MODES;
use crate::switching::{Flow, accepted_by_both, join, one_connection};

/// Ports of `rules.toml`: served; served thrice an hour; who knocks there thrice is banned; kept from leaving.
const GAME: u16 = 7000;
const FEW: u16 = 7001;
const TRAP: u16 = 7002;
const QUIET: u16 = 9999;
/// A port of the host outside.
const RESOLVER: u16 = 5353;

/// How long traffic goes on before and after.
const MEANWHILE: Duration = Duration::from_millis(300);

#[test]
fn nothing_is_lost_and_what_was_known_is_known_still() -> Result<()> {
    let all = Version::ALL.into_iter().rev();
    for (version, mode) in all.flat_map(|version| MODES.map(|mode| (version, mode))) {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let interface = lab.inside.interface();
        let mut old = Old::load(version, None)?;
        old.guard(&lab.inside, interface, mode, &version.rules())?;
        let (begun, known) = (Instant::now(), Known::begin(&lab).context(mode)?);

        let done = AtomicBool::new(false);
        let (arriving, asking, exchanged) = thread::scope(|scope| -> Result<_> {
            let arriving = scope.spawn(|| accepted_by_both(&lab, &done));
            let asking = scope.spawn(|| asking(&lab, &done));
            let exchanged = scope.spawn(|| one_connection(&lab, &done));
            thread::sleep(MEANWHILE);
            let upgraded = upgrade(&lab, &[]).and_then(Outcome::success);
            thread::sleep(MEANWHILE);
            done.store(true, Ordering::Relaxed);
            let results = (join(arriving)?, join(asking)?, join(exchanged)?);
            upgraded.map(|_| results)
        })?;
        for flow in [&arriving, &asking] {
            ensure!(flow.lost == 0 && flow.sent > 100, "{mode}: {flow:?}");
        }
        ensure!(exchanged > 20, "{mode}: {exchanged} exchanges");

        let attached = lab.inside.attached()?.context("open")?;
        ensure!(attached.mode == mode && attached.program != old.program()?);
        ensure!(
            !version.state(interface).exists(),
            "the old version's pins are gone"
        );
        let stats = lab.stats()?;
        ensure!(
            stats.rule("game") == Some(arriving.sent),
            "{mode}: old and new programs have counted {} together: {stats:#?}",
            arriving.sent
        );
        ensure!(stats.generation == 1 && stats.rule("trap") == Some(3));
        let dropped = stats.totals.dropped.packets;
        ensure!(dropped == 4, "{mode}: only what had to be: {stats:#?}");
        let took = begun.elapsed();
        known
            .holds(&lab)
            .with_context(|| format!("{version:?}, {mode}, {took:.1?} later"))?;
        goes_on(&lab, version).context(mode)?;
    }
    Ok(())
}

/// What the old programs have seen, and the new ones must know.
struct Known {
    stranger: UdpSocket,
    client: UdpSocket,
    resolver: UdpSocket,
    few: UdpSocket,
}

impl Known {
    /// Opens a flow, has a ban given and uses up what a limit lets in; four packets are dropped.
    fn begin(lab: &Lab) -> Result<Self> {
        let known = Self {
            stranger: udp_from(&lab.outside, lab.stranger())?,
            client: udp(&lab.inside, 0)?,
            resolver: udp(&lab.outside, 4711)?,
            few: udp(&lab.inside, FEW)?,
        };
        let outside = SocketAddr::new(lab.outside.v4.into(), 4711);
        ensure!(reaches(&known.client, outside, &known.resolver)?);
        for _ in 0..3 {
            known.stranger.send_to(b"?", (lab.inside.v4, TRAP))?;
        }
        for number in 0..4 {
            let passes = known.passes_limit(lab)?;
            ensure!(passes == (number < 3), "number {number}: {passes}");
        }
        Ok(known)
    }

    fn passes_limit(&self, lab: &Lab) -> Result<bool> {
        let target = SocketAddr::new(lab.inside.v4.into(), FEW);
        reaches(&udp_from(&lab.outside, lab.outside.v4)?, target, &self.few)
    }

    fn holds(&self, lab: &Lab) -> Result<()> {
        // Nothing has left since that could have opened the flow again.
        let client = SocketAddr::new(lab.inside.v4.into(), self.client.local_addr()?.port());
        ensure!(
            reaches(&self.resolver, client, &self.client)?,
            "an answer to what was asked before"
        );
        let banned = {
            let receiver = udp(&lab.inside, GAME)?;
            let target = SocketAddr::new(lab.inside.v4.into(), GAME);
            let other = udp_from(&lab.outside, lab.outside.v4)?;
            ensure!(reaches(&other, target, &receiver)?, "who is not banned");
            !reaches(&self.stranger, target, &receiver)?
        };
        ensure!(banned, "the ban holds");
        let said = firewall(lab, "bans --format json")?.success()?;
        let ban: Value = serde_json::from_str(said.trim())?;
        let left = ban["expires_s"].as_f64().context("it ends")?;
        ensure!((3_500.0..3_600.0).contains(&left), "{said}");
        ensure!(ban["address"] == lab.stranger().to_string(), "{said}");
        ensure!(!self.passes_limit(lab)?, "the limit is used up still");
        let quiet = udp(&lab.outside, QUIET)?;
        // The kernel may say that it was dropped.
        let _ = self.client.send_to(
            b"?",
            mapped(&self.client, SocketAddr::new(lab.outside.v4.into(), QUIET))?,
        );
        ensure!(quiet.recv(&mut [0; 8]).is_err(), "the egress rule holds");
        Ok(())
    }
}

/// The next commands find what an apply of this version would have left.
fn goes_on(lab: &Lab, version: Version) -> Result<()> {
    let interface = lab.inside.interface();
    if version != Version::V3 {
        let history = firewall(lab, &format!("history -i {interface}"))?.success()?;
        ensure!(history.contains("apply"), "it was kept: {history}");
        is_told(lab)?;
    }
    let status = firewall(lab, "status")?.success()?;
    ensure!(
        status.contains("5 rules") && status.contains("what leaves is seen"),
        "{status}"
    );
    let game = lab.stats()?.rule("game");
    let file = lab.write(
        "next.toml",
        &(fs::read_to_string(version.rules())? + "\n# Next.\n"),
    )?;
    lab.apply_file(&file, &[])?;
    ensure!(lab.stats()?.generation == 2 && lab.stats()?.rule("game") == game);
    firewall(lab, &format!("rollback -i {interface}"))?.success()?;
    ensure!(lab.stats()?.generation == 1, "it was kept");
    firewall(lab, &format!("detach -i {interface}"))?.success()?;
    ensure!(!lab.inside.pins().exists(), "detached, but pinned");
    Ok(())
}

/// The new programs tell of what the generation drops that the old ones were given, and its rule is known by name.
fn is_told(lab: &Lab) -> Result<()> {
    let interface = lab.inside.interface();
    let watch = [
        "watch", "-i", interface, "--count", "1", "--for", "10s", "--rule", "trap",
    ];
    let told = thread::scope(|scope| {
        let watching = scope.spawn(|| lab.inside.firewall(&watch));
        while !watching.is_finished() {
            udp_from(&lab.outside, lab.outside.v4)?.send_to(b"?", (lab.inside.v4, TRAP))?;
            thread::sleep(MEANWHILE);
        }
        join(watching)?.success()
    })?;
    ensure!(told.contains("rule trap"), "{told}");
    Ok(())
}

/// Asks the host outside, which answers, over and over.
fn asking(lab: &Lab, done: &AtomicBool) -> Result<Flow> {
    let resolver = udp(&lab.outside, RESOLVER)?;
    let client = udp(&lab.inside, 0)?;
    let outside = SocketAddr::new(IpAddr::from(lab.outside.v6), RESOLVER);
    let mut flow = Flow::default();
    let mut buffer = [0; 8];
    while !done.load(Ordering::Relaxed) {
        client.send_to(&flow.sent.to_be_bytes(), outside)?;
        let (_, from) = resolver.recv_from(&mut buffer).context("a question")?;
        resolver.send_to(&buffer, from)?;
        let arrived = client.recv(&mut buffer).is_ok() && buffer == flow.sent.to_be_bytes();
        flow.received += u64::from(arrived);
        flow.lost += u64::from(!arrived);
        flow.sent += 1;
    }
    Ok(flow)
}

#[test]
fn a_dry_run_says_all_and_touches_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let file = lab.write("rules.toml", &fs::read_to_string(Version::V3.rules())?)?;
    let mut old = Old::load(Version::V3, None)?;
    old.guard(&lab.inside, interface, "native", &file)?;
    let before = pinned(&lab)?;

    let refused = lab
        .inside
        .firewall(&["detach", "-i", interface])?
        .failure(1)?;
    ensure!(
        refused.contains("`firewall upgrade` takes it over"),
        "{refused}"
    );
    let said = upgrade(&lab, &["--dry-run"])?;
    ensure!(
        said.stdout.contains(" would guard in the place of v3"),
        "{said}"
    );
    ensure!(said.stderr.contains("no earlier generation"), "{said}");
    // What is in the file now is not what is in force.
    lab.write("rules.toml", "version = 1\n")?;
    let said = upgrade(&lab, &["--dry-run", "--format", "json"])?.success()?;
    let plan: Value = serde_json::from_str(&said)?;
    ensure!(
        plan[0]["from"] == 3 && plan[0]["to"] == ABI_VERSION,
        "{said}"
    );
    ensure!(
        plan[0]["changed"] == false && plan[0]["generation"] == 1,
        "{said}"
    );
    let lost = plan[0]["lost"].as_array().context("a list")?;
    ensure!(
        lost.len() == 2
            && lost[1]
                .as_str()
                .is_some_and(|one| one.contains("is not any more")),
        "{said}"
    );
    ensure!(pinned(&lab)? == before, "a dry run has pinned something");
    ensure!(lab.inside.attached()?.context("open")?.program == old.program()?);

    upgrade(&lab, &["-i", interface])?.success()?;
    ensure!(
        lab.stats()?.rules.len() == 5,
        "what was in force is so still"
    );
    let history = firewall(&lab, &format!("history -i {interface}"))?.success()?;
    ensure!(!history.contains("rules.toml"), "{history}");
    let again = upgrade(&lab, &[])?.success()?;
    ensure!(again.contains("nothing to do"), "{again}");
    Ok(())
}

#[test]
fn a_version_that_cannot_be_read_is_refused_and_goes_on() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let mut old = Old::load(Version::V3, None)?;
    old.guard(&lab.inside, interface, "native", &Version::V3.rules())?;
    let state = Version::V3.state(interface);
    fs::rename(&state, state.with_file_name("v2"))?;
    let before = pinned(&lab)?;
    for arguments in [&[][..], &["--dry-run"], &["-i", interface]] {
        let refused = upgrade(&lab, arguments)?.failure(1)?;
        ensure!(
            refused.contains("(v2; this one has ") && refused.contains("detach with that version"),
            "{refused}"
        );
    }
    ensure!(pinned(&lab)? == before, "it was touched");
    ensure!(lab.inside.attached()?.context("open")?.program == old.program()?);
    Ok(())
}

#[test]
fn interfaces_of_a_namespace_go_on_sharing_their_flows() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let one = lab.inside.interface().to_owned();
    let other = format!("{one}b");
    lab.inside
        .ip(&format!("link add {other} up type veth peer name {one}c"))?;
    let mut first = Old::load(Version::V4, None)?;
    first.guard(&lab.inside, &one, "native", &Version::V4.rules())?;
    let mut second = Old::load(Version::V4, Some(&Version::V4.state(&one)))?;
    second.guard(&lab.inside, &other, "native", &Version::V4.rules())?;
    let table =
        |folder: &Path| Ok::<_, anyhow::Error>(MapInfo::from_pin(folder.join("FLOWS"))?.id());
    let shared = table(&Version::V4.state(&one))?;
    ensure!(table(&Version::V4.state(&other))? == shared);

    upgrade(&lab, &["-i", &one])?.success()?;
    let third = format!("{one}c");
    let file = lab.write("rules.toml", "version = 1\n")?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let refused = lab
        .inside
        .firewall(&["apply", file, "-i", &third])?
        .failure(1)?;
    ensure!(
        refused.contains("`firewall upgrade`"),
        "a table of its own? {refused}"
    );
    upgrade(&lab, &[])?.success()?;
    for interface in [&one, &other] {
        let pins = Version::V4
            .state(interface)
            .with_file_name(format!("v{ABI_VERSION}"));
        ensure!(table(&pins)? == shared, "{interface}");
        ensure!(!Version::V4.state(interface).exists(), "{interface}");
    }
    Ok(())
}

#[test]
fn counts_of_several_maps_and_a_program_that_was_taken_off_are_found() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let interface = lab.inside.interface();
    let mut old = Old::load(Version::V3, None)?;
    old.guard(&lab.inside, interface, "native", &Version::V3.rules())?;
    let state = Version::V3.state(interface);
    // As after an apply that had to make room for more counters: those before are in a map of their own.
    for name in ["COUNTERS", "INGRESS_NEXT", "EGRESS_NEXT"] {
        fs::rename(
            state.join(format!("{name}_0")),
            state.join(format!("{name}_1")),
        )?;
    }
    let mut before: PerCpuArray<MapData, [u64; 3]> = PerCpuArray::create(4096, 0)?;
    let cpus = nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
    before.set(FLOWS_CREATED, vec![[5, 0, 0]; cpus].try_into()?, 0)?;
    before.pin(state.join("COUNTERS_0"))?;
    // As `tc` or another program can do it.
    fs::remove_file(state.join("link-egress"))?;
    wait_until("off", || Ok(lab.inside.egress()?.is_empty()))?;

    upgrade(&lab, &[])?.success()?;
    ensure!(lab.inside.egress()?.len() == 1, "what leaves is seen again");
    let outside = udp(&lab.outside, RESOLVER)?;
    let target = SocketAddr::new(lab.outside.v4.into(), RESOLVER);
    ensure!(reaches(&udp(&lab.inside, 0)?, target, &outside)?);
    let created = lab.stats()?.flows.created;
    ensure!(created == 5 * cpus as u64 + 1, "{created} flows");
    Ok(())
}

fn upgrade(lab: &Lab, more: &[&str]) -> Result<Outcome> {
    lab.inside.firewall(&[&["upgrade"], more].concat())
}

fn firewall(lab: &Lab, words: &str) -> Result<Outcome> {
    lab.inside
        .firewall(&words.split_whitespace().collect::<Vec<_>>())
}

/// All that is pinned for the guarded interface, with the numbers of maps.
fn pinned(lab: &Lab) -> Result<Vec<(String, Option<u32>)>> {
    let mut found = Vec::new();
    for version in fs::read_dir(lab.inside.pins())? {
        for entry in fs::read_dir(version?.path())? {
            let path = entry?.path();
            let id = MapInfo::from_pin(&path).ok().map(|map| map.id());
            found.push((path.display().to_string(), id));
        }
    }
    found.sort();
    Ok(found)
}
