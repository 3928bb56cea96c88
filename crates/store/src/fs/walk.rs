//! A tree of files, level by level, each level's directories in parallel.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Tally, in_parallel};
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
        let found = fs::symlink_metadata(path).map_err(|e| Error::io("stat", path, e))?;
        Ok(Self::from_metadata(PathBuf::new(), &found))
    }

    fn from_metadata(path: PathBuf, found: &fs::Metadata) -> Self {
        let kind = match found.file_type() {
            t if t.is_file() => Kind::File,
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        Self {
            path,
            kind,
            size: found.len(),
            allocated: found.blocks() * 512,
            modified: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
            mode: found.mode() & 0o7777,
        }
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
    let mut all = Vec::new();
    let mut level = vec![PathBuf::new()];
    while !level.is_empty() {
        let found = Mutex::new(Vec::new());
        in_parallel(&level, threads, |directory| {
            let entries = list(root, directory, tally);
            if let Ok(mut found) = found.lock() {
                found.extend(entries);
            }
        });
        let found = found.into_inner().unwrap_or_default();
        let below = found.iter().filter(|e| e.kind == Kind::Directory);
        level = below.map(|entry| entry.path.clone()).collect();
        all.extend(found);
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// The names in one directory of a tree.
fn list(root: &Path, directory: &Path, tally: &Tally) -> Vec<Entry> {
    let place = root.join(directory);
    let mut found = Vec::new();
    let entries = match fs::read_dir(&place) {
        Ok(entries) => entries,
        Err(e) => {
            tally.fail(place.clone(), Error::io("list", &place, e));
            return found;
        }
    };
    for entry in entries {
        let known =
            entry.and_then(|entry| Ok((directory.join(entry.file_name()), entry.metadata()?)));
        match known {
            Ok((path, metadata)) => found.push(Entry::from_metadata(path, &metadata)),
            // Gone between listing and looking: as if it had never been there.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => tally.fail(place.clone(), Error::io("stat a name in", &place, e)),
        }
    }
    found
}
