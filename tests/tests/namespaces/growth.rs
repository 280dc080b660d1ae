//! Policies with more rules and ports than there is room for counters: the room grows, and nothing else is noticed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, tc::SchedClassifierLink};
use firewall_tests::net::Lab;
use firewall_tests::net::traffic::{drain, udp, udp_from};

use firewall_user::kernel::instance::Instance;

use crate::probe::PORTS;
use crate::switching::{accepted_by_both, join};
use crate::{MODES, rules};

const GAME: &str = r#"name = "game"; action = "accept"; protocol = "udp"; ports = [7000]"#;
const CHAT: &str = r#"name = "chat"; action = "accept"; protocol = "udp"; ports = [7001]"#;
const FRESH: &str = r#"name = "fresh"; action = "accept"; protocol = "udp"; ports = [7002]"#;

/// More than the 16,384 counters that there are at first.
pub(crate) const MANY: &str =
    r#"name = "many"; action = "accept"; protocol = "tcp"; ports = ["1000-41000"]"#;

/// And still more.
const HUGE: &str = r#"name = "huge"; action = "accept"; protocol = "udp"; ports = ["1-65535"]"#;
const HUGER: &str = r#"name = "huger"; action = "accept"; protocol = "tcp"; ports = ["1-65535"]"#;

/// Between two looks at the counters.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes of a datagram of the flow: Ethernet, IPv4, UDP, and the number in it.
const FRAME: u64 = 14 + 20 + 8 + 8;

#[test]
fn room_for_counters_grows_under_traffic() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        ensure!(PORTS[0] == 7000, "the flow is the game's");
        lab.apply(&rules(&[GAME, CHAT]), mode)?;
        let done = AtomicBool::new(false);
        let (flow, looks) = thread::scope(|scope| -> Result<_> {
            let flow = scope.spawn(|| accepted_by_both(&lab, &done));
            let looks = scope.spawn(|| never_back(&lab, &done));
            let grown = grow_and_shrink(&lab, mode);
            done.store(true, Ordering::Relaxed);
            let results = (join(flow)?, join(looks)?);
            grown.map(|()| results)
        })?;
        ensure!(
            flow.lost == 0,
            "{mode}: lost {} of {}",
            flow.lost,
            flow.sent
        );
        ensure!(looks > 5, "{mode}: looked {looks} times at the counters");
        let stats = lab.stats()?;
        let game = stats.rules.iter().find(|rule| rule.name == "game");
        let game = game.context("no counter of the game")?;
        ensure!(
            (game.packets, game.bytes) == (flow.sent, flow.sent * FRAME),
            "{mode}: {game:?}, sent {}",
            flow.sent
        );
        ensure!(
            stats.port("udp", PORTS[0]).map(|count| count.packets) == Some(flow.sent),
            "{mode}: the port's counter too"
        );
        let interface = lab.inside.interface();
        lab.inside
            .firewall(&["detach", "-i", interface])?
            .success()?;
        ensure!(!lab.inside.pins().exists(), "{mode}: detached, but pinned");
    }
    Ok(())
}

#[test]
fn what_a_killed_growth_has_left_is_cleared_up() -> Result<()> {
    let Some(lab) = Lab::new()? else {
        return Ok(());
    };
    let (small, large) = (rules(&[GAME]), rules(&[GAME, MANY]));
    lab.apply(&small, "auto")?;
    let pins = lab.inside.state();
    let at_work = || -> Result<u64> {
        let pinned = u64::from(ProgramInfo::from_pin(pins.join("program"))?.id());
        let attached = lab.inside.attached()?.context("open")?.program;
        ensure!(
            pinned == attached,
            "program {attached} is at work, {pinned} is pinned"
        );
        let pinned = ProgramInfo::from_pin(pins.join("program-egress"))?.id();
        let attached_too = lab.inside.egress()?;
        ensure!(
            attached_too == [pinned],
            "programs {attached_too:?} see what leaves, {pinned} is pinned"
        );
        Ok(attached)
    };
    let before = at_work()?;

    // Killed before the new program was at work: with a map of its own, and larger than any that is needed here.
    let mut other = Instance::load(1 << 18)?;
    let counters = other.ebpf().map("COUNTERS").context("no counters")?;
    counters.pin(pins.join("COUNTERS_1"))?;
    other.program().pin(pins.join("program-next"))?;
    lab.apply(&large, "auto")?;
    ensure!(counter_maps(&lab)? == 2, "another map in its place");
    let grown = at_work()?;
    let foreign = u64::from(other.program().info()?.id());
    ensure!(grown != before && grown != foreign, "a program of its own");
    let map = MapInfo::from_pin(pins.join("COUNTERS_1"))?;
    ensure!(map.max_entries() == 1 << 18, "{}", map.max_entries());

    // Killed when the new program was at work, but not yet pinned under its name.
    fs::rename(pins.join("program"), pins.join("program-next"))?;
    other.program().pin(pins.join("program"))?;
    lab.apply(&small, "auto")?;
    ensure!(counter_maps(&lab)? == 2, "nothing is left");
    ensure!(at_work()? == grown, "the same goes on");

    // Killed when one of the new programs was at work: the other has to follow, for they count in the same map.
    let mut next = Instance::load(1 << 18)?;
    let counters = next.ebpf().map("COUNTERS").context("no counters")?;
    counters.pin(pins.join("COUNTERS_2"))?;
    next.egress().pin(pins.join("program-egress-next"))?;
    next.program().pin(pins.join("program-next"))?;
    let link = FdLink::from(PinnedLink::from_pin(pins.join("link-egress"))?);
    next.egress()
        .attach_to_link(SchedClassifierLink::try_from(link)?)?;
    lab.apply(&rules(&[GAME, CHAT]), "auto")?;
    ensure!(counter_maps(&lab)? == 3, "its map is used");
    let both = u64::from(next.program().info()?.id());
    ensure!(at_work()? == both, "the other has followed");
    Ok(())
}

