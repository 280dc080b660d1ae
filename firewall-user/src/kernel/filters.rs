//! Filters of tc's older kind (`tc filter`, at clsact or ingress) on an interface: behind XDP for what arrives, behind tcx for
//! what leaves.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::TcAttribute;

use super::interface::Interface;
use super::netlink;

/// Kinds of the filters that see what arrives, and of those that see what leaves: `bpf`, `flower` and so on, each once.
///
/// # Errors
///
/// Netlink is out of reach.
pub fn kinds(interface: &Interface) -> Result<[Vec<String>; 2]> {
    let index = i32::try_from(interface.index).context("an index that the kernel does not give")?;
    netlink::run(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let mut both = [Vec::new(), Vec::new()];
        let filters = || handle.traffic_filter(index).get();
        for (kinds, asked) in both
            .iter_mut()
            .zip([filters().ingress(), filters().egress()])
        {
            let found: Vec<_> = asked
                .execute()
                .try_collect()
                .await
                .with_context(|| format!("asking for the filters of {}", interface.name))?;
            let named = found.into_iter().flat_map(|filter| filter.attributes);
            kinds.extend(named.filter_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            }));
            kinds.sort();
            kinds.dedup();
        }
        connection.abort();
        Ok(both)
    })
}
