//! A cable with a host at each end, and the rule files of a test.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::host::Host;
use super::stats::Stats;
use super::sweep::sweep;

/// Where the firewall pins what it has attached, by interface.
pub const PINS: &str = "/sys/fs/bpf/firewall";

/// What every name of a lab begins with.
pub(super) const PREFIX: &str = "fwt";

/// Another address of the host outside, which rules can tell from the first.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// A host outside and a host inside, whose interface is the one to guard.
#[derive(Debug)]
pub struct Lab {
    /// Where traffic comes from.
    pub outside: Host,
    /// What is guarded.
    pub inside: Host,
    directory: TempDir,
}

impl Lab {
    /// Makes one; `None` without root, where the test is skipped and says so.
    ///
    /// # Errors
    ///
    /// If a namespace or link cannot be made.
    pub fn new() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            skip("network namespaces take root")?;
            return Ok(None);
        }
        sweep();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // 15 characters at most, and one or two more for what stands on the interface.
        let base = format!("{PREFIX}{:x}-{number:x}", std::process::id());
        let outside = Host::new(format!("{base}-outside"), format!("{base}o"), 1)?;
        let inside = Host::new(format!("{base}-inside"), format!("{base}i"), 2)?;
        let lab = Self {
            outside,
            inside,
            directory: tempfile::tempdir()?,
        };
        lab.connect()?;
        Ok(Some(lab))
    }

    /// A third host, whose interface is yet to be made.
    ///
    /// # Errors
    ///
    /// If its namespace cannot be made.
    pub fn third(&self) -> Result<Host> {
        let inside = self.inside.namespace();
        let base = inside.strip_suffix("-inside").unwrap_or(inside);
        Host::new(format!("{base}-third"), format!("{base}t"), 3)
    }

    /// The second address of the host outside, in another network than the first.
    pub fn stranger(&self) -> Ipv4Addr {
        STRANGER
    }

    /// A directory for this test's files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a rule file, or a list of addresses, and returns where it is.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.directory.path().join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Puts `rules` in force on the guarded interface, in `mode`.
    ///
    /// # Errors
    ///
    /// If `firewall apply` fails, or obtains another mode.
    pub fn apply(&self, rules: &str, mode: &str) -> Result<String> {
        let file = self.write("rules.toml", rules)?;
        let said = self.apply_file(&file, &["--mode", mode])?;
        let attached = self
            .inside
            .attached()?
            .context("applied, but nothing is attached")?;
        if mode != "auto" && attached.mode != mode {
            bail!("asked for {mode}, the kernel says {}", attached.mode);
        }
        Ok(said)
    }

    /// Puts a rule file in force on the guarded interface.
    ///
    /// # Errors
    ///
    /// If `firewall apply` fails.
    pub fn apply_file(&self, file: &Path, more: &[&str]) -> Result<String> {
        let file = file.to_str().context("a path that is not UTF-8")?;
        let arguments = [&["apply", file, "-i", self.inside.interface()], more].concat();
        self.inside
            .firewall(&arguments)?
            .success()
            .context("firewall apply")
    }

    /// The counters of the guarded interface.
    ///
    /// # Errors
    ///
    /// If `firewall stats` fails, or says anything else than is documented.
    pub fn stats(&self) -> Result<Stats> {
        let arguments = ["stats", "-i", self.inside.interface(), "--format", "json"];
        let text = self
            .inside
            .firewall(&arguments)?
            .success()
            .context("firewall stats")?;
        serde_json::from_str(&text).with_context(|| format!("not the documented JSON: {text}"))
    }

    /// The counters, as soon as `enough` says so: packets may still be on their way.
    ///
    /// # Errors
    ///
    /// If it never says so; the counters are told.
    pub fn stats_when(&self, enough: impl Fn(&Stats) -> bool) -> Result<Stats> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let stats = self.stats()?;
            if enough(&stats) {
                return Ok(stats);
            }
            if Instant::now() > deadline {
                bail!("the counters never were as expected: {stats:#?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Removes the cable, and with it the interfaces at its ends.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn disconnect(&self) -> Result<()> {
        let end = self.outside.interface();
        self.outside.ip(&format!("link delete {end}")).map(drop)
    }

    /// Makes a cable with interfaces of the same names and addresses as there were.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn connect(&self) -> Result<()> {
        let (outside, inside) = (&self.outside, &self.inside);
        outside.ip(&format!(
            "link add {} type veth peer name {} netns {}",
            outside.interface(),
            inside.interface(),
            inside.namespace()
        ))?;
        for host in [outside, inside] {
            let interface = host.interface();
            host.ip(&format!("address add {}/24 dev {interface}", host.v4))?;
            // Looking for duplicates would hold up IPv6 for a second.
            host.ip(&format!("address add {}/64 dev {interface} nodad", host.v6))?;
            host.ip(&format!("link set {interface} up"))?;
        }
        outside.ip(&format!(
            "address add {STRANGER}/32 dev {}",
            outside.interface()
        ))?;
        inside.ip(&format!(
            "route add {STRANGER}/32 dev {}",
            inside.interface()
        ))?;
        Ok(())
    }
}

/// Says why a test cannot run here, past the capture of its output, and where `cargo xtask test` counts it.
///
/// # Errors
///
/// If it cannot be said.
pub fn skip(why: &str) -> Result<()> {
    let thread = std::thread::current();
    let line = format!("{}: {why}", thread.name().unwrap_or("a test"));
    match std::env::var_os("FIREWALL_TEST_SKIPS") {
        Some(file) => {
            let mut file = fs::File::options().append(true).create(true).open(file)?;
            writeln!(file, "{line}")?;
        }
        None => writeln!(std::io::stderr(), "skipped: {line}")?,
    }
    Ok(())
}
