//! `cargo xtask test`: set-up, then every test, then what it comes to in one line.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    build, interrupt,
    paths::Workspace,
    setup::{self, Options, Purpose},
    shell,
};

/// Names the `firewall` that the tests run. Without it they build one, into the target directory that they lie in.
const BINARY_VARIABLE: &str = "FIREWALL_BIN";

/// Names the file in which a test that cannot run here says why, a line each.
const SKIPS_VARIABLE: &str = "FIREWALL_TEST_SKIPS";

/// Packages without a host target. They are tested through firewall-common and the loaded programs.
const EBPF_PACKAGES: [&str; 2] = ["firewall-ebpf", "firewall-bench-ebpf"];

/// Set up and run every test, those in network namespaces included
///
/// Tests that take root say so and are skipped without it. Arguments go to `cargo test`: the name of a test,
/// `--package firewall-user`, or `-- --nocapture`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// What to pass to `cargo test`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    arguments: Vec<String>,
}

impl Test {
    pub(super) fn run(self) -> Result<()> {
        let workspace = Workspace::locate()?;
        setup::ensure(
            &workspace,
            &[Purpose::Build, Purpose::Test],
            Options::from_environment()?,
        )?;
        shell::title("building and running the tests");
        let started = Instant::now();
        let skips = workspace
            .logs()
            .join(format!("skips-{}", std::process::id()));
        let result = run(self.command(&workspace)?.env(SKIPS_VARIABLE, &skips));
        let skipped = take_lines(&skips);
        let (status, tally) = result?;

        for reason in &skipped {
            shell::note(&format!("skipped: {reason}"));
        }
        let sum = tally.sentence(skipped.len(), started.elapsed().as_secs());
        if !status.success() {
            bail!("{sum} (cargo test: {status})");
        }
        shell::title(&sum);
        Ok(())
    }

    fn command(&self, workspace: &Workspace) -> Result<Command> {
        let mut command = build::cargo(workspace);
        command.args(["test", "--no-fail-fast"]);
        let for_cargo = || {
            self.arguments
                .iter()
                .take_while(|argument| *argument != "--")
        };
        let names_package = for_cargo().any(|argument| {
            argument.starts_with("-p")
                || argument.starts_with("--package")
                || argument == "--workspace"
        });
        if !names_package {
            command.arg("--workspace");
            for package in EBPF_PACKAGES {
                command.args(["--exclude", package]);
            }
        }
        if !for_cargo().any(|argument| argument.starts_with('-')) {
            // The whole workspace has the command among its targets, as new as the tests themselves.
            let firewall = build::target_directory(workspace)?.join("debug/firewall");
            command.env(BINARY_VARIABLE, firewall);
        }
        command.args(&self.arguments);
        Ok(command)
    }
}

/// Runs cargo, passing on its output, and adds up what it says.
fn run(command: &mut Command) -> Result<(ExitStatus, Tally)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start cargo")?;
    let guard = interrupt::guard(&child);
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        let mut shown = io::stdout().lock();
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            tally.add(&String::from_utf8_lossy(&line));
            shown.write_all(&line)?;
            shown.write_all(b"\n")?;
            shown.flush()?;
        }
    }
    let status = child.wait()?;
    drop(guard);
    Ok((status, tally))
}

/// What cargo's result lines add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    suites: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; ...`; any other is passed over.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|result| result.split_once(". "))
        else {
            return;
        };
        self.suites += 1;
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn sentence(&self, skipped: usize, seconds: u64) -> String {
        let Self {
            suites,
            passed,
            failed,
            ignored,
        } = self;
        // A skipped test ends well as far as cargo knows.
        let really_passed = passed.saturating_sub(skipped as u64);
        format!(
            "tests in {suites} suites: {really_passed} passed, {failed} failed, {skipped} skipped, \
             {ignored} ignored; {seconds} s"
        )
    }
}

/// The lines of a file, which is then removed; none if there is no such file.
fn take_lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    // Not there when nothing was skipped.
    let _ = fs::remove_file(file);
    text.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test parse::tests::works ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.add(line);
        }
        let expected = Tally {
            suites: 2,
            passed: 4,
            failed: 2,
            ignored: 1,
        };
        assert_eq!(tally, expected);
        assert_eq!(
            tally.sentence(3, 9),
            "tests in 2 suites: 1 passed, 2 failed, 3 skipped, 1 ignored; 9 s"
        );
    }

    #[test]
    fn reasons_for_skipping_are_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("skips");
        fs::write(&file, "one: not root\ntwo: not root\n").unwrap();
        assert_eq!(take_lines(&file), ["one: not root", "two: not root"]);
        assert_eq!(take_lines(&file), [""; 0]);
    }
}
