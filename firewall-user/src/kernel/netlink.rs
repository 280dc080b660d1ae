//! Questions to the kernel over netlink, each asked and answered to its end; and what it tells by itself of interfaces.

use std::future::Future;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;

/// Calls `changed` whenever something about an interface of this network namespace has changed, until that cannot be told any more.
///
/// # Errors
///
/// Netlink is out of reach.
pub async fn on_link_changes(mut changed: impl FnMut()) -> Result<()> {
    let (connection, _handle, mut messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("opening a netlink socket")?;
    let connection = tokio::spawn(connection);
    while messages.next().await.is_some() {
        changed();
    }
    connection.abort();
    Ok(())
}

/// Runs `question` on this thread, whose network namespace its sockets are in.
pub(super) fn run<T>(question: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(question)
}
