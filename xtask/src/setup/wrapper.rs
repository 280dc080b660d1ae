//! Scripts in `target/tools/bin` that run a program from where it was unpacked.

use std::{
    fmt::Write as _,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A script that runs a program below `target/tools`, wherever the clone is moved to.
#[derive(Debug, Default)]
pub(super) struct Wrapper {
    /// What the program is, for the reader of the script.
    pub(super) about: String,
    /// The program, relative to `target/tools`, or absolute.
    pub(super) program: PathBuf,
    /// What runs the program if it is a script, in place of what its first line names; likewise.
    pub(super) interpreter: Option<PathBuf>,
    /// Where it finds libraries, relative to `target/tools`.
    pub(super) library_dirs: Vec<PathBuf>,
    /// Variables that point to its data, relative to `target/tools`.
    pub(super) data: Vec<(String, PathBuf)>,
}

impl Wrapper {
    /// The text of the script.
    fn render(&self) -> String {
        let place = |path: &Path| {
            if path.is_absolute() {
                path.display().to_string()
            } else {
                format!("$tools/{}", path.display())
            }
        };
        let mut script = format!(
            "#!/bin/sh\n# Written by `cargo xtask setup`: {}.\n",
            self.about
        );
        // Without readlink or dirname, which would each be a process more for every call of the compiler.
        script.push_str("tools=$(cd -- \"${0%/*}/..\" && pwd -P) || exit 127\n");
        for (variable, path) in &self.data {
            let _ = writeln!(script, "export {variable}=\"{}\"", place(path));
        }
        if !self.library_dirs.is_empty() {
            let places: Vec<_> = self.library_dirs.iter().map(|path| place(path)).collect();
            let _ = writeln!(
                script,
                "export LD_LIBRARY_PATH=\"{}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"",
                places.join(":")
            );
        }
        script.push_str("exec");
        for word in self.interpreter.iter().chain([&self.program]) {
            let _ = write!(script, " \"{}\"", place(word));
        }
        script.push_str(" \"$@\"\n");
        script
    }

    /// Writes the script to `file`, ready to run. Who runs it meanwhile gets the old one or the new one.
    pub(super) fn write(&self, file: &Path) -> Result<()> {
        put(file, |partial| {
            fs::write(partial, self.render())?;
            fs::set_permissions(partial, fs::Permissions::from_mode(0o755))
        })
    }
}

/// Makes `link` lead to `program`, whatever it was before.
pub(super) fn link(program: &Path, link: &Path) -> Result<()> {
    put(link, |partial| symlink(program, partial))
}

/// Lets `make` make a file beside `file`, and puts it in its place.
fn put(file: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let partial = file.with_extension("partial");
    // Left over from a run that was interrupted, or not there.
    let _ = fs::remove_file(&partial);
    make(&partial)
        .and_then(|()| fs::rename(&partial, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::shell;

    #[test]
    fn a_wrapper_names_everything_from_its_own_place() {
        let wrapper = Wrapper {
            about: "nmap".to_owned(),
            program: "debian/tools/usr/bin/nmap".into(),
            library_dirs: vec![
                "debian/tools/usr/lib/a".into(),
                "debian/tools/usr/lib/b".into(),
            ],
            data: vec![("NMAPDIR".to_owned(), "debian/tools/usr/share/nmap".into())],
            ..Wrapper::default()
        };
        assert_eq!(
            wrapper.render(),
            "#!/bin/sh\n\
             # Written by `cargo xtask setup`: nmap.\n\
             tools=$(cd -- \"${0%/*}/..\" && pwd -P) || exit 127\n\
             export NMAPDIR=\"$tools/debian/tools/usr/share/nmap\"\n\
             export LD_LIBRARY_PATH=\"$tools/debian/tools/usr/lib/a:$tools/debian/tools/usr/lib/b\
             ${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\"\n\
             exec \"$tools/debian/tools/usr/bin/nmap\" \"$@\"\n"
        );
    }

    #[test]
    fn a_wrapper_runs_the_program_with_its_arguments_and_follows_a_move() {
        let directory = tempfile::tempdir().unwrap();
        let before = directory.path().join("before and after");
        fs::create_dir_all(before.join("bin")).unwrap();
        let wrapper = Wrapper {
            about: "the shell".to_owned(),
            program: "/bin/sh".into(),
            data: vec![("HERE".to_owned(), "data".into())],
            ..Wrapper::default()
        };
        wrapper.write(&before.join("bin/shell")).unwrap();
        let after = directory.path().join("moved");
        fs::rename(&before, &after).unwrap();
        let mut command = Command::new(after.join("bin/shell"));
        command.args(["-c", "echo $HERE $1", "sh", "two  words"]);
        let here = after.canonicalize().unwrap().join("data");
        assert_eq!(
            shell::output(&mut command).unwrap(),
            format!("{} two words\n", here.display())
        );
    }

    #[test]
    fn a_wrapper_starts_the_interpreter_of_a_script() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        // Nobody may execute it, and what it names is not there.
        fs::write(directory.path().join("script"), "#!/nonexistent\necho $1\n").unwrap();
        let wrapper = Wrapper {
            program: "script".into(),
            interpreter: Some("/bin/sh".into()),
            ..Wrapper::default()
        };
        let file = directory.path().join("bin/tool");
        wrapper.write(&file).unwrap();
        assert_eq!(
            shell::output(Command::new(file).arg("a  word")).unwrap(),
            "a word\n"
        );
    }

    #[test]
    fn a_link_replaces_a_wrapper_and_a_dangling_link() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tool");
        link(Path::new("/nonexistent"), &file).unwrap();
        link(Path::new("/bin/sh"), &file).unwrap();
        assert_eq!(fs::read_link(&file).unwrap(), Path::new("/bin/sh"));
        Wrapper {
            program: "/bin/true".into(),
            ..Wrapper::default()
        }
        .write(&file)
        .unwrap();
        assert!(!file.is_symlink(), "writing must not follow the link");
    }
}
