//! The loaded program against the host's copy of its decision: the same frames, by BPF_PROG_TEST_RUN, must get the same
//! action and leave the same number in every counter.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Result, ensure};
use firewall_common::abi::control::{Control, Place};
use firewall_common::abi::counter::MIN_SLOTS;
use firewall_common::abi::flow::{MIN_BUCKETS, Timeouts};
use firewall_common::abi::image::{Line, SIZE_CLASSES};
use firewall_common::abi::reason::{DropReason, PassReason};
use firewall_common::abi::shadow::Shadow;
use firewall_common::tables::Limited;
use firewall_tests::corpus::{self, Under};
use firewall_tests::kernel::{Kernel, SHORTEST, filled};
use firewall_tests::packets::*;
use firewall_tests::policy::{Counted, Policy, decide_by};
use firewall_tests::random;
use firewall_user::kernel::flows::Wanted;
use firewall_user::kernel::instance::Instance;
use firewall_user::rules::model::{
    Action, AddressSet, Direction, Protocol, Rule, RuleSet, SetId, Terms,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

/// Instructions that the verifier may look at while it checks one program; a tenth more than it does for the one that takes
/// most. It gives up at a million, and the time to load goes with them.
const MAX_VERIFIED_INSTRUCTIONS: u32 = 680_000;

/// The two at the hooks, the eleven that they go on with, and the clock.
const PROGRAMS: usize = 14;

const RULE_SETS: usize = 40;
const FRAMES_PER_RULE_SET: usize = 400;

#[test]
fn the_verifier_looks_at_a_bounded_number_of_instructions() -> Result<()> {
    looks_at_a_bounded_number(|| Instance::load(MIN_SLOTS))
}

/// The same of the programs that ask a candidate, in an image of any size.
#[test]
fn the_verifier_looks_at_a_bounded_number_of_instructions_with_a_candidate() -> Result<()> {
    for class in [0, SIZE_CLASSES.len() as u32 - 1] {
        let shadow = Shadow {
            place: Control::new(Place::new(class, 1), Place::NONE).word,
            ingress_rules: 1,
            egress_rules: 1,
        };
        looks_at_a_bounded_number(|| Instance::load_with_shadow(MIN_SLOTS, &shadow))?;
    }
    Ok(())
}

fn looks_at_a_bounded_number(load: impl FnOnce() -> Result<Instance>) -> Result<()> {
    let start = Instant::now();
    let mut instance = load()?;
    let took = start.elapsed();
    println!(
        "loaded in {took:.1?}; {MAX_VERIFIED_INSTRUCTIONS} instructions are allowed a program"
    );
    let programs: Vec<_> = instance.ebpf().programs().collect();
    ensure!(programs.len() == PROGRAMS, "{} programs", programs.len());
    for (name, program) in programs {
        let info = program.info()?;
        let verified = info
            .verified_instruction_count()
            .expect("kernels from 5.16 on tell");
        println!("{name}: {verified} instructions verified");
        ensure!(
            verified <= MAX_VERIFIED_INSTRUCTIONS,
            "{name}: {verified} instructions; look what made them more, or raise the ceiling"
        );
    }
    Ok(())
}

#[test]
fn the_corpus_is_decided_alike() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    for under in Under::ALL {
        let image = &under.policy().compiled.image;
        kernel.policy(image)?;
        // Every frame under every policy, not only under its own.
        let count = kernel.agrees(image, corpus::ALL.iter().map(|case| &case.frame[..]))?;
        println!("{count} frames under {under:?}");
        ensure!(count > 1_000, "only {count} frames are long enough");
    }
    Ok(())
}

