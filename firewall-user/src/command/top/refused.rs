//! Whose packets are dropped, by what the programs tell of them: a sample, so that a flood costs the path of packets nothing.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::reading::Line;
use crate::events::Names;
use crate::kernel::events::Reader;
use crate::kernel::guard::Guard;
use crate::rules::model::Direction;
use crate::rules::names;

/// Packets that are told of in a second, at most about that: of each reason and from each CPU.
const RATE: u32 = 200;
/// How often the programs are told that somebody still reads.
const RENEWAL: Duration = Duration::from_secs(1);
/// Senders that are remembered: a flood may have a new one in each packet. Of more than these, the half that sent least is forgotten.
const MOST: usize = 8192;

/// Whoever was refused on each interface since this began.
#[derive(Debug, Default)]
pub(super) struct Refused {
    interfaces: BTreeMap<String, Listener>,
    renewed: Option<Instant>,
}

#[derive(Debug)]
struct Listener {
    interface: Rc<str>,
    /// `None` where it is not guarded, or others read already, as many as can.
    reader: Option<(Reader, Names)>,
    senders: HashMap<IpAddr, Sender>,
}

/// What is known of somebody who was refused.
#[derive(Clone, Debug, Default)]
struct Sender {
    packets: u64,
    bytes: u64,
    /// Why the last packet was dropped, and what it was for.
    last: String,
}

impl Refused {
    /// Listens to those that are not listened to.
    pub(super) fn listen(&mut self, guards: &[(String, Guard)]) {
        for (name, guard) in guards {
            let listener = self
                .interfaces
                .entry(name.clone())
                .or_insert_with(|| Listener {
                    interface: name.as_str().into(),
                    reader: None,
                    senders: HashMap::new(),
                });
            if listener.reader.is_none() {
                let reader = guard.listen(RATE).ok();
                listener.reader = reader.map(|reader| (reader, Names::default()));
            }
        }
    }

    /// Takes in what has been told. To be called each second.
    pub(super) fn drain(&mut self) {
        let is_due = self.renewed.is_none_or(|at| at.elapsed() >= RENEWAL);
        for listener in self.interfaces.values_mut() {
            listener.drain();
            if is_due {
                listener.renew();
            }
        }
        if is_due {
            self.renewed = Some(Instant::now());
        }
    }

    /// Those of an interface.
    pub(super) fn lines(&self, interface: &str) -> Vec<Line> {
        let Some(listener) = self.interfaces.get(interface) else {
            return Vec::new();
        };
        let lines = listener.senders.iter().map(|(source, sender)| Line {
            name: source.to_string(),
            about: sender.last.clone(),
            packets: sender.packets,
            bytes: sender.bytes,
        });
        lines.collect()
    }
}

impl Listener {
    fn drain(&mut self) {
        let Some((reader, rules)) = &mut self.reader else {
            return;
        };
        while let Some(told) = reader.next() {
            // What cannot be named is not shown.
            let Ok(seen) = rules.seen(told, &self.interface, Duration::ZERO, reader) else {
                continue;
            };
            let Some(packet) = seen.packet else {
                continue;
            };
            if seen.accepts || seen.direction == Direction::Egress {
                continue;
            }
            let sender = self.senders.entry(packet.source).or_default();
            sender.packets += 1;
            sender.bytes += u64::from(seen.frame_bytes);
            let number = packet.protocol;
            let protocol = names::protocol_name(number);
            let protocol = protocol.map_or_else(|| format!("protocol {number}"), str::to_owned);
            let port = seen.port().map(|port| format!(" {port}"));
            let port = port.unwrap_or_default();
            sender.last = format!("{}: {protocol}{port}", seen.why());
        }
        forget(&mut self.senders, MOST);
    }

    fn renew(&mut self) {
        if let Some((reader, _)) = &mut self.reader
            && !matches!(reader.renew(), Ok(true))
        {
            self.reader = None;
        }
    }
}

/// Where there are more than `most`, keeps those that sent most, half as many.
fn forget(senders: &mut HashMap<IpAddr, Sender>, most: usize) {
    if senders.len() <= most {
        return;
    }
    let mut all: Vec<(IpAddr, Sender)> = senders.drain().collect();
    all.sort_by_key(|(_, sender)| std::cmp::Reverse(sender.packets));
    all.truncate(most / 2);
    senders.extend(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_those_that_send_most_are_kept() {
        let mut senders: HashMap<IpAddr, Sender> = (0..=8_u8)
            .map(|last| {
                let sender = Sender {
                    packets: last.into(),
                    ..Sender::default()
                };
                (IpAddr::from([198, 51, 100, last]), sender)
            })
            .collect();
        forget(&mut senders, 9);
        assert_eq!(senders.len(), 9);
        forget(&mut senders, 8);
        let mut packets: Vec<_> = senders.values().map(|sender| sender.packets).collect();
        packets.sort_unstable();
        assert_eq!(packets, [5, 6, 7, 8]);
    }
}
