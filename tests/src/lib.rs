//! Helpers shared by the tests.
//!
//! [`packets`] writes frames and [`corpus`] names them, with what must happen to each; [`random`] makes more of them, and
//! rule sets. [`policy`] decides a frame on the host, [`kernel`] in the loaded program, and [`mod@reference`] a third time, by
//! a parser and a rule walk of its own. The tests compare the three. [`net`] is for real traffic through a guarded interface, and
//! [`infra`] for a whole site of guarded servers.

pub mod corpus;
pub mod infra;
pub mod kernel;
pub mod net;
pub mod packets;
pub mod policy;
pub mod random;
pub mod reference;
