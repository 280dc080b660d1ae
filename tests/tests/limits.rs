//! Host and kernel decide alike what is limited and who is banned, with the tables in memory here and in maps there, at a time that is
//! set by hand.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use firewall_common::abi::control::Place;
use firewall_common::abi::counter::{Counter, FLOWS_CONTENDED, FLOWS_CREATED, MIN_SLOTS};
use firewall_common::abi::reason::DropReason;
use firewall_common::abi::{ban, limit};
use firewall_common::decide::ban::HostBans;
use firewall_common::decide::limit::HostLimits;
use firewall_common::decide::{self, Cause, egress};
use firewall_common::tables::{HostWorld, Tally};
use firewall_tests::kernel::{self, filled};
use firewall_tests::packets::*;
use firewall_tests::policy::Policy;
use firewall_user::kernel::image::class_of;
use firewall_user::kernel::instance::Instance;
use firewall_user::kernel::state::Sizes;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// A limit of every kind, and bans on what is dropped and on what is limited.
const RULES: &str = r#"
version = 1

[bans]
never-ban = ["192.0.2.7", "2001:db8:2::/64"]

[limits]
prefix-v4 = 31
prefix-v6 = 126

[[rule]]
name = "trap"
action = "drop"
protocol = "tcp"
ports = [23]
ban = { after = 4, within = "10s", for = "30s" }

[[rule]]
name = "all together"
action = "accept"
protocol = "tcp"
ports = [80]
limit = { rate = "3/s", burst = 5 }

[[rule]]
name = "each"
action = "accept"
protocol = "tcp"
ports = [81, 82]
limit = { rate = "1/s", burst = 3, per = "source" }
ban = { after = 20, within = "1m", for = "5s" }

[[rule]]
name = "neighbours"
action = "accept"
protocol = "udp"
ports = [83]
limit = { rate = "30/m", burst = 2, per = "source-prefix" }

[[rule]]
name = "bytes"
action = "accept"
protocol = "udp"
ports = [84]
limit = { rate = "100/s", burst = 1600, per = "source", unit = "bytes" }

[[rule]]
name = "connections"
action = "accept"
protocol = "tcp"
ports = [85]
limit = { rate = "1/s", burst = 2, per = "source", unit = "connections" }

[[rule]]
name = "conversations"
action = "accept"
protocol = "udp"
ports = [86]
limit = { rate = "1/s", burst = 2, unit = "connections" }

[[rule]]
name = "free"
action = "accept"
protocol = "tcp"
ports = [87]

[[rule]]
name = "asks"
action = "accept"
direction = "egress"
protocol = "udp"
ports = [53]
limit = { rate = "1/s", burst = 4 }
"#;

const SECOND: u64 = 1_000_000_000;
const STEPS: usize = 30_000;

#[derive(Debug)]
struct Step {
    passed_ns: u64,
    leaves: bool,
    frame: Vec<u8>,
}

fn step() -> impl Strategy<Value = Step> {
    let time = prop_oneof![
        6 => Just(0),
        6 => 0..SECOND / 20,
        1 => 0..3 * SECOND,
    ];
    let port = prop_oneof![2 => Just(23u16), 14 => 80u16..=88];
    (
        time,
        any::<bool>(),
        5u8..10,
        port,
        0u16..3,
        0u8..4,
        0u8..10,
        0usize..60,
    )
        .prop_map(|(passed_ns, v6, host, port, from, flags, egress, length)| {
            let leaves = egress == 0;
            let port = if leaves { 53 } else { port };
            let flags = [
                tcp_flag::SYN,
                tcp_flag::ACK,
                tcp_flag::SYN,
                tcp_flag::ACK | tcp_flag::PSH,
            ][usize::from(flags)];
            let (protocol, payload) = match port {
                53 | 83 | 84 | 86 => (17, udp(40_000 + from, port, &vec![0; length])),
                _ => (6, tcp_from(40_000 + from, port, flags)),
            };
            let (v4_peer, v6_peer) = (
                Ipv4Addr::new(192, 0, 2, host),
                Ipv6Addr::new(
                    0x2001,
                    0xdb8,
                    if host == 9 { 2 } else { 3 },
                    0,
                    0,
                    0,
                    0,
                    host.into(),
                ),
            );
            let frame = match (v6, leaves) {
                (false, false) => ethernet(
                    ethertype::IPV4,
                    &ipv4_between(v4_peer, HOST_V4, protocol, &payload),
                ),
                (false, true) => ethernet(
                    ethertype::IPV4,
                    &ipv4_between(HOST_V4, v4_peer, protocol, &payload),
                ),
                (true, false) => ethernet(
                    ethertype::IPV6,
                    &ipv6_between(v6_peer, HOST_V6, protocol, &payload),
                ),
                (true, true) => ethernet(
                    ethertype::IPV6,
                    &ipv6_between(HOST_V6, v6_peer, protocol, &payload),
                ),
            };
            Step {
                passed_ns,
                leaves,
                frame,
            }
        })
}

