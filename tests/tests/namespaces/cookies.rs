//! SYN floods: what comes at a higher rate than a rule says is answered before the network stack sees it, and clients connect.

mod program;

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use firewall_tests::net::Lab;

const PORT: u16 = 8080;
const CLIENT_PORT: u16 = 40_000;
const SEQUENCE: u32 = 0xfedc_ba98;

/// What says when the kernel makes cookies: never, in need, always.
const SYN_COOKIES: &str = "ipv4/tcp_syncookies";
const ALWAYS: &str = "2";

/// What Linux sends: MSS 1460, SACK permitted, timestamps, window scale 7.
const OPTIONS: [u8; 20] = [
    2, 4, 0x05, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// A SYN from the host outside to the one inside, with right checksums.
#[derive(Clone, Debug)]
struct Syn {
    /// Source and destination.
    hardware: [[u8; 6]; 2],
    v4: [[u8; 4]; 2],
    v6: [[u8; 16]; 2],
    ipv6: bool,
    ports: [u16; 2],
    options: Vec<u8>,
    data: Vec<u8>,
}

impl Syn {
    fn new(lab: &Lab, ipv6: bool, port: u16) -> Result<Self> {
        let ends = [&lab.outside, &lab.inside];
        Ok(Self {
            hardware: [ends[0].hardware_address()?, ends[1].hardware_address()?],
            v4: ends.map(|host| host.v4.octets()),
            v6: ends.map(|host| host.v6.octets()),
            ipv6,
            ports: [CLIENT_PORT, port],
            options: Vec::new(),
            data: Vec::new(),
        })
    }

    fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    fn frame(&self) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(self.hardware[0], self.hardware[1]);
        let ip = if self.ipv6 {
            ethernet.ipv6(self.v6[0], self.v6[1], 64)
        } else {
            ethernet.ipv4(self.v4[0], self.v4[1], 64)
        };
        let tcp = ip.tcp(self.ports[0], self.ports[1], SEQUENCE, 64_240).syn();
        let tcp = tcp.options_raw(&self.options)?;
        let mut frame = Vec::new();
        tcp.write(&mut frame, &self.data)?;
        Ok(frame)
    }
}

/// A frame with VLAN tags, each as its ethertype and VLAN number.
fn with_tags(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags = tags
        .iter()
        .flat_map(|(kind, id)| [kind.to_be_bytes(), id.to_be_bytes()]);
    let tags: Vec<u8> = tags.flatten().collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// What an answer says.
#[derive(Debug)]
struct Answer {
    cookie: u32,
    mss: u16,
}

/// Demands of a frame that it is a well-formed answer to `syn`, and returns what it says.
fn check(frame: &[u8], syn: &Syn, tags: &[(u16, u16)]) -> Result<Answer> {
    let expected = [syn.hardware[0], syn.hardware[1]].concat();
    ensure!(frame[..12] == expected, "to and from another host");
    let bare = [&frame[..12], &frame[12 + 4 * tags.len()..]].concat();
    ensure!(with_tags(&bare, tags) == frame, "other tags");
    ensure!(frame.len() >= 60, "{} bytes", frame.len());
    let sliced = SlicedPacket::from_ethernet(&bare)?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        anyhow::bail!("{sliced:?}");
    };
    let header = tcp.to_header();
    let sum = match sliced.net.as_ref().context("no packet")? {
        NetSlice::Ipv4(slice) => {
            let ip = slice.header().to_header();
            ensure!(ip.header_checksum == ip.calc_header_checksum(), "{ip:?}");
            ensure!([ip.destination, ip.source] == syn.v4, "{ip:?}");
            header.calc_checksum_ipv4(&ip, &[])?
        }
        NetSlice::Ipv6(slice) => {
            let ip = slice.header().to_header();
            ensure!([ip.destination, ip.source] == syn.v6, "{ip:?}");
            header.calc_checksum_ipv6(&ip, &[])?
        }
        other => anyhow::bail!("{other:?}"),
    };
    ensure!(header.checksum == sum, "{header:?}");
    ensure!(
        [header.destination_port, header.source_port] == syn.ports,
        "{header:?}"
    );
    ensure!(
        header.acknowledgment_number == SEQUENCE.wrapping_add(1),
        "{header:?}"
    );
    ensure!(
        header.syn && header.ack && !header.rst && !header.ece,
        "{header:?}"
    );
    let &[2, 4, high, low] = tcp.options() else {
        anyhow::bail!("{:?}", tcp.options());
    };
    Ok(Answer {
        cookie: header.sequence_number,
        mss: u16::from_be_bytes([high, low]),
    })
}
