//! This machine as if it were another: all that is written goes to an overlay, and processes, interfaces, bpffs and `/run`
//! are its own.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use firewall_tests::net::Outcome;
use rustix::process::geteuid;
use tempfile::TempDir;

/// How long it may take to start, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who runs in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// Nobody: as in a container, or while an image is made.
    Nobody,
    /// systemd, with none of the services of this machine.
    Systemd,
}

impl Init {
    /// What the scripts call it.
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Systemd => "systemd",
        }
    }
}

/// Has systemd begin in a control group that it can be swept out of: `$1` is a folder, `$2` who runs, `$3` the next script.
const BEGIN: &str = r#"
set -e
mount --make-rprivate /
if [ "$2" = systemd ]; then
    mount -t cgroup2 cgroup2 "$1"
    mkdir -p "$1/$(sed -n 's/^0:://p' /proc/self/cgroup)/${1##*/}"
    echo $$ > "$1/$(sed -n 's/^0:://p' /proc/self/cgroup)/${1##*/}/cgroup.procs"
    umount "$1"
fi
exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child -- sh -c "$3" holder "$1" "$2"
"#;

/// Mounts what a machine has, and becomes its first process. Memory takes what is written: the upper layer of an overlay
/// must not be an overlay itself, as the root of a container is.
const SET_UP: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" root
mount -t proc proc root/proc
mount -o bind,ro root/proc/sys root/proc/sys
mount -t sysfs -o ro sysfs root/sys
mount -t bpf bpf root/sys/fs/bpf
for folder in dev run tmp; do mount -t tmpfs tmpfs "root/$folder"; done
mkdir root/dev/pts root/dev/shm root/run/packages
mount -t devpts -o newinstance devpts root/dev/pts
ln -s pts/ptmx root/dev/ptmx
ln -s /proc/self/fd root/dev/fd
for device in null zero full random urandom tty; do
    touch "root/dev/$device"
    mount --bind "/dev/$device" "root/dev/$device"
done
# A trigger that takes long and has nothing to do with this, and what images of containers have against manuals and services.
rm -f root/var/lib/man-db/auto-update root/etc/dpkg/dpkg.cfg.d/* root/usr/sbin/policy-rc.d
touch root/run/ready
if [ "$2" = nobody ]; then exec chroot root sleep infinity; fi
mount -t cgroup2 cgroup2 root/sys/fs/cgroup
rm -rf root/etc/systemd/system/*.wants root/usr/lib/systemd/system/*.wants
: > root/etc/fstab
exec env -i container=test PATH=/usr/sbin:/usr/bin chroot root /lib/systemd/systemd --system --unit=basic.target
"#;

/// Sweeps the control groups of a systemd that has ended.
const SWEEP: &str = r#"
mount --make-rprivate /
mount -t cgroup2 cgroup2 "$1"
find "$1/$(sed -n 's/^0:://p' /proc/self/cgroup)/${1##*/}" -depth -type d -exec rmdir {} +
"#;

/// What installing anything writes.
const OF_DPKG: [&str; 4] = ["var/lib/dpkg", "var/log", "var/cache", "var/lib/man-db"];

/// The overlay, while it lives.
#[derive(Debug)]
pub(crate) struct Machine {
    holder: Child,
    init: Init,
    directory: TempDir,
    /// What setting up has written.
    at_first: Vec<String>,
}

