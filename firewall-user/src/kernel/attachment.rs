//! Where a link is, as procfs tells of a descriptor that this process holds: to ask the kernel for programs by number takes more
//! privilege than a service should keep.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use aya::programs::links::FdLink;

/// Index of the interface that `link` is on; `None` if that is gone.
pub(super) fn interface_of(link: &FdLink) -> Result<Option<u32>> {
    let id = link.info().context("asking for a link")?.id();
    Ok(links()?.remove(&id))
}

/// The links of which this process has descriptors, by number, with the index of the interface that each is on.
pub(super) fn links() -> Result<BTreeMap<u32, u32>> {
    const DESCRIPTORS: &str = "/proc/self/fdinfo";
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(DESCRIPTORS).context(DESCRIPTORS)?.flatten() {
        // Other threads close descriptors meanwhile.
        let told = fs::read_to_string(entry.path()).unwrap_or_default();
        let number = |name| value(&told, name).and_then(|word| word.parse().ok());
        // Of one whose interface is gone, the index is zero.
        if let (Some(id), Some(1..)) = (number("link_id:"), number("ifindex:")) {
            links.extend(number("ifindex:").map(|index| (id, index)));
        }
    }
    Ok(links)
}

/// The first word behind `name` at the beginning of a line.
fn value<'a>(told: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = told.lines();
    let line = lines.find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_told_as_the_kernel_tells_it() {
        let told = "pos:\t0\nflags:\t02\nlink_type:\ttcx\nlink_id:\t57\nprog_id:\t123\nifindex:\t9\nattach_type:\ttcx_egress (47)\n";
        assert_eq!(value(told, "link_id:"), Some("57"));
        assert_eq!(value(told, "ifindex:"), Some("9"));
        assert_eq!(value(told, "link:"), None);
    }
}
