//! What test processes that were killed have left: found by name, removed once a process.

use std::fs;
use std::path::Path;
use std::sync::Once;

use super::host::{NAMESPACES, ip};
use super::lab::{PINS, PREFIX};

/// Where the service keeps what was in force last.
const GOOD: &str = "/var/lib/firewall/good";

/// Removes namespaces and pins of test processes that are no more.
pub(super) fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        for name in names_in(NAMESPACES).filter(|name| is_left_over(name)) {
            // Another process may sweep at the same time.
            let _ = ip(&["netns", "delete", &name]);
        }
        for name in names_in(PINS).filter(|name| is_left_over(name)) {
            unpin(&name);
        }
    });
}

/// Removes an interface's pins, what the service has kept of it, and those of interfaces that a test has made beside it and named after it; with the last
/// reference to them go the programs and their maps.
pub(super) fn unpin(interface: &str) {
    for name in names_in(PINS).filter(|name| name.starts_with(interface)) {
        // Another process may sweep at the same time.
        let _ = fs::remove_dir_all(Path::new(PINS).join(name));
    }
    for name in names_in(GOOD).filter(|name| name.starts_with(interface)) {
        let _ = fs::remove_file(Path::new(GOOD).join(name));
    }
}

/// Whether `name` is one of ours, and the process it names has ended.
fn is_left_over(name: &str) -> bool {
    let process = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'));
    let process = process.and_then(|(process, _)| u32::from_str_radix(process, 16).ok());
    process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists())
}

fn names_in(directory: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_left_over() {
        // The largest process number is 2^22.
        assert!(is_left_over("fwt7fffffff-1i"));
        let own = format!("{PREFIX}{:x}-1i", std::process::id());
        assert!(!is_left_over(&own));
        assert!(!is_left_over("firewall-demo-server"));
        assert!(!is_left_over("fwtest"));
    }
}
