//! Two machines on a cable, for one test: network namespaces joined by a veth pair, and the `firewall` command on one.
//!
//! A [`Lab`] has a host `outside` and a host `inside`, whose interface is the one to guard. All of it goes when the lab is
//! dropped, also when the test panics; what a killed test process has left is removed by the next. Names carry the
//! process and a number, because pins in bpffs go by interface name whatever the namespace: tests run in parallel.

mod beyond;
mod command;
mod daemon;
pub mod exposition;
mod frames;
mod host;
mod lab;
pub mod old;
pub mod prometheus;
mod stats;
mod sweep;
mod terminal;
pub mod traffic;

use std::time::Duration;

pub use command::{Outcome, firewall, search_path, tool, workspace};
pub use daemon::Daemon;
pub use frames::FramePort;
pub(crate) use host::within;
pub use host::{Attached, Host};
pub use lab::{Lab, PINS, skip};
pub use stats::{Count, Fill, Port, Reason, Rule, Stats, Totals};
pub use terminal::Terminal;

/// From one look at what is waited for to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Both ways to attach an XDP program to a veth interface.
pub const MODES: [&str; 2] = ["native", "generic"];

/// A rule file with these rules, the keys of each separated by `; `. What none matches is dropped.
pub fn rules(rules: &[&str]) -> String {
    let mut text = "version = 1\n".to_owned();
    for rule in rules {
        text += &format!("\n[[rule]]\n{}\n", rule.replace("; ", "\n"));
    }
    text
}
