//! Unpacking Debian archives below `target/tools/debian`, package by package, so that an interrupted run goes on.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::apt::Package;
use crate::{
    paths::{multiarch, write_atomically},
    shell,
};

/// What nobody needs of a package here: documentation, and of the compiler's source all but the libraries
/// (the rest would be 50,000 files).
const LEFT_OUT: &[&str] = &[
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/lintian",
    "./usr/src/rustc-*/compiler",
    "./usr/src/rustc-*/src",
    "./usr/src/rustc-*/tests",
];

/// A directory that packages are unpacked into, as if it were `/`.
#[derive(Clone, Debug)]
pub(super) struct Root {
    directory: PathBuf,
}

impl Root {
    /// The root at `directory`, which need not exist.
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where `path`, relative to `/`, is below this root.
    pub(super) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// Directories that the unpacked programs load libraries from, relative to this root.
    pub(super) fn library_dirs(&self) -> Vec<PathBuf> {
        let libraries = PathBuf::from("usr/lib").join(multiarch());
        // Debian's alternatives, which are set up on installing only, choose among these for libblas.so.3.
        let candidates = [
            libraries.clone(),
            libraries.join("blas"),
            libraries.join("lapack"),
        ];
        candidates
            .into_iter()
            .filter(|directory| self.join(directory).is_dir())
            .collect()
    }

    /// The packages that are not unpacked yet. One that is there in another version clears the root: files of
    /// two versions side by side would both be found by the compiler.
    pub(super) fn missing(&self, packages: Vec<Package>) -> Result<Vec<Package>> {
        let outdated = packages.iter().any(|package| {
            self.unpacked_version(package)
                .is_some_and(|version| version != package.version)
        });
        if outdated {
            self.clear()?;
        }
        let is_missing = |package: &Package| self.unpacked_version(package).is_none();
        Ok(packages.into_iter().filter(is_missing).collect())
    }

    /// Unpacks these, marking each when it is complete.
    pub(super) fn unpack(&self, archives: &[(Package, PathBuf)], log: &Path) -> Result<()> {
        self.prepare()?;
        for (package, archive) in archives {
            shell::run(
                &format!("unpacking {}", package.name),
                &mut self.extract(archive),
                log,
            )?;
            write_atomically(&self.marker(package), &package.version)?;
        }
        Ok(())
    }

    /// Removes everything.
    pub(super) fn clear(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }

    /// Makes the top level. Some packages still use `/bin` and `/lib`, which are links on every Debian 12.
    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(self.markers())
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        for merged in ["bin", "sbin", "lib"] {
            fs::create_dir_all(self.join("usr").join(merged))?;
            let link = self.join(merged);
            if !link.exists() {
                symlink(Path::new("usr").join(merged), &link)
                    .with_context(|| format!("cannot create {}", link.display()))?;
            }
        }
        Ok(())
    }

    /// Extracts one archive. tar rather than `dpkg-deb --extract`, which cannot leave files out, keeps owners
    /// and set-user-id bits, and replaces the links at the top by directories.
    fn extract(&self, archive: &Path) -> Command {
        let mut command = Command::new("bash");
        command.args([
            "-o",
            "pipefail",
            "-c",
            r#"dpkg-deb --fsys-tarfile "$1" | tar -x "${@:2}""#,
            "extract",
        ]);
        command.arg(archive).arg("-C").arg(&self.directory);
        command.args([
            "--no-same-owner",
            "--no-same-permissions",
            "--keep-directory-symlink",
            "--no-wildcards-match-slash",
        ]);
        command.args(
            LEFT_OUT
                .iter()
                .map(|pattern| format!("--exclude={pattern}")),
        );
        command
    }

    fn unpacked_version(&self, package: &Package) -> Option<String> {
        fs::read_to_string(self.marker(package)).ok()
    }

    fn marker(&self, package: &Package) -> PathBuf {
        self.markers().join(&package.name)
    }

    fn markers(&self) -> PathBuf {
        self.join(".packages")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds an archive that holds `file`, and returns it as version `version` of a package.
    fn archive(directory: &Path, version: &str, file: &str) -> (Package, PathBuf) {
        let tree = directory.join(format!("tree-{version}"));
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: sample\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
             Description: a sample\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        for file in [file, "usr/share/doc/sample/copyright"] {
            fs::create_dir_all(tree.join(file).parent().unwrap()).unwrap();
            fs::write(tree.join(file), version).unwrap();
        }
        let archive = directory.join(format!("sample_{version}_all.deb"));
        shell::output(
            Command::new("dpkg-deb")
                .arg("--build")
                .arg(&tree)
                .arg(&archive),
        )
        .unwrap();
        (
            Package {
                name: "sample".to_owned(),
                version: version.to_owned(),
            },
            archive,
        )
    }

    #[test]
    fn a_package_is_missing_until_unpacked_and_another_version_replaces_it() {
        if crate::paths::which("dpkg-deb", Path::new("")).is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let root = Root::at(directory.path().join("root"));
        let first = archive(directory.path(), "1", "bin/one");
        let second = archive(directory.path(), "2", "bin/two");

        assert_eq!(
            root.missing(vec![first.0.clone()]).unwrap(),
            std::slice::from_ref(&first.0)
        );
        root.unpack(std::slice::from_ref(&first), &log).unwrap();
        assert_eq!(fs::read_to_string(root.join("usr/bin/one")).unwrap(), "1");
        assert!(
            root.join("bin").is_symlink(),
            "a package that uses /bin keeps it a link"
        );
        assert!(!root.join("usr/share/doc").exists());
        assert_eq!(root.missing(vec![first.0]).unwrap(), []);

        assert_eq!(
            root.missing(vec![second.0.clone()]).unwrap(),
            std::slice::from_ref(&second.0)
        );
        root.unpack(&[second], &log).unwrap();
        assert!(root.join("usr/bin/two").exists() && !root.join("usr/bin/one").exists());
    }
}
