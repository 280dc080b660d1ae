//! Programs on a terminal of their own: what they show, and keys typed into them.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use vt100::Parser;

use super::command::firewall;
use super::daemon::{ends, tells};
use super::host::Host;

const ROWS: NonZero<u16> = NonZero::new(30).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(100).unwrap();

/// A `firewall` command on a terminal; dropping it ends it.
pub struct Terminal {
    child: Child,
    keys: Option<ChildStdin>,
    screen: Arc<Mutex<Parser>>,
    /// Takes in what is shown until the terminal is gone.
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Starts `firewall` with these arguments, none of which the shell may change.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        // `script` (util-linux) gives it a terminal, and passes on what is typed.
        let line = format!(
            "stty columns {COLUMNS} rows {ROWS} && exec {} {}",
            firewall()?.display(),
            arguments.join(" ")
        );
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = host.start(&mut command)?;
        let keys = child.stdin.take();
        let mut shown = child.stdout.take().context("the output is piped")?;
        let screen = Arc::new(Mutex::new(Parser::new(ROWS, COLUMNS, 0)));
        let reader = thread::spawn({
            let screen = Arc::clone(&screen);
            move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = shown.read(&mut buffer) {
                    locked(&screen).process(&buffer[..length]);
                }
            }
        });
        Ok(Self {
            child,
            keys,
            screen,
            reader: Some(reader),
        })
    }

    /// What it shows now, line by line.
    pub fn shown(&self) -> String {
        contents(&self.screen)
    }

    /// Whether it has the screen to itself, and what was there before comes back after it (xterm's mode 1049).
    pub fn is_alternate(&self) -> bool {
        locked(&self.screen).screen().alternate_screen()
    }

    /// Waits until it shows `part`.
    ///
    /// # Errors
    ///
    /// It ends or never does; what it shows is told.
    pub fn wait_for(&mut self, part: &str) -> Result<()> {
        let screen = &self.screen;
        tells(&mut self.child, part, || Ok(contents(screen)))
    }

    /// Types this.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn type_in(&mut self, keys: &str) -> Result<()> {
        let into = self.keys.as_mut().context("it has been waited for")?;
        Ok(into.write_all(keys.as_bytes())?)
    }

    /// Types this, and waits until `part` is shown.
    ///
    /// # Errors
    ///
    /// If it has ended, or as [`wait_for`](Self::wait_for).
    pub fn press(&mut self, keys: &str, part: &str) -> Result<()> {
        self.type_in(keys)?;
        self.wait_for(part)
            .with_context(|| format!("after {keys:?} was typed"))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    ///
    /// It does not; what it shows is told.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let screen = &self.screen;
        let status = ends(&mut self.child, || Ok(contents(screen)))?;
        if let Some(reader) = self.reader.take() {
            // It has no result, and a panic in it has been printed.
            let _ = reader.join();
        }
        Ok(status)
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal")
            .field("child", &self.child)
            .field("shown", &self.shown())
            .finish_non_exhaustive()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // `script` ends what it has started when nobody types any more. Both fail only if it has ended.
        self.keys = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn contents(screen: &Mutex<Parser>) -> String {
    locked(screen).screen().contents()
}

fn locked(screen: &Mutex<Parser>) -> MutexGuard<'_, Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}
