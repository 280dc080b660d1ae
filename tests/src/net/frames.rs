//! Frames as they are, past the host's own network stack: onto the cable, and off it.

use std::io::{ErrorKind, Read as _};

use anyhow::{Result, ensure};
use rustix::net::netdevice::name_to_index;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::host::Host;
use super::traffic::SILENCE;

/// Every protocol (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;

/// A packet socket on a host's interface.
#[derive(Debug)]
pub struct FramePort {
    socket: Socket,
}

impl FramePort {
    /// Opens one that only sends.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open(host: &Host) -> Result<Self> {
        Self::bound(host, 0)
    }

    /// Opens one that also receives what the interface lets in: behind XDP, before the network stack.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn listen(host: &Host) -> Result<Self> {
        Self::bound(host, ETH_P_ALL)
    }

    fn bound(host: &Host, protocol: u16) -> Result<Self> {
        host.enter(|| Self::here(host.interface(), protocol))
    }

    /// Opens one that only sends, in the network namespace of the thread that calls.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open_here(interface: &str) -> Result<Self> {
        Self::here(interface, 0)
    }

    fn here(interface: &str, protocol: u16) -> Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let index = name_to_index(&socket, interface)?;
        socket.bind(&link_address(i32::try_from(index)?, protocol))?;
        socket.set_read_timeout(Some(SILENCE))?;
        Ok(Self { socket })
    }

    /// What has come and comes until nothing more does. The kernel takes off the outermost VLAN tag.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn received(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(frames);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends one frame, from its Ethernet header on, without FCS.
    ///
    /// # Errors
    ///
    /// What the kernel says: it takes no frame shorter than an Ethernet header.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.socket.send(frame)?;
        ensure!(
            sent == frame.len(),
            "only {sent} of {} bytes were sent",
            frame.len()
        );
        Ok(())
    }
}

/// The interface with this index, and which protocol is received there: 0 is none.
#[expect(
    unsafe_code,
    reason = "no crate at hand makes packet(7) addresses safely"
)]
fn link_address(index: i32, protocol: u16) -> SockAddr {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the types that the storage is made for, plain integers and smaller than it.
    *unsafe { storage.view_as() } = address;
    // SAFETY: the storage holds a sockaddr_ll, which is as long as it says.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
