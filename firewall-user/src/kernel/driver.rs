//! Which driver an interface has, and what that can do with XDP: the kernel says so itself, in the netlink family `netdev`
//! (Documentation/netlink/specs/netdev.yaml; Linux 6.3 and later).

use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::StreamExt as _;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized, parse_u64,
};

use super::interface::Interface;
use super::netlink;

/// `NETDEV_CMD_DEV_GET` (linux/netdev.h).
const GET: u8 = 1;
/// `NETDEV_A_DEV_IFINDEX`.
const INDEX: u16 = 1;
/// `NETDEV_A_DEV_XDP_FEATURES`.
const FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: the driver runs programs, and does what they return but to redirect.
const BASIC: u64 = 1 << 0;
/// `NETDEV_XDP_ACT_RX_SG`: the driver runs them over frames in several buffers too.
const SEVERAL_BUFFERS: u64 = 1 << 5;

/// What a driver can do with XDP as it is set up now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// It runs programs in native mode.
    pub native: bool,
    /// It does so over frames that do not fit into one buffer.
    pub several_buffers: bool,
}

/// What the driver of `interface` can do.
///
/// # Errors
///
/// The kernel does not tell.
pub fn abilities(interface: &Interface) -> Result<Abilities> {
    let bits = features(interface.index)
        .with_context(|| format!("asking what {} can do with XDP", interface.name))?;
    Ok(Abilities {
        native: bits & BASIC != 0,
        several_buffers: bits & SEVERAL_BUFFERS != 0,
    })
}

/// The name of the driver: of the card, or of the software that stands for one.
pub fn name(interface: &Interface) -> Option<String> {
    if let Some((bus, card)) = &interface.card {
        // Not under /sys/class/net, which has the interfaces of the network namespace that sysfs was mounted in.
        let driver = fs::read_link(format!("/sys/bus/{bus}/devices/{card}/driver"));
        let driver = driver
            .ok()
            .as_deref()
            .and_then(|path| path.file_name()?.to_str().map(str::to_owned));
        if driver.is_some() {
            return driver;
        }
    }
    interface.software.clone()
}

fn features(index: u32) -> Result<u64> {
    netlink::run(async {
        let (connection, mut handle, _) =
            genetlink::new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let mut message = NetlinkMessage::from(GenlMessage::from_payload(Device {
            index,
            features: None,
        }));
        message.header.flags = NLM_F_REQUEST;
        let answer = match handle.request(message).await {
            Ok(mut answers) => answers.next().await,
            Err(error) => bail!("{error}"),
        };
        connection.abort();
        let answer = answer
            .context("no answer")?
            .map_err(|error| anyhow!("{error}"))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(answer) => answer
                .payload
                .features
                .context("an answer without features"),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            other => bail!("an answer that is none: {other:?}"),
        }
    })
}

/// The question about a device, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Device {
    index: u32,
    features: Option<u64>,
}

impl Device {
    fn attributes(&self) -> Vec<DefaultNla> {
        vec![DefaultNla::new(INDEX, self.index.to_ne_bytes().to_vec())]
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attributes().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes().as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self {
            index: 0,
            features: None,
        };
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            if attribute.kind() == FEATURES {
                device.features = Some(parse_u64(attribute.value())?);
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: GenlHeader = GenlHeader {
        cmd: GET,
        version: 1,
    };

    #[test]
    fn a_question_names_the_device_and_an_answer_its_features() {
        let question = Device {
            index: 7,
            features: None,
        };
        let mut bytes = vec![0; question.buffer_len()];
        question.emit(&mut bytes);
        assert_eq!(
            bytes,
            [
                &8u16.to_ne_bytes()[..],
                &INDEX.to_ne_bytes(),
                &7u32.to_ne_bytes()
            ]
            .concat()
        );

        let features = 0x23u64.to_ne_bytes();
        bytes.extend([&12u16.to_ne_bytes()[..], &FEATURES.to_ne_bytes(), &features].concat());
        let answer = Device::parse_with_param(&bytes, HEADER).unwrap();
        assert_eq!(answer.features, Some(0x23));
        bytes.truncate(bytes.len() - 1);
        assert!(Device::parse_with_param(&bytes, HEADER).is_err());
    }
}
