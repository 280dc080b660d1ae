//! Network interfaces as netlink tells of them: do they exist, and what is attached to them.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkXdp, XdpAttached,
};

use super::netlink;

/// How an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before a packet buffer exists.
    Native,
    /// In the kernel's stack, for any driver.
    Generic,
    /// On the network card.
    Offloaded,
}

impl Mode {
    /// The name in output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// An interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Largest packet in bytes, without Ethernet header.
    pub mtu: u32,
    /// Whether it has been set up (`ip link set IFACE up`).
    pub is_up: bool,
    /// Its hardware address, if that is one of Ethernet.
    pub hardware_address: Option<[u8; 6]>,
    /// Whether it is the loopback interface.
    pub is_loopback: bool,
    /// Whether its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// What it stands on, where that is no card.
    pub kind: Option<Kind>,
    /// What kind of software it is, as `ip link` calls it; `None` for cards.
    pub software: Option<String>,
    /// The bus of its card and the card's name there.
    pub card: Option<(String, String)>,
    /// Index of the bridge or bond that this is a port of.
    pub port_of: Option<u32>,
    /// Index of the interface that this is a VLAN of.
    pub vlan_of: Option<u32>,
    /// XDP programs attached, by mode and program id.
    pub xdp: Vec<(Mode, u32)>,
}

/// Inode of this thread's network namespace.
///
/// # Errors
///
/// procfs is out of reach.
pub fn namespace() -> Result<u64> {
    const PATH: &str = "/proc/thread-self/ns/net";
    Ok(std::fs::metadata(PATH)
        .with_context(|| format!("looking at {PATH}"))?
        .ino())
}

/// The interface called `name` in this network namespace, or `None` if there is none.
///
/// # Errors
///
/// Netlink is out of reach.
pub fn find(name: &str) -> Result<Option<Interface>> {
    let wanted = name.to_owned();
    query(move |interface| interface.name == wanted).map(|mut found| found.pop())
}

/// Every interface of this network namespace.
///
/// # Errors
///
/// Netlink is out of reach.
pub fn all() -> Result<Vec<Interface>> {
    query(|_| true)
}

/// The addresses of the interface with this index, in the kernel's order.
///
/// # Errors
///
/// Netlink is out of reach.
pub fn addresses(index: u32) -> Result<Vec<IpAddr>> {
    asked(async |handle| {
        let mut addresses = Vec::new();
        let request = handle.address().get().set_link_index_filter(index);
        let mut messages = request.execute();
        while let Some(message) = messages.try_next().await? {
            // Of a link between two hosts, `Address` is that of the other.
            let of = |own: bool| {
                let mut attributes = message.attributes.iter();
                attributes.find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) if own => Some(*address),
                    AddressAttribute::Address(address) if !own => Some(*address),
                    _ => None,
                })
            };
            addresses.extend(of(true).or_else(|| of(false)));
        }
        Ok(addresses)
    })
    .context("asking netlink for addresses")
}

fn query(keep: impl Fn(&Interface) -> bool) -> Result<Vec<Interface>> {
    asked(async |handle| {
        let links = handle.link().get().execute();
        links
            .try_filter_map(|message| async move { Ok(read(message)) })
            .filter(|link| {
                let kept = link.as_ref().map_or(true, &keep);
                async move { kept }
            })
            .try_collect()
            .await
    })
    .context("asking netlink for interfaces")
}

/// Asks netlink something.
fn asked<T>(question: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error>) -> Result<T> {
    netlink::run(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("opening a netlink socket")?;
        let connection = tokio::spawn(connection);
        let found = question(handle).await;
        connection.abort();
        Ok(found?)
    })
}

fn read(message: rtnetlink::packet_route::link::LinkMessage) -> Option<Interface> {
    let mut interface = Interface {
        name: String::new(),
        index: message.header.index,
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        hardware_address: None,
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        software: None,
        card: None,
        port_of: None,
        vlan_of: None,
        xdp: Vec::new(),
    };
    let mut below = None;
    let mut is_vlan = false;
    let (mut bus, mut card) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Link(index) => below = Some(index),
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Address(bytes) => interface.hardware_address = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
            LinkAttribute::LinkInfo(information) => {
                interface.kind = information.iter().find_map(kind);
                interface.software = information.iter().find_map(software);
                is_vlan = information.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            LinkAttribute::Controller(index) => interface.port_of = Some(index),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::ParentDevName(name) => card = Some(name),
            LinkAttribute::Xdp(xdp) => interface.xdp = attached(&xdp),
            _ => {}
        }
    }
    interface.card = bus.zip(card);
    interface.vlan_of = below.filter(|_| is_vlan);
    (!interface.name.is_empty()).then_some(interface)
}

/// An interface that stands on others, which see its frames first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bridge, or several cards that act as one: each of them takes tags out of frames or does not.
    OverOthers,
    /// One end of a cable inside the machine: what is put beside a frame at one end stays there at the other.
    Veth,
}

fn kind(information: &LinkInfo) -> Option<Kind> {
    match information {
        LinkInfo::Kind(InfoKind::Bridge | InfoKind::Bond) => Some(Kind::OverOthers),
        LinkInfo::Kind(InfoKind::Other(name)) if name == "team" => Some(Kind::OverOthers),
        LinkInfo::Kind(InfoKind::Veth) => Some(Kind::Veth),
        _ => None,
    }
}

fn software(information: &LinkInfo) -> Option<String> {
    match information {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// With several programs the kernel names each by its mode; with one it may only say the mode and "the program".
fn attached(attributes: &[LinkXdp]) -> Vec<(Mode, u32)> {
    let mut programs = Vec::new();
    let mut single = None;
    let mut mode = None;
    for attribute in attributes {
        match attribute {
            LinkXdp::DrvProgId(id) => programs.push((Mode::Native, *id)),
            LinkXdp::SkbProgId(id) => programs.push((Mode::Generic, *id)),
            LinkXdp::HwProgId(id) => programs.push((Mode::Offloaded, *id)),
            LinkXdp::ProgId(id) => single = Some(*id),
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(Mode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(Mode::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some(Mode::Offloaded),
            _ => {}
        }
    }
    if let (true, Some(mode), Some(id)) = (programs.is_empty(), mode, single) {
        programs.push((mode, id));
    }
    programs
}
