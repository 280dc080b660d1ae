//! What it all comes to for an interface, in one line.

use super::card::OF_NATIVE;
use super::finding::{Finding, Severity};
use crate::kernel::standing::Standing;

const CHECK: &str = "verdict";

/// The verdict on an interface, of which these are the `findings`, on a `machine` of which those are.
pub(super) fn verdict(standing: &Standing, findings: &[Finding], machine: &[Finding]) -> Finding {
    match standing {
        Standing::Guarded(guard) => guarded(guard.mode.as_str(), findings),
        Standing::OtherAbi { at_work: true, .. } => {
            Finding::error(CHECK, "guarded by another version")
        }
        Standing::Renamed(before) => {
            Finding::error(CHECK, format!("guarded under the name {before}"))
        }
        Standing::Hidden => Finding::error(CHECK, "guarded, by what cannot be seen from here"),
        Standing::Unpinned { .. } => {
            Finding::error(CHECK, "guarded for as long as somebody holds the link")
        }
        Standing::Stale | Standing::OtherAbi { at_work: false, .. } => {
            Finding::error(CHECK, "NOT guarded any more")
        }
        Standing::Unreadable(_) => Finding::error(CHECK, "nobody can tell whether it is guarded"),
        Standing::Unguarded | Standing::Leftovers => unguarded(findings, machine),
    }
}

/// The verdict where nobody may look at programs and pins.
pub(super) fn unknown() -> Finding {
    Finding::error(CHECK, "only root can tell whether it is guarded, or can be")
}

fn guarded(mode: &str, findings: &[Finding]) -> Finding {
    match first_error(findings) {
        Some(error) => Finding::error(
            CHECK,
            format!("guarded in {mode} mode, but: {}", error.finding),
        ),
        None => Finding::ok(CHECK, format!("guarded in {mode} mode")),
    }
}

/// The verdict on an interface that is not guarded.
pub(super) fn unguarded(findings: &[Finding], machine: &[Finding]) -> Finding {
    if let Some(error) = first_error(machine).or_else(|| first_error(findings)) {
        return Finding::error(CHECK, format!("cannot be guarded: {}", error.finding));
    }
    let mut of_native = findings
        .iter()
        .filter(|finding| OF_NATIVE.contains(&finding.check));
    if let Some(warning) = of_native
        .clone()
        .find(|finding| finding.severity == Severity::Warning)
    {
        return Finding::warning(CHECK, format!("only generic mode: {}", warning.finding));
    }
    let driver = of_native.find(|finding| finding.check == "driver");
    match driver.map(|finding| finding.severity) {
        Some(Severity::Ok) => Finding::ok(CHECK, "native XDP will attach"),
        _ => Finding::note(CHECK, "apply will tell whether native XDP attaches"),
    }
}

fn first_error(findings: &[Finding]) -> Option<&Finding> {
    findings
        .iter()
        .find(|finding| finding.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unguarded_interface_is_told_what_apply_will_come_to() {
        let driver = Finding::ok("driver", "driver ice runs XDP programs");
        let lro = Finding::warning("lro", "the card merges frames");
        let queue = Finding::note("queues", "one queue");
        let foreign = Finding::error("xdp", "XDP program 7 is there");
        let old = Finding::error("kernel", "Linux 6.1 is too old");
        let told = |findings: &[&Finding], machine: &[&Finding]| {
            let owned = |list: &[&Finding]| list.iter().map(|&one| one.clone()).collect::<Vec<_>>();
            let found = verdict(&Standing::Unguarded, &owned(findings), &owned(machine));
            (found.severity, found.finding)
        };
        let expected = |severity, text: &str| (severity, text.to_owned());
        assert_eq!(
            told(&[&driver, &queue], &[]),
            expected(Severity::Ok, "native XDP will attach")
        );
        assert_eq!(
            told(&[&driver, &lro], &[]),
            expected(
                Severity::Warning,
                "only generic mode: the card merges frames"
            )
        );
        assert_eq!(
            told(&[&driver, &lro, &foreign], &[]),
            expected(Severity::Error, "cannot be guarded: XDP program 7 is there")
        );
        assert_eq!(
            told(&[&driver, &foreign], &[&old]),
            expected(Severity::Error, "cannot be guarded: Linux 6.1 is too old")
        );
        let untold = Finding::note("driver", "the kernel does not tell");
        assert_eq!(told(&[&untold], &[]).0, Severity::Note);
    }

    #[test]
    fn a_guard_that_does_not_hold_is_not_called_good() {
        let fine = Finding::note("file", "it has changed");
        assert_eq!(
            guarded("native", std::slice::from_ref(&fine)).severity,
            Severity::Ok
        );
        let off = Finding::error("egress", "the program for what leaves is off");
        let found = guarded("native", &[fine, off]);
        assert_eq!(found.severity, Severity::Error);
        assert_eq!(
            found.finding,
            "guarded in native mode, but: the program for what leaves is off"
        );
    }

    #[test]
    fn pins_without_a_guard_are_no_guard() {
        let severity = |standing| verdict(&standing, &[], &[]).severity;
        assert_eq!(severity(Standing::Stale), Severity::Error);
        assert_eq!(
            severity(Standing::Renamed("eth0".to_owned())),
            Severity::Error
        );
        assert_eq!(severity(Standing::Unpinned { link: None }), Severity::Error);
    }
}