/// What is in force where a first policy was not confirmed lets everything in, in the kernel as on the host, also what cannot be
/// read.
#[test]
fn an_open_image_lets_everything_in() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let image = firewall_user::rules::compile::open();
    kernel.policy(&image)?;
    let frames = || corpus::ALL.iter().map(|case| &case.frame[..]);
    let count = kernel.agrees(&image, frames())?;
    ensure!(count > 1_000, "only {count} frames are long enough");
    for frame in frames().filter(|frame| frame.len() >= SHORTEST) {
        ensure!(kernel.passes(frame)?, "refused: {frame:x?}");
        ensure!(
            decide_by(&image, frame).decision.accepts(),
            "refused on the host: {frame:x?}"
        );
    }
    Ok(())
}

/// The same once more, but stated: what the kernel does with a case is what the corpus says, not only what the host does.
#[test]
fn the_kernel_does_what_the_corpus_says() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    for under in Under::ALL {
        let policy = under.policy();
        kernel.policy(&policy.compiled.image)?;
        kernel.forget_fragments()?;
        let mut expected = policy.meanings(&kernel.sums()?);
        for case in corpus::ALL
            .iter()
            .filter(|case| case.under == under && case.frame.len() >= SHORTEST)
        {
            kernel.passes(&case.frame)?;
            for (counted, bytes) in case.expected.counted(case.frame.len() as u32) {
                let (packets, total) = expected.entry(counted).or_default();
                (*packets, *total) = (*packets + 1, *total + u64::from(bytes));
            }
        }
        assert_eq!(policy.meanings(&kernel.sums()?), expected, "{under:?}");
    }
    Ok(())
}

#[test]
fn random_rule_sets_and_frames_are_decided_alike() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let mut runner = TestRunner::default();
    let (rule_sets, frames) = (random::rule_set(), random::frame());
    let mut count = 0;
    for _ in 0..RULE_SETS {
        let policy = Policy::new(generate(&rule_sets, &mut runner))?;
        let frames: Vec<_> = (0..FRAMES_PER_RULE_SET)
            .map(|_| generate(&frames, &mut runner))
            .collect();
        kernel.policy(&policy.compiled.image)?;
        let alike = kernel.agrees(
            &policy.compiled.image,
            frames.iter().map(|frame| &frame[..]),
        );
        count += alike.map_err(|error| error.context(format!("{:#?}", policy.rule_set)))?;
    }
    println!("{count} frames under {RULE_SETS} rule sets");
    ensure!(
        count > RULE_SETS * FRAMES_PER_RULE_SET * 3 / 4,
        "only {count} frames are long enough"
    );
    Ok(())
}

/// Frames of several buffers: the program sees the first, and must still count them whole and not take them for cut short.
#[test]
fn jumbo_frames_are_decided_alike() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let policy = Under::Server.policy();
    kernel.policy(&policy.compiled.image)?;
    let mut frames = Vec::new();
    for size in [3_500, 4_000, 4_096, 9_000, 16_000, 60_000] {
        let data = vec![0x5a; size];
        let segment = |port| [&tcp(port, tcp_flag::ACK)[..], &data].concat();
        let tags = [(ethertype::SERVICE_VLAN, 7), (ethertype::VLAN, 8)];
        let options = tcp_options(80, tcp_flag::ACK, &[1; 40]);
        frames.extend([
            v4(6, &segment(80)),
            v6(6, &segment(443)),
            v4(6, &segment(81)),
            tagged(&tags, ethertype::IPV4, &ipv4(6, &segment(80))),
            v6(60, &extension(6, PADDING, &[&options[..], &data].concat())),
            v4(17, &udp(40_000, 53, &data)),
            v6(17, &udp(40_000, 54, &data)),
            // Malformed ones must be counted whole as well.
            v4(6, &[&tcp(80, 0)[..], &data].concat()),
            patched(
                &v4(6, &segment(80)),
                at::V4_TOTAL_LENGTH,
                &u16::MAX.to_be_bytes(),
            ),
            patched(
                &v6(6, &segment(80)),
                at::V6_PAYLOAD_LENGTH,
                &u16::MAX.to_be_bytes(),
            ),
            ethernet(0x88b5, &data),
            ethernet(ethertype::ARP, &[&arp()[..], &data].concat()),
        ]);
    }
    let count = kernel.agrees(
        &policy.compiled.image,
        frames.iter().map(|frame| &frame[..]),
    )?;
    println!(
        "{count} frames of up to {} bytes",
        frames.iter().map(Vec::len).max().unwrap_or(0)
    );
    Ok(())
}

