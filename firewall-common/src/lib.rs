//! The packet decision of the firewall, shared word for word by the kernel program and by user space.
//!
//! A packet's life, in the order in which the modules take it up:
//!
//! 1. [`frame`]: bytes that can be read with their bounds checked;
//! 2. [`parse`]: bytes become [`parse::Packet`], once, or a numbered reason to drop;
//! 3. [`decide`]: essentials, then the rules' tables, give a [`decide::Decision`] and count it;
//! 4. [`tables`]: what a decision may ask of the world while it is made.
//!
//! [`abi`] says how both sides lay out what they share: the policy image, counters, control record, reasons.
//!
//! The kernel runs this over a packet in a driver's buffer and BPF maps; the host runs the same code over a slice and
//! plain memory. There is no unsafe here: the two places that need it are the kernel's own packet and map access.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod decide;
pub mod frame;
pub mod hash;
pub mod parse;
pub mod tables;
pub mod word;
