//! `firewall capture`: packets as they are dropped, in a file that Wireshark reads, each with what has decided it as its comment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use firewall_common::abi::event::SNAP;
use pcap_file::DataLink;
use pcap_file::PcapError;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use super::{guards, watch};
use crate::events::Seen;
use crate::events::stream::{self, Sink, Wanted};
use crate::output::Output;
use crate::rules::model::Direction;
use crate::{lock, privilege};

/// Timestamps are in ns (draft-ietf-opsawg-pcapng, 4.2: if_tsresol).
const NANOSECONDS: u8 = 9;
/// Direction in a packet's flags (draft-ietf-opsawg-pcapng, 4.3.1: epb_flags).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Which packets, and where they go.
#[derive(Args, Debug)]
pub(crate) struct Capture {
    /// Only on these interfaces; on all guarded ones unless told.
    #[arg(short, long = "interface", value_name = "IFACE")]
    interface: Vec<String>,
    /// The pcapng file to write; `-` is standard output, for `wireshark -k -i -`.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Bytes of each packet that are written, of the 256 that are told.
    #[arg(long, value_name = "BYTES", default_value_t = SNAP, value_parser = clap::value_parser!(u32).range(14..=i64::from(SNAP)))]
    snap: u32,
    #[command(flatten)]
    wanted: Wanted,
}

pub(crate) fn run(capture: &Capture, output: &Output) -> Result<()> {
    privilege::require()?;
    let look = lock::shared()?;
    let guards = guards(&capture.interface)?;
    drop(look);
    let policies = guards.iter().map(|(_, guard)| &guard.description.policy);
    capture.wanted.filter.check(policies)?;
    let mut file = Written::begin(open(&capture.write)?, capture.snap)?;
    let note = |text| output.aside(format_args!("note: {text}"));
    let outcomes = stream::run(guards, &capture.wanted, &mut file, note)?;
    watch::tell(&outcomes, "written", output)
}

fn open(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        if io::IsTerminal::is_terminal(&io::stdout()) {
            bail!(
                "a capture is nothing for a terminal: name a file, or pipe it to `wireshark -k -i -`"
            );
        }
        return Ok(Box::new(io::stdout()));
    }
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    Ok(Box::new(file))
}

/// A file under construction.
struct Written {
    writer: PcapNgWriter<BufWriter<Box<dyn Write>>>,
    snap: u32,
    /// Number of each interface's block.
    interfaces: BTreeMap<Rc<str>, u32>,
}

impl Written {
    fn begin(file: Box<dyn Write>, snap: u32) -> Result<Self> {
        let mut written = Self {
            writer: PcapNgWriter::new(BufWriter::new(file)).map_err(unwrapped)?,
            snap,
            interfaces: BTreeMap::new(),
        };
        written.pause()?;
        Ok(written)
    }

    /// The number of an interface, which has its block before its first packet.
    fn interface(&mut self, name: &Rc<str>) -> Result<u32> {
        if let Some(&number) = self.interfaces.get(name) {
            return Ok(number);
        }
        let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, self.snap);
        block.options = vec![
            InterfaceDescriptionOption::IfName(name.to_string().into()),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ];
        self.writer.write_pcapng_block(block).map_err(unwrapped)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(Rc::clone(name), number);
        Ok(number)
    }
}

impl Sink for Written {
    fn take(&mut self, seen: &Seen) -> Result<()> {
        let flags = match seen.direction {
            Direction::Ingress => INBOUND,
            Direction::Egress => OUTBOUND,
        };
        let length = seen.frame.len().min(self.snap as usize);
        let block = EnhancedPacketBlock {
            interface_id: self.interface(&seen.interface)?,
            timestamp: seen.at,
            original_len: seen.frame_bytes,
            data: (&seen.frame[..length]).into(),
            options: vec![
                EnhancedPacketOption::Comment(seen.sentence().into()),
                EnhancedPacketOption::Flags(flags),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(unwrapped)?;
        Ok(())
    }

    /// Whoever reads along sees what there is.
    fn pause(&mut self) -> Result<()> {
        Ok(self.writer.get_mut().flush()?)
    }
}

/// An error of the file as it is, so that a closed pipe is known as one.
fn unwrapped(error: PcapError) -> anyhow::Error {
    match error {
        PcapError::IoError(error) => error.into(),
        error => error.into(),
    }
}
