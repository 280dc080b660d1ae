//! Where things are: the workspace, and what set-up keeps under its `target/tools`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The clone that this command works in.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this xtask belongs to.
    pub(crate) fn locate() -> Result<Self> {
        // Cargo sets the variable when it runs us, so a clone that was moved is found where it is now.
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest_dir
            .parent()
            .context("the package xtask has to lie inside a workspace")?;
        let root = root.canonicalize().with_context(|| {
            format!(
                "{} is gone: run `cargo xtask` inside the clone",
                root.display()
            )
        })?;
        Ok(Self { root })
    }

    /// The workspace whose root is `root`.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory of the workspace's `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What set-up keeps. It does not follow `CARGO_TARGET_DIR`: builds into several target directories share it.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// Wrappers and links to every tool; to be put first on `PATH`.
    pub(crate) fn bin(&self) -> PathBuf {
        self.tools().join("bin")
    }

    /// Output of the longer steps.
    pub(crate) fn logs(&self) -> PathBuf {
        self.tools().join("log")
    }
}

/// The first executable called `name` on `PATH`, or in the directories that a plain user's `PATH` lacks.
///
/// `except` is passed over: the wrappers of a former set-up must not be taken for the system's tools.
pub(crate) fn which(name: &str, except: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .filter(|directory| directory.is_absolute() && directory != except)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

/// Whether `file` is there and may be run by somebody.
pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Where Debian puts the libraries of this machine's architecture, below `usr/lib`.
pub(crate) fn multiarch() -> String {
    // Debian's triplet lacks the vendor that Rust's has; both call the 64-bit ones alike.
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Writes `text` so that a reader sees the old file or the new one, never half of it.
pub(crate) fn write_atomically(file: &Path, text: &str) -> Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    std::fs::write(&partial, text)
        .with_context(|| format!("cannot write {}", partial.display()))?;
    std::fs::rename(&partial, file).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_found_but_not_in_the_directory_to_pass_over() {
        let nowhere = Path::new("/nonexistent");
        let sh = which("sh", nowhere).expect("every system has a shell");
        assert!(is_executable(&sh));
        assert_ne!(which("sh", sh.parent().unwrap()), Some(sh));
        assert_eq!(which("no-such-command-anywhere", nowhere), None);
    }

    #[test]
    fn a_directory_is_not_an_executable() {
        assert!(!is_executable(Path::new("/usr")));
    }

    #[test]
    fn writing_replaces_the_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        write_atomically(&file, "long text").unwrap();
        write_atomically(&file, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
