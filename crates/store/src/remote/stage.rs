//! An output in an object store: written to a directory of this machine, then sent, the manifest
//! last; every byte is read back. The directory stays, so that who does the same again resumes, or
//! finds that all is done.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::client::{Remote, Settings};
use super::{cache, parse, tree};
use crate::fs::Tally;
use crate::fs::copy::{Options, Summary};
use crate::{Error, Result};

/// A directory that stands for a prefix of a bucket until it is sent.
#[derive(Debug)]
pub struct Stage {
    uri: String,
    directory: PathBuf,
}

impl Stage {
    /// Begins, or goes on with, what will be at `uri`; the directory is made below `parent`, or
    /// beside the cache.
    ///
    /// # Errors
    /// [`Error::Io`], of the kind `AlreadyExists` if somebody else's objects are there;
    /// [`Error::Transfer`].
    pub fn begin(uri: &str, parent: Option<&Path>) -> Result<Self> {
        let uri = uri.trim_end_matches('/');
        let wrong =
            |kind, what: String| Error::io("write to", Path::new(uri), io::Error::new(kind, what));
        let Some((bucket, key)) = parse(uri).filter(|_| super::is_bucket(uri)) else {
            return Err(wrong(ErrorKind::InvalidInput, "expected s3://BUCKET/PREFIX".into()));
        };
        // An `s3` and a `gs` bucket may have one name.
        let scheme = super::scheme(uri).filter(|scheme| *scheme != "s3").unwrap_or_default();
        let name: String = format!("{scheme}{bucket}/{key}")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '+' })
            .collect();
        let parent = parent.map_or_else(|| cache::directory().join("staging"), Path::to_path_buf);
        let directory = parent.join(name);
        if !directory.exists() {
            let (remote, key) = Remote::open(uri, Settings::default())?;
            if let Some(found) = remote.list(&key)?.first() {
                let what = format!("expected nothing there, found {} among others", found.key);
                return Err(wrong(ErrorKind::AlreadyExists, what));
            }
            crate::create_dir(&directory)?;
        }
        Ok(Self { uri: uri.into(), directory })
    }

    /// Where to write.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where it goes.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Sends what is not there yet; what fails is listed in `tally`. A manifest that somebody else
    /// put there meanwhile stays, where the endpoint can tell.
    ///
    /// # Errors
    /// As [`tree::copy`].
    pub fn publish(&self, threads: usize, tally: &Tally, stop: &AtomicBool) -> Result<Summary> {
        let options = Options { threads, verify: true, delete: false, checksum: false };
        let from = self.directory.to_string_lossy();
        let settings = Settings::default();
        tree::publish(&from, &self.uri, &settings, options, tally, stop).map(|(summary, _)| summary)
    }
}

impl Remote {
    /// Writes a small file as an object that nobody else may have written.
    ///
    /// # Errors
    /// [`Error::Transfer`], of the kind `AlreadyExists` if there is another one.
    pub(super) fn claim(&self, source: &Path, key: &str, verify: bool) -> Result<()> {
        let prefix = key.rsplit_once('/').map_or(String::new(), |(prefix, _)| format!("{prefix}/"));
        if !self.enforces_new(&prefix)? {
            return self.upload(source, key, verify).map(drop);
        }
        let bytes = Bytes::from(std::fs::read(source).map_err(|e| Error::io("read", source, e))?);
        let is_new = self.put_new(key, &bytes)?;
        let there = self.head(key)?;
        let is_ours = there.size == bytes.len() as u64
            && (is_new && !verify || self.get_range(key, 0..there.size)? == bytes);
        match (is_ours, is_new) {
            // Not new: an attempt whose answer was lost wrote it.
            (true, _) => Ok(()),
            (false, true) => Err(Error::Differs { path: self.inner.uri(key).into(), offset: 0 }),
            (false, false) => Err(Error::Transfer {
                action: "write",
                object: self.inner.uri(key),
                offset: 0,
                attempts: 1,
                source: io::Error::new(
                    ErrorKind::AlreadyExists,
                    "somebody else wrote it meanwhile",
                ),
            }),
        }
    }
}
