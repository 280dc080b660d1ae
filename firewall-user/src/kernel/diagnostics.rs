//! What the programs say of themselves, if they were built to.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

use super::guard::Guard;

/// What the programs of an interface have said since they are at work, as far as there was room for it.
pub struct Diagnostics(EbpfLogger<Lines>);

impl Diagnostics {
    /// Begins to read it. There is one reader at a time.
    ///
    /// # Errors
    ///
    /// The programs at work were built without.
    pub fn of(guard: &Guard) -> Result<Self> {
        let logger = EbpfLogger::init_from_id_with_logger(guard.program_id, Lines);
        let logger = logger.context(
            "the programs at work say nothing of themselves: detach and apply with a `firewall` that was built with \
             `--features diagnostics`",
        )?;
        Ok(Self(logger))
    }

    /// Prints what there is.
    pub fn print(&mut self) {
        self.0.flush();
    }
}

/// A line for each.
#[derive(Debug)]
struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (level, said) = (record.level(), record.args());
        // Whoever reads has gone, and asks for no more.
        let _ = writeln!(io::stdout(), "{level:<5} {said}");
    }

    fn flush(&self) {}
}
