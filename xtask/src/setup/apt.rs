//! Asking apt which packages are missing, and fetching them, without root and without changing the system.
//!
//! apt resolves dependencies, picks the nearest mirror and checks hashes and signatures; we only keep it
//! from installing. Its cache, and package lists where the system has none, go under `target/tools/apt`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{
    dpkg::{self, Visible},
    unpack::Root,
};
use crate::{paths::write_atomically, shell};

/// A package in the version that was chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

/// Packages that are never fetched. The C library has to match the loader that the kernel starts, which is the
/// system's; any libc6 of this release will do for the packages of this release.
const NEVER: &[&str] = &["libc6", "libc-bin", "libc6-dev", "libc-dev-bin"];

/// apt, with directories of our own.
#[derive(Debug)]
pub(super) struct Apt {
    directory: PathBuf,
    logs: PathBuf,
    visible: Visible,
    /// Package lists of our own, once the system's turned out to be missing or outdated.
    own_lists: bool,
}

impl Apt {
    /// Keeps apt's files under `directory` and its output under `logs`.
    pub(super) fn new(directory: PathBuf, logs: PathBuf, visible: Visible) -> Result<Self> {
        for part in ["cache/archives/partial", "lists/partial", "archives"] {
            let part = directory.join(part);
            fs::create_dir_all(&part)
                .with_context(|| format!("cannot create {}", part.display()))?;
        }
        Ok(Self {
            directory,
            logs,
            visible,
            own_lists: false,
        })
    }

    /// Unpacks into `root` the packages called `names` and everything they need that is not installed here.
    ///
    /// `hidden` tells the packages that are unpacked though they are installed.
    pub(super) fn provide(
        &mut self,
        names: &[&str],
        hidden: impl Fn(&str) -> bool,
        root: &Root,
    ) -> Result<()> {
        let status = fs::read_to_string("/var/lib/dpkg/status")
            .context("cannot read dpkg's list of packages")?;
        let hidden = |name: &str| hidden(name) || names.contains(&name);
        write_atomically(
            &self.status(),
            &dpkg::picture(&status, self.visible, hidden),
        )?;

        // Lists may be absent (a container's image) or name versions that the mirrors no longer have; fresh
        // ones help against both.
        let archives = match self.fetch(names, root) {
            Err(error) if !self.own_lists => {
                shell::note(&format!(
                    "the system's package lists do not do: {}; fetching fresh ones",
                    first_line(&error)
                ));
                self.refresh()?;
                self.fetch(names, root)
                    .with_context(|| self.why_lists_are_missing())?
            }
            archives => archives?,
        };
        root.unpack(&archives, &self.logs.join("unpack.log"))?;
        for (_, archive) in archives {
            // One that stays costs space only.
            let _ = fs::remove_file(archive);
        }
        Ok(())
    }

    /// Downloads what `root` lacks.
    fn fetch(&self, names: &[&str], root: &Root) -> Result<Vec<(Package, PathBuf)>> {
        let missing = root.missing(self.resolve(names)?)?;
        if missing.is_empty() {
            Ok(Vec::new())
        } else {
            self.download(missing)
        }
    }

    fn resolve(&self, names: &[&str]) -> Result<Vec<Package>> {
        let mut command = self.command("apt-get");
        command
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(names);
        let plan = shell::output(&mut command)?;
        let packages = parse_plan(&plan);
        for name in names {
            if !packages.iter().any(|package| package.name == *name) {
                bail!("apt has no plan for the package {name}");
            }
        }
        Ok(packages)
    }

