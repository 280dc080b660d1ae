//! The tools of a purpose: those of the system where it has them, unpacked ones otherwise.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Options,
    apt::Apt,
    purpose::{Purpose, TOOLS, Tool},
    system::System,
    toolchain::below_tools,
    unpack::Root,
    wrapper::{self, Wrapper},
};
use crate::{
    paths::{Workspace, is_executable, multiarch, which},
    shell,
};

/// Where the tools are unpacked to, below `target/tools`.
const ROOT: &str = "debian/tools";

/// The tools that are set up: each with the file that its link or wrapper in `target/tools/bin` leads to.
pub(super) type Places = BTreeMap<String, PathBuf>;

/// The tools that `purposes` take.
pub(super) fn needed(purposes: &[Purpose]) -> impl Iterator<Item = &'static Tool> {
    TOOLS.iter().filter(|tool| {
        tool.purposes
            .iter()
            .any(|purpose| purposes.contains(purpose))
    })
}

/// Whether `tool` is set up and still there.
pub(super) fn is_ready(workspace: &Workspace, places: &Places, tool: &Tool) -> bool {
    places
        .get(tool.command)
        .is_some_and(|place| is_executable(place))
        && check(tool, &workspace.bin().join(tool.command)).is_ok()
}

/// Sets up the tools of `purposes`, and again those of `former` runs, since they share one place.
pub(super) fn set_up(
    workspace: &Workspace,
    system: &System,
    purposes: &[Purpose],
    former: &Places,
    options: Options,
) -> Result<Places> {
    shell::title("tools for tests, demonstration and measurements, out of Debian's packages");
    let wanted: Vec<&Tool> = TOOLS
        .iter()
        .filter(|tool| {
            needed(purposes).any(|needed| needed.command == tool.command)
                || former.contains_key(tool.command)
        })
        .collect();
    let mut places = Places::new();
    let mut missing = Vec::new();
    for tool in wanted {
        let installed = which(tool.command, &workspace.bin())
            .filter(|program| !options.unpack_all && check(tool, program).is_ok());
        match installed {
            Some(program) => {
                wrapper::link(&program, &workspace.bin().join(tool.command))?;
                places.insert(tool.command.to_owned(), program);
            }
            None => {
                shell::note(&format!(
                    "{:<15} {} (package {})",
                    tool.command, tool.why, tool.package
                ));
                missing.push(tool);
            }
        }
    }
    if !missing.is_empty() {
        unpack(workspace, system, &missing, options)?;
        if let Err(error) = wrap_all(workspace, &missing, &mut places) {
            // Somebody has removed files, or a package was replaced by one that fits no longer.
            shell::note(&format!("{error:#}; unpacking all tools again"));
            root(workspace).clear()?;
            unpack(workspace, system, &missing, options)?;
            wrap_all(workspace, &missing, &mut places)?;
        }
    }
    Ok(places)
}

/// Writes the wrappers of the unpacked tools, and tries them.
fn wrap_all(workspace: &Workspace, unpacked: &[&Tool], places: &mut Places) -> Result<()> {
    for tool in unpacked {
        let program = wrap(workspace, tool)?;
        check(tool, &workspace.bin().join(tool.command)).with_context(|| {
            format!(
                "{} of the package {} does not run",
                tool.command, tool.package
            )
        })?;
        places.insert(tool.command.to_owned(), program);
    }
    Ok(())
}

/// Fetches the packages of `missing` tools.
fn unpack(
    workspace: &Workspace,
    system: &System,
    missing: &[&Tool],
    options: Options,
) -> Result<()> {
    if !system.has_apt() {
        let commands: Vec<_> = missing.iter().map(|tool| tool.command).collect();
        bail!(
            "{} has no apt to fetch these with: {}",
            system.name(),
            commands.join(", ")
        );
    }
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut apt = Apt::new(
        workspace.tools().join("apt"),
        workspace.logs(),
        options.visible(),
    )?;
    apt.provide(&packages, |_| false, &root(workspace))
}

