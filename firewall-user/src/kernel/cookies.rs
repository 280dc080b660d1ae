//! When the kernel makes SYN cookies, and takes them.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::interface::{self, Interface};
use super::offload;

/// `net.ipv4.tcp_syncookies` of this network namespace, which is for IPv6 too (Documentation/networking/ip-sysctl.rst).
const SETTING: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// When the kernel makes SYN cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Never, and it takes none: a SYN that was answered with one would come to nothing.
    Never,
    /// While more connections to a socket are being made than it has room for.
    InNeed,
    /// For every SYN.
    Always,
}

/// When this kernel does.
///
/// # Errors
///
/// The setting cannot be read: the kernel was built without SYN cookies.
pub fn made() -> Result<Made> {
    let text = fs::read_to_string(SETTING)
        .with_context(|| format!("reading {SETTING}, which every kernel with SYN cookies has"))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Made> {
    match text.trim() {
        "0" => Ok(Made::Never),
        "1" => Ok(Made::InNeed),
        "2" => Ok(Made::Always),
        other => bail!("{SETTING} says {other:?}, which is none of 0, 1 and 2"),
    }
}

/// The VLANs of `interface` in which an answer would leave without its tag: the card takes it out of the SYN, before the program in
/// the driver sees that, and puts none into what the program sends.
///
/// # Errors
///
/// The kernel does not tell.
pub fn untagged_vlans(interface: &Interface) -> Result<Vec<String>> {
    let all = interface::all()?;
    let vlans = all
        .into_iter()
        .filter(|other| other.vlan_of == Some(interface.index));
    let vlans: Vec<_> = vlans.map(|vlan| vlan.name).collect();
    if vlans.is_empty() || offload::vlan_stripping(&interface.name)?.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vlans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_one_of_three() {
        assert_eq!(parse("0\n").unwrap(), Made::Never);
        assert_eq!(parse("1\n").unwrap(), Made::InNeed);
        assert_eq!(parse("2\n").unwrap(), Made::Always);
        assert!(parse("3\n").unwrap_err().to_string().contains("\"3\""));
    }
}
