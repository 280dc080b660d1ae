//! Questions to the kernel over netlink, each asked and answered to its end.

use std::future::Future;

use anyhow::{Context as _, Result};

/// Runs `question` on this thread, whose network namespace its sockets are in.
pub(super) fn run<T>(question: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(question)
}