/// Headers that lie behind the first buffer are not looked for: the frame is dropped as if it ended there.
#[test]
fn headers_behind_the_first_buffer_are_not_guessed() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let image = &Under::Open.policy().compiled.image;
    kernel.policy(image)?;
    let whole = v4(6, &[&syn()[..], &[0; 9_000]].concat());
    for (linear, reason) in [
        (at::NETWORK + 4, DropReason::Ipv4Truncated),
        (at::V4_PAYLOAD, DropReason::TcpTruncated),
        (at::V4_PAYLOAD + 19, DropReason::TcpTruncated),
    ] {
        let before = kernel.sums()?;
        ensure!(
            !kernel.passes_split(&whole, linear)?,
            "{linear} bytes in the first buffer pass"
        );
        let mut expected = before;
        let (packets, bytes) = expected.0.entry(reason.counter()).or_default();
        (*packets, *bytes) = (*packets + 1, *bytes + whole.len() as u64);
        assert_eq!(
            kernel.sums()?,
            expected,
            "{linear} bytes in the first buffer"
        );
    }
    ensure!(
        kernel.passes_split(&whole, at::V4_PAYLOAD + 20)?,
        "all headers are in the first buffer"
    );
    Ok(())
}

/// A packet that ends in the first buffer, padded over several: the padding is not asked for, neither for ports nor to be
/// counted (`Packet::frame_bytes`).
#[test]
fn padding_over_several_buffers_decides_nothing() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    kernel.policy(&Under::Server.policy().compiled.image)?;
    for (frame, passes) in [
        (web_v4(), true),
        (web_v6(), true),
        (v4(6, &tcp(81, tcp_flag::SYN)), false),
    ] {
        ensure!(
            kernel.passes(&padded(&frame, 9_000))? == passes,
            "{frame:02x?}"
        );
    }
    let web = Counted::Rule("web".to_owned());
    let sums = Under::Server.policy().meanings(&kernel.sums()?);
    let (packets, bytes) = sums.get(&web).copied().unwrap_or_default();
    ensure!(
        packets == 2 && bytes > 2 * 1_500,
        "{packets} packets, {bytes} bytes"
    );
    Ok(())
}

/// What the first fragment got, the later ones get, for both families and for what rules refuse and accept.
#[test]
fn later_fragments_follow_the_first() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let policy = Under::Server.policy();
    kernel.policy(&policy.compiled.image)?;
    for (port, accepts) in [(53, true), (54, false)] {
        let datagram = udp(40_000, port, &[0; 64]);
        let v4 = |offset, more, bytes: &[u8]| {
            ethernet(ethertype::IPV4, &ipv4_fragment(offset, more, 17, bytes))
        };
        let v6 = |offset, more, bytes: &[u8]| v6(44, &fragment(17, offset, more, bytes));
        let frames = [
            v4(0, true, &datagram[..24]),
            v4(3, true, &datagram[24..48]),
            v4(6, false, &datagram[48..]),
            v6(0, true, &datagram[..24]),
            v6(3, true, &datagram[24..48]),
            v6(6, false, &datagram[48..]),
        ];
        let before = policy.meanings(&kernel.sums()?);
        kernel.agrees(
            &policy.compiled.image,
            frames.iter().map(|frame| &frame[..]),
        )?;
        let reason = if accepts {
            Counted::Pass(PassReason::Fragment)
        } else {
            Counted::Drop(DropReason::FragmentDenied)
        };
        let packets = |sums: &BTreeMap<Counted, (u64, u64)>| sums.get(&reason).map_or(0, |s| s.0);
        let after = policy.meanings(&kernel.sums()?);
        assert_eq!(packets(&after) - packets(&before), 4, "port {port}");
    }
    Ok(())
}

