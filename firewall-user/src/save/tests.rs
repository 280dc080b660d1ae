use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;

const OLD: &[u8] = b"the old file";
const NEW: &[u8] = b"the new file, which is longer than the old one";
const TARGET: &str = "/etc/firewall/rules.toml";

/// A disk on which what was written, and which names there are, is only certain once it is synced. It stops after a number of steps.
#[derive(Clone, Debug)]
struct FailingDisk(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    steps_left: usize,
    steps: usize,
    /// Contents by number of file, and whether they are synced.
    files: Vec<(Vec<u8>, bool)>,
    /// Names as programs see them.
    names: BTreeMap<PathBuf, usize>,
    /// Each change of a name that is not synced yet, in order.
    pending: Vec<(PathBuf, Option<usize>)>,
    /// Names as they are on the disk.
    durable: BTreeMap<PathBuf, usize>,
}

impl FailingDisk {
    fn new(steps_left: usize) -> Self {
        let names = BTreeMap::from([(PathBuf::from(TARGET), 0)]);
        Self(Rc::new(RefCell::new(State {
            steps_left,
            steps: 0,
            files: vec![(OLD.to_vec(), true)],
            durable: names.clone(),
            names,
            pending: Vec::new(),
        })))
    }

    fn step(&self) -> io::Result<std::cell::RefMut<'_, State>> {
        let mut state = self.0.borrow_mut();
        state.steps += 1;
        if state.steps > state.steps_left {
            return Err(io::Error::other("the power failed"));
        }
        Ok(state)
    }

    /// What the target may hold when the power comes back: names may have reached the disk up to any change, in order, and what was
    /// not synced may be there, cut short or empty.
    fn survivors(&self) -> Vec<Option<Vec<u8>>> {
        let state = self.0.borrow();
        let mut survivors = Vec::new();
        for reached in 0..=state.pending.len() {
            let mut names = state.durable.clone();
            for (path, file) in &state.pending[..reached] {
                match file {
                    Some(file) => names.insert(path.clone(), *file),
                    None => names.remove(path),
                };
            }
            let Some(&file) = names.get(Path::new(TARGET)) else {
                survivors.push(None);
                continue;
            };
            let (bytes, synced) = &state.files[file];
            survivors.push(Some(bytes.clone()));
            if !synced {
                survivors.extend([Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec())]);
            }
        }
        survivors
    }
}

impl Disk for FailingDisk {
    fn write(&mut self, path: &Path, bytes: &[u8], _: &Path) -> io::Result<()> {
        let file = {
            let mut state = self.step()?;
            state.files.push((bytes[..bytes.len() / 2].to_vec(), false));
            let file = state.files.len() - 1;
            state.names.insert(path.to_owned(), file);
            state.pending.push((path.to_owned(), Some(file)));
            file
        };
        self.step()?.files[file].0 = bytes.to_vec();
        Ok(())
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let file = state.names[path];
        state.files[file].1 = true;
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let file = state.names.remove(from).expect("it was written");
        state.names.insert(to.to_owned(), file);
        // One change of both names.
        state.pending.push((to.to_owned(), Some(file)));
        Ok(())
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        assert_eq!(folder, Path::new("/etc/firewall"));
        let mut state = self.step()?;
        state.durable = state.names.clone();
        state.pending.clear();
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        state.names.remove(path);
        state.pending.push((path.to_owned(), None));
        Ok(())
    }
}

fn save(disk: &FailingDisk) -> Result<()> {
    write(disk.clone(), Path::new(TARGET), NEW)?.put()
}

#[test]
fn whenever_the_power_fails_the_old_or_the_new_file_is_there() {
    let whole = FailingDisk::new(usize::MAX);
    save(&whole).unwrap();
    let steps = whole.0.borrow().steps;
    assert_eq!(
        whole.survivors(),
        [Some(NEW.to_vec())],
        "after all of it only the new one"
    );
    assert!(steps >= 5, "{steps} steps");
    let mut seen = [false; 2];
    for stops_after in 0..steps {
        let disk = FailingDisk::new(stops_after);
        assert!(save(&disk).is_err());
        for survivor in disk.survivors() {
            match survivor.as_deref() {
                Some(OLD) => seen[0] = true,
                Some(NEW) => seen[1] = true,
                other => panic!("after {stops_after} steps: {other:?}"),
            }
        }
    }
    assert_eq!(seen, [true, true], "both were possible");
}

/// The test can fail: without syncing the file first, half of it may be what is left.
#[test]
fn a_rename_before_the_sync_would_be_found_out() {
    let mut disk = FailingDisk::new(usize::MAX);
    let beside = Path::new("/etc/firewall/.rules.toml.new");
    disk.write(beside, NEW, Path::new(TARGET)).unwrap();
    disk.rename(beside, Path::new(TARGET)).unwrap();
    assert!(disk.survivors().contains(&Some(Vec::new())));
}

#[test]
fn a_file_keeps_its_permissions_and_nothing_is_left_beside() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.toml");
    fs::write(&path, OLD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let names = || fs::read_dir(folder.path()).unwrap().count();

    drop(write(RealDisk, &path, NEW).unwrap());
    assert_eq!(
        (fs::read(&path).unwrap(), names()),
        (OLD.to_vec(), 1),
        "it was not put"
    );
    write(RealDisk, &path, NEW).unwrap().put().unwrap();
    assert_eq!((fs::read(&path).unwrap(), names()), (NEW.to_vec(), 1));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert!(write(RealDisk, &folder.path().join("none.toml"), NEW).is_err());
    assert_eq!(names(), 1);
}

#[test]
fn what_an_editor_puts_around_lines_stays() {
    let saved = |before: &str, text: &str| {
        let saved = as_before(before.as_bytes(), text.as_bytes().to_vec());
        String::from_utf8(saved).unwrap()
    };
    assert_eq!(saved("a\n", "a\nb\n"), "a\nb\n");
    assert_eq!(saved("a\r\nb\r\n", "a\r\nb\r\nc\n"), "a\r\nb\r\nc\r\n");
    assert_eq!(saved("a\r\nb\r\n", "a\nc"), "a\r\nc");
    assert_eq!(saved("\u{feff}a\n", "a\nb\n"), "\u{feff}a\nb\n");
    assert_eq!(
        saved("\u{feff}a\r\n", "\u{feff}a\r\nb\n"),
        "\u{feff}a\r\nb\r\n"
    );
    assert_eq!(saved("", "a\n"), "a\n");
}
