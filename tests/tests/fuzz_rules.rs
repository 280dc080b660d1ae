//! Fuzz target: any bytes as a rule file. It is refused with a message that can be shown, or it is compiled (or too large,
//! cleanly), and then decides like the reference, by tables that hold together.
//!
//! `cargo test` runs it briefly; for longer, `cargo bolero test -p firewall-tests --test fuzz_rules any_rule_file`.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use firewall_tests::corpus;
use firewall_tests::policy::{Counted, Policy};
use firewall_tests::reference;
use firewall_user::rules::compile::CompileError;
use firewall_user::rules::model::Terms;
use firewall_user::rules::{self, Severity};

const ITERATIONS: usize = 4_000;

/// What the files that are changed start from.
const FILES: [&str; 7] = [
    include_str!("../../rules/application.toml"),
    include_str!("../../rules/db-primary.toml"),
    include_str!("../../rules/db-replica.toml"),
    include_str!("../../rules/load-balancer.toml"),
    include_str!("../../rules/monitoring.toml"),
    include_str!("../../rules/web.toml"),
    "version = 1\n",
];

/// What is put into them.
const TOKENS: [&str; 51] = [
    "[[rule]]\n",
    "[groups]\n",
    "[defaults]\n",
    "[essentials]\n",
    "[flows]\nsize = 4096\n",
    "[flows.timeouts]\nudp = \"5m\"\n",
    "tcp-established = 0\n",
    "version = 1\n",
    "name = \"new\"\n",
    "action = \"accept\"\n",
    "action = \"drop\"\n",
    "[[rule]]\nname = \"any\"\naction = \"accept\"\n",
    "direction = \"egress\"\n",
    "protocol = \"tcp\"\n",
    "protocol = \"udp\"\n",
    "protocol = \"icmp\"\n",
    "protocol = \"icmpv6\"\n",
    "protocol = \"sctp\"\n",
    "protocol = 47\n",
    "protocol = 256\n",
    "ports = [80, \"1000-1010\"]\n",
    "ports = [\"9-1\"]\n",
    "ports = []\n",
    "ports = [\"ssh\", 22]\n",
    "from = [\"0.0.0.0/0\"]\n",
    "from = [\"::/0\"]\n",
    "from = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n",
    "from = []\n",
    "to = [\"198.51.100.1\"]\n",
    "to = [\"nowhere\"]\n",
    "icmp-types = [\"echo-request\", 13]\n",
    "icmp-types = [256]\n",
    "tcp-flags = { set = [\"syn\"], clear = [\"ack\"] }\n",
    "tcp-flags = {}\n",
    "a = [\"b\"]\nb = [\"a\"]\n",
    "c = []\n",
    "d = { file = \"missing.txt\" }\n",
    "ingress = \"accept\"\n",
    "arp = false\n",
    "log = true\n",
    "comment = \"\"\"\n\"\"\"\n",
    "\"",
    "[",
    "]",
    "{",
    "=",
    ",",
    "#",
    "\n",
    "\u{feff}",
    "\u{2028}é\u{0}",
];

#[test]
fn any_rule_file() {
    let (read, compiled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    bolero::check!()
        .with_iterations(ITERATIONS)
        .with_max_len(200)
        .for_each(|input: &[u8]| {
            let text = text_from(input);
            read.fetch_add(1, Relaxed);
            match rules::parse("fuzz.toml", &text, Path::new("/nonexistent")) {
                Err(report) => {
                    let errors = report
                        .diagnostics()
                        .filter(|diagnostic| diagnostic.severity() == Severity::Error);
                    assert!(errors.count() > 0, "refused without an error:\n{text}");
                    assert!(!report.render(false, 80).is_empty());
                }
                Ok(loaded) => match Policy::new(loaded.rule_set) {
                    Ok(policy) => {
                        compiled.fetch_add(1, Relaxed);
                        assert_decides(&without_terms(policy), input, &text);
                    }
                    Err(error) => assert!(error.is::<CompileError>(), "{error:?}"),
                },
            }
        });
    let (read, compiled) = (read.into_inner(), compiled.into_inner());
    println!("{compiled} of {read} rule files were right");
    assert!(
        compiled > read / 20,
        "only {compiled} of {read}: the tables are hardly tested"
    );
}

/// The policy without limits and bans, of which the reference knows nothing: it has neither clock nor memory.
fn without_terms(policy: Policy) -> Policy {
    let rules = &policy.rule_set.rules;
    if rules.iter().all(|rule| rule.terms.is_empty()) {
        return policy;
    }
    let mut rule_set = policy.rule_set.clone();
    for rule in &mut rule_set.rules {
        rule.terms = Terms::default();
    }
    Policy::new(rule_set)
        .unwrap_or_else(|error| panic!("it is less, and does not compile: {error:?}"))
}

/// A few frames of the corpus, others for each input.
fn assert_decides(policy: &Policy, input: &[u8], text: &str) {
    let first = input.iter().map(|&byte| usize::from(byte)).sum::<usize>() % 61;
    for case in corpus::ALL.iter().skip(first).step_by(61) {
        let effect = policy.decide(&case.frame);
        let expected = reference::decide(&policy.rule_set, &case.frame);
        let counted: Vec<Counted> = policy
            .meaning(&effect)
            .into_iter()
            .map(|(counted, _)| counted)
            .collect();
        let found = (effect.decision.accepts(), counted);
        assert_eq!(
            found,
            (expected.accepts, expected.counted),
            "{} under\n{text}",
            case.name
        );
    }
}

/// A text from a fuzzer's bytes: they are the text, or say which file is changed, and how.
fn text_from(input: &[u8]) -> String {
    let Some((&choice, rest)) = input.split_first() else {
        return String::new();
    };
    if choice % 8 == 7 {
        return String::from_utf8_lossy(rest).into_owned();
    }
    let mut lines: Vec<String> = FILES[usize::from(choice % 8)]
        .lines()
        .map(|line| format!("{line}\n"))
        .collect();
    let edits = rest.as_chunks::<3>().0;
    for &[kind, at, value] in edits.iter().take(1 + usize::from(choice / 8) % 6) {
        let at = usize::from(at) % lines.len();
        let token = TOKENS[usize::from(value) % TOKENS.len()];
        match kind % 6 {
            0 => lines.insert(at, token.to_owned()),
            1 => lines[at] = token.to_owned(),
            2 if lines.len() > 1 => drop(lines.remove(at)),
            3 => {
                let other = usize::from(value) % lines.len();
                lines.swap(at, other);
            }
            4 => {
                let column = lines[at]
                    .char_indices()
                    .map(|(column, _)| column)
                    .nth(usize::from(value) % 40);
                lines[at].insert_str(
                    column.unwrap_or(0),
                    TOKENS[usize::from(kind) % TOKENS.len()],
                );
            }
            _ => {
                let line = lines[at].clone();
                lines.insert(at, line);
            }
        }
    }
    lines.concat()
}
