//! SYN floods: what comes at a higher rate than a rule says is answered before the network stack sees it, and clients connect.

mod program;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use firewall_tests::net::traffic::{Echo, PATIENCE, tcp};
use firewall_tests::net::{Daemon, FramePort, Lab, Stats};
use firewall_tests::packets::ethertype;

use crate::shadow::shadow;
use crate::{MODES, rules};

const PORT: u16 = 8080;
const CLIENT_PORT: u16 = 40_000;
const SEQUENCE: u32 = 0xfedc_ba98;

/// What says when the kernel makes cookies: never, in need, always.
const SYN_COOKIES: &str = "ipv4/tcp_syncookies";
const ALWAYS: &str = "2";
const IN_NEED: &str = "1";
const NEVER: &str = "0";

/// Of SYNs at a lower rate nothing is changed.
const ABOVE_MANY: &str = r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080, 8081]; syn-cookies = { above = "100/s" }"#;
/// All SYNs but the first are answered with cookies.
const ABOVE_ONE: &str = r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080, 8081]; syn-cookies = { above = "1/d" }"#;
/// Where nobody listens, of the ports that the rule names.
const CLOSED: u16 = 8081;

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
    // Headers with one option; over IPv4 two bytes of padding make it the least that Ethernet takes.
    let least = if syn.ipv6 { 14 + 40 + 24 } else { 60 };
    ensure!(bare.len() == least, "{} bytes", bare.len());
    let sliced = SlicedPacket::from_ethernet(&bare)?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        bail!("{sliced:?}");
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
        other => bail!("{other:?}"),
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
        bail!("{:?}", tcp.options());
    };
    Ok(Answer {
        cookie: header.sequence_number,
        mss: u16::from_be_bytes([high, low]),
    })
}

/// A lab in which the host outside gets what the guarded interface sends by XDP. A network card just sends it; the other end of a
/// cable between namespaces takes it in where NAPI is at work, for which GRO is enough, but is only told to look if it has a
/// program as well (`veth_xdp_xmit` and `veth_xdp_flush`, drivers/net/veth.c). So it has this firewall, open.
fn lab(syn_cookies: &str) -> Result<Option<Lab>> {
    const OPEN: &str = "version = 1\n\n[defaults]\ningress = \"accept\"\n";
    let Some(lab) = Lab::new()? else {
        return Ok(None);
    };
    let open = lab.write("open.toml", OPEN)?;
    let open = open.to_str().context("a path that is not UTF-8")?;
    let arguments = [
        "apply",
        open,
        "-i",
        lab.outside.interface(),
        "--mode",
        "native",
    ];
    lab.outside.firewall(&arguments)?.success()?;
    lab.inside.sysctl(SYN_COOKIES, syn_cookies)?;
    Ok(Some(lab))
}

/// ACKs that the kernel of the host inside has taken for a cookie's.
fn cookies_taken(lab: &Lab) -> Result<u64> {
    let text = lab.inside.must("cat /proc/net/netstat")?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = lines.next().zip(lines.next()).context("no TcpExt")?;
    let mut fields = names.split(' ').zip(values.split(' '));
    let (_, value) = fields
        .find(|(name, _)| *name == "SyncookiesRecv")
        .context("no such counter")?;
    Ok(value.parse()?)
}

fn addresses(lab: &Lab) -> [IpAddr; 2] {
    [lab.inside.v4.into(), lab.inside.v6.into()]
}

#[test]
fn below_the_rate_nothing_changes() -> Result<()> {
    for mode in MODES {
        let Some(lab) = lab(IN_NEED)? else {
            return Ok(());
        };
        let _service = Echo::start(&lab.inside, PORT)?;
        lab.apply(&rules(&[ABOVE_MANY]), mode)?;
        for address in addresses(&lab) {
            for _ in 0..4 {
                let to = SocketAddr::new(address, PORT);
                ensure!(tcp(&lab.outside, to, 10_000)?, "{mode}: {to}");
            }
        }
        let stats = lab.stats()?;
        ensure!(stats.passed("syn-cookie") == 0, "{mode}: {stats:#?}");
        ensure!(
            stats.rule("web").is_some_and(|packets| packets > 8),
            "{stats:#?}"
        );
        ensure!(cookies_taken(&lab)? == 0, "{mode}");
    }
    Ok(())
}

