//! Whole objects: parts at once, complete or not there at all, read back when asked.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutPayload};

use super::client::{Inner, Remote};
use crate::{Error, Result};

/// Bytes of a ranged read and of a part of an upload; S3 takes 10,000 parts of an object.
const PART: u64 = 8 << 20;
const MOST_PARTS: u64 = 10_000;

impl Remote {
    /// Calls `take` with the bytes of an object in order, read ahead in parallel.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage; the error of `take` ends it and is returned inside.
    pub fn read_all<E>(
        &self,
        key: &str,
        mut take: impl FnMut(Bytes) -> std::result::Result<(), E>,
    ) -> Result<std::result::Result<(), E>> {
        let inner = &self.inner;
        self.runtime.block_on(async {
            let size = inner.head(key).await?.size;
            let mut parts = stream::iter(ranges(size, PART))
                .map(|range| inner.get_range(key, range))
                .buffered(8);
            while let Some(bytes) = parts.next().await {
                if let Err(error) = take(bytes?) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        })
    }

    /// Fetches an object into a file, which appears under its name when it is whole and durable;
    /// its time of change is that of the object. Returns its length.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk.
    pub fn download(&self, key: &str, target: &Path) -> Result<u64> {
        let inner = &self.inner;
        let file = crate::NewFile::create(target)?;
        let disk = Arc::new(file.handle()?);
        let entry = self.runtime.block_on(async {
            let entry = inner.head(key).await?;
            stream::iter(ranges(entry.size, PART))
                .map(|range| {
                    let disk = Arc::clone(&disk);
                    async move {
                        let offset = range.start;
                        let bytes = inner.get_range(key, range).await?;
                        let written =
                            tokio::task::spawn_blocking(move || disk.write_all_at(&bytes, offset));
                        let written = written.await.unwrap_or_else(|e| Err(e.into()));
                        written.map_err(|source| Error::Io {
                            action: "write",
                            path: target.into(),
                            offset: Some(offset),
                            source,
                        })
                    }
                })
                .buffer_unordered(inner.settings.most)
                .try_collect::<()>()
                .await?;
            Ok::<_, Error>(entry)
        })?;
        disk.set_modified(entry.modified).map_err(|e| Error::io("set the time of", target, e))?;
        drop(disk);
        file.publish()?;
        Ok(entry.size)
    }

    /// Sends a file; the object appears when it is whole. With `verify` every byte is read back
    /// and compared by blake3, since not every server looks at checksums. Returns its length.
    ///
    /// # Errors
    /// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk, [`Error::Differs`].
    pub fn upload(&self, source: &Path, key: &str, verify: bool) -> Result<u64> {
        let file = fs::File::open(source).map_err(|e| Error::io("open", source, e))?;
        let size = file.metadata().map_err(|e| Error::io("stat", source, e))?.len();
        let part = PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let disk = Arc::new(file);
        let inner = &self.inner;
        self.runtime.block_on(async {
            let hashes = if size <= part {
                let bytes = read_part(&disk, source, 0, size).await?;
                let hash = blake3::hash(&bytes);
                inner.put(key, bytes, PutMode::Overwrite).await?;
                vec![hash]
            } else {
                multipart(inner, &disk, source, key, size, part).await?
            };
            let there = inner.head(key).await?.size;
            if there != size {
                return Err(Error::Differs { path: source.into(), offset: there.min(size) });
            }
            if verify {
                let found: Vec<blake3::Hash> = stream::iter(ranges(size, part))
                    .map(|range| async move {
                        Ok::<_, Error>(blake3::hash(&inner.get_range(key, range).await?))
                    })
                    .buffered(8)
                    .try_collect()
                    .await?;
                if let Some(at) = found.iter().zip(&hashes).position(|(a, b)| a != b) {
                    let offset = at as u64 * part;
                    return Err(Error::Differs { path: source.into(), offset });
                }
            }
            Ok(size)
        })
    }

    /// Whether an object is what a file would become: as long, and written no earlier.
    pub fn is_current(size: u64, modified: SystemTime, object: &super::Entry) -> bool {
        // The service counts whole seconds.
        let slack = std::time::Duration::from_secs(1);
        object.size == size && object.modified + slack >= modified
    }
}

/// All parts at once, as far as memory goes; given up as a whole if one fails.
async fn multipart(
    inner: &Inner,
    disk: &Arc<fs::File>,
    source: &Path,
    key: &str,
    size: u64,
    part: u64,
) -> Result<Vec<blake3::Hash>> {
    let (place, uri) = (Key::from(key), inner.uri(key));
    let mut upload: Box<dyn MultipartUpload> =
        inner.tried("write", key, 0, || inner.store.put_multipart(&place)).await?;
    let sent = async {
        let mut hashes = Vec::new();
        let mut sending = Vec::new();
        for range in ranges(size, part) {
            let bytes = read_part(disk, source, range.start, range.end - range.start).await?;
            hashes.push(blake3::hash(&bytes));
            let offset = range.start;
            let payload = PutPayload::from_bytes(bytes);
            sending.push(upload.put_part(payload));
            // Eight parts in memory; an upload that outruns the network fills it otherwise.
            if sending.len() == 8 {
                for sent in futures_util::future::join_all(sending.drain(..)).await {
                    sent.map_err(|e| failed(&uri, offset, &e))?;
                }
            }
        }
        for sent in futures_util::future::join_all(sending).await {
            sent.map_err(|e| failed(&uri, size, &e))?;
        }
        upload.complete().await.map_err(|e| failed(&uri, size, &e))?;
        Ok::<_, Error>(hashes)
    };
    let sent = tokio::time::timeout(inner.settings.deadline.max(deadline_for(size)), sent).await;
    match sent {
        Ok(Ok(hashes)) => Ok(hashes),
        failure => {
            // Parts without an object cost money until someone removes them.
            let _ = upload.abort().await;
            let late = || failed(&uri, 0, &std::io::Error::from(std::io::ErrorKind::TimedOut));
            failure.unwrap_or_else(|_| Err(late()))
        }
    }
}

/// Large objects have the time of a slow link: 1 MiB/s.
fn deadline_for(size: u64) -> std::time::Duration {
    std::time::Duration::from_secs(size >> 20)
}

fn failed(uri: &str, offset: u64, error: &dyn std::error::Error) -> Error {
    let source = std::io::Error::other(error.to_string());
    Error::Transfer { action: "write", object: uri.into(), offset, attempts: 1, source }
}

async fn read_part(disk: &Arc<fs::File>, path: &Path, offset: u64, length: u64) -> Result<Bytes> {
    let disk = Arc::clone(disk);
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length as usize];
        disk.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
    });
    let read = read.await.unwrap_or_else(|e| Err(e.into()));
    let path = path.to_path_buf();
    read.map_err(|source| Error::Io { action: "read", path, offset: Some(offset), source })
}

/// `0..size` in parts; none for an empty object.
fn ranges(size: u64, part: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..size.div_ceil(part)).map(move |n| n * part..((n + 1) * part).min(size))
}
