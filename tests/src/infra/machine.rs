//! One server: namespaces of its own for network, processes and mounts, so that it has an `eth0`, an `/etc`, a `/run` and a
//! bpffs like any other.
//!
//! Nothing of it has a name outside, and its first process ends when this one lets go of its standard input, however that
//! comes about. With it the kernel ends all its processes and frees what is left, so there is nothing to sweep.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::net::{Daemon, Outcome, firewall, search_path, within, workspace};

use super::design::Server;

/// The interface that each machine has.
pub const INTERFACE: &str = "eth0";

/// Who programs run as that need nothing of root, by number and as most systems call it.
pub const NOBODY: u32 = 65_534;

/// How long a machine may take to begin, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the first process does: `$1` is the folder of unpacked tools, `$2` the `firewall` command. What is written to `/etc`,
/// `/var` and `/usr/local` stays in memory. The tools are mounted where also those may read who may not enter the clone.
const BEGIN: &str = r#"
set -e
cd "$1"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/tools /run/layers
[ ! -d bin ] || mount --bind . /run/tools
for folder in etc var usr/local; do
    mkdir -p "/run/layers/$folder/upper" "/run/layers/$folder/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=/run/layers/$folder/upper,workdir=/run/layers/$folder/work" overlay "/$folder"
done
umount -R -l /sys
mount -t sysfs sysfs /sys
mount -t bpf -o mode=700 bpf /sys/fs/bpf
rm -rf /etc/firewall /var/lib/firewall
mkdir -p /etc/firewall /usr/local/sbin
ln -sf "$2" /usr/local/sbin/firewall
echo "$3" > /proc/sys/kernel/hostname
ip link set lo up
echo up
exec cat > /dev/null
"#;

/// A machine while it runs; dropping it switches it off.
#[derive(Debug)]
pub struct Machine {
    /// What it is called, where it is and what it is for.
    pub server: &'static Server,
    holder: Child,
    /// Its first process, by the number that this process knows it by.
    init: u32,
}

impl Machine {
    /// Switches it on. It has no interface but loopback yet.
    ///
    /// # Errors
    ///
    /// If the kernel has no such namespaces or mounts, with what was said.
    pub fn start(server: &'static Server) -> Result<Self> {
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--ipc"])
            .args(["--fork", "--mount-proc", "--", "sh", "-c", BEGIN, "init"])
            .arg(workspace().join("target/tools"))
            .arg(firewall()?)
            .arg(server.name)
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C is for whoever holds it.
            .process_group(0)
            .spawn()
            .context("cannot start unshare, of util-linux")?;
        let mut line = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line != "up\n" {
            drop(holder.stdin.take());
            let said = Outcome::from(holder.wait_with_output()?);
            bail!("{} does not begin: {said}", server.name);
        }
        let init = child_of(holder.id())?;
        Ok(Self {
            server,
            holder,
            init,
        })
    }

    /// Its first process, as `nsenter --target` takes it.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.server.name
    }

    /// Its own address, not one that it shares.
    pub fn v4(&self) -> Ipv4Addr {
        self.server.v4
    }

    /// Its own address, not one that it shares.
    pub fn v6(&self) -> Ipv6Addr {
        self.server.v6
    }

    /// Both.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.server.v4.into(), self.server.v6.into()]
    }

    /// Where a file of this machine is for this process: `path` is absolute.
    pub fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let below = path.strip_prefix("/").unwrap_or(path);
        Path::new(&format!("/proc/{}/root", self.init)).join(below)
    }

    /// Writes a file there, and the folders that lead to it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.file(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, text).with_context(|| format!("cannot write {path} of {}", self.name()))
    }

    /// Makes a folder there that [`NOBODY`] may write to.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn folder(&self, path: &str) -> Result<()> {
        let folder = self.file(path);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {path}"))?;
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY))?;
        Ok(())
    }

    /// A program that will run there, as root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init))
            .args([
                "--net", "--mount", "--pid", "--uts", "--ipc", "--wd=/", "--",
            ])
            .arg(program)
            .env("PATH", MACHINE_PATH)
            .stdin(Stdio::null());
        command
    }

    /// A program that will run there as [`NOBODY`].
    pub fn unprivileged(&self, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command
            .arg(format!("--reuid={NOBODY}"))
            .arg(format!("--regid={NOBODY}"))
            .args(["--clear-groups", "--no-new-privs", "--", program]);
        command
    }

    /// Runs a program to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn run(&self, command: &mut Command) -> Result<Outcome> {
        let output = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output();
        let output = output.with_context(|| format!("{}: {command:?}", self.name()))?;
        Ok(output.into())
    }

    /// Runs a program that has to succeed; `line` is cut at spaces.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn must(&self, line: &str) -> Result<String> {
        let mut words = line.split(' ');
        let mut command = self.command(words.next().unwrap_or_default());
        self.run(command.args(words))?
            .success()
            .with_context(|| format!("{}: {line}", self.name()))
    }

    /// Runs `ip` with these lines, one command each.
    ///
    /// # Errors
    ///
    /// If one fails; those after it are not run.
    pub fn ip(&self, lines: &str) -> Result<()> {
        // Not within its mounts: names that links get are then those of this process.
        let mut child = Command::new("nsenter")
            .arg(format!("--target={}", self.init))
            .args(["--net", "--", "ip", "-batch", "-"])
            .env("PATH", search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start nsenter")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        Outcome::from(child.wait_with_output()?)
            .success()
            .with_context(|| format!("{}: ip {lines}", self.name()))?;
        Ok(())
    }

    /// Sets parameters of the network stack, each by its path below `/proc/sys/net`.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (name, value) in settings {
                let file = Path::new("/proc/sys/net").join(name);
                fs::write(&file, value).with_context(|| format!("{}", file.display()))?;
            }
            Ok(())
        })
    }

    /// Starts a service in the foreground, with what it says in `/var/log/NAME.log` of the machine, and waits until it says
    /// `ready`.
    ///
    /// # Errors
    ///
    /// If it ends or never says so, with what it did say.
    pub fn service(&self, name: &str, command: &mut Command, ready: &str) -> Result<Daemon> {
        let log = self.file(format!("/var/log/{name}.log"));
        Daemon::start_by(command, &log, ready, |command| {
            command
                .spawn()
                .with_context(|| format!("cannot start {command:?}"))
        })
        .with_context(|| format!("{name} on {}", self.name()))
    }

    /// Calls `work` on a thread in its network namespace. Sockets that it opens stay there.
    ///
    /// # Errors
    ///
    /// What `work` says, or that the machine is gone.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.init);
        let file = File::open(&path).with_context(|| format!("{} is off", self.name()))?;
        within(&file, work)
    }
}

/// Where programs are found there.
const MACHINE_PATH: &str = "/run/tools/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.holder.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // It is its own child that has not ended; nothing else can be done.
                let _ = self.holder.kill();
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The process that `parent` has started, the only one.
fn child_of(parent: u32) -> Result<u32> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name, which is in brackets: its state, and its parent.
        let behind = stat.rsplit_once(") ").map(|(_, behind)| behind);
        if behind.and_then(|behind| behind.split(' ').nth(1)) == Some(&parent.to_string()) {
            children.push(process);
        }
    }
    ensure!(children.len() == 1, "unshare has started {children:?}");
    Ok(children[0])
}
