//! Live probes: every machine tries every service of every other, over IPv4 and IPv6, and sees what comes back.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::design::{Kind, Role, SERVICES, Server, Service};
use super::machine::Machine;
use super::site::Site;

/// How long silence has to last to be believed. Less than a second, after which TCP would ask again.
const SILENCE: Duration = Duration::from_millis(850);

/// How long an answer may take that is expected, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often answers are looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What one try was and whether anything came back: an answer, or a refusal by the other host's own network stack, which is as
/// good a proof that the packet arrived.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Who tried.
    pub from: &'static Server,
    /// Whom.
    pub to: &'static Server,
    /// What.
    pub service: &'static Service,
    /// Over IPv6.
    pub v6: bool,
    /// Whether anything came back.
    pub reached: bool,
}

/// Has a machine try everything of everybody else. What is `expected` to be reached is waited for.
///
/// # Errors
///
/// What the kernel says when it cannot be tried.
pub fn all_from(
    site: &Site,
    from: &Machine,
    expected: impl Fn(&Seen) -> bool + Send,
) -> Result<Vec<Seen>> {
    from.enter(|| {
        let mut tries = Vec::new();
        for to in site.machines().iter().filter(|to| to.name() != from.name()) {
            for service in SERVICES {
                for address in to.addresses() {
                    let seen = Seen {
                        from: from.server,
                        to: to.server,
                        service,
                        v6: address.is_ipv6(),
                        reached: false,
                    };
                    let socket = begin(service, address)
                        .with_context(|| format!("{} to {address}", service.name))?;
                    tries.push((seen, socket));
                }
            }
        }
        wait(tries, expected)
    })
}

/// Sends the first packet; `None` if this host's own firewall has said that it keeps it.
fn begin(service: &Service, address: IpAddr) -> Result<Option<Socket>> {
    let (domain, is_v4) = (
        Domain::for_address(SocketAddr::new(address, 0)),
        address.is_ipv4(),
    );
    let (kind, protocol, port) = match service.kind {
        Kind::Tcp(port) => (Type::STREAM, Protocol::TCP, port),
        Kind::Udp(port) => (Type::DGRAM, Protocol::UDP, port),
        Kind::Ping if is_v4 => (Type::DGRAM, Protocol::ICMPV4, 0),
        Kind::Ping => (Type::DGRAM, Protocol::ICMPV6, 0),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    let connected = socket.connect(&SocketAddr::new(address, port).into());
    let sent = match service.kind {
        Kind::Tcp(_) => connected,
        Kind::Udp(port) => connected.and_then(|()| socket.send(&question(port)).map(drop)),
        // Type echo request; the kernel fills in identifier and checksum.
        Kind::Ping => {
            let kind = if is_v4 { 8 } else { 128 };
            connected.and_then(|()| socket.send(&[kind, 0, 0, 0, 0, 0, 0, 1]).map(drop))
        }
    };
    match sent {
        Ok(()) => Ok(Some(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Some(socket)),
        // What tc says of a packet that it dropped.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EPERM)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What is sent to a UDP port, so that a server that knows the protocol answers.
fn question(port: u16) -> Vec<u8> {
    match port {
        // A recursive question for the A record of www.example.test (RFC 1035, 4.1).
        53 => [
            &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
            b"\x03www\x07example\x04test\0",
            &[0, 1, 0, 1],
        ]
        .concat(),
        // NTP version 4, mode client (RFC 5905, 7.3).
        123 => [&[0x23][..], &[0; 47]].concat(),
        _ => b"probe".to_vec(),
    }
}

/// Waits for answers to all of them.
fn wait(tries: Vec<(Seen, Option<Socket>)>, expected: impl Fn(&Seen) -> bool) -> Result<Vec<Seen>> {
    let begun = Instant::now();
    let mut done = Vec::new();
    let mut open = Vec::new();
    for (seen, socket) in tries {
        match socket {
            Some(socket) => open.push((seen, socket)),
            None => done.push(seen),
        }
    }
    loop {
        let is_complete = open.iter().all(|(seen, _)| !expected(seen));
        let patience = if is_complete { SILENCE } else { PATIENCE };
        if open.is_empty() || begun.elapsed() > patience {
            done.extend(open.iter().map(|(seen, _)| *seen));
            return Ok(done);
        }
        let ready = {
            let mut polled: Vec<_> = open
                .iter()
                .map(|(seen, socket)| {
                    let flags = match seen.service.kind {
                        Kind::Tcp(_) => PollFlags::OUT,
                        Kind::Udp(_) | Kind::Ping => PollFlags::IN,
                    };
                    PollFd::new(socket, flags)
                })
                .collect();
            poll(&mut polled, Some(&Timespec::default()))?;
            let ready = polled.iter().map(|one| !one.revents().is_empty());
            ready.collect::<Vec<bool>>()
        };
        let mut ready = ready.into_iter();
        let mut still = Vec::new();
        for (mut seen, socket) in open {
            if ready.next() == Some(true) {
                seen.reached = has_arrived(&seen, &socket)?;
                done.push(seen);
            } else {
                still.push((seen, socket));
            }
        }
        open = still;
        // Not woken by each answer: that would be a look at all of them for every one.
        thread::sleep(LOOK_AGAIN);
    }
}

/// Whether what a socket has to say proves that the packet arrived.
fn has_arrived(seen: &Seen, socket: &Socket) -> Result<bool> {
    let error = match seen.service.kind {
        Kind::Tcp(_) => socket.take_error()?,
        Kind::Udp(_) | Kind::Ping => socket.recv(&mut [MaybeUninit::uninit(); 512]).err(),
    };
    match error {
        None => Ok(true),
        Some(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Some(error) => bail!("{seen:?}: {error}"),
    }
}

/// Somebody on every UDP port that is probed and that nobody else has, so that silence there means that nothing arrived.
#[derive(Debug)]
pub struct Decoys {
    is_over: Arc<AtomicBool>,
}

impl Decoys {
    /// Starts them on all machines; they send back what they get.
    ///
    /// # Errors
    ///
    /// What the kernel says: a port is taken.
    pub fn start(site: &Site) -> Result<Self> {
        let decoys = Self {
            is_over: Arc::default(),
        };
        for machine in site.machines() {
            for service in SERVICES {
                let Kind::Udp(port) = service.kind else {
                    continue;
                };
                let is_served = matches!(
                    (machine.server.role, port),
                    (Role::Names, 53) | (Role::Time, 123)
                );
                if !is_served {
                    decoy(machine, port, Arc::clone(&decoys.is_over))?;
                }
            }
        }
        Ok(decoys)
    }
}

impl Drop for Decoys {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn decoy(machine: &Machine, port: u16, is_over: Arc<AtomicBool>) -> Result<()> {
    let socket = machine.enter(|| {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .with_context(|| format!("port {port} of {}", machine.name()))
    })?;
    socket.set_read_timeout(Some(SILENCE))?;
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while !is_over.load(Ordering::Relaxed) {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // Who asked may be gone.
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    });
    Ok(())
}

/// How many SYNs a machine has sent again so far: each is counted by whoever drops it.
///
/// # Errors
///
/// If the kernel does not tell.
pub fn repeated_syns(machine: &Machine) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/netstat", machine.init()))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let table: BTreeMap<_, _> = names.split(' ').zip(values.split(' ')).collect();
    let value = table.get("TCPSynRetrans").context("no TCPSynRetrans")?;
    Ok(value.parse()?)
}
