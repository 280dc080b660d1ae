//! A host that runs a rule file and nothing else: what becomes of packets where nothing is loaded.
//!
//! Nobody is banned, and no connection is older than the first packet. Flows, limits and fragments are followed from one packet to
//! the next.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use firewall_common::abi::fragment::{FragmentKey, MAX_DATAGRAMS};
use firewall_common::abi::image::Line;
use firewall_common::abi::{flow, limit};
use firewall_common::decide::flow::HostFlows;
use firewall_common::decide::limit::HostLimits;
use firewall_common::decide::{Decision, decide, egress};
use firewall_common::tables::{Fragments, HostWorld};

use crate::rules::model::{Direction, Flows, Limits, RuleSet};

/// Jiffies a second of the host.
const HZ: u32 = 1_000;

/// The tables of state.
#[derive(Debug)]
pub(crate) struct Memory {
    flows: Vec<flow::Bucket<AtomicU64>>,
    flow_settings: flow::Settings,
    limits: Vec<limit::Line<AtomicU64>>,
}

impl Memory {
    /// Empty ones, not larger than those of a file that says nothing: they are paid for at once.
    pub(crate) fn new(rule_set: &RuleSet) -> Self {
        let flow_buckets = rule_set.flows.buckets().min(Flows::default().buckets());
        let limit_lines = rule_set.limits.lines().min(Limits::default().lines());
        let timeouts = &rule_set.flows.timeouts;
        Self {
            flows: (0..flow_buckets).map(|_| flow::Bucket::default()).collect(),
            // Nobody chooses packets here that meet in one bucket.
            flow_settings: flow::Settings::new([0; flow::SEED_WORDS], flow_buckets, HZ, timeouts),
            limits: (0..limit_lines).map(|_| limit::Line::default()).collect(),
        }
    }
}

/// The host.
#[derive(Debug)]
pub(crate) struct Simulated<'a> {
    image: &'a [Line],
    flows: HostFlows<'a>,
    limits: HostLimits<'a>,
    fragments: Datagrams,
}

impl<'a> Simulated<'a> {
    /// A host under `image`, with `memory` for its state.
    pub(crate) fn new(image: &'a [Line], memory: &'a Memory) -> Self {
        Self {
            image,
            flows: HostFlows::new(&memory.flows, memory.flow_settings),
            limits: HostLimits {
                settings: limit::Settings {
                    mask: memory.limits.len() as u64 - 1,
                    seed: Default::default(),
                },
                lines: &memory.limits,
            },
            fragments: Datagrams::default(),
        }
    }

    /// Decides a frame that comes at this time, which must not go back.
    pub(crate) fn decide(&self, frame: &[u8], direction: Direction, at: Duration) -> Decision {
        let milliseconds = at.as_millis() as u64;
        let tick = milliseconds >> self.tick_shift();
        self.flows.set_now(tick as u32 & flow::TICK_MASK);
        let world = HostWorld::new(self.image, |_, _| {})
            .with_flows(&self.flows)
            .with_limits(&self.limits)
            .with_fragments(&self.fragments)
            .at_ns(at.as_nanos() as u64);
        match direction {
            Direction::Ingress => decide(frame, &world),
            Direction::Egress => egress::decide(frame, &world),
        }
    }

    fn tick_shift(&self) -> u32 {
        use firewall_common::decide::flow::Flows as _;
        self.flows
            .settings()
            .map_or(0, |settings| settings.tick_shift)
    }
}

/// What was decided of first fragments: of as many as the kernel remembers.
#[derive(Debug, Default)]
struct Datagrams(RefCell<(HashMap<FragmentKey, bool>, VecDeque<FragmentKey>)>);

impl Fragments for Datagrams {
    fn first(&self, key: &FragmentKey) -> Option<bool> {
        self.0.borrow().0.get(key).copied()
    }

    fn remember(&self, key: &FragmentKey, accepts: bool) {
        let (decided, order) = &mut *self.0.borrow_mut();
        if decided.insert(*key, accepts).is_none() {
            order.push_back(*key);
        }
        if order.len() > MAX_DATAGRAMS as usize
            && let Some(oldest) = order.pop_front()
        {
            decided.remove(&oldest);
        }
    }
}
