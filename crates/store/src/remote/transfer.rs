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
use object_store::multipart::{MultipartStore, PartId};

use super::client::{Entry, Inner, Remote};
use super::data::encoded;
use super::stream::Stream;
use crate::{Error, Result};

/// Bytes of a ranged read and of a part of an upload; S3 takes 10,000 parts of an object.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 10_000;

/// Parts of one object at once; the gate may allow fewer.
const AT_ONCE: usize = 8;

/// What is read from the network before it goes to the disk: small enough to stay in the cache.
const PIECE: usize = 256 << 10;

/// What the server copies by itself in one request, and answers within an attempt.
const COPY_PART: u64 = 256 << 20;

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

    /// Fetches an object into a file, which appears under its name when it is whole and durable;
    /// its time of change is that of the object. With `verify` the disk is read back and compared,
    /// by blake3, with what came from the network.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk, [`Error::Differs`].
    pub fn download(&self, entry: &Entry, target: &Path, verify: bool) -> Result<()> {
        let file = crate::NewFile::create(target)?;
        let disk = file.handle()?;
        let failed = |action, offset, source| {
            let (path, offset) = (target.to_path_buf(), Some(offset));
            Error::Io { action, path, offset, source }
        };
        let hashes = Mutex::new(vec![None; entry.size.div_ceil(PART) as usize]);
        in_parts(entry.size, PART, |n, range| {
            let mut buf = vec![0; PIECE.min((range.end - range.start) as usize)];
            let mut hasher = verify.then(blake3::Hasher::new);
            self.inner.fetch(entry, range, &mut buf, |offset, bytes| {
                if let Some(hasher) = &mut hasher {
                    hasher.update(bytes);
                }
                disk.write_all_at(bytes, offset).map_err(|source| failed("write", offset, source))
            })?;
            let hash = hasher.map(|hasher| hasher.finalize());
            hashes.lock().unwrap_or_else(PoisonError::into_inner)[n] = hash;
            Ok(())
        })?;
        if verify {
            disk.sync_all().map_err(|e| Error::io("sync", target, e))?;
            // Durable already, so the kernel can forget it and the disk must answer.
            let _ = rustix::fs::fadvise(&disk, 0, None, rustix::fs::Advice::DontNeed);
            let written =
                fs::File::open(file.temporary()).map_err(|e| Error::io("open", target, e))?;
            let hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
            in_parts(entry.size, PART, |n, range| {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                let read = written.read_exact_at(&mut bytes, range.start);
                read.map_err(|source| failed("read", range.start, source))?;
                if hashes[n] != Some(blake3::hash(&bytes)) {
                    return Err(Error::Differs { path: target.into(), offset: range.start });
                }
                Ok(())
            })?;
        }
        disk.set_modified(entry.modified).map_err(|e| Error::io("set the time of", target, e))?;
        drop(disk);
        file.publish()
    }

    /// Sends a file; the object appears when it is whole. With `verify` every byte is read back
    /// and compared by blake3, since not every server looks at checksums. Returns its length.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk, [`Error::Differs`].
    pub fn upload(&self, source: &Path, key: &str, verify: bool) -> Result<u64> {
        self.inner.writable(key)?;
        let disk = fs::File::open(source).map_err(|e| Error::io("open", source, e))?;
        let before = disk.metadata().map_err(|e| Error::io("stat", source, e))?;
        let size = before.len();
        let part = PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let hashes = Mutex::new(vec![None; size.div_ceil(part) as usize]);
        let read = |range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let read = disk.read_exact_at(&mut bytes, range.start);
            let (path, offset) = (source.to_path_buf(), Some(range.start));
            read.map_err(|source| Error::Io { action: "read", path, offset, source })?;
            if verify {
                let mut hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
                hashes[(range.start / part) as usize] = Some(blake3::hash(&bytes));
            }
            Ok(bytes)
        };
        if size <= part {
            let bytes = if size > 0 { read(&(0..size))? } else { Vec::new() };
            self.put(key, &bytes)?;
        } else {
            self.inner.multipart(key, size, part, |query, range| {
                let bytes = read(range)?;
                Ok(self.inner.send("write", key, range.start, query, &[], &bytes)?.0)
            })?;
        }
        let after = disk.metadata().map_err(|e| Error::io("stat", source, e))?;
        if (after.len(), after.modified().ok()) != (size, before.modified().ok()) {
            let changed = io::Error::new(ErrorKind::InvalidData, "it was changed meanwhile");
            return Err(Error::io("copy", source, changed));
        }
        let there = self.whole(key, size)?;
        let hashes = hashes.into_inner().unwrap_or_else(PoisonError::into_inner);
        if verify && self.hashes(&there, part)? != hashes.into_iter().flatten().collect::<Vec<_>>()
        {
            return Err(Error::Differs { path: self.inner.uri(key).into(), offset: 0 });
        }
        Ok(size)
    }

    /// Has the server copy an object of a bucket that it holds too. With `verify` both are read.
    ///
    /// # Errors
    /// [`Error::Transfer`], [`Error::Differs`].
    pub fn copy(&self, from: &Self, entry: &Entry, key: &str, verify: bool) -> Result<()> {
        let inner = &self.inner;
        inner.writable(key)?;
        let bucket = &from.inner.control()?.bucket;
        let mut headers = vec![("x-amz-copy-source", format!("/{bucket}/{}", encoded(&entry.key)))];
        headers.extend(entry.etag.iter().map(|e| ("x-amz-copy-source-if-match", e.clone())));
        if entry.size <= COPY_PART {
            inner.send("copy to", key, 0, "", &headers, b"")?;
        } else {
            let part = COPY_PART.max(entry.size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
            inner.multipart(key, entry.size, part, |query, range| {
                let range_header = format!("bytes={}-{}", range.start, range.end - 1);
                let mut headers = headers.clone();
                headers.push(("x-amz-copy-source-range", range_header));
                let (_, body) = inner.send("copy to", key, range.start, query, &headers, b"")?;
                let etag =
                    body.split_once("<ETag>").and_then(|(_, rest)| rest.split_once("</ETag>"));
                Ok(etag.map_or(String::new(), |(tag, _)| {
                    tag.replace("&quot;", "\"").replace("&#34;", "\"")
                }))
            })?;
        }
        let there = self.whole(key, entry.size)?;
        if verify && self.hashes(&there, PART)? != from.hashes(entry, PART)? {
            return Err(Error::Differs { path: inner.uri(key).into(), offset: 0 });
        }
        Ok(())
    }

    /// Sends an object of another server through this machine.
    ///
    /// # Errors
    /// As [`Remote::copy`].
    pub fn relay(&self, from: &Self, entry: &Entry, key: &str, verify: bool) -> Result<()> {
        self.inner.writable(key)?;
        let part = PART.max(entry.size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let read = |range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            from.read_at(entry, range.start, &mut bytes).map(|()| bytes)
        };
        if entry.size <= part {
            self.put(key, &read(&(0..entry.size))?)?;
        } else {
            self.inner.multipart(key, entry.size, part, |query, range| {
                let bytes = read(range)?;
                Ok(self.inner.send("write", key, range.start, query, &[], &bytes)?.0)
            })?;
        }
        let there = self.whole(key, entry.size)?;
        if verify && self.hashes(&there, PART)? != from.hashes(entry, PART)? {
            return Err(Error::Differs { path: self.inner.uri(key).into(), offset: 0 });
        }
        Ok(())
    }

    /// What was written, if it is as long as it must be.
    fn whole(&self, key: &str, size: u64) -> Result<Entry> {
        let there = self.head(key)?;
        if there.size == size {
            return Ok(there);
        }
        Err(Error::Differs { path: self.inner.uri(key).into(), offset: there.size.min(size) })
    }

    /// blake3 of every part, read from the storage.
    fn hashes(&self, entry: &Entry, part: u64) -> Result<Vec<blake3::Hash>> {
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
        let part = PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        self.inner.writable(key)?;
        self.inner.multipart(key, size, part, |query, range| {
            let bytes = &bytes[range.start as usize..range.end as usize];
            Ok(self.inner.send("write", key, range.start, query, &[], bytes)?.0)
        })
    }
}