    fn download(&self, packages: Vec<Package>) -> Result<Vec<(Package, PathBuf)>> {
        let archives = self.directory.join("archives");
        let mut command = self.command("apt-get");
        // The directory that apt-get downloads to is the one it runs in. What lies there already is checked
        // and kept, or fetched again if it was cut short.
        command.current_dir(&archives).arg("download");
        command.args(
            packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version)),
        );
        let what = format!("downloading {} Debian packages", packages.len());
        shell::run(&what, &mut command, &self.logs.join("apt-download.log"))?;

        let files: Vec<PathBuf> = fs::read_dir(&archives)?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        packages
            .into_iter()
            .map(|package| {
                let stem = archive_stem(&package);
                let file = files.iter().find(|file| {
                    file.file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with(&stem))
                });
                let file = file.with_context(|| format!("apt did not download {stem}*.deb"))?;
                Ok((package, file.clone()))
            })
            .collect()
    }

    /// Whether the packages are chosen from lists as new as the mirrors have them.
    pub(super) fn is_fresh(&self) -> bool {
        self.own_lists
    }

    /// Fetches package lists of our own.
    pub(super) fn refresh(&mut self) -> Result<()> {
        self.own_lists = true;
        let mut command = self.command("apt-get");
        command.arg("update");
        // One unreachable source among several need not matter: what follows shows whether it does.
        if let Err(error) = shell::run("fetching package lists", &mut command, &self.update_log()) {
            shell::note(&format!(
                "not all package lists came: {}",
                first_line(&error)
            ));
        }
        Ok(())
    }

    /// What apt said when it could not fetch package lists, or where else to look.
    fn why_lists_are_missing(&self) -> String {
        let log = fs::read_to_string(self.update_log()).unwrap_or_default();
        match first_complaint(&log) {
            Some(complaint) => format!("apt cannot fetch its package lists; is there a network? It says: {complaint}"),
            None => "apt does not know all packages; do its sources name bookworm and bookworm-security?".to_owned(),
        }
    }

    fn update_log(&self) -> PathBuf {
        self.logs.join("apt-update.log")
    }

    fn command(&self, program: &str) -> Command {
        let option = |key: &str, value: &Path| {
            let mut option = OsString::from(format!("{key}="));
            option.push(value);
            option
        };
        let mut command = Command::new(program);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        // No lock of the system is taken, since nothing of the system is written; as root, no switch to the
        // user _apt, who may not be allowed to write below a clone in somebody's home.
        command.args([
            "-q",
            "-o",
            "Debug::NoLocking=1",
            "-o",
            "APT::Sandbox::User=root",
        ]);
        command
            .arg("-o")
            .arg(option("Dir::State::status", &self.status()));
        command
            .arg("-o")
            .arg(option("Dir::Cache", &self.directory.join("cache")));
        if self.own_lists {
            command
                .arg("-o")
                .arg(option("Dir::State::lists", &self.directory.join("lists")));
        }
        command
    }

    fn status(&self) -> PathBuf {
        self.directory.join("status")
    }
}

/// The packages that a simulated installation would unpack, out of lines such as
/// `Inst libbsd0 [0.11.6] (0.11.7-2 Debian:12.15/oldstable [amd64])`.
fn parse_plan(plan: &str) -> Vec<Package> {
    let mut packages: Vec<_> = plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let version = line.split_once('(')?.1.split([' ', ')']).next()?;
            let installed = line
                .split_once('[')
                .filter(|_| !line.starts_with(&format!("{name} (")));
            let installed = installed.and_then(|(_, rest)| rest.split(']').next());
            // Same version: apt only minds that the installed one stands without relations in our picture.
            (installed != Some(version) && !NEVER.contains(&name)).then(|| Package {
                name: name.to_owned(),
                version: version.to_owned(),
            })
        })
        .collect();
    packages.sort();
    packages
}

/// How apt begins the name of a package's archive: the architecture follows.
fn archive_stem(package: &Package) -> String {
    format!("{}_{}_", package.name, package.version.replace(':', "%3a"))
}

/// The first error or warning in apt's output.
fn first_complaint(log: &str) -> Option<&str> {
    log.lines().find_map(|line| {
        line.strip_prefix("E: ")
            .or_else(|| line.strip_prefix("W: "))
    })
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn a_plan_names_what_is_missing() {
        let plan = "\
Reading package lists...
0 upgraded, 2 newly installed, 1 to remove and 0 not upgraded.
Remv rustc [1.63.0]
Inst libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable-security [amd64])
Inst libxml2 [2.9.14+dfsg-1.2] (2.9.14+dfsg-1.3 Debian:12.15/oldstable [amd64]) []
Conf libllvm22 (1:22.1.8-1~deb12u1 Debian-Security:12/oldstable-security [amd64])
";
        assert_eq!(
            parse_plan(plan),
            [
                package("libllvm22", "1:22.1.8-1~deb12u1"),
                package("libxml2", "2.9.14+dfsg-1.3")
            ]
        );
    }

    #[test]
    fn what_is_installed_in_that_version_is_not_missing() {
        assert_eq!(
            parse_plan("Inst zlib1g [1:1.2.13] (1:1.2.13 Debian:12 [amd64])"),
            []
        );
    }

    #[test]
    fn the_c_library_is_never_fetched() {
        assert_eq!(
            parse_plan("Inst libc6 [2.36-9+deb12u1] (2.36-9+deb12u2 Debian:12 [amd64])"),
            []
        );
    }

    #[test]
    fn archives_are_found_by_name_and_version() {
        assert_eq!(
            archive_stem(&package("ethtool", "1:6.1-1")),
            "ethtool_1%3a6.1-1_"
        );
    }

    #[test]
    fn complaints_of_apt_are_found() {
        let log = "Ign:1 http://example.org bookworm InRelease\nW: Failed to fetch http://example.org/\nW: Some\n";
        assert_eq!(
            first_complaint(log),
            Some("Failed to fetch http://example.org/")
        );
        assert_eq!(
            first_complaint("Hit:1 http://example.org bookworm InRelease\n"),
            None
        );
    }
}