impl Machine {
    /// Makes one; or says why that is not possible here.
    pub(crate) fn new(init: Init) -> Result<Result<Self, String>> {
        if !geteuid().is_root() {
            return Ok(Err("an overlay of the whole machine takes root".to_owned()));
        }
        for (program, needed) in [
            ("/usr/bin/dpkg", true),
            ("/lib/systemd/systemd", init == Init::Systemd),
        ] {
            if needed && !Path::new(program).exists() {
                return Ok(Err(format!("there is no {program}")));
            }
        }
        let directory = TempDir::with_prefix("firewall-test-")?;
        let holder = Command::new("unshare")
            .args(["--mount", "--", "sh", "-c", BEGIN, "holder"])
            .arg(directory.path())
            .args([init.name(), SET_UP])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let mut machine = Self {
            holder,
            init,
            directory,
            at_first: Vec::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        while !machine.is_ready()? {
            if machine.holder.try_wait()?.is_some() {
                let mut said = String::new();
                if let Some(mut stderr) = machine.holder.stderr.take() {
                    stderr.read_to_string(&mut said)?;
                }
                return Ok(Err(format!("no overlay: {}", said.trim())));
            }
            if Instant::now() > deadline {
                bail!("{init:?} never was ready");
            }
            thread::sleep(Duration::from_millis(50));
        }
        // What a service that ran on the machine below has left is not this one's.
        machine.run("rm -rf /var/lib/firewall /etc/firewall")?;
        machine.at_first = machine.written()?;
        Ok(Ok(machine))
    }

    /// Whether all is mounted, and systemd has started what there is to start.
    fn is_ready(&self) -> Result<bool> {
        if !self.seen("root/run/ready").exists() {
            return Ok(false);
        }
        if self.init == Init::Nobody {
            return Ok(true);
        }
        let state = self.run("systemctl is-system-running || true")?;
        Ok(["running\n", "degraded\n"].contains(&state.as_str()))
    }

    /// Copies a file to `/run/packages`, a package to be installed say.
    pub(crate) fn bring(&self, file: &Path) -> Result<()> {
        let name = file.file_name().context("a file without name")?;
        let place = self.seen("root/run/packages").join(name);
        fs::copy(file, &place).with_context(|| format!("cannot write {}", place.display()))?;
        Ok(())
    }

    /// Runs a script of bash here, which has to succeed; what it writes to standard output.
    pub(crate) fn run(&self, script: &str) -> Result<String> {
        let root = self.directory.path().join("root");
        let mut command = self.inside();
        command.arg("chroot").arg(root).args(["bash", "-c", script]);
        let output = command.output().context("cannot start nsenter")?;
        Outcome::from(output)
            .success()
            .with_context(|| script.to_owned())
    }

    /// What is there and was not at first, or is another, or is gone, in order; but for what dpkg keeps for itself.
    pub(crate) fn left(&self) -> Result<Vec<String>> {
        let left = self.written()?.into_iter();
        Ok(left.filter(|path| !self.at_first.contains(path)).collect())
    }

    /// What is not as on the machine below, in order.
    fn written(&self) -> Result<Vec<String>> {
        let mut command = self.inside();
        command
            .arg("find")
            .arg(self.directory.path().join("upper"))
            .args(["-mindepth", "1", "-printf", "%y %P\\n"]);
        let text = Outcome::from(command.output()?).success()?;
        let counts = |kind: &str, path: &str| {
            let is_of_dpkg = OF_DPKG.iter().any(|folder| path.starts_with(folder));
            // A folder in which something was written for a time.
            let was_there = kind == "d" && Path::new("/").join(path).is_dir();
            !is_of_dpkg && !was_there
        };
        let mut written: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(kind, path)| counts(kind, path))
            .map(|(_, path)| path.to_owned())
            .collect();
        written.sort();
        Ok(written)
    }

    /// Starts a program in the namespaces, with `/` as it is outside.
    fn inside(&self) -> Command {
        let holder = self.holder.id();
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--net", "--ipc", "--uts", "--cgroup"])
            .arg(format!("--pid=/proc/{holder}/ns/pid_for_children"))
            .args(["--target", &holder.to_string(), "--"])
            .env_clear()
            .envs([
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
                ("LC_ALL", "C"),
                ("DEBIAN_FRONTEND", "noninteractive"),
            ])
            .stdin(Stdio::null());
        command
    }

    /// A path in the folder of the mounts, as this process can reach it.
    fn seen(&self, path: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        let directory = self.directory.path();
        root.join(directory.strip_prefix("/").unwrap_or(directory))
            .join(path)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process go all others, and with the last the namespaces and all that is mounted and pinned there.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let deadline = Instant::now() + PATIENCE / 10;
        while self.init == Init::Systemd && Instant::now() < deadline {
            let mut sweep = Command::new("unshare");
            sweep
                .args(["--mount", "--", "sh", "-c", SWEEP, "sweep"])
                .arg(self.directory.path())
                .stderr(Stdio::null());
            if sweep.status().is_ok_and(|status| status.success()) {
                break;
            }
            // Some process has not ended yet.
            thread::sleep(Duration::from_millis(100));
        }
    }
}