/// Of later fragments whose first one is not seen, no more are let in than the limit says, which each CPU has for itself.
#[test]
fn early_fragments_are_limited() -> Result<()> {
    const SENT: usize = 20_000;
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    kernel.policy(&Under::Server.policy().compiled.image)?;
    let packet = ipv4_fragment_of_another(185, false, 17, &[0; 64]);
    let frame = ethernet(ethertype::IPV4, &packet);
    let mut passed = 0;
    for _ in 0..SENT {
        passed += usize::from(kernel.passes(&frame)?);
    }
    println!("{passed} of {SENT} early fragments passed");
    ensure!(
        (Limited::EarlyFragment.in_a_period() as usize..SENT / 4).contains(&passed),
        "{passed} of {SENT} early fragments passed"
    );
    let sums = kernel.sums()?.0;
    let dropped = sums.get(&DropReason::FragmentLater.counter()).map(|s| s.0);
    assert_eq!(dropped, Some((SENT - passed) as u64));
    Ok(())
}

/// Of ICMP errors about what this host has sent, no more are let in than the limit says, which each CPU has for itself. Made-up
/// ones take nothing of it, or whoever forges them would keep the honest ones out; and neither do those about another peer.
#[test]
fn icmp_errors_are_limited() -> Result<()> {
    const SENT: usize = 20_000;
    const MADE_UP: usize = 1_000;
    // Both families' peers may be in one part.
    let limit = 2 * Limited::Error(0).in_a_period() as usize;
    let wanted = Wanted {
        buckets: MIN_BUCKETS,
        timeouts: Timeouts::default(),
    };
    let mut kernel = Kernel::load_with_flows(MIN_SLOTS, &wanted)?;
    let policy = Under::Server.policy();
    kernel.policy(&policy.compiled.image)?;
    // A question of this host, and an answer of its served port, which no flow is kept of.
    let (asked, served) = (udp(40_000, 123, b"?"), tcp_from(80, 40_000, tcp_flag::ACK));
    let to_peer_v4 = |peer, protocol, payload: &[u8]| {
        let packet = ipv4_between(HOST_V4, peer, protocol, payload);
        let error = v4(1, &[&icmp(3, 1)[..8], &packet].concat());
        (ethernet(ethertype::IPV4, &packet), error)
    };
    let from_host_v4 = |protocol, payload: &[u8]| to_peer_v4(CLIENT_V4, protocol, payload);
    let from_host_v6 = |protocol, payload: &[u8]| {
        let packet = ipv6_between(HOST_V6, CLIENT_V6, protocol, payload);
        let error = v6(58, &[&icmp(1, 0)[..8], &packet].concat());
        (ethernet(ethertype::IPV6, &packet), error)
    };
    let questions = [from_host_v4(17, &asked), from_host_v6(17, &asked)];
    let answers = [from_host_v4(6, &served), from_host_v6(6, &served)];

    for _ in 0..MADE_UP {
        for (_, error) in &questions {
            ensure!(!kernel.passes(error)?, "nothing was asked yet");
        }
    }
    for (question, _) in &questions {
        ensure!(kernel.lets_out(question)?, "a question leaves");
    }
    let mut passed = 0;
    let errors = questions.iter().chain(&answers).map(|(_, error)| error);
    for (number, error) in errors.cycle().take(SENT).enumerate() {
        let passes = kernel.passes(error)?;
        ensure!(passes || number >= limit, "error {number} is refused");
        passed += usize::from(passes);
    }
    println!("{passed} of {SENT} errors passed");
    // One in 64 others is in the flooded part.
    let others: Vec<_> = (1..=16)
        .map(|host| to_peer_v4(Ipv4Addr::new(203, 0, 113, host), 17, &asked))
        .collect();
    let mut let_in = 0;
    for (question, error) in &others {
        ensure!(kernel.lets_out(question)?, "a question leaves");
        let_in += usize::from(kernel.passes(error)?);
    }
    ensure!(let_in >= others.len() / 2, "{let_in} errors about others");
    ensure!(
        passed < SENT / 2,
        "{passed} of {SENT} errors passed, of which {limit} may in a period"
    );
    let sums = kernel.sums()?.0;
    let packets = |slot: u32| sums.get(&slot).map_or(0, |sum| sum.0);
    assert_eq!(
        packets(DropReason::IcmpUnrelated.counter()),
        2 * MADE_UP as u64
    );
    assert_eq!(
        packets(PassReason::PathMtu.counter()),
        (passed + let_in) as u64
    );
    assert_eq!(
        packets(DropReason::IcmpRate.counter()),
        (SENT - passed + others.len() - let_in) as u64
    );
    Ok(())
}

