//! An object that a queue reads or writes: a file or device, with what direct I/O asks of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};

use crate::{Error, Result};

/// What will be done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    Read,
    /// Only write, into what exists.
    Write,
    /// Both.
    ReadWrite,
    /// Write into a new file; one that exists is an error.
    Create,
}

/// Whether the page cache is passed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// Through the page cache.
    Off,
    /// Directly where the file system can, through the page cache elsewhere.
    Try,
    /// Directly, or an error that says why not.
    Require,
}

/// What offset, length and address of a direct request must be multiples of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alignment {
    /// Of the buffer's address.
    pub memory: u64,
    /// Of offset and length.
    pub offset: u64,
    /// The kernel said so (`STATX_DIOALIGN`); otherwise a page was assumed, and the file system
    /// may well take a direct request through the page cache.
    pub reported: bool,
}

/// Assumed where the kernel does not say: no block device wants more.
const ASSUMED: Alignment = Alignment { memory: 4096, offset: 4096, reported: false };

/// An open file or block device, or bytes in memory.
#[derive(Debug)]
pub struct Object {
    path: PathBuf,
    pub(crate) bytes: Bytes,
    size: u64,
    device: u64,
    direct: Option<Alignment>,
}

#[derive(Debug)]
pub(crate) enum Bytes {
    File(File),
    /// For tests of what stands on a queue.
    Memory(RwLock<Vec<u8>>),
}

impl Object {
    /// Opens `path`, directly if asked and possible.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::NotDirect`] if [`Direct::Require`] cannot be.
    pub fn open(path: &Path, access: Access, direct: Direct) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(matches!(access, Access::Read | Access::ReadWrite));
        options.write(access != Access::Read);
        options.create_new(access == Access::Create);
        let action = if access == Access::Create { "create" } else { "open" };
        let opened = match direct {
            Direct::Off => None,
            Direct::Try | Direct::Require => {
                let flag = OFlags::DIRECT.bits() as i32;
                match options.clone().custom_flags(flag).open(path) {
                    Ok(file) => Some(file),
                    // What a file system answers that has no direct I/O.
                    Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                        if access == Access::Create {
                            // It made the file before it looked at the flag.
                            let _ = std::fs::remove_file(path);
                        }
                        if direct == Direct::Require {
                            return Err(Error::NotDirect { path: path.to_path_buf() });
                        }
                        None
                    }
                    Err(e) => return Err(Error::io(action, path, e)),
                }
            }
        };
        let is_direct = opened.is_some();
        let file = match opened {
            Some(file) => file,
            None => options.open(path).map_err(|e| Error::io(action, path, e))?,
        };
        let mut object = Self::over(path, file)?;
        if is_direct {
            object.direct = Some(object.alignment());
        }
        Ok(object)
    }

    /// Takes over a file that somebody opened, through the page cache.
    ///
    /// # Errors
    /// [`Error::Io`] if its size cannot be found, also when it is a directory.
    pub fn over(path: &Path, file: File) -> Result<Self> {
        let metadata = file.metadata().map_err(|e| Error::io("stat", path, e))?;
        if metadata.is_dir() {
            return Err(Error::io("open", path, io::ErrorKind::IsADirectory.into()));
        }
        let size = if metadata.file_type().is_block_device() {
            (&file).seek(SeekFrom::End(0)).map_err(|e| Error::io("seek", path, e))?
        } else {
            metadata.len()
        };
        let path = path.to_path_buf();
        Ok(Self { path, bytes: Bytes::File(file), size, device: metadata.dev(), direct: None })
    }

    /// Bytes in memory under a name; only the memory back end can read them.
    pub fn in_memory(name: &str, bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        let bytes = Bytes::Memory(RwLock::new(bytes));
        Self { path: name.into(), bytes, size, device: 0, direct: None }
    }

    /// What the kernel says about direct I/O on this file.
    fn alignment(&self) -> Alignment {
        let Bytes::File(file) = &self.bytes else { return ASSUMED };
        let Ok(found) = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else {
            return ASSUMED;
        };
        let known = found.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        let (memory, offset) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
        if !known || memory == 0 || offset == 0 {
            return ASSUMED;
        }
        Alignment { memory: memory.into(), offset: offset.into(), reported: true }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Length in bytes now.
    pub fn size_now(&self) -> u64 {
        match &self.bytes {
            Bytes::File(file) => file.metadata().map_or(self.size, |m| {
                m.len().max({
                    // A block device has no length of its own.
                    if m.file_type().is_block_device() { self.size } else { 0 }
                })
            }),
            Bytes::Memory(bytes) => bytes.read().map_or(self.size, |b| b.len() as u64),
        }
    }

    /// Number of the device that holds it.
    pub fn device(&self) -> u64 {
        self.device
    }

    /// What direct requests must be aligned to; `None` if they go through the page cache.
    pub fn direct(&self) -> Option<Alignment> {
        self.direct
    }

    /// The file, for what is no transfer: sync, allocation, advice. `None` if it is in memory.
    pub fn file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::File(file) => Some(file),
            Bytes::Memory(_) => None,
        }
    }

    /// Waits until what was written is durable.
    ///
    /// # Errors
    /// [`Error::Io`], which may be about an earlier write.
    pub fn sync(&self) -> Result<()> {
        match self.file() {
            Some(file) => {
                let synced = file.sync_all().and_then(|()| match crate::usrbio::is_3fs(file) {
                    // What was written through rings shows in its length only then.
                    true => crate::usrbio::control::exact_length(file).map(|_| ()),
                    false => Ok(()),
                });
                synced.map_err(|e| Error::io("sync", &self.path, e))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_object() {
        let dir = tempfile::tempdir().unwrap();
        let error = Object::open(dir.path(), Access::Read, Direct::Off).unwrap_err();
        assert!(error.to_string().contains("open"), "{error}");
    }

    #[test]
    fn creating_does_not_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("object");
        drop(Object::open(&path, Access::Create, Direct::Try).unwrap());
        assert!(Object::open(&path, Access::Create, Direct::Try).is_err());
    }

    #[test]
    fn what_has_no_direct_io_says_so() {
        // procfs has none, on every kernel.
        let path = Path::new("/proc/self/status");
        assert!(Object::open(path, Access::Read, Direct::Try).unwrap().direct().is_none());
        let error = Object::open(path, Access::Read, Direct::Require).unwrap_err();
        assert!(matches!(error, Error::NotDirect { .. }), "{error}");
    }
}