fn grow_and_shrink(lab: &Lab, mode: &str) -> Result<()> {
    let interface = lab.inside.interface();
    let program = || -> Result<u64> { Ok(lab.inside.attached()?.context("open")?.program) };
    let small = program()?;
    let receivers = [udp(&lab.inside, 7001)?, udp(&lab.inside, 7002)?];
    let sender = udp_from(&lab.outside, lab.outside.v4)?;
    let send = |port: u16, count: u64| -> Result<()> {
        (0..count).try_for_each(|_| sender.send_to(b"x", (lab.inside.v4, port)).map(drop))?;
        receivers
            .iter()
            .try_for_each(|receiver| drain(receiver).map(drop))
    };
    send(7001, 5)?;
    ensure!(lab.stats()?.rule("chat") == Some(5), "{mode}: chat");

    lab.apply(&rules(&[GAME, MANY]), mode)?;
    let large = program()?;
    ensure!(
        large != small,
        "{mode}: the same program, with no more room"
    );
    ensure!(counter_maps(lab)? == 2, "{mode}: one more map");
    let stats = lab.stats()?;
    ensure!(stats.ports.len() == 40_002, "{mode}: {}", stats.ports.len());
    ensure!(
        stats.port("tcp", 41_000).map(|count| count.packets) == Some(0),
        "{mode}: new counters begin at zero"
    );
    let status = lab.inside.firewall(&["status", "-i", interface])?;
    ensure!(
        status
            .clone()
            .success()?
            .contains(&format!("program {large},")),
        "{mode}: {status}"
    );
    // These are counted where the first map has no slots.
    let connect = |port: u16| {
        lab.outside
            .enter(|| Ok(std::net::TcpStream::connect((lab.inside.v4, port)).is_err()))
    };
    ensure!(connect(41_000)?, "nobody listens");
    ensure!(
        lab.stats()?.port("tcp", 41_000).map(|count| count.packets) == Some(1),
        "{mode}: counted beyond the first map"
    );

    // Smaller again. The new rule's slot was the chat's, whose five packets are in the first map.
    lab.apply(&rules(&[GAME, FRESH]), mode)?;
    ensure!(program()? == large, "{mode}: there is no way back");
    ensure!(
        lab.stats()?.rule("fresh") == Some(0),
        "{mode}: {:#?}",
        lab.stats()?
    );
    send(7002, 3)?;
    ensure!(lab.stats()?.rule("fresh") == Some(3), "{mode}: fresh");

    lab.apply(&rules(&[GAME, FRESH, MANY]), mode)?;
    ensure!(program()? == large, "{mode}: there was room already");
    let stats = lab.stats()?;
    ensure!(stats.rule("fresh") == Some(3), "{mode}: it is kept");
    ensure!(
        stats.port("tcp", 41_000).map(|count| count.packets) == Some(0),
        "{mode}: a port that comes back begins anew"
    );

    lab.apply(&rules(&[GAME, FRESH, HUGE, HUGER]), mode)?;
    ensure!(program()? != large, "{mode}: room for 131,070 ports");
    ensure!(counter_maps(lab)? == 3, "{mode}: a third map");
    ensure!(
        lab.stats()?.rule("fresh") == Some(3),
        "{mode}: kept, from the second map"
    );
    lab.apply(&rules(&[GAME]), mode)?;
    Ok(())
}

/// Looks at the flow's counter all the time; how often.
fn never_back(lab: &Lab, done: &AtomicBool) -> Result<usize> {
    let (mut last, mut looks) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let now = lab
            .stats()?
            .rule("game")
            .context("the game's rule is kept")?;
        ensure!(now >= last, "the counter went from {last} back to {now}");
        (last, looks) = (now, looks + 1);
        thread::sleep(PAUSE);
    }
    Ok(looks)
}

/// How many maps of counters are pinned. Nothing that is on its way may be left.
pub(crate) fn counter_maps(lab: &Lab) -> Result<usize> {
    let names = fs::read_dir(lab.inside.state())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<BTreeSet<String>>>()?;
    ensure!(
        !names.iter().any(|name| name.ends_with("next")),
        "{names:?}"
    );
    let numbered = (0..).take_while(|number| names.contains(&format!("COUNTERS_{number}")));
    let count = numbered.count();
    let all = names.iter().filter(|name| name.starts_with("COUNTERS"));
    ensure!(all.count() == count, "{names:?}");
    Ok(count)
}
