//! Where the endpoint listens: loopback or another address, or a socket in the file system that only root, or a group too, can open.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use rustix::fs::Mode;

/// What is before the path of a Unix socket.
const UNIX: &str = "unix:";
/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// Over TCP.
    Tcp(SocketAddr),
    /// At a path.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("write the whole path: unix:/run/firewall/metrics.sock".to_owned()),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "write an address and a port, such as 127.0.0.1:9590 or [::1]:9590, or unix:PATH"
                    .to_owned()
            }),
        }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens everywhere that was told.
///
/// # Errors
///
/// Somebody else listens there, or what the kernel says.
pub(super) fn all(places: &[Listen], group: Option<&str>) -> Result<Vec<Listener>> {
    let group = group.map(group_id).transpose()?;
    let listeners = places.iter().map(|place| match place {
        Listen::Tcp(address) => TcpListener::bind(address)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map(Listener::Tcp)
            .with_context(|| format!("listening at {address}")),
        Listen::Unix(path) => unix(path, group)
            .map(Listener::Unix)
            .with_context(|| format!("listening at {}", path.display())),
    });
    listeners.collect()
}

fn unix(path: &Path, group: Option<u32>) -> Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => bail!("there is a file, and no socket"),
        Ok(_) if UnixStream::connect(path).is_ok() => bail!("somebody else listens there"),
        Ok(_) => fs::remove_file(path).context("removing what an earlier one has left")?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // There is no moment at which others could open it.
    let before = rustix::process::umask(Mode::from(0o777));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound?;
    chown(path, Some(0), Some(group.unwrap_or(0))).context("giving it to root")?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The number of a group by its name, as `/etc/group` has it, or by its number.
fn group_id(group: &str) -> Result<u32> {
    const GROUPS: &str = "/etc/group";
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string(GROUPS).with_context(|| format!("reading {GROUPS}"))?;
    let mut lines = groups.lines().map(|line| line.split(':'));
    let number = lines.find_map(|mut fields| {
        let is_it = fields.next() == Some(group);
        is_it.then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.with_context(|| format!("there is no group {group} in {GROUPS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_with_ports_or_paths() {
        let tcp = |text: &str| Ok(Listen::Tcp(text.parse().unwrap()));
        for text in ["127.0.0.1:9590", "[::1]:9590"] {
            assert_eq!(text.parse(), tcp(text));
        }
        let path = Listen::Unix("/run/x.sock".into());
        assert_eq!("unix:/run/x.sock".parse(), Ok(path));
        for wrong in ["", "9590", "127.0.0.1", "localhost:9590", "unix:x.sock"] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_group_has_a_number() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("4711").unwrap(), 4711);
        assert!(group_id("no such group").is_err());
    }
}
