//! What becomes of the rows of addresses that come into an address list: the compiler says it, it is kept beside the tables, and a live edit
//! goes by it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// An address list of a loaded generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownList {
    /// Groups that are this list.
    pub groups: BTreeSet<String>,
    /// What becomes of its addresses. Nothing is known where more depends on the list than the sets that it is part of.
    pub rows: Option<Vec<ListRows>>,
}

/// What becomes of the row of an address that comes into a list, as source or destination of one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRows {
    /// Line of the image that has the table of IPv4.
    pub v4: u32,
    /// That of IPv6.
    pub v6: u32,
    /// Whether it is about destinations.
    pub is_destination: bool,
    /// Entry of addresses that are in no set.
    pub nowhere: u32,
    /// Entries of addresses that are in none of the list's sets, each with what it becomes if they come into all of them.
    pub rows: Vec<(u32, u32)>,
}
