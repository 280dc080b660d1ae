//! What `/healthz` says: whether everything that is to be guarded is, and somebody has looked just now.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How old the last look may be.
const MAX_AGE: Duration = Duration::from_secs(30);

/// What the last look has shown.
#[derive(Debug)]
pub(super) struct Health(Mutex<Shown>);

#[derive(Debug)]
struct Shown {
    at: Option<Instant>,
    problems: BTreeMap<String, String>,
}

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(Shown {
            at: None,
            problems: BTreeMap::new(),
        }))
    }
}

impl Health {
    /// Somebody has looked, and found this to be the matter, by interface.
    pub(super) fn set(&self, problems: BTreeMap<String, String>) {
        *self.lock() = Shown {
            at: Some(Instant::now()),
            problems,
        };
    }

    /// What is the matter, a line each; nothing if all is well.
    pub(super) fn problems(&self) -> String {
        let shown = self.lock();
        let age = shown.at.map(|at| at.elapsed());
        let mut lines: Vec<String> = match age {
            Some(age) if age <= MAX_AGE => Vec::new(),
            Some(age) => vec![format!("nobody has looked for {} s", age.as_secs())],
            None => vec!["nobody has looked yet".to_owned()],
        };
        let problems = shown.problems.iter();
        lines.extend(problems.map(|(name, problem)| format!("{name}: {problem}")));
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_is_only_what_was_looked_at() {
        let health = Health::default();
        assert_eq!(health.problems(), "nobody has looked yet\n");
        health.set(BTreeMap::new());
        assert_eq!(health.problems(), "");
        health.set(BTreeMap::from([("eth0".into(), "not guarded".into())]));
        assert_eq!(health.problems(), "eth0: not guarded\n");
    }
}
