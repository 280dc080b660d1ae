//! A picture of the installed packages that apt can resolve against, without the system's own constraints.
//!
//! Nothing is going to be installed, so nothing can conflict. But apt does not know: asked for Debian's
//! `rustc-web` where `rustc` is installed, it would plan a removal, or refuse. So apt is shown a status
//! file of our own, in which the packages stand without their relations. Whatever apt then plans to
//! install is what is missing here; what it plans to remove does not matter.

use std::collections::{HashMap, HashSet};

/// Which installed packages apt may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visible {
    /// All of them.
    Installed,
    /// Only what no Debian system with a C compiler lacks: how it looks on a fresh machine.
    Base,
}

/// Packages that a fresh machine is sure to have: rustup asks for a linker, and that comes with libc's files.
const BASE: &[&str] = &["gcc", "libc6-dev"];

/// The fields of a stanza that say what is there; the others say what it gets along with.
const KEPT_FIELDS: &[&str] = &[
    "Package",
    "Status",
    "Priority",
    "Architecture",
    "Multi-Arch",
    "Version",
    "Provides",
];

/// Renders the status file to show to apt, leaving out the packages that `hidden` names.
pub(super) fn picture(status: &str, visible: Visible, hidden: impl Fn(&str) -> bool) -> String {
    let installed: Vec<Stanza<'_>> = status.split("\n\n").filter_map(Stanza::parse).collect();
    let base = match visible {
        Visible::Installed => None,
        Visible::Base => Some(base_of(&installed)),
    };
    let mut text = String::new();
    for stanza in &installed {
        if hidden(stanza.name())
            || base
                .as_ref()
                .is_some_and(|base| !base.contains(stanza.name()))
        {
            continue;
        }
        for field in KEPT_FIELDS {
            if let Some(value) = stanza.fields.get(field) {
                text.push_str(&format!("{field}: {value}\n"));
            }
        }
        text.push('\n');
    }
    text
}

/// One installed package in dpkg's status file.
struct Stanza<'a> {
    fields: HashMap<&'a str, &'a str>,
}

impl<'a> Stanza<'a> {
    /// Reads a stanza; none, unless it is of an installed package.
    fn parse(text: &'a str) -> Option<Self> {
        // A line that begins with a blank continues a description or a list of files, which nobody asks for.
        let fields: HashMap<_, _> = text
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| line.split_once(": "))
            .collect();
        let installed = fields
            .get("Status")
            .is_some_and(|status| status.ends_with(" installed"));
        (installed && fields.contains_key("Package")).then_some(Self { fields })
    }

    fn name(&self) -> &'a str {
        self.fields["Package"]
    }

    fn is_essential(&self) -> bool {
        self.fields.get("Essential") == Some(&"yes")
            || self.fields.get("Priority") == Some(&"required")
    }

    /// Names of the packages it depends on; of alternatives, all.
    fn dependencies(&self) -> impl Iterator<Item = &'a str> {
        names_in(self.fields.get("Pre-Depends")).chain(names_in(self.fields.get("Depends")))
    }
}

/// The package names in a relation field, without versions, architectures and the `|` of alternatives.
fn names_in<'a>(field: Option<&&'a str>) -> impl Iterator<Item = &'a str> {
    field
        .copied()
        .unwrap_or_default()
        .split([',', '|'])
        .filter_map(|relation| relation.trim().split([' ', ':', '(']).next())
        .filter(|name| !name.is_empty())
}

/// The essential packages, the C compiler, and all that those depend on.
fn base_of<'a>(installed: &[Stanza<'a>]) -> HashSet<&'a str> {
    let mut providers: HashMap<&str, Vec<&Stanza<'a>>> = HashMap::new();
    for stanza in installed {
        for name in std::iter::once(stanza.name()).chain(names_in(stanza.fields.get("Provides"))) {
            providers.entry(name).or_default().push(stanza);
        }
    }
    let mut pending: Vec<&Stanza<'a>> = installed
        .iter()
        .filter(|stanza| stanza.is_essential() || BASE.contains(&stanza.name()))
        .collect();
    let mut base = HashSet::new();
    while let Some(stanza) = pending.pop() {
        if base.insert(stanza.name()) {
            pending.extend(
                stanza
                    .dependencies()
                    .filter_map(|name| providers.get(name))
                    .flatten(),
            );
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "\
Package: dash
Essential: yes
Status: install ok installed
Architecture: amd64
Version: 0.5
Pre-Depends: libc6 (>= 2.36)
Description: shell
 Depends: this line belongs to the description

Package: libc6
Status: install ok installed
Version: 2.36
Depends: libgcc-s1:amd64, libcrypt1 (>= 1)

Package: libgcc-s1
Status: install ok installed
Version: 12

Package: libxcrypt
Status: install ok installed
Version: 4
Provides: libcrypt1 (= 4)

Package: rustc
Status: install ok installed
Version: 1.63
Depends: libc6
Conflicts: rustc-web

Package: nano
Status: deinstall ok config-files
Version: 7
";

    fn names(picture: &str) -> Vec<&str> {
        picture
            .lines()
            .filter_map(|line| line.strip_prefix("Package: "))
            .collect()
    }

    #[test]
    fn installed_packages_stand_without_their_relations() {
        let picture = picture(STATUS, Visible::Installed, |_| false);
        assert_eq!(
            names(&picture),
            ["dash", "libc6", "libgcc-s1", "libxcrypt", "rustc"]
        );
        assert!(
            !picture.contains("Depends") && !picture.contains("Conflicts"),
            "{picture}"
        );
        assert!(picture.contains("Provides: libcrypt1 (= 4)"));
    }

    #[test]
    fn a_hidden_package_is_left_out() {
        let picture = picture(STATUS, Visible::Installed, |name| name.starts_with("rust"));
        assert!(!names(&picture).contains(&"rustc"));
    }

    #[test]
    fn the_base_is_what_essential_packages_stand_on() {
        let picture = picture(STATUS, Visible::Base, |_| false);
        assert_eq!(names(&picture), ["dash", "libc6", "libgcc-s1", "libxcrypt"]);
    }

    #[test]
    fn relations_are_read_down_to_names() {
        let field = "gcc:any (>= 4:12), libc6-dev | libc-dev, debconf (>= 1) | debconf-2.0";
        let names: Vec<_> = names_in(Some(&field)).collect();
        assert_eq!(
            names,
            ["gcc", "libc6-dev", "libc-dev", "debconf", "debconf-2.0"]
        );
    }
}
