//! Real traffic through the cable: TCP, UDP and pings, of ordinary sockets and programs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::host::Host;

/// How long anybody waits for what must not come. Less than a second, after which TCP would send its first segment again.
pub const SILENCE: Duration = Duration::from_millis(400);

/// How long anybody waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A TCP service that sends back what it gets, on all addresses of a host, while this lives.
#[derive(Debug)]
pub struct Echo {
    listener: TcpListener,
}

impl Echo {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let listener = host.enter(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?))?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                thread::spawn(move || echo(stream));
            }
        });
        Ok(Self { listener })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Ends the thread that accepts; an error only means that it has ended.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Opens a connection and has `bytes` sent back; whether that worked. A refused one fails at once, a dropped one after
/// [`SILENCE`].
///
/// # Errors
///
/// If it fails in any other way than by silence.
pub fn tcp(from: &Host, to: SocketAddr, bytes: usize) -> Result<bool> {
    from.enter(|| {
        let mut stream = match TcpStream::connect_timeout(&to, SILENCE) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("connecting to {to}")),
        };
        exchange(&mut stream, bytes).with_context(|| format!("talking to {to}"))?;
        Ok(true)
    })
}

/// Sends `bytes` bytes through an open connection and demands them back.
///
/// # Errors
///
/// If they do not come back, or changed.
pub fn exchange(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let sent: Vec<u8> = (0..bytes)
        .map(|index| (index ^ (index >> 8)) as u8)
        .collect();
    let mut received = vec![0; bytes];
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| -> Result<()> {
        let writing = scope.spawn(|| writer.write_all(&sent));
        stream.read_exact(&mut received)?;
        match writing.join() {
            Ok(written) => Ok(written?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    ensure!(sent == received, "what came back is not what was sent");
    Ok(())
}

/// A UDP socket on all addresses of a host; a read gives up after [`SILENCE`].
///
/// # Errors
///
/// If the port is taken.
pub fn udp(host: &Host, port: u16) -> Result<UdpSocket> {
    host.enter(|| {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(SILENCE))?;
        Ok(socket)
    })
}

/// A UDP socket with a given IPv4 source address.
///
/// # Errors
///
/// If the host has no such address.
pub fn udp_from(host: &Host, source: Ipv4Addr) -> Result<UdpSocket> {
    host.enter(|| Ok(UdpSocket::bind((source, 0))?))
}

/// Sends a datagram to a socket and says whether it got there.
///
/// # Errors
///
/// If something else got there.
pub fn reaches(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Result<bool> {
    let mut buffer = [0; 64];
    // IPv4 addresses are written as IPv6 ones on a socket for both.
    from.send_to(b"probe", mapped(from, to)?)?;
    match receive(receiver, &mut buffer)? {
        Some(length) => {
            ensure!(
                &buffer[..length] == b"probe",
                "received {:?}",
                &buffer[..length]
            );
            Ok(true)
        }
        None => Ok(false),
    }
}

/// Waits for a datagram as long as the socket does; its length, or nothing if none came.
///
/// # Errors
///
/// What the kernel says.
pub fn receive(receiver: &UdpSocket, buffer: &mut [u8]) -> Result<Option<usize>> {
    loop {
        return match receiver.recv(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(None),
                // The kernel does not go on by itself where a socket has a time-out (signal(7)).
                ErrorKind::Interrupted => continue,
                _ => Err(error.into()),
            },
        };
    }
}

/// `to` as `socket`, which may be one of IPv6, can send to it.
pub fn mapped(socket: &UdpSocket, to: SocketAddr) -> Result<SocketAddr> {
    Ok(match (socket.local_addr()?, to.ip()) {
        (SocketAddr::V6(_), IpAddr::V4(address)) => {
            SocketAddr::new(address.to_ipv6_mapped().into(), to.port())
        }
        _ => to,
    })
}

/// Reads what has come to a socket until nothing more does; how many datagrams.
///
/// # Errors
///
/// What the kernel says.
pub fn drain(receiver: &UdpSocket) -> Result<u64> {
    let mut buffer = [0; 2048];
    let mut count = 0;
    while receive(receiver, &mut buffer)?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Sends one echo request; whether an answer came. `more` goes to ping: `-s 8900`, `-I ADDRESS`.
///
/// # Errors
///
/// If ping cannot run.
pub fn ping(from: &Host, to: IpAddr, more: &str) -> Result<bool> {
    let mut command = Command::new("ping");
    command
        .args(["-n", "-c", "1", "-W", "0.5"])
        .args(more.split_whitespace())
        .arg(to.to_string());
    let outcome = from.run(&mut command)?;
    match outcome.code {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("ping: {outcome}"),
    }
}

/// Waits until `done` says so.
///
/// # Errors
///
/// If it never does; `what` is told.
pub fn wait_until(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_at_most(PATIENCE, what, done)
}

/// Waits so long, at most, until `done` says so.
///
/// # Errors
///
/// If it does not; `what` is told.
pub fn wait_at_most(
    patience: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !done()? {
        if Instant::now() > deadline {
            bail!("never: {what}");
        }
        thread::sleep(super::LOOK_AGAIN);
    }
    Ok(())
}
