//! Whole objects: parts at once, complete or not there at all, read back when asked.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::body::{Body, pieces};
use super::client::{Entry, Remote, lock};
use super::stream::Stream;
use crate::{Error, Result};

/// Bytes of a ranged read and of a part of an upload; S3 takes 10,000 parts of an object.
pub(super) const PART: u64 = 8 << 20;
pub(super) const MOST_PARTS: u64 = 10_000;

/// Parts of one object at once; the gate may allow fewer.
const AT_ONCE: usize = 8;

/// What is read from the network before it goes to the disk: small enough to stay in the cache.
pub(super) const PIECE: usize = 256 << 10;

impl Remote {
    /// Calls `take` with the bytes of an object in order, read ahead in parallel.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage; the error of `take` ends it and is returned inside.
    pub fn read_all<E>(
        &self,
        key: &str,
        mut take: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> Result<std::result::Result<(), E>> {
        let mut stream = Stream::new(self, &self.head(key)?, 0);
        while let Some(bytes) = stream.piece()? {
            if let Err(error) = take(bytes) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Sends a file; the object appears when it is whole. With `verify` every byte is read back
    /// and compared by blake3, since not every server looks at checksums. Returns its length.
    ///
    /// What a killed process sent of the same file, unchanged, is not sent again.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk, [`Error::Differs`].
    pub fn upload(&self, source: &Path, key: &str, verify: bool) -> Result<u64> {
        self.inner.writable(key)?;
        let disk = fs::File::open(source).map_err(|e| Error::io("open", source, e))?;
        let before = disk.metadata().map_err(|e| Error::io("stat", source, e))?;
        let size = before.len();
        let part = part_of(size);
        let unchanged = || {
            let after = disk.metadata().map_err(|e| Error::io("stat", source, e))?;
            if version(&after) == version(&before) {
                return Ok(());
            }
            let changed = io::Error::new(ErrorKind::InvalidData, "it was changed meanwhile");
            Err(Error::io("copy", source, changed))
        };
        if size <= part {
            // Into memory first: what is sent cannot change any more.
            let mut bytes = vec![0; size as usize];
            let read = disk.read_exact_at(&mut bytes, 0);
            read.map_err(|e| Error::io("read", source, e))?;
            unchanged()?;
            self.put(key, &bytes)?;
        } else {
            let send = |query: &str, range: &Range<u64>| {
                let body = Body::File(&disk, range.clone());
                Ok(self.inner.send_body("write", key, range.start, query, &[], &body)?.0)
            };
            let what = format!("{:?} {}", source.canonicalize().ok(), version(&before));
            self.inner.multipart(key, size, part, Some(&what), &send, unchanged)?;
        }
        let there = self.whole(key, size)?;
        if verify {
            let expected = Mutex::new(vec![None; size.div_ceil(part) as usize]);
            in_parts(size, part, |n, range| {
                let (mut hasher, first) = (blake3::Hasher::new(), range.start);
                let read = pieces(&disk, range, |bytes| {
                    hasher.update(bytes);
                    Ok(())
                });
                let (path, offset) = (source.to_path_buf(), Some(first));
                read.map_err(|source| Error::Io { action: "read", path, offset, source })?;
                lock(&expected)[n] = Some(hasher.finalize());
                Ok(())
            })?;
            let expected = lock(&expected).iter().flatten().copied().collect::<Vec<_>>();
            if self.hashes(&there, part)? != expected {
                return Err(Error::Differs { path: self.inner.uri(key).into(), offset: 0 });
            }
        }
        Ok(size)
    }

    /// What was written, if it is as long as it must be.
    pub(super) fn whole(&self, key: &str, size: u64) -> Result<Entry> {
        let there = self.head(key)?;
        if there.size == size {
            return Ok(there);
        }
        Err(Error::Differs { path: self.inner.uri(key).into(), offset: there.size.min(size) })
    }

    /// blake3 of every part, read from the storage.
    pub(super) fn hashes(&self, entry: &Entry, part: u64) -> Result<Vec<blake3::Hash>> {
        let hashes = Mutex::new(vec![None; entry.size.div_ceil(part) as usize]);
        in_parts(entry.size, part, |n, range| {
            let mut hasher = blake3::Hasher::new();
            let mut buf = vec![0; PIECE.min((range.end - range.start) as usize)];
            self.inner.fetch(entry, range, &mut buf, |_, bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
            hashes.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(hasher.finalize());
            Ok(())
        })?;
        Ok(hashes
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .flatten()
            .collect())
    }

    /// Whether an object is what a file would become: as long, and written no earlier.
    pub fn is_current(size: u64, modified: SystemTime, object: &Entry) -> bool {
        // The service counts whole seconds.
        let slack = Duration::from_secs(1);
        object.size == size && object.modified + slack >= modified
    }

    /// Writes bytes as an object, in parts if there are many.
    ///
    /// # Errors
    /// [`Error::Transfer`].
    pub fn write(&self, key: &str, bytes: &Bytes) -> Result<()> {
        let size = bytes.len() as u64;
        if size <= PART {
            return self.put(key, bytes);
        }
        self.inner.writable(key)?;
        let send = |query: &str, range: &Range<u64>| {
            let bytes = &bytes[range.start as usize..range.end as usize];
            Ok(self.inner.send("write", key, range.start, query, &[], bytes)?.0)
        };
        self.inner.multipart(key, size, part_of(size), None, &send, || Ok(()))
    }
}

/// Bytes of a part of an upload of `size` bytes.
pub(super) fn part_of(size: u64) -> u64 {
    PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20))
}

/// What tells one state of a file from another: no write leaves the time of change of its node.
fn version(metadata: &fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let m = metadata;
    let (changed, modified) = ((m.ctime(), m.ctime_nsec()), (m.mtime(), m.mtime_nsec()));
    format!("{}:{} {modified:?} {changed:?} {}", m.dev(), m.ino(), m.len())
}

/// Runs `work` on the parts of `0..size`, some at once; the first error ends it.
pub(super) fn in_parts(
    size: u64,
    part: u64,
    work: impl Fn(usize, Range<u64>) -> Result<()> + Sync,
) -> Result<()> {
    let count = size.div_ceil(part) as usize;
    let range = |n: usize| n as u64 * part..((n as u64 + 1) * part).min(size);
    if count <= 1 {
        return (0..count).try_for_each(|n| work(n, range(n)));
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let one = || {
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                break;
            }
            work(n, range(n)).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(count)).map(|_| scope.spawn(one)).collect();
        let ended =
            threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        // All of them end before the first error is told.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}
