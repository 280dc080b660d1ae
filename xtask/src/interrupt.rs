//! Ctrl-C and termination: what we started ends with us.
//!
//! Children run in process groups of their own. A signal to this process alone, as `kill` or a CI runner
//! sends it, would otherwise leave a build or a download behind that works against the next run.

use std::{
    process::Child,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// The process groups that are running now.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether somebody has things to clean up, and so ends by itself when [`check`] says so.
static DEFERRED: AtomicBool = AtomicBool::new(false);

/// Whether a signal has come since.
static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Exit code of a shell's command that SIGINT ended.
pub(crate) const INTERRUPTED: i32 = 130;

/// Ends the running children and this process on SIGINT, SIGTERM and SIGHUP.
pub(crate) fn install() {
    let handler = || {
        // Before the children end, so that whoever waits for one does not start the next.
        let again = HAPPENED.swap(true, Ordering::SeqCst);
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        for group in running.iter() {
            // A group that has just ended by itself is as good.
            let _ = kill_process_group(*group, Signal::TERM);
        }
        drop(running);
        if DEFERRED.load(Ordering::SeqCst) {
            if !again {
                eprintln!("\ninterrupted: cleaning up");
            }
            return;
        }
        eprintln!("\ninterrupted; the next run goes on from here");
        std::process::exit(INTERRUPTED);
    };
    // Fails only if a handler exists already, and this is the only place that sets one.
    let _ = ctrlc::set_handler(handler);
}

/// From now on a signal ends the running children only; the caller asks [`check`] before each further step and cleans up.
pub(crate) fn defer() {
    DEFERRED.store(true, Ordering::SeqCst);
}

/// Whether a signal has asked this process to end.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::SeqCst)
}

/// Fails once a signal has come.
pub(crate) fn check() -> Result<()> {
    if happened() {
        bail!("interrupted");
    }
    Ok(())
}

/// While it lives, an interruption also ends the process group that `child` leads.
pub(crate) struct Guard {
    group: Option<Pid>,
}

/// Registers a child that was started with `process_group(0)`.
pub(crate) fn guard(child: &Child) -> Guard {
    let group = Some(Pid::from_child(child));
    RUNNING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(group);
    Guard { group }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|group| Some(*group) != self.group);
    }
}
