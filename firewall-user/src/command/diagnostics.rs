//! `firewall diagnostics`: what the programs say of themselves.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::guard;
use crate::kernel::diagnostics::Diagnostics;
use crate::{lock, privilege};

/// How often it is looked whether there is more.
const POLL: Duration = Duration::from_millis(100);

pub(crate) fn run(name: &str) -> Result<()> {
    privilege::require()?;
    let look = lock::shared()?;
    let (_, guard) = guard(name)?;
    drop(look);
    let mut diagnostics = Diagnostics::of(&guard)?;
    loop {
        diagnostics.print();
        thread::sleep(POLL);
    }
}
