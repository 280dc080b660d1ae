//! The site that the firewall is for: two load balancers that share an address, two web servers, an application server, a
//! database with a replica, and monitoring, each guarded by the file of its role in `rules/`, in both directions.
//!
//! [`design`] says who may talk to whom; the rest builds it of Debian's packages and looks whether it is so.

mod application;
pub mod balancer;
pub mod database;
pub mod design;
pub mod guard;
mod machine;
pub mod map;
pub mod monitoring;
mod names_and_time;
pub mod network;
pub mod probe;
mod site;
mod web;

pub use machine::{INTERFACE, Machine, NOBODY};
pub use site::{Programs, Site};