#[test]
fn connections_are_made_by_cookies_alone() -> Result<()> {
    const EACH: u64 = 4;
    for mode in MODES {
        let Some(lab) = lab(ALWAYS)? else {
            return Ok(());
        };
        let _service = Echo::start(&lab.inside, PORT)?;
        lab.apply(&rules(&[ABOVE_ONE]), mode)?;
        for address in addresses(&lab) {
            for _ in 0..EACH {
                let to = SocketAddr::new(address, PORT);
                ensure!(
                    tcp(&lab.outside, to, 100_000)?,
                    "{mode}: {to}: {:#?}",
                    lab.stats()?
                );
            }
        }
        let stats = lab.stats()?;
        ensure!(
            stats.passed("syn-cookie") == 2 * EACH - 1,
            "{mode}: {stats:#?}"
        );
        ensure!(stats.totals.dropped.packets == 0, "{mode}: {stats:#?}");
        ensure!(cookies_taken(&lab)? == 2 * EACH, "{mode}");
    }
    Ok(())
}

/// SYNs are answered as ever while a candidate is asked, which is told of those that are not.
#[test]
fn a_candidate_leaves_cookies_as_they_are() -> Result<()> {
    const EACH: u64 = 3;
    const WITH_DATA: u64 = 2;
    for mode in MODES {
        let Some(lab) = lab(ALWAYS)? else {
            return Ok(());
        };
        let _service = Echo::start(&lab.inside, PORT)?;
        lab.apply(&rules(&[ABOVE_ONE]), mode)?;
        let candidate = lab.write("candidate.toml", &rules(&[]))?;
        lab.apply_file(&candidate, &["--shadow"])?;
        for address in addresses(&lab) {
            for _ in 0..EACH {
                let to = SocketAddr::new(address, PORT);
                ensure!(tcp(&lab.outside, to, 100)?, "{mode}: {to}");
            }
        }
        let (sender, receiver) = (
            FramePort::open(&lab.outside)?,
            FramePort::listen(&lab.inside)?,
        );
        for _ in 0..WITH_DATA {
            let syn = Syn::new(&lab, false, PORT)?.data(b"x").frame()?;
            sender.send(&syn)?;
            ensure!(receiver.received()?.contains(&syn), "{mode}: no SYN");
        }
        let stats = lab.stats()?;
        ensure!(
            stats.passed("syn-cookie") == 2 * EACH - 1,
            "{mode}: {stats:#?}"
        );
        let differs = shadow(&lab)?;
        let refused = differs.get(&("ingress", None, "refuse"));
        ensure!(
            differs.len() == 1
                && refused.is_some_and(|([packets, _, connections], _)| {
                    [*packets, *connections] == [1 + WITH_DATA; 2]
                }),
            "{mode}: {differs:?}"
        );
    }
    Ok(())
}