#[test]
fn large_groups_are_decided_alike() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let mut classes = Vec::new();
    for prefixes in [30, 2_000, 9_000, 40_000, 110_000] {
        let rule_set = large(prefixes);
        let start = Instant::now();
        let policy = Policy::new(rule_set)?;
        let took = start.elapsed();
        let class = kernel.policy(&policy.compiled.image)?;
        let frames = near_ranges(&policy.rule_set.sets[0]);
        let count = kernel.agrees(
            &policy.compiled.image,
            frames.iter().map(|frame| &frame[..]),
        )?;
        let meanings = policy.meanings(&kernel.sums()?);
        let matched = meanings
            .keys()
            .filter(|counted| matches!(counted, Counted::Rule(_)));
        let matched = matched.count();
        println!(
            "{prefixes} prefixes of each family: class {class}, compiled in {took:.1?}, {count} frames"
        );
        ensure!(matched == 2, "{matched} of two rules have matched");
        classes.push(class);
    }
    ensure!(
        [0, 1, 2].iter().all(|class| classes.contains(class)),
        "size classes {classes:?}"
    );
    Ok(())
}

#[test]
fn without_a_policy_everything_is_dropped() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let frames = [web_v4(), web_v6(), ethernet(ethertype::ARP, &arp())];
    for frame in &frames {
        ensure!(!kernel.passes(frame)?, "{frame:02x?}");
    }
    let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
    let sums = kernel.sums()?.0.into_iter().collect::<Vec<_>>();
    assert_eq!(sums, [(DropReason::BrokenTables.counter(), (3, bytes))]);
    Ok(())
}

/// Whatever stands in the tables, kernel and host do the same with it, and neither reads beyond them.
#[test]
fn damaged_images_decide_alike() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let good = &Under::Server.policy().compiled.image;
    let damage = prop::collection::vec((any::<prop::sample::Index>(), 0usize..8, 0u32..64), 1..40);
    let frames: Vec<_> = corpus::ALL
        .iter()
        .step_by(17)
        .map(|case| &case.frame[..])
        .collect();
    let mut runner = TestRunner::default();
    let (mut count, mut broken) = (0, 0);
    for round in 0..60 {
        let mut image = good.clone();
        // The header and the tables behind it are what decides; the whole image is hit rarely.
        let reach = if round % 2 == 0 { 2 } else { image.len() };
        for (line, word, bit) in generate(&damage, &mut runner) {
            image[line.index(reach)].words[word] ^= 1 << bit;
        }
        let image = filled(&image);
        kernel.policy(&image)?;
        count += kernel.agrees(&image, frames.iter().copied())?;
        let drops = |frame: &&&[u8]| {
            decide_by(&image, frame)
                .counted
                .contains(&(DropReason::BrokenTables.counter(), frame.len() as u32))
        };
        broken += frames.iter().filter(drops).count();
    }
    let wild = filled(&vec![
        Line {
            words: [u64::MAX; 8]
        };
        4096
    ]);
    kernel.policy(&wild)?;
    count += kernel.agrees(&wild, frames.iter().copied())?;
    println!("{count} frames, {broken} of them found the tables broken");
    ensure!(broken > 100, "the damage was too small to be noticed");
    Ok(())
}

