//! One thing that was looked at, and what came of it.

use serde::Serialize;

/// How bad it is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// The firewall works, but not as well as it could.
    Warning,
    /// Something is not filtered, cannot be, or will not stay so.
    Error,
}

impl Severity {
    /// The word for it in output.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Whose it is; `None` for the machine's.
    pub(crate) interface: Option<String>,
    /// What was looked at; stable.
    pub(crate) check: &'static str,
    pub(crate) severity: Severity,
    /// A sentence.
    pub(crate) finding: String,
    /// What to run to mend it.
    pub(crate) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, finding)
    }

    pub(super) fn note(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Note, check, finding)
    }

    pub(super) fn warning(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Warning, check, finding)
    }

    pub(super) fn error(check: &'static str, finding: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, finding)
    }

    fn new(severity: Severity, check: &'static str, finding: impl Into<String>) -> Self {
        Self {
            interface: None,
            check,
            severity,
            finding: finding.into(),
            remedy: None,
        }
    }

    /// What to run.
    pub(super) fn mended_by(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// Whose it is.
    pub(super) fn of(self, interface: &str) -> Self {
        Self {
            interface: Some(interface.to_owned()),
            ..self
        }
    }
}
