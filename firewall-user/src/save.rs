//! Saving a file so that whatever stops us, a signal or the power, either the old or the new one is there, whole: it is written
//! beside the old one, synced, and renamed over it, and then the folder is synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::rules::BYTE_ORDER_MARK;

/// What is done to a disk. Tests have one whose power can fail.
pub(crate) trait Disk {
    /// Writes `bytes` to a new file at `path`, in the place of what is there, with owner and permissions of the file `like`.
    fn write(&mut self, path: &Path, bytes: &[u8], like: &Path) -> io::Result<()>;
    /// Has what was written to the file at `path` on the disk.
    fn sync(&mut self, path: &Path) -> io::Result<()>;
    /// Gives a file another name, in the place of what has it.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;
    /// Has the names in `folder` on the disk.
    fn sync_folder(&mut self, folder: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug)]
pub(crate) struct RealDisk;

/// A file that is written and not yet in its place.
#[derive(Debug)]
pub(crate) struct Written<D: Disk> {
    disk: D,
    beside: PathBuf,
    target: PathBuf,
    is_in_place: bool,
}

/// Puts `bytes` into a file of this program's own, at `path`, which nobody else reads; the file and its folder are made where there are
/// none.
///
/// # Errors
///
/// It cannot be written; what was there is untouched.
pub(crate) fn own(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file without a folder")?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("making {}", folder.display()))?;
    // The new file gets owner and permissions of the old one. An empty one is none that can be read, so it is not left there.
    if !path.exists() {
        let mut file = OpenOptions::new();
        let made = file.write(true).create_new(true).mode(0o600).open(path);
        let made = made.and_then(|mut file| file.write_all(b"{}"));
        made.with_context(|| format!("making {}", path.display()))?;
    }
    write(RealDisk, path, bytes)?.put()
}

/// `text` with what an editor has put around the lines of the text `before`: carriage returns, and the mark at the start of a file.
pub(crate) fn as_before(before: &[u8], text: Vec<u8>) -> Vec<u8> {
    let first_line = memchr::memchr(b'\n', before).map(|end| &before[..end]);
    let returns = first_line.is_some_and(|line| line.ends_with(b"\r"));
    let is_marked = before.starts_with(BYTE_ORDER_MARK) && !text.starts_with(BYTE_ORDER_MARK);
    if !returns && !is_marked {
        return text;
    }
    let mut made = if is_marked {
        BYTE_ORDER_MARK.to_vec()
    } else {
        Vec::new()
    };
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) if returns && !line.ends_with(b"\r") => {
                made.extend_from_slice(line);
                made.extend_from_slice(b"\r\n");
            }
            _ => made.extend_from_slice(line),
        }
    }
    made
}

/// Writes what is to be in the file at `path`, beside it.
///
/// # Errors
///
/// There is no such file, or it cannot be written there; the old one is untouched.
pub(crate) fn write<D: Disk>(mut disk: D, path: &Path, bytes: &[u8]) -> Result<Written<D>> {
    let name = path.file_name().context("a file without a name")?;
    let beside = path.with_file_name(format!(".{}.new", name.display()));
    let written = disk
        .write(&beside, bytes, path)
        .and_then(|()| disk.sync(&beside));
    let written = written.with_context(|| format!("writing {}", beside.display()));
    let file = Written {
        disk,
        beside,
        target: path.to_owned(),
        is_in_place: false,
    };
    written.map(|()| file)
}

impl<D: Disk> Written<D> {
    /// Puts it in its place.
    ///
    /// # Errors
    ///
    /// The old one is there still, or nobody knows which of them is after the power has failed.
    pub(crate) fn put(mut self) -> Result<()> {
        let folder = self.target.parent().unwrap_or(Path::new("."));
        let put = self.disk.rename(&self.beside, &self.target);
        put.with_context(|| format!("replacing {}", self.target.display()))?;
        self.is_in_place = true;
        let synced = self.disk.sync_folder(folder);
        synced.with_context(|| format!("syncing {}", folder.display()))
    }
}

impl<D: Disk> Drop for Written<D> {
    fn drop(&mut self) {
        if !self.is_in_place {
            // What stays there is overwritten by the next one.
            let _ = self.disk.remove(&self.beside);
        }
    }
}

impl Disk for RealDisk {
    fn write(&mut self, path: &Path, bytes: &[u8], like: &Path) -> io::Result<()> {
        let like = fs::metadata(like)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // It is new, so that nobody else has it open, and no link leads elsewhere.
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
        file.set_permissions(like.permissions())?;
        file.write_all(bytes)
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        File::open(folder)?.sync_all()
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests;
