//! `firewall generate`: man pages and completions for shells, made of what can be typed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Commands of the administrator.
const SECTION: &str = "8";
const MANUAL: &str = "Firewall";

/// The shells, and what each calls a file with completions for `firewall`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "firewall"),
    (Shell::Zsh, "_firewall"),
    (Shell::Fish, "firewall.fish"),
];

/// Writes `man/*.8`, a page for each command, and `completions/{bash,zsh,fish}/`.
pub(crate) fn run(command: Command, directory: &Path) -> Result<()> {
    // Pages of `help` would only repeat the others.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let pages = directory.join("man");
    fs::create_dir_all(&pages).with_context(|| format!("creating {}", pages.display()))?;
    let source = command.render_version().trim().to_owned();
    write_pages(&command, &source, &pages)?;
    for (shell, file) in COMPLETIONS {
        let folder = directory.join("completions").join(shell.to_string());
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "firewall", &mut text);
        write(&folder.join(file), &text)?;
    }
    Ok(())
}

/// Writes the page of `command`, and of all that is below it.
fn write_pages(command: &Command, source: &str, directory: &Path) -> Result<()> {
    for below in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        write_pages(below, source, directory)?;
    }
    let page = Man::new(command.clone())
        .section(SECTION)
        .source(source)
        .manual(MANUAL);
    let mut text = Vec::new();
    page.render(&mut text)?;
    write(&directory.join(page.get_filename()), &text)
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
