//! What people can see of the server: the page, an answer to a ping, open ports.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    namespace,
    server::WEB,
    stage::{Person, Stage},
};

/// How long anybody waits for an answer. On this stage one takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

/// The ports that are scanned: all the well-known ones, and others that are often forgotten.
const SCANNED: &str = "1-1024,1433,2375,3306,5432,5900,6379,8000,8080,8443,9100,9200,11211,27017";

/// Something that somebody tries, before and after.
#[derive(Debug)]
pub(super) struct Check {
    /// Who tries.
    pub(super) person: Person,
    /// What, in words.
    pub(super) what: String,
    probe: Probe,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Sight {
    /// Whether the server let itself be seen in any way.
    pub(super) reached: bool,
    /// In words.
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    Page(IpAddr),
    Ping(IpAddr),
    Scan(&'static str, IpAddr),
}

/// Everything that is tried, in order.
pub(super) fn checks() -> Vec<Check> {
    let [v4, v6] = Person::Server.addresses();
    let both = [
        ("a page over IPv4", Probe::Page(v4)),
        ("a page over IPv6", Probe::Page(v6)),
        ("ping", Probe::Ping(v4)),
    ];
    let scans = [
        ("port scan (nmap -sS)", Probe::Scan("-sS", v4)),
        ("port scan over IPv6 (nmap -6 -sS)", Probe::Scan("-sS", v6)),
        ("scan without flags (nmap -sN)", Probe::Scan("-sN", v4)),
        ("scan with FIN (nmap -sF)", Probe::Scan("-sF", v4)),
        ("scan with FIN, PSH, URG (nmap -sX)", Probe::Scan("-sX", v4)),
    ];
    let check = |person| {
        move |(what, probe): &(&str, Probe)| Check {
            person,
            what: (*what).to_owned(),
            probe: *probe,
        }
    };
    let client = both.iter().map(check(Person::Client));
    let attacker = both.iter().chain(&scans).map(check(Person::Attacker));
    client.chain(attacker).collect()
}

impl Check {
    /// Tries it.
    pub(super) fn make(&self, stage: &Stage) -> Result<Sight> {
        match self.probe {
            Probe::Page(address) => fetch(self.person, SocketAddr::new(address, WEB)),
            Probe::Ping(address) => ping(stage, self.person, address),
            Probe::Scan(kind, address) => scan(stage, self.person, kind, address),
        }
    }
}

/// Fetches the page, as a browser would.
pub(super) fn fetch(person: Person, server: SocketAddr) -> Result<Sight> {
    let started = Instant::now();
    let answer = namespace::enter(person.namespace(), || get(server))?;
    Ok(match answer {
        Ok(answer) => match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Sight {
                reached: true,
                text: format!(
                    "served: {} bytes in {:.1} ms",
                    body.len(),
                    started.elapsed().as_secs_f64() * 1e3
                ),
            },
            _ => Sight {
                reached: true,
                text: format!("answered: {}", answer.lines().next().unwrap_or("nothing")),
            },
        },
        Err(error) => Sight {
            reached: false,
            text: match error.kind() {
                ErrorKind::TimedOut | ErrorKind::WouldBlock => silence(),
                _ => error.to_string(),
            },
        },
    })
}

fn get(server: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(
        format!("GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ping(stage: &Stage, person: Person, server: IpAddr) -> Result<Sight> {
    let seconds = PATIENCE.as_secs().to_string();
    let mut command = stage.command(person, "ping");
    command.args(["-n", "-c", "1", "-W", &seconds]);
    let output = namespace::output(command.arg(server.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let time = said
        .lines()
        .find_map(|line| line.split_once(" time="))
        .map(|(_, time)| time);
    match (output.status.code(), time) {
        (Some(0), time) => Ok(Sight {
            reached: true,
            text: format!("answered in {}", time.unwrap_or("time")),
        }),
        (Some(1), None) => Ok(Sight {
            reached: false,
            text: silence(),
        }),
        _ => bail!(
            "ping failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

fn silence() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

fn scan(stage: &Stage, person: Person, kind: &str, server: IpAddr) -> Result<Sight> {
    let mut command = stage.command(person, "nmap");
    // No names, no ping first, and not slowed down by silence: nothing gets lost on this stage.
    command.args([
        "-n",
        "-Pn",
        "-T4",
        "--max-retries",
        "1",
        "--min-rate",
        "3000",
    ]);
    command.args([kind, "-p", SCANNED, "-oG", "-"]);
    if server.is_ipv6() {
        command.arg("-6");
    }
    let said = namespace::run(command.arg(server.to_string()))?;
    Scan::read(&said)
        .map(Scan::sight)
        .with_context(|| format!("unexpected output of nmap:\n{said}"))
}

/// What nmap says, in its format "grepable".
#[derive(Debug, PartialEq, Eq)]
struct Scan {
    /// Ports that stand out from the others: open, or silent where closed ones answer.
    found: Vec<String>,
    /// How the others answer, and how many they are.
    others: String,
    other_count: u32,
}

impl Scan {
    /// Reads a line such as `Host: 192.0.2.34 ()  Ports: 80/open/tcp//http///  Ignored State: closed (1036)`.
    fn read(said: &str) -> Option<Self> {
        let line = said.lines().find(|line| line.contains("\tPorts: "))?;
        let field = |name: &str| line.split('\t').find_map(|field| field.strip_prefix(name));
        let found = field("Ports: ")?
            .split(", ")
            .filter_map(|port| {
                let mut parts = port.split('/');
                let (number, state) = (parts.next()?, parts.next()?);
                state.starts_with("open").then(|| number.trim().to_owned())
            })
            .collect();
        let (others, count) = field("Ignored State: ")?.trim().rsplit_once(" (")?;
        Some(Self {
            found,
            others: others.to_owned(),
            other_count: count.trim_end_matches(')').parse().ok()?,
        })
    }

    fn sight(self) -> Sight {
        // A refusal is an answer too: it says that there is a machine, and which ports are not open.
        let refused = self.others == "closed";
        let count = self.other_count;
        Sight {
            reached: refused || !self.found.is_empty(),
            text: match (self.found.is_empty(), refused) {
                (false, _) => format!("found {}", self.found.join(", ")),
                (true, true) => format!("none open, but {count} ports answer"),
                (true, false) => format!("nothing: {count} ports silent"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ports_are_read() {
        let said = "# Nmap 7.93 scan initiated\nHost: 192.0.2.34 ()\tStatus: Up\n\
                    Host: 192.0.2.34 ()\tPorts: 80/open/tcp//http///, 6379/open/tcp//redis///\t\
                    Ignored State: closed (1034)\n# Nmap done\n";
        let scan = Scan::read(said).unwrap();
        assert_eq!(scan.found, ["80", "6379"]);
        let sight = scan.sight();
        assert!(sight.reached);
        assert_eq!(sight.text, "found 80, 6379");
    }

    #[test]
    fn silence_is_told_from_refusals() {
        let said = |state| format!("Host: 192.0.2.34 ()\tPorts: \tIgnored State: {state} (1036)\n");
        for silent in ["filtered", "open|filtered"] {
            let sight = Scan::read(&said(silent)).unwrap().sight();
            assert!(!sight.reached, "{}", sight.text);
            assert_eq!(sight.text, "nothing: 1036 ports silent");
        }
        let sight = Scan::read(&said("closed")).unwrap().sight();
        assert!(sight.reached);
        assert_eq!(sight.text, "none open, but 1036 ports answer");
        assert_eq!(Scan::read("# Nmap done\n"), None);
    }
}