#[test]
fn answers_on_the_cable_are_well_formed() -> Result<()> {
    for mode in MODES {
        let Some(lab) = lab(ALWAYS)? else {
            return Ok(());
        };
        let _service = Echo::start(&lab.inside, PORT)?;
        let inside = lab.inside.interface();
        lab.inside.must(&format!(
            "ethtool -K {inside} rxvlan off rx-vlan-stag-hw-parse off"
        ))?;
        lab.apply(&rules(&[ABOVE_ONE]), mode)?;
        let cable = FramePort::listen(&lab.outside)?;
        let send = |syn: &Syn, tags: &[(u16, u16)], padding: usize| -> Result<Vec<u8>> {
            let frame = with_tags(&syn.frame()?, tags);
            cable.send(&[&frame[..], &vec![0x5a; padding]].concat())?;
            let frames = cable.received()?;
            let mut answers = frames.into_iter().filter(|frame| {
                frame[6..12] == syn.hardware[1]
                    && SlicedPacket::from_ethernet(frame).is_ok_and(|sliced| {
                        matches!(sliced.transport, Some(TransportSlice::Tcp(_)))
                    })
            });
            let answer = answers
                .next()
                .with_context(|| format!("no answer to {syn:?}, {tags:?}"))?;
            ensure!(answers.next().is_none(), "a second answer to {syn:?}");
            Ok(answer)
        };
        // The one that the kernel answers.
        send(&Syn::new(&lab, false, PORT)?, &[], 0)?;
        let mut sent = 0;
        for ipv6 in [false, true] {
            for (options, padding) in [
                (&[][..], 0),
                (&[][..], 6),
                (&OPTIONS[..4], 0),
                (&OPTIONS, 0),
            ] {
                let syn = Syn::new(&lab, ipv6, PORT)?.options(options);
                let answer = send(&syn, &[], padding)?;
                let answer = check(&answer, &syn, &[]).with_context(|| format!("{answer:02x?}"))?;
                let mss = match (options.is_empty(), ipv6) {
                    (true, false) => 536,
                    (true, true) => 1220,
                    (false, false) => 1460,
                    (false, true) => 1440,
                };
                ensure!(answer.mss == mss, "{mode}: {answer:?} to {syn:?}");
                sent += 1;
            }
            let syn = Syn::new(&lab, ipv6, PORT)?.options(&OPTIONS);
            let tags = [(ethertype::SERVICE_VLAN, 7), (ethertype::VLAN, 8)];
            // The packet socket takes the outermost tag off.
            for depth in 1..=2 {
                let answer = send(&syn, &tags[2 - depth..], 0)?;
                check(&answer, &syn, &tags[3 - depth..])
                    .with_context(|| format!("{answer:02x?}"))?;
                sent += 1;
            }
        }
        // No larger segments than the interface takes.
        lab.inside.ip(&format!("link set {inside} mtu 1400"))?;
        let syn = Syn::new(&lab, false, PORT)?.options(&OPTIONS);
        let answer = check(&send(&syn, &[], 0)?, &syn, &[])?;
        ensure!(answer.mss == 1360, "{mode}: {answer:?}");
        sent += 1;

        let stats = lab.stats()?;
        ensure!(stats.passed("syn-cookie") == sent, "{mode}: {stats:#?}");
    }
    Ok(())
}

#[test]
fn a_port_that_nobody_listens_at_resets_as_ever() -> Result<()> {
    const EACH: u64 = 3;
    for mode in MODES {
        let Some(lab) = lab(ALWAYS)? else {
            return Ok(());
        };
        lab.apply(&rules(&[ABOVE_ONE]), mode)?;
        for address in addresses(&lab) {
            for _ in 0..EACH {
                let to = SocketAddr::new(address, CLOSED);
                let connected = lab
                    .outside
                    .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)))?;
                let error = connected.err().map(|error| error.kind());
                ensure!(
                    error == Some(ErrorKind::ConnectionRefused),
                    "{mode}: {error:?}"
                );
            }
        }
        let stats = lab.stats()?;
        ensure!(stats.passed("syn-cookie") == 0, "{mode}: {stats:#?}");
        ensure!(stats.rule("web") == Some(2 * EACH), "{mode}: {stats:#?}");
    }
    Ok(())
}

