//! Ports that flows have been opened from: what comes for any other answers none, and the table need not be asked.

use super::Flows;
use crate::abi::flow::{Key, PORT_WORDS, PortProtocol};
use crate::parse::protocol;
use crate::word::Word as _;

/// Whether a flow with this local port was ever opened.
#[inline(always)]
pub fn has<F: Flows>(of: PortProtocol, port: u16, flows: &F) -> bool {
    let (index, bit) = place(of, port);
    flows
        .ports()
        .is_some_and(|ports| ports.words[index].load() & bit != 0)
}

/// Remembers the local port of a flow that is about to be opened.
#[inline(always)]
pub(super) fn note<F: Flows>(key: &Key, flows: &F) {
    let of = match key.protocol {
        protocol::TCP => PortProtocol::Tcp,
        protocol::UDP => PortProtocol::Udp,
        _ => return,
    };
    let (index, bit) = place(of, key.local_port);
    if let Some(ports) = flows.ports() {
        let word = &ports.words[index];
        // Most flows go out from ports that have been used before: a line that all CPUs read is better not written.
        if word.load() & bit == 0 {
            word.set(bit);
        }
    }
}

#[inline(always)]
const fn place(of: PortProtocol, port: u16) -> (usize, u64) {
    let index = (of as usize) << 10 | port as usize >> 6;
    (index & (PORT_WORDS - 1), 1 << (port & 63))
}