impl Inner {
    /// All parts of an upload, some at once; given up as a whole if one fails. `send` sends a part
    /// by the query that names it and returns its entity tag.
    fn multipart(
        &self,
        key: &str,
        size: u64,
        part: u64,
        send: impl Fn(&str, &Range<u64>) -> Result<String> + Sync,
    ) -> Result<()> {
        let (store, place) = (&self.control()?.store, self.key(key)?);
        let id = self.asked("write", key, || store.create_multipart(&place))?;
        let count = size.div_ceil(part) as usize;
        let tags = Mutex::new(vec![String::new(); count]);
        let sent = in_parts(size, part, |n, range| {
            // An id may hold what a query may not.
            let id = encoded(&id).replace('/', "%2F");
            let tag = send(&format!("partNumber={}&uploadId={id}", n + 1), &range)?;
            tags.lock().unwrap_or_else(PoisonError::into_inner)[n] = tag;
            Ok(())
        });
        let completed = sent.and_then(|()| {
            let tags = tags.into_inner().unwrap_or_else(PoisonError::into_inner);
            let parts: Vec<PartId> =
                tags.into_iter().map(|content_id| PartId { content_id }).collect();
            let complete = || store.complete_multipart(&place, &id, parts.clone());
            match self.asked("write", key, complete) {
                // Done by an attempt whose answer was lost.
                Err(Error::Transfer { source, attempts: 2.., .. })
                    if source.kind() == ErrorKind::NotFound =>
                {
                    Ok(())
                }
                completed => completed.map(drop),
            }
        });
        if completed.is_err() {
            // Parts without an object cost money until someone removes them. Once: the server may
            // be gone, and the error to tell is the first.
            if let Ok(control) = self.control() {
                let abort = store.abort_multipart(&place, &id);
                let _ = control
                    .runtime
                    .block_on(async { tokio::time::timeout(Duration::from_secs(5), abort).await });
            }
        }
        completed
    }
}

/// Runs `work` on the parts of `0..size`, some at once; the first error ends it.
fn in_parts(
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
