//! Recorded frames, one after the other, from pcap and pcapng files.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};

/// First bytes of a pcapng file (draft-ietf-opsawg-pcapng, 4.1).
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Longest frame that is looked at: the largest packet with its Ethernet header and two tags.
const MAX_FRAME: usize = 65_535 + 22;

/// A recorded frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// When it came, since 1970.
    pub(crate) at: Duration,
    /// Its bytes. Where a recording has cut it short, zeros stand for the rest.
    pub(crate) frame: Vec<u8>,
}

/// A file of them, of which one frame at a time is in memory.
pub(crate) enum Capture {
    /// pcap.
    Pcap(PcapReader<Box<dyn Read>>),
    /// pcapng.
    Ng(PcapNgReader<Box<dyn Read>>, Duration),
}

impl Capture {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no such file, or has other frames than those of Ethernet.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).context("opening it")?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)
            .context("this is no pcap or pcapng file: it ends in its first bytes")?;
        let whole: Box<dyn Read> = Box::new(Cursor::new(magic).chain(file));
        const NEITHER: &str = "this is no pcap or pcapng file; `tcpdump -w FILE` makes one";
        if magic == PCAPNG {
            let reader = PcapNgReader::new(whole).context(NEITHER)?;
            return Ok(Self::Ng(reader, Duration::ZERO));
        }
        let reader = PcapReader::new(whole).context(NEITHER)?;
        refuse_others(reader.header().datalink)?;
        Ok(Self::Pcap(reader))
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    ///
    /// The file is damaged, or has other frames than those of Ethernet.
    pub(crate) fn next(&mut self) -> Result<Option<Recorded>> {
        const DAMAGED: &str = "the recording is damaged or cut off here";
        match self {
            Self::Pcap(reader) => {
                let Some(packet) = reader.next_packet() else {
                    return Ok(None);
                };
                let packet = packet.context(DAMAGED)?;
                recorded(packet.timestamp, &packet.data, packet.orig_len).map(Some)
            }
            Self::Ng(reader, last) => loop {
                let Some(block) = reader.next_block() else {
                    return Ok(None);
                };
                // What is read borrows the reader, which is asked for the interface.
                match block.context(DAMAGED)?.into_owned() {
                    Block::EnhancedPacket(packet) => {
                        let interface = reader.packet_interface(&packet);
                        let interface = interface.context("a frame of no interface")?;
                        refuse_others(interface.linktype)?;
                        *last = stamp(packet.timestamp, interface);
                        return recorded(*last, &packet.data, packet.original_len).map(Some);
                    }
                    Block::SimplePacket(packet) => {
                        let interface = reader.interfaces().first();
                        refuse_others(interface.context("a frame of no interface")?.linktype)?;
                        // Padding follows the frame, and no time is told.
                        let length = packet.data.len().min(packet.original_len as usize);
                        return recorded(*last, &packet.data[..length], packet.original_len)
                            .map(Some);
                    }
                    _ => {}
                }
            },
        }
    }
}

fn recorded(at: Duration, data: &[u8], length: u32) -> Result<Recorded> {
    let length = data.len().max(length as usize);
    if length > MAX_FRAME {
        bail!("a frame of {length} bytes is more than any packet has");
    }
    let mut frame = data.to_vec();
    frame.resize(length, 0);
    Ok(Recorded { at, frame })
}

fn refuse_others(link: DataLink) -> Result<()> {
    if link != DataLink::ETHERNET {
        bail!(
            "the recording is of {link:?} frames, and the firewall sees those of Ethernet: record on an Ethernet interface, not \
             on `any` or a tunnel"
        );
    }
    Ok(())
}

/// The time of a frame: the reader takes for nanoseconds whatever unit the interface has, which is microseconds unless it says
/// otherwise (draft-ietf-opsawg-pcapng, 4.2: if_tsresol).
fn stamp(read: Duration, interface: &InterfaceDescriptionBlock<'_>) -> Duration {
    const MICROSECONDS: u8 = 6;
    const POWER_OF_TWO: u8 = 0x80;
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    let units = read.as_nanos();
    let a_second = match resolution.unwrap_or(MICROSECONDS) {
        power if power & POWER_OF_TWO != 0 => 1u128.checked_shl((power & !POWER_OF_TWO).into()),
        power => 10u128.checked_pow(power.into()),
    };
    let nanoseconds = a_second.and_then(|units_a_second| {
        let nanoseconds = units.checked_mul(1_000_000_000)? / units_a_second;
        u64::try_from(nanoseconds).ok()
    });
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;

    use super::*;

    /// Everything that a file with these bytes has.
    fn read(bytes: &[u8]) -> Result<Vec<Recorded>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        let mut capture = Capture::open(file.path())?;
        let mut all = Vec::new();
        while let Some(one) = capture.next()? {
            all.push(one);
        }
        Ok(all)
    }

    fn pcap(link: DataLink) -> Vec<u8> {
        let header = PcapHeader {
            datalink: link,
            ..PcapHeader::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        let at = Duration::from_micros(1_500_001);
        writer
            .write_packet(&PcapPacket::new(at, 20, &[7; 16]))
            .unwrap();
        writer.into_writer()
    }

    fn pcapng(resolution: Option<u8>, stamp: u64) -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        let resolution = resolution.map(InterfaceDescriptionOption::IfTsResol);
        interface.options.extend(resolution);
        writer.write_pcapng_block(interface).unwrap();
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(stamp),
            original_len: 15,
            data: vec![7; 15].into(),
            options: Vec::new(),
        };
        writer.write_pcapng_block(packet).unwrap();
        writer.into_inner()
    }

    #[test]
    fn a_pcap_file_is_read_and_what_was_cut_is_zero() {
        let frame = [[7; 16].as_slice(), &[0; 4]].concat();
        let at = Duration::from_micros(1_500_001);
        assert_eq!(
            read(&pcap(DataLink::ETHERNET)).unwrap(),
            [Recorded { at, frame }]
        );
    }

    #[test]
    fn a_pcapng_file_has_the_unit_of_its_interface() {
        let second = |resolution, stamp| read(&pcapng(resolution, stamp)).unwrap()[0].at;
        assert_eq!(second(None, 1_500_000), Duration::from_millis(1500));
        assert_eq!(second(Some(9), 1_500_000_000), Duration::from_millis(1500));
        assert_eq!(second(Some(0x80 | 1), 3), Duration::from_millis(1500));
        assert_eq!(read(&pcapng(None, 0)).unwrap()[0].frame, [7; 15]);
    }

    #[test]
    fn what_is_no_recording_of_ethernet_is_refused() {
        for (bytes, says) in [
            (pcap(DataLink::RAW), "RAW"),
            (b"abc".to_vec(), "first bytes"),
            (b"version = 1\n".to_vec(), "tcpdump -w"),
            (pcap(DataLink::ETHERNET)[..50].to_vec(), "damaged"),
        ] {
            let said = read(&bytes).unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
    }
}
