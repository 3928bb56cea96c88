//! A file is published whole or not at all: temporary name, fsync, rename, fsync of the directory.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Temporary names end so; whoever finds one after a crash may delete it.
const SUFFIX: &str = ".tmp";

/// What tells temporary names apart: two machines may be writing the same file at once.
static UNIQUE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file being written under a temporary name. Dropped unpublished, it is deleted.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<fs::File>,
    written: u64,
}

impl NewFile {
    /// Starts a file beside `target`, under a name that nobody else has.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory is missing or not writable.
    pub fn create(target: &Path) -> Result<Self> {
        let mut temporary = target.as_os_str().to_owned();
        let number = UNIQUE.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        temporary.push(format!(".{number:016x}{SUFFIX}"));
        let temporary = PathBuf::from(temporary);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|e| Error::io("create", &temporary, e))?;
        Ok(Self { target: target.to_path_buf(), temporary, file: Some(file), written: 0 })
    }

    /// Goes on with a file that an earlier process began under this temporary name, or begins it.
    /// Nobody else may be writing it.
    ///
    /// # Errors
    /// As [`NewFile::create`].
    pub fn resume(target: &Path, temporary: &Path) -> Result<Self> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(temporary)
            .map_err(|e| Error::io("create", temporary, e))?;
        let (target, temporary) = (target.to_path_buf(), temporary.to_path_buf());
        Ok(Self { target, temporary, file: Some(file), written: 0 })
    }

    /// Leaves the temporary file where it is, to be resumed.
    pub fn keep(mut self) {
        self.temporary = PathBuf::new();
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The name it has now, to check what was written before it is published.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Another handle on the same bytes, for a writer that wants to own one. They share the place
    /// where the next byte goes.
    ///
    /// # Errors
    /// [`Error::Io`] if the process is out of descriptors.
    pub fn handle(&self) -> Result<fs::File> {
        let published = || io::Error::other("already published");
        let file = self.file.as_ref().ok_or_else(published);
        file.and_then(fs::File::try_clone).map_err(|e| Error::io("open", &self.temporary, e))
    }

    /// Bytes appended so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Io`] with the offset, so also on a full disk.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.written;
        self.write_all(bytes).map_err(|source| Error::Io {
            action: "write",
            path: self.target.clone(),
            offset: Some(written),
            source,
        })
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`]; the target is then what it was before.
    pub fn publish(self) -> Result<()> {
        if let Some(file) = &self.file {
            file.sync_all().map_err(|e| Error::io("sync", &self.temporary, e))?;
        }
        let directory = parent(&self.target);
        self.rename()?;
        sync_dir(&directory)
    }

    /// Gives the file its name without waiting for the disk.
    ///
    /// For scratch files that carry their own checksum: after a power cut they may be torn,
    /// and whoever reads them finds out.
    ///
    /// # Errors
    /// [`Error::Io`] if the rename fails.
    pub fn rename(mut self) -> Result<()> {
        self.file = None;
        let renamed = fs::rename(&self.temporary, &self.target);
        renamed.map_err(|e| Error::io("rename", &self.temporary, e))?;
        self.temporary = PathBuf::new();
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("already published"))?;
        let count = file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            self.file = None;
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Publishes a small file whole.
///
/// # Errors
/// As [`NewFile::publish`].
pub fn publish_bytes(target: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = NewFile::create(target)?;
    file.append(bytes)?;
    file.publish()
}

/// Makes the bytes of a file durable.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened or synced.
pub fn sync(path: &Path) -> Result<()> {
    let file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    file.sync_all().map_err(|e| Error::io("sync", path, e))
}

/// Makes renames and creations in `directory` durable.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be opened or synced.
pub fn sync_dir(directory: &Path) -> Result<()> {
    let handle = fs::File::open(directory).map_err(|e| Error::io("open", directory, e))?;
    handle.sync_all().map_err(|e| Error::io("sync", directory, e))
}

/// Creates `directory` and its parents; one that exists is fine.
///
/// # Errors
/// [`Error::Io`] if it cannot be created, also when a file stands in its place.
pub fn create_dir(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|e| Error::io("create directory", directory, e))
}

/// Left-overs of interrupted writes directly in `directory`.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be listed.
pub fn temporaries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list", directory, e))?.path();
        if path.as_os_str().to_string_lossy().ends_with(SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Where `path` lies.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("shard");
        let mut file = NewFile::create(&target).unwrap();
        file.append(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn publishing_replaces_the_old_file_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("manifest.json");
        publish_bytes(&target, b"one").unwrap();
        let mut file = NewFile::create(&target).unwrap();
        file.append(b"two").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"one");
        file.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert_eq!(temporaries(dir.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
