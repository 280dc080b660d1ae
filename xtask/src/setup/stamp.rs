//! What former runs have set up, so that the next one has only to look.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::{
    Options,
    purpose::Purpose,
    toolchain::{self, Toolchain},
    tools::{self, Places},
};
use crate::paths::{Workspace, write_atomically};

/// The contents of `target/tools/stamp.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// The clone, whose place is part of some paths. In a clone that was moved nothing counts as set up, but
    /// what was unpacked and built is found again.
    root: PathBuf,
    /// Whether the system's own tools were passed over.
    unpack_all: bool,
    /// What the toolchain was made by.
    recipe: String,
    toolchain: Option<Toolchain>,
    tools: Places,
}

impl Stamp {
    /// Reads what former runs have written; a stamp that does not count is an empty one.
    pub(super) fn read(workspace: &Workspace, options: Options) -> Self {
        let fresh = Self {
            root: workspace.root().to_owned(),
            unpack_all: options.unpack_all,
            recipe: toolchain::recipe(),
            ..Self::default()
        };
        let text = std::fs::read_to_string(file(workspace)).unwrap_or_default();
        // Half a file, or one of another version of set-up, counts as none.
        let written: Option<Self> = serde_json::from_str(&text).ok();
        let mut stamp = written
            .filter(|stamp| !options.force && stamp.counts(&fresh))
            .unwrap_or(fresh);
        // What is added to it now may be the system's.
        stamp.unpack_all &= options.unpack_all;
        stamp
    }

    /// Whether what this stamp tells of is what would be made today.
    fn counts(&self, today: &Self) -> bool {
        // Tools that were unpacked although the system has them do as well as the system's.
        self.root == today.root
            && self.recipe == today.recipe
            && (self.unpack_all || !today.unpack_all)
    }

    /// Writes down what is set up now.
    fn write(&self, workspace: &Workspace) -> Result<()> {
        write_atomically(
            &file(workspace),
            &(serde_json::to_string_pretty(self)? + "\n"),
        )
    }

    /// Writes down that there is a toolchain.
    pub(super) fn record_toolchain(
        &mut self,
        workspace: &Workspace,
        toolchain: Toolchain,
    ) -> Result<()> {
        self.toolchain = Some(toolchain);
        self.write(workspace)
    }

    /// Writes down which tools there are.
    pub(super) fn record_tools(&mut self, workspace: &Workspace, places: Places) -> Result<()> {
        self.tools = places;
        self.write(workspace)
    }

    /// The tools that former runs have set up.
    pub(super) fn tools(&self) -> &Places {
        &self.tools
    }

    /// The toolchain, if all of it is still there.
    pub(super) fn toolchain(&self) -> Option<&Toolchain> {
        self.toolchain
            .as_ref()
            .filter(|toolchain| toolchain.is_ready())
    }

    /// Whether every tool that `purposes` take is there and runs.
    pub(super) fn has_tools(&self, workspace: &Workspace, purposes: &[Purpose]) -> bool {
        tools::needed(purposes).all(|tool| tools::is_ready(workspace, &self.tools, tool))
    }
}

fn file(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("stamp.json")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::setup::{toolchain::Environment, wrapper};

    fn options() -> Options {
        Options {
            unpack_all: false,
            force: false,
        }
    }

    fn toolchain(file: &Path) -> Toolchain {
        let file = file.to_owned();
        let environment = Environment {
            compiler: "a compiler".to_owned(),
            cargo: "cargo".into(),
            rustc: file.clone(),
            linker: file.clone(),
            bootstrap: true,
            path: "/bin".into(),
        };
        Toolchain {
            environment,
            files: vec!["cargo".into(), file],
        }
    }

    /// A workspace whose stamp tells of a toolchain in one file, which is returned.
    fn stamped(directory: &Path, options: Options) -> (Workspace, PathBuf) {
        let workspace = Workspace::at(directory);
        std::fs::create_dir_all(workspace.tools()).unwrap();
        let rustc = directory.join("rustc");
        wrapper::Wrapper {
            program: "/bin/true".into(),
            ..Default::default()
        }
        .write(&rustc)
        .unwrap();
        Stamp::read(&workspace, options)
            .record_toolchain(&workspace, toolchain(&rustc))
            .unwrap();
        (workspace, rustc)
    }

    #[test]
    fn what_was_recorded_is_found_until_a_file_of_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (workspace, rustc) = stamped(directory.path(), options());
        assert!(Stamp::read(&workspace, options()).toolchain().is_some());
        wrapper::link(Path::new("/bin/false"), &rustc).unwrap();
        assert!(
            Stamp::read(&workspace, options()).toolchain().is_none(),
            "it does not start"
        );
        std::fs::remove_file(rustc).unwrap();
        assert!(Stamp::read(&workspace, options()).toolchain().is_none());
    }

    #[test]
    fn half_a_stamp_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let (workspace, _) = stamped(directory.path(), options());
        let text = std::fs::read_to_string(file(&workspace)).unwrap();
        std::fs::write(file(&workspace), &text[..text.len() / 2]).unwrap();
        assert!(Stamp::read(&workspace, options()).toolchain().is_none());
    }

    #[test]
    fn unpacked_tools_do_where_the_systems_would_but_not_the_other_way_round() {
        let unpack_all = Options {
            unpack_all: true,
            force: false,
        };
        let directory = tempfile::tempdir().unwrap();
        let (workspace, _) = stamped(directory.path(), unpack_all);
        assert!(Stamp::read(&workspace, options()).toolchain().is_some());
        let directory = tempfile::tempdir().unwrap();
        let (workspace, _) = stamped(directory.path(), options());
        assert!(Stamp::read(&workspace, unpack_all).toolchain().is_none());
    }

    #[test]
    fn a_moved_clone_and_a_forced_run_begin_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (workspace, _) = stamped(&directory.path().join("before"), options());
        let forced = Options {
            force: true,
            ..options()
        };
        assert!(Stamp::read(&workspace, forced).toolchain().is_none());
        std::fs::rename(workspace.root(), directory.path().join("after")).unwrap();
        let moved = Workspace::at(&directory.path().join("after"));
        assert!(Stamp::read(&moved, options()).toolchain().is_none());
    }
}
