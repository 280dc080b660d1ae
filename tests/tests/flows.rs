//! Host and kernel decide alike what leaves and what answers it, with a flow table in memory here and in a map there.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use firewall_common::abi::control::Place;
use firewall_common::abi::counter::MIN_SLOTS;
use firewall_common::abi::flow::{Bucket, MAP_FLOW_SETTINGS, MIN_BUCKETS, Settings, Timeouts};
use firewall_common::decide::flow::HostFlows;
use firewall_common::decide::{self, egress};
use firewall_common::tables::HostWorld;
use firewall_tests::kernel::{self, filled};
use firewall_tests::packets::*;
use firewall_tests::policy::Policy;
use firewall_user::kernel::image::class_of;
use firewall_user::kernel::instance::Instance;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use zerocopy::IntoBytes as _;

/// A server with a service, a list of who is refused, and limits on where it may connect to.
const RULES: &str = r#"
version = 1

[[rule]]
name = "web"
action = "accept"
protocol = "tcp"
ports = [80]

[[rule]]
name = "dns for some"
action = "accept"
protocol = "udp"
ports = [53]
from = ["192.0.2.0/24"]

[[rule]]
name = "refused"
action = "drop"
from = ["203.0.113.0/24"]
"#;

const FILTERED: &str = r#"
[[rule]]
name = "no mail"
action = "drop"
direction = "egress"
protocol = "tcp"
ports = [25]

[[rule]]
name = "elsewhere"
action = "drop"
direction = "egress"
to = ["203.0.113.0/24", "2001:db8:bad::/48"]
"#;

/// So few that the limit on ICMP errors, which the host does not have, is not reached.
const STEPS: usize = 8_000;

/// A frame, and which way it goes.
#[derive(Clone, Debug)]
struct Step {
    leaves: bool,
    frame: Vec<u8>,
}

/// Few values, so that packets meet the flows of others.
fn step() -> impl Strategy<Value = Step> {
    // So few that no bucket overflows: which flow then goes depends on the kernel's clock.
    let local_ports = prop::sample::select(vec![80u16, 40_000, 40_001]);
    let remote_ports = prop::sample::select(vec![25u16, 53, 443]);
    let flags = prop::sample::select(vec![
        tcp_flag::SYN,
        tcp_flag::SYN | tcp_flag::ACK,
        tcp_flag::ACK,
        tcp_flag::ACK | tcp_flag::PSH,
        tcp_flag::FIN | tcp_flag::ACK,
        tcp_flag::RST,
        tcp_flag::RST | tcp_flag::ACK,
    ]);
    let numbers = prop::sample::select(vec![0u32, 1, 2, 100, 101, 70_000, u32::MAX, 0x8000_0000]);
    (
        any::<bool>(),
        any::<bool>(),
        0..3usize,
        0..6u8,
        local_ports,
        remote_ports,
        flags,
        numbers.clone(),
        numbers,
    )
        .prop_map(
            |(leaves, v6, peer, kind, local, remote, flags, sequence, acknowledgment)| {
                let (source, destination) = if leaves {
                    (local, remote)
                } else {
                    (remote, local)
                };
                let segment = || {
                    let header = tcp_from(source, destination, flags);
                    let header = patched(&header, 4, &sequence.to_be_bytes());
                    patched(&header, 8, &acknowledgment.to_be_bytes())
                };
                let echo = |request: bool| {
                    let kind = match (v6, request) {
                        (false, true) => 8,
                        (false, false) => 0,
                        (true, true) => 128,
                        (true, false) => 129,
                    };
                    patched(&icmp(kind, 0), 4, &local.to_be_bytes())
                };
                let (protocol, payload) = match kind {
                    0 | 1 => (6, segment()),
                    2 => (17, udp(source, destination, b"data")),
                    3 => (if v6 { 58 } else { 1 }, echo(leaves ^ (flags & 2 != 0))),
                    4 => (47, vec![0; 8]),
                    _ => {
                        // An error about something that may have left.
                        let ours = udp(local, remote, b"data");
                        let (protocol, quoted) = if flags & 1 == 0 {
                            (17, ours)
                        } else {
                            let ours = tcp_from(local, remote, tcp_flag::ACK);
                            (6, patched(&ours, 4, &sequence.to_be_bytes()))
                        };
                        let message =
                            |kind, packet: Vec<u8>| [&icmp(kind, 0)[..8], &packet].concat();
                        if v6 {
                            (58, message(1, network(true, true, peer, protocol, &quoted)))
                        } else {
                            (1, message(3, network(false, true, peer, protocol, &quoted)))
                        }
                    }
                };
                let packet = network(v6, leaves, peer, protocol, &payload);
                let kind = if v6 { ethertype::IPV6 } else { ethertype::IPV4 };
                Step {
                    leaves,
                    frame: ethernet(kind, &packet),
                }
            },
        )
}

