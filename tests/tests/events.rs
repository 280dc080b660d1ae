//! Events as the programs make them, run over frames: of each frame that is to be told of there is one, and it says what the host
//! says of the frame.

use anyhow::{Context as _, Result, ensure};
use firewall_common::abi::counter::MIN_SLOTS;
use firewall_common::abi::event::{SNAP, is_event};
use firewall_common::abi::image::{Line, Outcome};
use firewall_common::abi::reason::DropReason;
use firewall_tests::corpus::{self, Under};
use firewall_tests::kernel::{Kernel, SHORTEST};
use firewall_tests::packets::{tcp, tcp_flag, v4, v6};
use firewall_tests::policy::{FirstFragments, Policy, decide_after};
use firewall_tests::random;
use firewall_user::kernel::events::{Ring, Told};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

const RULE_SETS: usize = 40;
const FRAMES: usize = 50;

/// Frames that were told of, and others.
type Count = [usize; 2];

#[test]
fn the_corpus_is_told_of_as_it_is_decided() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let mut ring = kernel.instance().tell(u64::MAX)?;
    let mut count = Count::default();
    for under in Under::ALL {
        let image = &under.policy().compiled.image;
        kernel.policy(image)?;
        let frames = corpus::ALL.iter().map(|case| &case.frame[..]);
        compare(&mut kernel, &mut ring, image, frames, &mut count)?;
    }
    println!("told of, and not: {count:?}");
    ensure!(count.iter().all(|&count| count > 1_000), "{count:?}");
    Ok(())
}

#[test]
fn what_random_rules_log_is_told_of_and_what_they_accept_otherwise_is_not() -> Result<()> {
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let mut ring = kernel.instance().tell(u64::MAX)?;
    let mut runner = TestRunner::default();
    let (rule_sets, frames) = (random::rule_set(), random::frame());
    let mut count = Count::default();
    for _ in 0..RULE_SETS {
        let policy = Policy::new(generate(&rule_sets, &mut runner)?)?;
        let image = &policy.compiled.image;
        kernel.policy(image)?;
        let frames = (0..FRAMES).map(|_| generate(&frames, &mut runner));
        let frames: Vec<_> = frames.collect::<Result<_>>()?;
        let frames = frames.iter().map(|frame| &frame[..]);
        compare(&mut kernel, &mut ring, image, frames, &mut count)?;
    }
    println!("told of, and not: {count:?}");
    ensure!(count.iter().all(|&count| count > 100), "{count:?}");
    Ok(())
}

/// Runs frames that arrive, and looks what is told of each.
fn compare<'a>(
    kernel: &mut Kernel,
    ring: &mut Ring,
    image: &[Line],
    frames: impl Iterator<Item = &'a [u8]>,
    count: &mut Count,
) -> Result<()> {
    kernel.forget_fragments()?;
    let fragments = FirstFragments::default();
    for frame in frames.filter(|frame| frame.len() >= SHORTEST) {
        let outcome = decide_after(image, &fragments, frame).decision.outcome();
        kernel.passes(frame)?;
        let told = ring.next();
        ensure!(ring.next().is_none(), "told of twice: {frame:x?}");
        ensure!(
            told.is_some() == is_event(outcome),
            "{outcome:?}, but {told:?}: {frame:x?}"
        );
        count[usize::from(told.is_none())] += 1;
        if let Some(told) = told {
            same(&told, frame, false)?;
            let said = Outcome(told.event.outcome);
            ensure!(
                (said.counter(), said.accepts(), said.is_held())
                    == (outcome.counter(), outcome.accepts(), outcome.is_held()),
                "{said:?}, not {outcome:?}: {frame:x?}"
            );
        }
    }
    Ok(())
}

/// Whether what was told is of this frame.
fn same(told: &Told, frame: &[u8], is_egress: bool) -> Result<()> {
    let captured = frame.len().min(SNAP as usize);
    let Told { event, frame: told } = told;
    ensure!(
        told[..] == frame[..captured]
            && event.frame_bytes as usize == frame.len()
            && usize::from(event.captured) == captured
            && (event.is_egress != 0) == is_egress
            && event.at_ns != 0,
        "{event:?} {told:x?}, of {frame:x?}"
    );
    Ok(())
}

