//! What a network card does to frames before any program sees them, and how many queues it has for them.

use anyhow::{Context as _, Result, anyhow, ensure};
use ethtool::{
    EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolFeatureAttr, EthtoolHandle,
    EthtoolMessage,
};
use futures_util::{Stream, TryStreamExt as _};
use netlink_packet_generic::GenlMessage;

use super::netlink;

/// Features (net/ethtool/common.c, `netdev_features_strings`) with which the card takes VLAN tags out of frames that arrive,
/// with what `ethtool -K` calls them.
const STRIPPING: [(&str, &str); 2] = [
    ("rx-vlan-hw-parse", "rxvlan"),
    ("rx-vlan-stag-hw-parse", "rx-vlan-stag-hw-parse"),
];

/// Features with which the card puts several segments into one frame, with what `ethtool -K` calls them. Drivers run no XDP
/// program over such frames.
const MERGING: [(&str, &str); 2] = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];

/// A feature that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// What `ethtool -K` calls it.
    pub name: &'static str,
    /// Whether it cannot be switched off.
    pub is_fixed: bool,
}

/// The features by which the interface called `name` takes tags out of frames, as `ethtool -K` calls them.
///
/// # Errors
///
/// The kernel does not tell.
pub fn vlan_stripping(name: &str) -> Result<Vec<&'static str>> {
    let on = active(name, &STRIPPING)?;
    Ok(on.into_iter().map(|switch| switch.name).collect())
}

/// The features by which the interface called `name` merges frames that arrive.
///
/// # Errors
///
/// The kernel does not tell.
pub fn merging(name: &str) -> Result<Vec<Switch>> {
    active(name, &MERGING)
}

fn active(name: &str, features: &[(&str, &'static str)]) -> Result<Vec<Switch>> {
    let attributes = ask(async |mut handle| handle.feature().get(Some(name)).execute().await)
        .with_context(|| format!("asking for the features of {name}"))?;
    let (mut active, mut changeable, mut unchangeable) = (Vec::new(), Vec::new(), Vec::new());
    for attribute in &attributes {
        let (into, bits) = match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => (&mut active, bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::Hw(bits)) => (&mut changeable, bits),
            EthtoolAttr::Feature(EthtoolFeatureAttr::NoChange(bits)) => (&mut unchangeable, bits),
            _ => continue,
        };
        let set = bits.iter().filter(|bit| bit.value);
        into.extend(set.map(|bit| &bit.name[..]));
    }
    let on = features.iter().filter(|(name, _)| active.contains(name));
    let on = on.map(|&(feature, name)| Switch {
        name,
        is_fixed: !changeable.contains(&feature) || unchangeable.contains(&feature),
    });
    Ok(on.collect())
}

/// Queues of an interface. Those for both directions count among neither of the other two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// For what arrives alone.
    pub receive: u32,
    /// For both directions.
    pub combined: u32,
    /// How many `receive` may be.
    pub max_receive: u32,
    /// How many `combined` may be.
    pub max_combined: u32,
}

/// The queues of the interface called `name`.
///
/// # Errors
///
/// The driver does not tell.
pub fn queues(name: &str) -> Result<Queues> {
    let attributes = ask(async |mut handle| handle.channel().get(Some(name)).execute().await)
        .with_context(|| format!("asking for the queues of {name}"))?;
    let mut queues = Queues::default();
    for attribute in attributes {
        match attribute {
            EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(count)) => queues.receive = count,
            EthtoolAttr::Channel(EthtoolChannelAttr::RxMax(count)) => queues.max_receive = count,
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(count)) => {
                queues.combined = count;
            }
            EthtoolAttr::Channel(EthtoolChannelAttr::CombinedMax(count)) => {
                queues.max_combined = count;
            }
            _ => {}
        }
    }
    Ok(queues)
}

/// Every attribute of every answer to `question`.
fn ask<Answers>(
    question: impl AsyncFnOnce(EthtoolHandle) -> Result<Answers, EthtoolError>,
) -> Result<Vec<EthtoolAttr>>
where
    Answers: Stream<Item = Result<GenlMessage<EthtoolMessage>, EthtoolError>>,
{
    netlink::run(async {
        let (connection, handle, _) =
            ethtool::new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let answers = match question(handle.clone()).await {
            Ok(answers) => answers.try_collect::<Vec<_>>().await,
            Err(error) => Err(error),
        };
        // With the last handle the connection ends, and with it the answers.
        drop(handle);
        connection.abort();
        let answers = answers.map_err(|error| anyhow!("{error}"))?;
        ensure!(!answers.is_empty(), "there was no answer");
        let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
        Ok(attributes.collect())
    })
}
