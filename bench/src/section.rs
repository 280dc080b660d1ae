//! What is measured, a section a file.

pub(crate) mod apply;
pub(crate) mod control;
pub(crate) mod cookies;
pub(crate) mod events;
pub(crate) mod flows;
pub(crate) mod groups;
mod large;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod plan;
pub(crate) mod rules;
pub(crate) mod served;
pub(crate) mod traffic;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{harness::Harness, report::Report};

/// What every section works with.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The measuring programs.
    pub(crate) harness: Harness,
    /// Where results go.
    pub(crate) report: Report,
    /// Leave out what takes long.
    pub(crate) quick: bool,
    /// Part of the names of the cases that are wanted.
    case: Option<String>,
    /// Rule files and address lists.
    files: TempDir,
}

impl Bench {
    /// A bench with a place for its files.
    ///
    /// # Errors
    ///
    /// If there is no such place.
    pub(crate) fn new(harness: Harness, quick: bool, case: Option<String>) -> Result<Self> {
        Ok(Self {
            harness,
            report: Report::new(quick),
            quick,
            case,
            files: tempfile::Builder::new()
                .prefix("firewall-bench-")
                .tempdir()?,
        })
    }

    /// Whether the case of this name is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.case.as_ref().is_none_or(|part| name.contains(part))
    }

    /// Writes a file for the run's time.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
