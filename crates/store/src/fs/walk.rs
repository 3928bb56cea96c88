//! A tree of files, many directories in parallel.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use super::Tally;
use super::tasks::{Tasks, work_off};
use crate::{Error, Result};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, which is not followed.
    Link,
    /// A device, pipe or socket.
    Other,
}

/// One name below the root of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the root; empty for the root itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that it takes on the disk.
    pub allocated: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified: i128,
    /// Permissions.
    pub mode: u32,
}

impl Entry {
    /// What a name is, without following links.
    ///
    /// # Errors
    /// [`Error::Io`] if it is missing or out of reach.
    pub fn of(path: &Path) -> Result<Self> {
        let found = rustix::fs::lstat(path).map_err(|e| Error::io("stat", path, e.into()))?;
        Ok(Self::from_stat(PathBuf::new(), &found))
    }

    pub(super) fn from_stat(path: PathBuf, found: &Stat) -> Self {
        let kind = match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        Self {
            path,
            kind,
            size: found.st_size as u64,
            allocated: found.st_blocks as u64 * 512,
            modified: i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec),
            mode: found.st_mode & 0o7777,
        }
    }

    /// The same under another name.
    pub(super) fn named(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }
}

/// Everything below `root`, sorted by path, directories before what is in them.
///
/// What cannot be read goes to the failures of `tally`. Memory: about 150 B a name.
///
/// # Errors
/// [`Error::Io`] if `root` itself cannot be read.
pub fn walk(root: &Path, threads: usize, tally: &Tally) -> Result<Vec<Entry>> {
    let top = Entry::of(root)?;
    if top.kind != Kind::Directory {
        return Ok(vec![top]);
    }
    // Fails here rather than in the tally: nothing at all could be done.
    drop(fs::read_dir(root).map_err(|e| Error::io("list", root, e))?);
    let all = Mutex::new(Vec::new());
    let work = |directory: PathBuf, tasks: &Tasks<PathBuf>, (): &mut ()| {
        let entries = list(root, &directory, tally);
        let below = entries.iter().filter(|e| e.kind == Kind::Directory);
        tasks.push(below.map(|entry| entry.path.clone()));
        if let Ok(mut all) = all.lock() {
            all.extend(entries);
        }
    };
    work_off(PathBuf::new(), threads, || (), work);
    let mut all = all.into_inner().unwrap_or_default();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// The names in one directory of a tree.
fn list(root: &Path, directory: &Path, tally: &Tally) -> Vec<Entry> {
    let place = root.join(directory);
    let mut found = Vec::new();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, &place, flags, Mode::empty());
    let opened = opened.and_then(|handle| Ok((Dir::read_from(&handle)?, handle)));
    let (entries, handle) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            tally.fail(place.clone(), Error::io("list", &place, e.into()));
            return found;
        }
    };
    for entry in entries {
        let known = entry.and_then(|entry| match entry.file_name().to_bytes() {
            b"." | b".." => Ok(None),
            name => {
                let stat = statat(&handle, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(Some(Entry::from_stat(directory.join(OsStr::from_bytes(name)), &stat)))
            }
        });
        match known {
            Ok(entry) => found.extend(entry),
            // Gone between listing and looking: as if it had never been there.
            Err(Errno::NOENT) => {}
            Err(e) => tally.fail(place.clone(), Error::io("stat a name in", &place, e.into())),
        }
    }
    found
}