/// A socket on all addresses listens at this host's own alone.
#[test]
fn what_this_host_forwards_is_not_answered_for_others() -> Result<()> {
    const BEYOND_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    const BEYOND_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 9);
    let Some(lab) = lab(ALWAYS)? else {
        return Ok(());
    };
    let _service = Echo::start(&lab.inside, PORT)?;
    lab.inside.sysctl("ipv4/ip_forward", "1")?;
    lab.inside.sysctl("ipv6/conf/all/forwarding", "1")?;
    let interface = lab.inside.interface();
    for network in ["203.0.113.0/24", "2001:db8:5::/64"] {
        lab.inside
            .ip(&format!("route add {network} dev {interface}"))?;
    }
    lab.apply(&rules(&[ABOVE_ONE]), "native")?;
    let port = FramePort::open(&lab.outside)?;
    for ipv6 in [false, true] {
        let own = Syn::new(&lab, ipv6, PORT)?.options(&OPTIONS);
        let mut beyond = own.clone();
        beyond.v4[1] = BEYOND_V4.octets();
        beyond.v6[1] = BEYOND_V6.octets();
        let before = lab.stats()?;
        for _ in 0..3 {
            port.send(&beyond.frame()?)?;
        }
        let stats = lab.stats_when(|stats| {
            let counted = |stats: &Stats| stats.rule("web").unwrap_or(0);
            counted(stats) >= counted(&before) + 3
        })?;
        ensure!(
            stats.passed("syn-cookie") == before.passed("syn-cookie"),
            "{stats:#?}"
        );
        // The near miss: this host's own address, where it forwards as well.
        port.send(&own.frame()?)?;
        lab.stats_when(|now| now.passed("syn-cookie") == stats.passed("syn-cookie") + 1)?;
    }
    Ok(())
}

