//! Frames under compiled rules against the reference, which parses them by itself and walks over the rules.

use firewall_tests::policy::{Counted, Policy};
use firewall_tests::{random, reference};
use proptest::prelude::*;
use proptest::test_runner::{FailurePersistence, FileFailurePersistence};

/// Rule sets of each test; there are two so that they run beside each other.
const CASES: u32 = 5_000;
const FRAMES: usize = 10;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn tables_decide_like_the_reference(rule_set in random::rule_set(), frames in frames()) {
        same(rule_set, &frames)?;
    }

    #[test]
    fn tables_decide_like_the_reference_too(rule_set in random::rule_set(), frames in frames()) {
        same(rule_set, &frames)?;
    }
}

/// What failed once is kept beside this package and tried first from then on.
fn config() -> ProptestConfig {
    const FAILURES: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proptest-regressions/compile.txt"
    );
    let failure_persistence: Option<Box<dyn FailurePersistence>> =
        Some(Box::new(FileFailurePersistence::Direct(FAILURES)));
    ProptestConfig {
        cases: CASES,
        failure_persistence,
        ..ProptestConfig::default()
    }
}

fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(random::frame(), FRAMES)
}

fn same(
    rule_set: firewall_user::rules::model::RuleSet,
    frames: &[Vec<u8>],
) -> Result<(), TestCaseError> {
    let policy = Policy::new(rule_set).map_err(|error| TestCaseError::fail(error.to_string()))?;
    for frame in frames {
        let effect = policy.decide(frame);
        let expected = reference::decide(&policy.rule_set, frame);
        let counted: Vec<Counted> = policy
            .meaning(&effect)
            .into_iter()
            .map(|(counted, _)| counted)
            .collect();
        prop_assert_eq!(
            (effect.decision.accepts(), counted),
            (expected.accepts, expected.counted),
            "{:02x?}",
            frame
        );
        prop_assert!(
            effect
                .counted
                .iter()
                .all(|(_, bytes)| *bytes as usize == frame.len()),
            "{:?}",
            effect
        );
    }
    Ok(())
}
