//! The machine that set-up runs on, and what to tell its owner where set-up cannot help.

use std::{collections::HashMap, fmt::Write as _, path::Path};

use super::{linker, purpose::Purpose};
use crate::paths::which;

/// The release that all of set-up is tried on.
const TRIED_ON: (&str, &str) = ("debian", "12");

/// What `/etc/os-release` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct System {
    /// As told to a person, such as "Debian GNU/Linux 12 (bookworm)".
    name: String,
    id: String,
    version: String,
    /// Whether apt can resolve, fetch and unpack packages here.
    has_apt: bool,
}

impl System {
    /// Looks at this machine.
    pub(super) fn detect() -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|file| std::fs::read_to_string(file).ok())
            .unwrap_or_default();
        let has_apt = ["apt-get", "dpkg-deb", "tar"]
            .iter()
            .all(|tool| which(tool, Path::new("")).is_some());
        Self::parse(&text, has_apt)
    }

    fn parse(os_release: &str, has_apt: bool) -> Self {
        let fields: HashMap<_, _> = os_release
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| {
                (
                    key.trim(),
                    value.trim().trim_matches(['"', '\'']).to_owned(),
                )
            })
            .collect();
        let field = |key: &str| fields.get(key).cloned().unwrap_or_default();
        let name = match field("PRETTY_NAME") {
            name if name.is_empty() => "an unknown distribution".to_owned(),
            name => name,
        };
        Self {
            name,
            id: field("ID"),
            version: field("VERSION_ID"),
            has_apt,
        }
    }

    /// What this is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether packages can be fetched and unpacked here.
    pub(super) fn has_apt(&self) -> bool {
        self.has_apt
    }

    /// A remark for a system that set-up was never tried on.
    pub(super) fn remark(&self) -> Option<String> {
        let tried = (self.id.as_str(), self.version.as_str()) == TRIED_ON;
        (!tried).then(|| {
            let outlook = if self.has_apt {
                "it has apt, so its packages are tried"
            } else {
                "it has no apt, so what is missing has to be installed by you"
            };
            format!(
                "this is {}; set-up is tried on Debian 12; {outlook}",
                self.name
            )
        })
    }

    /// What a person can install so that set-up finds all that `purposes` take.
    pub(super) fn advice(&self, purposes: &[Purpose]) -> String {
        let mut text = String::from(
            "Set-up uses what is installed, by whatever means. It looks for:\n\
             - a Rust compiler with the source of its core library, 1.95 or newer:\n\
             \x20     rustup toolchain install nightly --component rust-src\n",
        );
        let _ = writeln!(
            text,
            "- bpf-linker; set-up builds it against that compiler's own LLVM, or takes the one on PATH:\n\
             \x20     cargo install bpf-linker --version {} --locked",
            linker::VERSION
        );
        let mut packages: Vec<_> = purposes
            .iter()
            .flat_map(|purpose| purpose.tools())
            .map(|tool| tool.package)
            .collect();
        packages.sort_unstable();
        packages.dedup();
        if !packages.is_empty() {
            let _ = writeln!(
                text,
                "- the tools of these packages, as Debian names them:\n      {}",
                packages.join(" ")
            );
        }
        text.push_str("Then run the same command again.");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str =
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";

    #[test]
    fn debian_12_gets_no_remark() {
        let system = System::parse(DEBIAN, true);
        assert_eq!(system.name(), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(system.remark(), None);
    }

    #[test]
    fn another_release_or_distribution_is_named() {
        let next = System::parse(&DEBIAN.replace("12", "13"), true)
            .remark()
            .unwrap();
        assert!(
            next.contains("Debian GNU/Linux 13") && next.contains("it has apt"),
            "{next}"
        );
        let fedora = System::parse("ID=fedora\nPRETTY_NAME='Fedora Linux 42'\n", false)
            .remark()
            .unwrap();
        assert!(
            fedora.contains("Fedora Linux 42") && fedora.contains("no apt"),
            "{fedora}"
        );
    }

    #[test]
    fn a_machine_without_os_release_is_unknown() {
        assert_eq!(System::parse("", false).name(), "an unknown distribution");
    }

    #[test]
    fn advice_names_the_tools_of_the_purpose_only() {
        let system = System::parse("", false);
        let build = system.advice(&[Purpose::Build]);
        assert!(
            build.contains("rust-src") && build.contains("bpf-linker"),
            "{build}"
        );
        assert!(!build.contains("nginx"), "{build}");
        let demo = system.advice(&[Purpose::Build, Purpose::Demo]);
        assert!(
            demo.contains("nginx") && !demo.contains("xdp-tools"),
            "{demo}"
        );
    }
}