#[test]
fn apply_says_when_the_kernel_makes_cookies() -> Result<()> {
    let Some(lab) = lab(NEVER)? else {
        return Ok(());
    };
    let file = lab.write("rules.toml", &rules(&[ABOVE_MANY]))?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    let apply = || {
        lab.inside
            .firewall(&["apply", file, "-i", lab.inside.interface()])
    };
    let said = apply()?.failure(1)?;
    ensure!(
        said.contains("sysctl -w net.ipv4.tcp_syncookies=2"),
        "{said}"
    );
    ensure!(lab.inside.attached()?.is_none(), "refused, and attached");
    lab.inside.sysctl(SYN_COOKIES, IN_NEED)?;
    let outcome = apply()?;
    ensure!(outcome.code == Some(0), "{outcome}");
    ensure!(
        outcome.stderr.contains("note: ") && outcome.stderr.contains("tcp_syncookies"),
        "{outcome}"
    );
    lab.inside.sysctl(SYN_COOKIES, ALWAYS)?;
    let outcome = apply()?;
    ensure!(
        outcome.code == Some(0) && outcome.stderr.is_empty(),
        "{outcome}"
    );
    // Without the key nobody asks.
    lab.inside.sysctl(SYN_COOKIES, NEVER)?;
    lab.apply(
        &rules(&[r#"name = "web"; action = "accept"; protocol = "tcp"; ports = [8080]"#]),
        "auto",
    )?;
    Ok(())
}

#[test]
fn clients_connect_through_a_flood_native() -> Result<()> {
    clients_connect_through_a_flood("native", ALWAYS)
}

#[test]
fn clients_connect_through_a_flood_generic() -> Result<()> {
    clients_connect_through_a_flood("generic", ALWAYS)
}

/// The kernel then makes cookies only where a socket has no room for more, which the flood soon sees to.
#[test]
fn clients_connect_through_a_flood_that_has_filled_a_queue_native() -> Result<()> {
    clients_connect_through_a_flood("native", IN_NEED)
}

#[test]
fn clients_connect_through_a_flood_that_has_filled_a_queue_generic() -> Result<()> {
    clients_connect_through_a_flood("generic", IN_NEED)
}

fn clients_connect_through_a_flood(mode: &str, syn_cookies: &str) -> Result<()> {
    const REQUESTS: u64 = 40;
    let Some(lab) = lab(syn_cookies)? else {
        return Ok(());
    };
    // So small a queue is full at once. The sources of the flood have to be reached, or the kernel would not queue their SYNs.
    lab.inside.sysctl("core/somaxconn", "16")?;
    for gateway in [IpAddr::from(lab.outside.v4), lab.outside.v6.into()] {
        lab.inside.ip(&format!("route add default via {gateway}"))?;
    }
    let _server = nginx(&lab)?;
    lab.apply(&rules(&[ABOVE_MANY]), mode)?;
    let ended = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    thread::scope(|scope| -> Result<()> {
        let flooding = scope.spawn(|| flood(&lab, &ended, &sent));
        let served = requests(&lab, REQUESTS);
        ended.store(true, Ordering::Relaxed);
        match flooding.join() {
            Ok(flooded) => flooded.context("the flood")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        served
    })
    .with_context(|| format!("{mode}, tcp_syncookies = {syn_cookies}: {:#?}", lab.stats()))?;
    let flooded = sent.load(Ordering::Relaxed);
    let taken = cookies_taken(&lab)?;
    let stats = lab.stats()?;
    let answered = stats.passed("syn-cookie");
    println!(
        "{mode}, {syn_cookies}: {flooded} SYNs in the flood, {answered} answered, {taken} of {} connections by cookies",
        2 * REQUESTS
    );
    ensure!(answered > flooded / 2, "{flooded} sent: {stats:#?}");
    if syn_cookies == ALWAYS {
        ensure!(taken == 2 * REQUESTS, "{taken} by cookies");
    } else {
        ensure!(taken > REQUESTS, "{taken} by cookies");
    }
    Ok(())
}

/// Waits for the flood to be at work, and makes so many requests over each family, one after the other.
fn requests(lab: &Lab, count: u64) -> Result<()> {
    lab.stats_when(|stats| stats.passed("syn-cookie") > 2_000)?;
    for round in 0..count {
        for address in addresses(lab) {
            let to = SocketAddr::new(address, PORT);
            let answer = get(lab, to).with_context(|| format!("round {round}, {to}"))?;
            ensure!(
                answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(CONTENT),
                "round {round}, {to}: {answer}"
            );
        }
    }
    Ok(())
}

/// What the server answers with.
const CONTENT: &str = "served all the same";

/// A request and its answer, through a connection of its own.
fn get(lab: &Lab, to: SocketAddr) -> Result<String> {
    let mut stream = lab
        .outside
        .enter(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn nginx(lab: &Lab) -> Result<Daemon> {
    let directory = lab.directory().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {directory}/{what}; "))
        .concat();
    let configuration = lab.write(
        "nginx.conf",
        &format!(
            "user root root; daemon off; worker_processes 1; pid {directory}/nginx.pid;\n\
             error_log stderr notice;\nevents {{ }}\n\
             http {{ access_log off; {temporary}\n\
             server {{ listen {PORT}; listen [::]:{PORT}; location / {{ return 200 \"{CONTENT}\"; }} }} }}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    command
        .args(["-e", "stderr", "-p"])
        .arg(lab.directory())
        .arg("-c")
        .arg(configuration);
    let log = lab.directory().join("nginx.log");
    Daemon::start(&lab.inside, &mut command, &log, "start worker process ")
}

/// Sends SYNs of both families from sources that nobody has, a hundred times the rate, until it is `ended`.
fn flood(lab: &Lab, ended: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    const AT_ONCE: usize = 10;
    const PAUSE: Duration = Duration::from_millis(1);
    let mut frames = Vec::new();
    let mut syn = Syn::new(lab, false, PORT)?.options(&OPTIONS);
    for number in 0..2_000u16 {
        syn.ipv6 = number % 2 == 1;
        syn.v4[0] = [203, 0, 113, (number % 250) as u8 + 1];
        syn.v6[0] = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, number).octets();
        syn.ports[0] = 20_000 + number;
        frames.push(syn.frame()?);
    }
    let port = FramePort::open(&lab.outside)?;
    for frames in frames.chunks(AT_ONCE).cycle() {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        for frame in frames {
            port.send(frame)?;
        }
        sent.fetch_add(frames.len() as u64, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}
