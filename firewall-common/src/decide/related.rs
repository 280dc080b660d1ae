//! ICMP errors: let in where the packet that they quote is one that this host has sent.
//!
//! That is so if it belongs to a flow that this host has opened, or if it answers what rules accept. Whatever else comes
//! as an error was made up (RFC 5927). A connection that the kernel knows is known by its ends alone, and one SYN from a forged address
//! would make half of one: such are none here.

use super::connection::{self, Local};
use super::flow::{self, Flows};
use super::{Decision, classify};
use crate::abi::flow::Key;
use crate::abi::image::{essential, header};
use crate::abi::reason::{DropReason, PassReason};
use crate::frame::Frame;
use crate::hash;
use crate::parse::{Packet, protocol, quoted};
use crate::tables::{ERROR_PARTS, Limited, Tables, World};

/// The verdict on the ICMP error `packet`, which rules have `refused`; `None` if the tables are inconsistent.
#[inline(always)]
pub fn decide<F: Frame + ?Sized, W: World>(
    frame: &F,
    packet: &Packet,
    refused: Decision,
    world: &W,
) -> Option<Decision> {
    let tables = world.tables()?;
    if tables.u32(header::INGRESS + header::ESSENTIALS)? & essential::PATH_MTU == 0 {
        return Some(refused);
    }
    let quoted = match quoted::parse(frame, packet) {
        Ok(quoted) => quoted,
        Err(reason) => return Some(Decision::dropped(reason)),
    };
    let key = connection::key(
        &quoted.addresses,
        &quoted.transport,
        quoted.identifier,
        Local::Source,
    );
    let is_ours = flow::quoted(&key, quoted.sequence, world.flows())
        || (key.protocol == protocol::TCP && world.has_connection(&key, false));
    let kind = if is_ours {
        Limited::Error(part(key.remote, world.flows()))
    } else if classify::serves(&quoted.addresses, &quoted.transport, &tables)? {
        Limited::ServedError
    } else {
        return Some(Decision::dropped(DropReason::IcmpUnrelated));
    };
    Some(if world.admits(kind) {
        Decision::passed(PassReason::PathMtu)
    } else {
        Decision::dropped(DropReason::IcmpRate)
    })
}

/// The part of all errors that those about what was sent to `remote` are in. Nobody without the table's secret can choose an address that
/// shares a part with another one, and one who has a site's network of IPv6 (a /48, RFC 6177) has one part for it.
#[inline(always)]
fn part<F: Flows>(remote: [u64; 2], flows: &F) -> u32 {
    let Some(settings) = flows.settings() else {
        return 0;
    };
    let [upper, lower] = remote;
    let [upper, lower] = match Key::is_mapped(remote) {
        true => [upper, lower],
        false => [upper & !0xffff, 0],
    };
    let [first, second, third, last, ..] = settings.seed;
    hash::keyed([upper, lower], &[first, second, third, last]) as u32 % ERROR_PARTS
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::abi::flow::{MIN_BUCKETS, Settings, Timeouts};
    use crate::decide::flow::HostFlows;

    #[test]
    fn peers_are_spread_over_parts_and_a_network_of_ipv6_has_one() {
        let seed = [
            0x9e37_79b9_7f4a_7c15,
            0xbf58_476d_1ce4_e5b9,
            0x94d0_49bb_1331_11eb,
            0x2545_f491_4f6c_dd1d,
            0xd6e8_feb8_6659_fd93,
            1,
            2,
        ];
        let settings = Settings::new(seed, MIN_BUCKETS, 250, &Timeouts::default());
        let flows = HostFlows::new(&[], settings);
        // How many parts the peers are in, and how many peers the fullest one has.
        let spread = |peers: Vec<[u64; 2]>| {
            let mut parts = [0; ERROR_PARTS as usize];
            for remote in peers {
                parts[part(remote, &flows) as usize] += 1;
            }
            let used = parts.iter().filter(|&&peers| peers > 0).count();
            (used, parts.into_iter().max().unwrap())
        };
        let network = 0x2001_0db8_0000_0000;
        let v4 = (0..1_000).map(|number| Key::mapped(0xc000_0200 + number));
        let v6 = (0..1_000).map(|number| [network + (number << 16), 1]);
        for peers in [v4.collect(), v6.collect()] {
            let (parts, most) = spread(peers);
            // 16 each would be even.
            assert!(parts == 64 && most < 40, "{parts} parts, {most} in one");
        }
        let of_one_network = (0..1_000).map(|number| [network + number, number << 32]);
        assert_eq!(spread(of_one_network.collect()), (1, 1_000));
    }
}
