//! Resets that somebody else sends in the name of a host that this one is connected with.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use etherparse::{Ipv4Header, Ipv6Header, TcpHeader};
use firewall_tests::net::traffic::{Echo, PATIENCE, exchange};
use firewall_tests::net::{FramePort, Lab};
use firewall_tests::packets::{at, ethernet_to, ethertype, ipv4_between, ipv6_between};

use crate::{MODES, rules};

const PORT: u16 = 9090;

/// A reset with a right checksum, as the host outside would send it on the connection between its [`PORT`] and `port`.
fn reset(lab: &Lab, ipv6: bool, port: u16, sequence: u32, acknowledges: bool) -> Result<Vec<u8>> {
    let mut header = TcpHeader::new(PORT, port, sequence, 0);
    header.rst = true;
    header.ack = acknowledges;
    let mac = lab.inside.hardware_address()?;
    let (from, to) = (&lab.outside, &lab.inside);
    if ipv6 {
        let ends = Ipv6Header {
            source: from.v6.octets(),
            destination: to.v6.octets(),
            ..Default::default()
        };
        header.checksum = header.calc_checksum_ipv6(&ends, &[])?;
        let packet = ipv6_between(from.v6, to.v6, 6, &header.to_bytes());
        Ok(ethernet_to(mac, ethertype::IPV6, &packet))
    } else {
        let ends = Ipv4Header {
            source: from.v4.octets(),
            destination: to.v4.octets(),
            ..Default::default()
        };
        header.checksum = header.calc_checksum_ipv4(&ends, &[])?;
        let packet = ipv4_between(from.v4, to.v4, 6, &header.to_bytes());
        Ok(ethernet_to(mac, ethertype::IPV4, &packet))
    }
}

/// What the host inside acknowledges in a segment to [`PORT`] over this family: what it expects next.
fn acknowledged(frame: &[u8], ipv6: bool) -> Option<u32> {
    let (kind, upper) = if ipv6 {
        (ethertype::IPV6, at::V6_PAYLOAD)
    } else {
        (ethertype::IPV4, at::V4_PAYLOAD)
    };
    let is_ours = frame.get(at::ETHERTYPE..at::ETHERTYPE + 2)? == kind.to_be_bytes()
        && frame.get(upper + 2..upper + 4)? == PORT.to_be_bytes();
    let bytes = frame.get(upper + 8..upper + 12)?.try_into().ok()?;
    is_ours.then_some(u32::from_be_bytes(bytes))
}

/// The sequence number that the host inside expects next. What was said before may have been too much for the packet socket.
fn expected(stream: &mut TcpStream, cable: &FramePort, ipv6: bool) -> Result<u32> {
    cable.received()?;
    exchange(stream, 10)?;
    let frames = cable.received()?;
    let mut acknowledged = frames.iter().filter_map(|frame| acknowledged(frame, ipv6));
    acknowledged.next_back().context("nothing was acknowledged")
}

#[test]
fn forged_resets_outside_the_window_end_no_connection() -> Result<()> {
    for mode in MODES {
        let Some(lab) = Lab::new()? else {
            return Ok(());
        };
        let _service = Echo::start(&lab.outside, PORT)?;
        lab.apply(&rules(&[]), mode)?;
        let cable = FramePort::listen(&lab.outside)?;
        let forger = FramePort::open(&lab.outside)?;
        for (ipv6, address) in [
            (false, IpAddr::from(lab.outside.v4)),
            (true, lab.outside.v6.into()),
        ] {
            let to = SocketAddr::new(address, PORT);
            let mut stream = lab
                .inside
                .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
            let port = stream.local_addr()?.port();
            exchange(&mut stream, 10_000)?;
            let next = expected(&mut stream, &cable, ipv6)?;

            // No window reaches so far (RFC 7323, 2.3), and none reaches back.
            let far = [1 << 30, 1 << 31, 3 << 30, u32::MAX];
            let before = lab.stats()?;
            for distance in far {
                for acknowledges in [false, true] {
                    let sequence = next.wrapping_add(distance);
                    forger.send(&reset(&lab, ipv6, port, sequence, acknowledges)?)?;
                }
            }
            let sent = 2 * far.len() as u64;
            let stats = lab.stats_when(|stats| {
                stats.dropped("tcp-out-of-window") == before.dropped("tcp-out-of-window") + sent
            })?;
            ensure!(
                stats.totals.dropped.packets == before.totals.dropped.packets + sent,
                "{stats:#?}"
            );
            exchange(&mut stream, 100_000).with_context(|| format!("{mode}, {address}"))?;
            // The flow has not taken it for closed either, and lets the answers in by itself.
            ensure!(lab.stats()?.passed("connection") == 0, "{mode}, {address}");

            // The near miss, which says that the others were what they should be: this one is to the point.
            let next = expected(&mut stream, &cable, ipv6)?;
            forger.send(&reset(&lab, ipv6, port, next, false)?)?;
            let ended = stream.read(&mut [0; 8]).map_err(|error| error.kind());
            ensure!(
                ended == Err(ErrorKind::ConnectionReset),
                "{mode}, {address}: {ended:?}"
            );
        }
    }
    Ok(())
}
