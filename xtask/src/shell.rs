//! Running other programs: a title, signs of life while they run, and their output when they fail.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, IsTerminal as _, Read, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::interrupt;

/// How often the line on a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(120);

/// How often a long step says that it is alive where the output is not a terminal.
const STILL_RUNNING: Duration = Duration::from_secs(15);

/// Steps that took less leave no line behind.
const WORTH_A_LINE: Duration = Duration::from_secs(1);

/// Lines of a failed program's output that are shown; the log has them all.
const SHOWN_ON_FAILURE: usize = 25;

/// Says what is done now, and why.
pub(crate) fn title(text: &str) {
    eprintln!("==> {text}");
}

/// Adds a detail to what is done now.
pub(crate) fn note(text: &str) {
    for line in text.lines() {
        eprintln!("    {line}");
    }
}

/// Says why the command fails.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Runs a step that may take long, with signs of life; its output goes to `log`.
///
/// Fails, showing the end of the output, if the program cannot be started or exits with an error.
pub(crate) fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    let started = Instant::now();
    let mut log_file =
        File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(log_file, "$ {command:?}")?;

    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", name_of(command)))?;
    let guard = interrupt::guard(&child);
    let (sender, lines) = channel();
    read_lines(child.stdout.take(), sender.clone());
    read_lines(child.stderr.take(), sender);

    let tail = follow(what, started, &lines, &mut log_file)?;
    let status = child.wait()?;
    drop(guard);
    if !status.success() {
        bail!(
            "{what} failed ({status})\nThe end of its output:\n\n{}\n\nAll of it is in {}.",
            tail.into_iter()
                .map(|line| format!("    {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
            log.display()
        );
    }
    if started.elapsed() >= WORTH_A_LINE {
        note(&format!("{what}: done in {}", seconds(started.elapsed())));
    }
    Ok(())
}

/// Runs a short program and returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", name_of(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            name_of(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Shows and logs lines until the program closes its output; returns the last ones.
fn follow(
    what: &str,
    started: Instant,
    lines: &Receiver<String>,
    log: &mut File,
) -> Result<VecDeque<String>> {
    let mut tail = VecDeque::new();
    let mut next_sign = started + STILL_RUNNING;
    let terminal = std::io::stderr().is_terminal();
    let spinner = spinner(what, terminal);
    loop {
        match lines.recv_timeout(REDRAW) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                if !line.trim().is_empty() {
                    spinner.set_message(line.trim().to_owned());
                    tail.push_back(line);
                }
                if tail.len() > SHOWN_ON_FAILURE {
                    tail.pop_front();
                }
            }
            Err(RecvTimeoutError::Timeout) => spinner.tick(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if !terminal && Instant::now() >= next_sign {
            next_sign = Instant::now() + STILL_RUNNING;
            let last = tail.back().map_or("", |line| line.trim());
            note(&format!(
                "{what}: {} so far; {last}",
                seconds(started.elapsed())
            ));
        }
    }
    spinner.finish_and_clear();
    Ok(tail)
}

fn spinner(what: &str, terminal: bool) -> ProgressBar {
    let target = if terminal {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("    {spinner} {prefix} ({elapsed}) {wide_msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::with_draw_target(None, target)
        .with_style(style)
        .with_prefix(what.to_owned())
}

fn read_lines(stream: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let Some(stream) = stream else { return };
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // Compilers may quote source that is not UTF-8, so lines are read as bytes.
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} s", time.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_step_logs_both_streams() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("step.log");
        run("step", &mut sh("echo out; echo err >&2"), &log).unwrap();
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("\nout\n") && log.contains("\nerr\n"), "{log}");
    }

    #[test]
    fn a_failed_step_shows_the_end_of_its_output() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("step.log");
        let error = run("counting", &mut sh("seq 1000 1100; exit 3"), &log)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("counting failed (exit status: 3)"),
            "{error}"
        );
        assert!(
            error.contains("1100") && error.contains("1076") && !error.contains("1075"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = output(&mut Command::new("no-such-command-anywhere")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start no-such-command-anywhere");
    }

    #[test]
    fn a_failed_program_says_what_it_said() {
        let error = output(&mut sh("echo broken >&2; exit 1")).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 1): broken");
    }
}