#[test]
fn what_leaves_is_told_of_as_well() -> Result<()> {
    let policy = Policy::parse(
        r#"
        version = 1
        [defaults]
        egress = "drop"
        [[rule]]
        name = "out"
        direction = "egress"
        action = "accept"
        protocol = "tcp"
        ports = [80]
        log = true
        [[rule]]
        name = "quiet"
        direction = "egress"
        action = "accept"
        protocol = "tcp"
        ports = [81]
        "#,
    )?;
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    let mut ring = kernel.instance().tell(u64::MAX)?;
    kernel.policy(&policy.compiled.image)?;
    let mut count = [0; 3];
    for frame in corpus::ALL.iter().map(|case| &case.frame[..]) {
        // The kernel runs no such program over frames that are cut short in their first headers.
        let Ok(leaves) = kernel.lets_out(frame) else {
            count[2] += 1;
            continue;
        };
        let told = ring.next();
        ensure!(ring.next().is_none(), "told of twice: {frame:x?}");
        if !leaves {
            let told = told
                .as_ref()
                .with_context(|| format!("not told of: {frame:x?}"))?;
            same(told, frame, true)?;
            let slot = Outcome(told.event.outcome).counter();
            let mut reasons = DropReason::ALL.iter();
            let reason = reasons.find(|reason| reason.counter() == slot);
            ensure!(reason.is_some_and(|reason| reason.is_egress()), "{told:?}");
        }
        count[usize::from(told.is_none())] += 1;
    }
    println!("told of, not, and not run: {count:?}");
    ensure!(
        count[0] > 100 && count[1] > 10 && count[2] < 30,
        "{count:?}"
    );
    for frame in [v4, v6].map(|ip| move |port| ip(6, &tcp(port, tcp_flag::SYN))) {
        ensure!(kernel.lets_out(&frame(80))? && kernel.lets_out(&frame(81))?);
        let told = ring.next().context("a rule with `log`")?;
        same(&told, &frame(80), true)?;
        ensure!(ring.next().is_none(), "a rule without `log`");
    }
    Ok(())
}

/// While nobody reads nothing is told, and of what is read there is no more than was asked for.
#[test]
fn a_tick_has_so_many_events_of_a_reason() -> Result<()> {
    let policy = Under::Server.policy();
    let mut kernel = Kernel::load(MIN_SLOTS)?;
    kernel.policy(&policy.compiled.image)?;
    let refused = v4(6, &tcp(81, tcp_flag::SYN));
    let null = v4(6, &tcp(80, 0));
    ensure!(!kernel.passes(&refused)?);
    let mut ring = kernel.instance().tell(0)?;
    ensure!(!kernel.passes(&refused)? && ring.next().is_none());
    let mut ring = kernel.instance().tell(u64::MAX)?;
    ensure!(!kernel.passes(&refused)? && ring.next().is_some());
    // One reason does not use up what another may.
    let mut ring = kernel.instance().tell(1)?;
    let mut told = [0; 2];
    for _ in 0..200 {
        for (frame, told) in [&refused, &null].into_iter().zip(&mut told) {
            ensure!(!kernel.passes(frame)?);
            *told += usize::from(ring.next().is_some());
        }
    }
    // As many as there were ticks, which are two jiffies.
    ensure!(
        told.iter().all(|&told| (1..200).contains(&told)),
        "{told:?}"
    );
    ensure!(told[0].abs_diff(told[1]) <= 1, "{told:?}");
    Ok(())
}

fn generate<T>(strategy: &impl Strategy<Value = T>, runner: &mut TestRunner) -> Result<T> {
    let tree = strategy.new_tree(runner);
    let tree = tree.map_err(|why| anyhow::anyhow!("nothing generated: {why}"))?;
    Ok(tree.current())
}