/// A rule for every port needs more counters than the program has by default.
#[test]
fn counters_for_every_port_are_counted_alike() -> Result<()> {
    let text = "version = 1\n[[rule]]\nname = \"all\"\naction = \"accept\"\nprotocol = \"tcp\"\nports = [\"1-65535\"]\n";
    let policy = Policy::parse(text)?;
    let highest = policy.compiled.slots.used().max().unwrap_or(0);
    let mut kernel = Kernel::load(highest + 1)?;
    kernel.policy(&policy.compiled.image)?;
    let ports = (0..=u16::MAX).step_by(251).chain([u16::MAX]);
    let frames: Vec<_> = ports.map(|port| v4(6, &tcp(port, tcp_flag::SYN))).collect();
    kernel.agrees(
        &policy.compiled.image,
        frames.iter().map(|frame| &frame[..]),
    )?;
    let last = kernel.sums()?.0.keys().copied().max();
    ensure!(
        last > Some(MIN_SLOTS),
        "no counter beyond the default ones was used: {last:?}"
    );
    Ok(())
}

fn generate<S: Strategy>(strategy: &S, runner: &mut TestRunner) -> S::Value {
    strategy
        .new_tree(runner)
        .expect("nothing is filtered")
        .current()
}

/// One group of `count` ranges of each family, not adjacent, from which 80 is refused, and another rule for the rest.
fn large(count: u32) -> RuleSet {
    // A multiplicative walk spreads the ranges over the whole space; sorting makes them a set.
    let v4 = (0..count)
        .map(|i| i.wrapping_mul(0x9e37_79b1) & !0xf | 2)
        .map(|first| (first, first + (first >> 8 & 7)));
    let v6 = (0..count).map(|i| {
        let spread = u128::from(u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let first = 0x2001_0db8 << 96 | spread << 32 & !0xffff;
        (first, first + (1 << (spread & 15)))
    });
    let set = AddressSet {
        v4: random::joined(v4.collect(), |address| address.checked_add(1)),
        v6: random::joined(v6.collect(), |address| address.checked_add(1)),
    };
    let rule = |name: &str, action, from| Rule {
        name: name.to_owned(),
        action,
        direction: Direction::Ingress,
        protocol: Protocol::Number(6),
        ports: Some(vec![(80, 80)]),
        icmp_types: None,
        tcp_flags: None,
        from,
        to: None,
        log: false,
        terms: Terms::default(),
        comment: None,
        line: 0,
    };
    RuleSet {
        sets: vec![set],
        rules: vec![
            rule("refused", Action::Drop, Some(SetId(0))),
            rule("rest", Action::Accept, None),
        ],
        ..RuleSet::default()
    }
}

/// SYNs from the edges of some ranges, inside and outside.
fn near_ranges(set: &AddressSet) -> Vec<Vec<u8>> {
    let syn_v4 = |from: u32| {
        ethernet(
            ethertype::IPV4,
            &ipv4_between(from.into(), HOST_V4, 6, &syn()),
        )
    };
    let syn_v6 = |from: u128| {
        ethernet(
            ethertype::IPV6,
            &ipv6_between(from.into(), HOST_V6, 6, &syn()),
        )
    };
    let (every_v4, every_v6) = (set.v4.len().div_ceil(1_000), set.v6.len().div_ceil(1_000));
    let edges = set
        .v4
        .iter()
        .step_by(every_v4)
        .flat_map(|&(a, b)| [a.wrapping_sub(1), a, b, b.wrapping_add(1)]);
    let edges_v6 = set
        .v6
        .iter()
        .step_by(every_v6)
        .flat_map(|&(a, b)| [a.wrapping_sub(1), a, b, b.wrapping_add(1)]);
    edges.map(syn_v4).chain(edges_v6.map(syn_v6)).collect()
}
