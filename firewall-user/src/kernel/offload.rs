//! What a network card does to frames before any program sees them.

use anyhow::{Context as _, Result, anyhow};
use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures_util::TryStreamExt as _;

/// Features (net/ethtool/common.c, `netdev_features_strings`) with which the card takes VLAN tags out of frames that arrive,
/// with what `ethtool -K` calls them.
const STRIPPING: [(&str, &str); 2] = [
    ("rx-vlan-hw-parse", "rxvlan"),
    ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse"),
];

/// The features by which the interface called `name` takes tags out of frames, as `ethtool -K` calls them.
///
/// # Errors
///
/// The kernel does not tell.
pub fn vlan_stripping(name: &str) -> Result<Vec<&'static str>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("starting a runtime")?;
    let messages = runtime.block_on(async {
        let (connection, mut handle, _) =
            ethtool::new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let answers = handle.feature().get(Some(name)).execute().await;
        let answers = match answers {
            Ok(answers) => answers.try_collect::<Vec<_>>().await,
            Err(error) => Err(error),
        };
        connection.abort();
        answers.map_err(|error| anyhow!("{error}"))
    });
    let messages = messages.with_context(|| format!("asking for the features of {name}"))?;
    let mut active = Vec::new();
    for attribute in messages.iter().flat_map(|message| &message.payload.nlas) {
        if let EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) = attribute {
            let on = bits.iter().filter(|bit| bit.value);
            active.extend(on.map(|bit| &bit.name[..]));
        }
    }
    let stripping = STRIPPING.iter().filter(|(name, _)| active.contains(name));
    Ok(stripping.map(|&(_, switch)| switch).collect())
}