/// The words of a map's only value.
fn words<const N: usize>(instance: &mut Instance, name: &str) -> Result<[u64; N]> {
    let map = instance.ebpf().map_mut(name).context("no such map")?;
    let map: Array<&mut MapData, [u64; N]> = Array::try_from(map)?;
    Ok(map.get(&0, 0)?)
}

#[test]
fn limits_and_bans_are_decided_alike() -> Result<()> {
    let policy = Policy::parse(RULES)?;
    let image = filled(&policy.compiled.image);
    // Tables so small that buckets are given away all the time.
    let sizes = Sizes {
        ban_buckets: ban::MIN_BUCKETS,
        limit_lines: limit::MIN_LINES,
    };
    let mut instance = Instance::load_with_test_clock(MIN_SLOTS, sizes)
        .context("parity needs root and a kernel with BPF")?;
    let place = Place::new(class_of(&policy.compiled.image), 0);
    instance.install(place, policy.compiled.image.clone())?;
    instance.activate(place)?;
    instance.bans()?.settle(Some(126));

    let [v4, v6, filter, mask, a, b, c, d, e] = words(&mut instance, ban::MAP_BAN_SETTINGS)?;
    let ban_settings = ban::Settings {
        lengths: [AtomicU64::new(v4), AtomicU64::new(v6)],
        filter: AtomicU64::new(filter),
        mask,
        seed: [a, b, c, d, e],
    };
    let buckets: Vec<ban::Bucket<AtomicU64>> = (0..sizes.ban_buckets)
        .map(|_| ban::Bucket::default())
        .collect();
    let filters: Vec<ban::Filter<AtomicU64>> = (0..ban::FILTERS)
        .map(|_| ban::Filter {
            words: [const { AtomicU64::new(0) }; ban::FILTER_WORDS],
        })
        .collect();
    let bans = HostBans {
        settings: &ban_settings,
        filters: &filters,
        buckets: &buckets,
    };
    let [mask, seed @ ..] = words::<7>(&mut instance, limit::MAP_LIMIT_SETTINGS)?;
    let lines: Vec<limit::Line<AtomicU64>> = (0..sizes.limit_lines)
        .map(|_| limit::Line::default())
        .collect();
    let limits = HostLimits {
        settings: limit::Settings { mask, seed },
        lines: &lines,
    };

    let counted = RefCell::new(BTreeMap::<u32, Counter>::new());
    let count = |slot: u32, tally: Tally| {
        let mut counted = counted.borrow_mut();
        counted
            .entry(slot)
            .or_default()
            .add(tally.bytes, tally.opens);
    };
    let mut now_ns = 1_000 * SECOND;
    let mut runner = TestRunner::deterministic();
    let steps = step();
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..STEPS {
        let Step {
            passed_ns,
            leaves,
            frame,
        } = steps
            .new_tree(&mut runner)
            .map_err(|why| anyhow::anyhow!("{why}"))?
            .current();
        now_ns += passed_ns;
        instance.set_test_clock(now_ns)?;
        let world = HostWorld::new(&image, count)
            .with_bans(bans)
            .with_limits(&limits)
            .at_ns(now_ns);
        let (host, kernel) = if leaves {
            (
                egress::decide(&frame[..], &world),
                kernel::lets_out(&mut instance, &frame)?,
            )
        } else {
            (
                decide::decide(&frame[..], &world),
                kernel::lets_in(&mut instance, kernel::of(&frame))?,
            )
        };
        ensure!(
            host.accepts() == kernel,
            "step {number} at {now_ns}, leaves: {leaves}: the host decides {host:?}, the kernel {kernel}; {frame:02x?}"
        );
        let cause = match host.cause() {
            Cause::Rule(rule) => format!("rule {rule}, egress: {leaves}"),
            cause => format!("{cause:?}"),
        };
        *causes.entry(cause).or_default() += 1;
    }
    let kernel: BTreeMap<u32, Counter> = (0..)
        .zip(instance.counters()?)
        .filter(|(_, counter)| counter.packets > 0)
        // The host follows no flows here; flows.rs does.
        .filter(|(slot, _)| !(FLOWS_CREATED..=FLOWS_CONTENDED).contains(slot))
        .collect();
    let host = counted.take();
    ensure!(
        kernel == host,
        "the kernel counts {kernel:?}, the host {host:?}"
    );
    println!(
        "{STEPS} packets in {} s: {causes:#?}",
        now_ns / SECOND - 1_000
    );
    for reason in [
        DropReason::Banned,
        DropReason::RateLimit,
        DropReason::EgressRateLimit,
    ] {
        let count = causes.get(&format!("Drop({reason:?})"));
        ensure!(
            count.is_some_and(|&count| count > 100),
            "{reason:?}: {count:?}"
        );
    }
    // Every rule has decided something.
    let rules = causes.keys().filter(|cause| cause.starts_with("rule"));
    ensure!(rules.count() == 9, "{causes:?}");
    Ok(())
}
