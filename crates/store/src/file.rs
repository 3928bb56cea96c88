use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::object::Object;
use crate::{Error, Result, usrbio};

/// One immutable object, read by position.
///
/// Shared freely between threads: there is no cursor. How many reads run at once is the
/// queue depth.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    file: std::fs::File,
    size: u64,
    /// On a 3FS: read through its rings, which FUSE is several times slower than.
    rings: Option<(Arc<Object>, usrbio::blocking::Refused)>,
}

impl File {
    /// Opens `path` for reading and takes its size.
    ///
    /// # Errors
    /// [`Error::Io`] if it is missing, unreadable or a directory.
    pub fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io("stat", path, e))?;
        if metadata.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(Error::io("open", path, source));
        }
        let rings = match usrbio::is_3fs(&file).then(|| file.try_clone()) {
            Some(Ok(copy)) => Some((Arc::new(Object::over(path, copy)?), Default::default())),
            _ => None,
        };
        Ok(Self { path: path.to_path_buf(), file, size: metadata.len(), rings })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The device of the 3FS it lies on, if it does.
    pub fn home(&self) -> Option<u64> {
        self.rings.as_ref().map(|(object, _)| object.device())
    }

    /// Fills all of `buf` from byte `offset`; there is no short read.
    ///
    /// # Errors
    /// [`Error::PastEnd`] if the range passes the end, [`Error::Io`] with the offset otherwise.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.read_through_rings(offset, buf)? {
            return Ok(());
        }
        self.file.read_exact_at(buf, offset).map_err(|source| {
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                let size = self.file.metadata().map_or(self.size, |m| m.len());
                let wanted = buf.len() as u64;
                return Error::PastEnd { path: self.path.clone(), size, offset, wanted };
            }
            Error::Io { action: "read", path: self.path.clone(), offset: Some(offset), source }
        })
    }

    /// False if there are none.
    fn read_through_rings(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let Some((object, refused)) = &self.rings else { return Ok(false) };
        match usrbio::blocking::read(object, refused, &self.path, offset, buf)? {
            None => return Ok(false),
            Some(there) if there == buf.len() => return Ok(true),
            Some(_) => {}
        }
        let size = self.file.metadata().map_or(self.size, |m| m.len());
        Err(Error::PastEnd { path: self.path.clone(), size, offset, wanted: buf.len() as u64 })
    }

    /// Tells the kernel to start reading a range and does not wait: many of these, then
    /// [`File::read_at`], keep many requests in flight from one thread.
    pub fn will_need(&self, offset: u64, length: u64) {
        // Rings pass by the cache that this fills.
        let Some(length) = std::num::NonZero::new(length).filter(|_| self.rings.is_none()) else {
            return;
        };
        // Advice: a file system that takes none only makes the read slower.
        let _ = rustix::fs::fadvise(&self.file, offset, Some(length), rustix::fs::Advice::WillNeed);
    }

    /// Does it lie on a file system of this machine? A map of a remote file stalls without a
    /// limit and dies with the connection; a read returns an error.
    pub fn is_local(&self) -> bool {
        // NFS, SMB and CIFS, FUSE (3FS among them), Lustre, GPFS, Ceph, 9P, AFS: statfs(2).
        const REMOTE: [u64; 10] = [
            0x6969,
            0x517b,
            0xff53_4d42,
            0xfe53_4d42,
            0x6573_5546,
            0x0bd0_0bd0,
            0x4750_4653,
            0x00c3_6400,
            0x0102_1997,
            0x5346_414f,
        ];
        let kind = rustix::fs::fstatfs(&self.file).map(|found| found.f_type as u64 & 0xffff_ffff);
        kind.is_ok_and(|kind| !REMOTE.contains(&kind))
    }

    /// The bytes of a range, in a new buffer.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        if offset.saturating_add(length as u64) > self.size {
            let (path, size) = (self.path.clone(), self.size);
            return Err(Error::PastEnd { path, size, offset, wanted: length as u64 });
        }
        if self.rings.is_some() {
            let mut bytes = vec![0; length];
            self.read_at(offset, &mut bytes)?;
            return Ok(bytes);
        }
        // Not filled with zeros first.
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => {
                    let size = self.file.metadata().map_or(self.size, |m| m.len());
                    let (path, wanted) = (self.path.clone(), length as u64);
                    return Err(Error::PastEnd { path, size, offset, wanted });
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let (path, source) = (self.path.clone(), error.into());
                    return Err(Error::Io { action: "read", path, offset: Some(at), source });
                }
            }
        }
        // There may be room for more than was asked for.
        bytes.truncate(length);
        Ok(bytes)
    }
}