/// Writes the wrapper of an unpacked tool, and returns where its program is.
fn wrap(workspace: &Workspace, tool: &Tool) -> Result<PathBuf> {
    let root = root(workspace);
    let relative = ["usr/sbin", "usr/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(tool.command))
        .find(|program| is_executable(&root.join(program)))
        .with_context(|| {
            format!(
                "the package {} has no program {}",
                tool.package, tool.command
            )
        })?;
    let data = tool.data.iter().map(|(variable, path)| {
        (
            (*variable).to_owned(),
            Path::new(ROOT).join(path.replace("{multiarch}", &multiarch())),
        )
    });
    let wrapper = Wrapper {
        about: format!(
            "{} of Debian's package {}, unpacked",
            tool.command, tool.package
        ),
        program: Path::new(ROOT).join(&relative),
        interpreter: tool.interpreter.map(|path| interpreter(&root, path)),
        library_dirs: below_tools(ROOT, root.library_dirs()),
        data: data.collect(),
    };
    wrapper.write(&workspace.bin().join(tool.command))?;
    Ok(root.join(relative))
}

/// Where the interpreter at `path` below `/` is: in `root` if apt had to fetch it, otherwise the system's, which apt
/// counted on. Not whatever comes first on `PATH`: scripts and modules are made for the one of their own release.
fn interpreter(root: &Root, path: &str) -> PathBuf {
    if is_executable(&root.join(path)) {
        Path::new(ROOT).join(path)
    } else {
        Path::new("/").join(path)
    }
}

/// Starts a tool to see whether it finds its libraries. What a program thinks of its arguments does not matter:
/// xdp-filter has none with which it succeeds without doing anything. A script that lacks modules only fails.
fn check(tool: &Tool, program: &Path) -> Result<()> {
    let output = Command::new(program)
        .args(tool.check)
        .stdin(Stdio::null())
        .output()?;
    match output.status.code() {
        Some(0) => Ok(()),
        // 126 and 127 are what the shell and the loader exit with when they cannot run a program.
        Some(code) if !matches!(code, 126 | 127) && tool.interpreter.is_none() => Ok(()),
        _ => bail!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

fn root(workspace: &Workspace) -> Root {
    Root::at(workspace.tools().join(ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_share_tools() {
        let both = needed(&[Purpose::Test, Purpose::Demo]).filter(|tool| tool.command == "nginx");
        assert_eq!(both.count(), 1);
        assert_eq!(needed(&[Purpose::Build]).count(), 0);
    }

    #[test]
    fn a_tool_is_ready_only_where_it_was_put() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path());
        let tool = Tool {
            command: "true",
            package: "coreutils",
            purposes: &[],
            why: "",
            check: &[],
            data: &[],
            interpreter: None,
        };
        std::fs::create_dir_all(workspace.bin()).unwrap();
        let mut places = Places::new();
        assert!(
            !is_ready(&workspace, &places, &tool),
            "no run has set it up"
        );
        places.insert("true".to_owned(), "/bin/true".into());
        assert!(!is_ready(&workspace, &places, &tool), "the link is missing");
        wrapper::link(Path::new("/bin/true"), &workspace.bin().join("true")).unwrap();
        assert!(is_ready(&workspace, &places, &tool));
        let broken = Wrapper {
            program: "/nonexistent".into(),
            ..Wrapper::default()
        };
        broken.write(&workspace.bin().join("true")).unwrap();
        assert!(!is_ready(&workspace, &places, &tool), "it does not start");
    }
    #[test]
    fn a_script_runs_by_the_interpreter_that_was_unpacked_or_the_systems() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path().to_owned());
        assert_eq!(interpreter(&root, "bin/sh"), Path::new("/bin/sh"));
        std::fs::create_dir(root.join("bin")).unwrap();
        std::os::unix::fs::symlink("/bin/sh", root.join("bin/sh")).unwrap();
        assert_eq!(interpreter(&root, "bin/sh"), Path::new(ROOT).join("bin/sh"));
    }

    #[test]
    fn a_script_has_to_succeed_and_a_program_to_start() {
        let tool = |command: &'static str, interpreter| Tool {
            command,
            package: "coreutils",
            purposes: &[],
            why: "",
            check: &[],
            data: &[],
            interpreter,
        };
        let fails = Path::new("/bin/false");
        assert!(check(&tool("false", None), fails).is_ok());
        assert!(check(&tool("false", Some("bin/sh")), fails).is_err());
        assert!(check(&tool("true", Some("bin/sh")), Path::new("/bin/true")).is_ok());
    }
}
