//! xdp-filter with single addresses to refuse, which is what it can express.

use anyhow::{Context as _, Result};

use crate::{
    cidr::Cidr,
    namespace::{FAR, run},
};

/// Subject of its values in the report.
pub(crate) const SUBJECT: &str = "xdp-filter";

/// Attached to the far end; gone when dropped.
#[derive(Debug)]
pub(crate) struct Filter(());

impl Filter {
    /// Drops what comes from these addresses.
    ///
    /// # Errors
    ///
    /// What `xdp-filter` says.
    pub(crate) fn load(addresses: &[Cidr]) -> Result<Self> {
        run(&["xdp-filter", "load", "--mode", "native", FAR]).context("loading xdp-filter")?;
        let filter = Self(());
        for cidr in addresses {
            let address = cidr.family.address(cidr.first).to_string();
            run(&["xdp-filter", "ip", "--mode", "src", &address])?;
        }
        Ok(filter)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // What it pins outlives the link.
        let _ = run(&["xdp-filter", "unload", FAR]);
    }
}
