//! Programs that serve as long as a test lasts.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::host::Host;

/// How long a program may take to start, to do what is asked, and to end, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program while it runs; dropping it ends it and all that it has started.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it in the foreground, in a process group of its own, with all that it says in the file `log`, and waits
    /// until it says `ready` there.
    ///
    /// # Errors
    ///
    /// If it cannot be started, ends, or never says so; what it did say is told.
    pub fn start(host: &Host, command: &mut Command, log: &Path, ready: &str) -> Result<Self> {
        Self::start_by(command, log, ready, |command| host.start(command))
    }

    /// Starts it in the same way, by `start`.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_by(
        command: &mut Command,
        log: &Path,
        ready: &str,
        start: impl FnOnce(&mut Command) -> Result<Child>,
    ) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let mut daemon = Self {
            child: start(command)?,
            log: log.to_owned(),
        };
        daemon.wait_for(ready)?;
        Ok(daemon)
    }

    /// What it has said so far.
    ///
    /// # Errors
    ///
    /// If the file is gone.
    pub fn said(&self) -> Result<String> {
        said_in(&self.log)
    }

    /// Waits until it has said `text`.
    ///
    /// # Errors
    ///
    /// If it ends or never says so; what it did say is told.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let log = &self.log;
        tells(&mut self.child, text, || said_in(log))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let log = &self.log;
        ends(&mut self.child, || said_in(log))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }
}

fn said_in(log: &Path) -> Result<String> {
    // Names of interfaces and the like, but nobody promises UTF-8.
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}

/// Waits until `told` has `text` in it, while the program runs that tells it.
pub(super) fn tells(
    child: &mut Child,
    text: &str,
    told: impl Fn() -> Result<String>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !told()?.contains(text) {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            bail!("never told {text:?} ({ended:?}):\n{}", told()?);
        }
        thread::sleep(super::LOOK_AGAIN);
    }
    Ok(())
}

/// Waits until a program has ended that has `told` what is said if it does not.
pub(super) fn ends(child: &mut Child, told: impl Fn() -> Result<String>) -> Result<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            bail!("it does not end:\n{}", told()?);
        }
        thread::sleep(super::LOOK_AGAIN);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The group, because workers outlive a master that is killed.
        let group = Pid::from_child(&self.child);
        for signal in [Signal::TERM, Signal::KILL] {
            // Fails only if all of it has ended.
            let _ = kill_process_group(group, signal);
            let deadline = Instant::now() + PATIENCE / 18;
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                thread::sleep(super::LOOK_AGAIN);
            }
        }
    }
}
