//! Packets as they are told of, from one interface or several, until there were enough of them or somebody interrupts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::filter::Filter;
use super::{Names, Seen};
use crate::kernel::events::{Missed, Reader};
use crate::kernel::guard::{Found, Guard};
use crate::kernel::interface;
use crate::rules;

/// How often the ring buffers are looked into: no packet wakes anybody up.
const POLL: Duration = Duration::from_millis(50);
/// How often the programs are told that somebody still reads.
const RENEWAL: Duration = Duration::from_secs(1);

/// What is asked for, and of how much of it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Wanted {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time (90, 10s, 5m, 1h).
    #[arg(long = "for", value_name = "TIME", value_parser = rules::telling_s)]
    lasts: Option<u32>,
    /// Be told of so many packets a second, at most about that: of each reason, of each rule with `log`, and from each CPU.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// What somebody does with packets.
pub(crate) trait Sink {
    /// One that was asked for.
    fn take(&mut self, seen: &Seen) -> Result<()>;

    /// There are no more for the moment.
    fn pause(&mut self) -> Result<()>;
}

/// What became of an interface's packets.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) interface: Rc<str>,
    /// Packets that were asked for and taken.
    pub(crate) taken: u64,
    pub(crate) missed: Missed,
}

/// An interface that is listened to.
struct Source {
    interface: Rc<str>,
    /// `None` while it is not guarded.
    reader: Option<(Reader, Names, Guard)>,
    outcome: Outcome,
}

/// Gives `sink` what is wanted of these interfaces. `note` tells of one that is not guarded any more, and of one that is again.
pub(crate) fn run(
    guards: Vec<(String, Guard)>,
    wanted: &Wanted,
    sink: &mut impl Sink,
    note: impl Fn(String) -> Result<()>,
) -> Result<Vec<Outcome>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed))
        .context("waiting for Ctrl-C")?;
    let end = (wanted.lasts).map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let mut sources = guards
        .into_iter()
        .map(|(name, guard)| Source::open(&name, guard, wanted.rate))
        .collect::<Result<Vec<_>>>()?;
    let mut renewed = Instant::now();
    let mut left = wanted.count.unwrap_or(u64::MAX);
    loop {
        // What was told before the end belongs to it.
        let is_end = stop.load(Ordering::Relaxed) || end.is_some_and(|end| Instant::now() >= end);
        for source in &mut sources {
            source.drain(&wanted.filter, &mut left, sink)?;
        }
        sink.pause()?;
        if is_end || left == 0 {
            break;
        }
        if renewed.elapsed() >= RENEWAL {
            renewed = Instant::now();
            for source in &mut sources {
                source.renew(wanted, &note)?;
            }
        }
        thread::sleep(POLL);
    }
    for source in &mut sources {
        source.add_missed(&wanted.filter)?;
    }
    Ok(sources.into_iter().map(|source| source.outcome).collect())
}

impl Source {
    fn open(name: &str, guard: Guard, rate: u32) -> Result<Self> {
        let reader = guard.listen(rate).with_context(|| name.to_owned())?;
        let interface: Rc<str> = name.into();
        Ok(Self {
            outcome: Outcome {
                interface: Rc::clone(&interface),
                taken: 0,
                missed: Missed::default(),
            },
            interface,
            reader: Some((reader, Names::default(), guard)),
        })
    }

    /// Takes what has been told, at most so many of what is asked for.
    fn drain(&mut self, filter: &Filter, left: &mut u64, sink: &mut impl Sink) -> Result<()> {
        let Some((reader, names, _)) = &mut self.reader else {
            return Ok(());
        };
        let since_1970 = began();
        while *left > 0
            && let Some(told) = reader.next()
        {
            let seen = names.seen(told, &self.interface, since_1970, reader)?;
            if filter.takes(&seen) {
                *left -= 1;
                self.outcome.taken += 1;
                sink.take(&seen)?;
            }
        }
        Ok(())
    }

    /// Says that somebody still reads, or looks whether the interface is guarded again.
    fn renew(&mut self, wanted: &Wanted, note: &impl Fn(String) -> Result<()>) -> Result<()> {
        let name = Rc::clone(&self.interface);
        if let Some((reader, ..)) = &mut self.reader {
            match reader.renew() {
                Ok(true) => return Ok(()),
                Ok(false) => note(format!("{name} is not guarded any more, or anew"))?,
                Err(error) => note(format!("{name}: {error:#}"))?,
            }
            self.add_missed(&wanted.filter)?;
            self.reader = None;
        }
        // While it is being put there, there may be half of it.
        let found = interface::find(&name).ok().flatten();
        let Some(Ok(Found::Guard(guard))) = found.map(|interface| Guard::find(&interface)) else {
            return Ok(());
        };
        if let Ok(reader) = guard.listen(wanted.rate) {
            self.reader = Some((reader, Names::default(), *guard));
            note(format!("{name} is guarded, and read"))?;
        }
        Ok(())
    }

    /// Adds up what was not told.
    fn add_missed(&mut self, filter: &Filter) -> Result<()> {
        if let Some((reader, _, guard)) = &self.reader {
            let missed = reader.missed(filter.budgets(&guard.description.policy))?;
            self.outcome.missed.withheld += missed.withheld;
            self.outcome.missed.lost += missed.lost;
        }
        Ok(())
    }
}

/// How long after 1970 CLOCK_MONOTONIC began. It is asked for again and again, because the clock on the wall may be set.
fn began() -> Duration {
    let whole = |Timespec { tv_sec, tv_nsec }| {
        Duration::new(
            tv_sec.try_into().unwrap_or(0),
            tv_nsec.try_into().unwrap_or(0),
        )
    };
    let wall = whole(clock_gettime(ClockId::Realtime));
    wall.saturating_sub(whole(clock_gettime(ClockId::Monotonic)))
}
