//! Two policies that traffic can tell apart, and the traffic that does.

use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use firewall_tests::net::Lab;
use firewall_tests::net::traffic::{self, PATIENCE};

use crate::rules;

/// A UDP port that both policies accept, one that only the first does, one that only the second does, and one that
/// neither does.
pub(crate) const PORTS: [u16; 4] = [7000, 7001, 7002, 7999];

/// A TCP port that both policies accept.
pub(crate) const TCP: u16 = 8080;

/// How long a datagram is waited for that another one, sent after it, has overtaken: datagrams of one sender may lie in
/// the queues of two CPUs.
const STRAGGLER: Duration = Duration::from_millis(20);

/// Which policy is in force, as traffic has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InForce {
    A,
    B,
    /// Everything passes.
    Nothing,
}

/// The rule file of a policy.
pub(crate) fn policy(which: InForce) -> String {
    let [both, a, b, _] = PORTS;
    let ports = match which {
        InForce::A => format!("[{both}, {a}]"),
        InForce::B => format!("[{both}, {b}]"),
        InForce::Nothing => "[\"1-65535\"]".to_owned(),
    };
    rules(&[
        &format!(r#"name = "udp"; action = "accept"; protocol = "udp"; ports = {ports}"#),
        &format!(r#"name = "tcp"; action = "accept"; protocol = "tcp"; ports = [{TCP}]"#),
    ])
}

/// Sockets on both ends.
#[derive(Debug)]
pub(crate) struct Probe {
    sender: UdpSocket,
    receivers: [UdpSocket; 4],
    targets: [SocketAddr; 4],
    number: Cell<u32>,
}

impl Probe {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let receivers: Vec<_> = PORTS
            .iter()
            .map(|port| traffic::udp(&lab.inside, *port))
            .collect::<Result<_>>()?;
        Ok(Self {
            sender: traffic::udp_from(&lab.outside, lab.outside.v4)?,
            receivers: receivers
                .try_into()
                .ok()
                .context("a socket for each port")?,
            targets: PORTS.map(|port| SocketAddr::new(lab.inside.v4.into(), port)),
            number: Cell::new(0),
        })
    }

    /// How often it has been asked what is in force.
    pub(crate) fn asked(&self) -> u32 {
        self.number.get()
    }

    /// Sends to each port and sees what comes. Anything but the whole of one policy is an error.
    pub(crate) fn in_force(&self) -> Result<InForce> {
        let number = self.number.get() + 1;
        self.number.set(number);
        // The port that both accept comes last: by the time that it arrives, the others mostly have.
        for target in self.targets.iter().rev() {
            self.sender.send_to(&number.to_be_bytes(), target)?;
        }
        let [both, a, b, neither] = &self.receivers;
        ensure!(
            arrives(both, number, PATIENCE)?,
            "what both policies accept does not pass"
        );
        let mut passed = [false; 3];
        for (receiver, passed) in [a, b, neither].into_iter().zip(&mut passed) {
            *passed = arrives(receiver, number, STRAGGLER)?;
        }
        match passed {
            [true, false, false] => Ok(InForce::A),
            [false, true, false] => Ok(InForce::B),
            [true, true, true] => Ok(InForce::Nothing),
            _ => {
                bail!("neither policy as a whole: only in A, only in B, in neither: {passed:?}")
            }
        }
    }
}

/// Whether the datagram with this number comes; older ones are passed over.
fn arrives(receiver: &UdpSocket, number: u32, patience: Duration) -> Result<bool> {
    receiver.set_read_timeout(Some(patience))?;
    let mut datagram = [0; 4];
    while let Some(length) = traffic::receive(receiver, &mut datagram)? {
        if length == 4 && datagram == number.to_be_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}
