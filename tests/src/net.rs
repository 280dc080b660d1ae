//! Two machines on a cable, for one test: network namespaces joined by a veth pair, and the `firewall` command on one.
//!
//! A [`Lab`] has a host `outside` and a host `inside`, whose interface is the one to guard. All of it goes when the lab is
//! dropped, also when the test panics; what a killed test process has left is removed by the next. Names carry the
//! process and a number, because pins in bpffs go by interface name whatever the namespace: tests run in parallel.

mod command;
mod frames;
mod host;
mod lab;
mod stats;
mod sweep;
pub mod traffic;

pub use command::{Outcome, firewall, workspace};
pub use frames::FramePort;
pub use host::{Attached, Host};
pub use lab::{Lab, PINS, skip};
pub use stats::{Count, Port, Reason, Rule, Stats, Totals};
