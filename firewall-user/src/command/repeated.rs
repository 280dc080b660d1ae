//! What is read from guarded interfaces and shown, once or again and again.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::guard;
use crate::kernel::guard::Guard;
use crate::output::{Format, Output};
use crate::{lock, privilege};

/// How often `--watch` shows.
const INTERVAL: Duration = Duration::from_secs(1);

/// What was read of each interface, and when.
type Readings<T> = [(Instant, T)];

/// Reads from the interfaces called `names` and shows that beside what was read before; once, or if it is to `watch`, until
/// interrupted.
pub(super) fn run<T>(
    names: &[String],
    watch: bool,
    output: &Output,
    read: impl Fn(&str, &Guard) -> Result<T>,
    show: impl Fn(&Readings<T>, &Readings<T>) -> Result<()>,
) -> Result<()> {
    privilege::require()?;
    let mut before = Vec::new();
    loop {
        let mut now = Vec::new();
        for name in names {
            let _look = lock::shared()?;
            let (_, guard) = guard(name)?;
            now.push((Instant::now(), read(name, &guard)?));
        }
        if watch && output.format == Format::Text && io::stdout().is_terminal() {
            // Home and clear, so that the numbers stay where they are.
            write!(io::stdout(), "\x1b[H\x1b[2J")?;
        }
        show(&now, &before)?;
        if !watch {
            return Ok(());
        }
        before = now;
        std::thread::sleep(INTERVAL);
    }
}

/// What was read before, and how long that is ago `at` this time.
pub(super) fn since<T>(at: Instant, before: Option<&(Instant, T)>) -> Option<(Duration, &T)> {
    before.map(|(then, reading)| (at.duration_since(*then), reading))
}