/// A packet between this host and one of three others.
fn network(v6: bool, leaves: bool, peer: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
    if v6 {
        let peers = ["2001:db8:2::7", "2001:db8:bad::1", "2001:db8:3::9"];
        let peer = peers[peer].parse().expect("an address");
        let (from, to) = if leaves {
            (HOST_V6, peer)
        } else {
            (peer, HOST_V6)
        };
        ipv6_between(from, to, protocol, payload)
    } else {
        let peers = ["192.0.2.7", "203.0.113.5", "198.51.100.77"];
        let peer = peers[peer].parse().expect("an address");
        let (from, to) = if leaves {
            (HOST_V4, peer)
        } else {
            (peer, HOST_V4)
        };
        ipv4_between(from, to, protocol, payload)
    }
}

#[test]
fn conversations_are_decided_alike() -> Result<()> {
    for rules in [RULES.to_owned(), format!("{RULES}{FILTERED}")] {
        alike(&rules)?;
    }
    Ok(())
}

fn alike(rules: &str) -> Result<()> {
    let policy = Policy::parse(rules)?;
    let image = filled(&policy.compiled.image);
    let settings = Settings::new(
        [3, 1, 4, 1, 5, 9, 2],
        MIN_BUCKETS,
        250,
        &Timeouts::default(),
    );
    let mut instance =
        Instance::load(MIN_SLOTS).context("parity needs root and a kernel with BPF")?;
    let place = Place::new(class_of(&policy.compiled.image), 0);
    instance.install(place, policy.compiled.image.clone())?;
    instance.activate(place)?;
    let map = instance
        .ebpf()
        .map_mut(MAP_FLOW_SETTINGS)
        .context("no such map")?;
    let mut map: Array<&mut MapData, [u8; size_of::<Settings>()]> = Array::try_from(map)?;
    map.set(
        0,
        <[u8; size_of::<Settings>()]>::try_from(settings.as_bytes())?,
        0,
    )?;

    let buckets: Vec<Bucket<AtomicU64>> = (0..MIN_BUCKETS).map(|_| Bucket::default()).collect();
    let flows = HostFlows::new(&buckets, settings);
    flows.set_now(1_000);
    let counted = RefCell::new(std::collections::BTreeMap::<u32, u64>::new());
    let world = HostWorld::new(&image, |slot, _| {
        *counted.borrow_mut().entry(slot).or_default() += 1;
    })
    .with_flows(&flows);

    let mut runner = TestRunner::deterministic();
    let steps = step();
    let mut accepted = [0u32; 2];
    for number in 0..STEPS {
        let Step { leaves, frame } = steps
            .new_tree(&mut runner)
            .map_err(|why| anyhow::anyhow!("{why}"))?
            .current();
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
            "step {number}, leaves: {leaves}: the host decides {host:?}, the kernel {kernel}; {frame:02x?}"
        );
        accepted[usize::from(leaves)] += u32::from(kernel);
    }
    let kernel: std::collections::BTreeMap<u32, u64> = (0..)
        .zip(instance.counters()?)
        .filter(|(_, counter)| counter.packets > 0)
        .map(|(slot, counter)| (slot, counter.packets))
        .collect();
    ensure!(kernel == counted.take(), "the counters differ");
    println!(
        "{STEPS} packets, {} let in, {} let out",
        accepted[0], accepted[1]
    );
    let least = STEPS as u32 / 100;
    ensure!(accepted.iter().all(|&count| count > least), "{accepted:?}");
    Ok(())
}
