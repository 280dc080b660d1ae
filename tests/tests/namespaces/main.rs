//! The command and the program at work: real traffic through guarded veth interfaces in network namespaces.

mod bans;
mod command;
mod control;
mod cookies;
mod doctor;
mod edits;
mod egress;
mod events;
mod explain;
mod faults;
mod flows;
mod forwarding;
mod fragments;
mod growth;
mod kills;
mod limits;
mod link_layer;
mod multicast;
mod plan;
mod probe;
mod replies;
mod resets;
mod serve;
mod shadow;
mod shapes;
mod switching;
mod top;
mod traffic;
mod trials;
mod upgrade;
mod writers;

use firewall_tests::net::{MODES, rules};
