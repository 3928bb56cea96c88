//! Objects from bucket to bucket: by the server itself where it has both, else through here.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::client::{Entry, Remote};
use super::data::encoded;
use super::service::Service;
use super::transfer::{MOST_PARTS, PART, part_of};
use super::xml;
use crate::{Error, Result};

/// What a server of S3 copies by itself in one request, and answers within an attempt.
const COPY_PART: u64 = 256 << 20;

/// How often a server is asked whether it has copied.
const ASK: Duration = Duration::from_millis(200);

impl Remote {
    /// Whether one server, and one account of it, has both buckets.
    pub(super) fn is_near(&self, other: &Self) -> bool {
        match (self.inner.control(), other.inner.control()) {
            (Ok(a), Ok(b)) => (a.service, &a.endpoint) == (b.service, &b.endpoint),
            _ => false,
        }
    }

    /// Has the server copy an object of a bucket that it holds too. With `verify` both are read.
    ///
    /// # Errors
    /// [`Error::Transfer`], [`Error::Differs`].
    pub fn copy(&self, from: &Self, entry: &Entry, key: &str, verify: bool) -> Result<()> {
        let inner = &self.inner;
        inner.writable(key)?;
        let bucket = &from.inner.control()?.bucket;
        let source = format!("{bucket}/{}", encoded(&entry.key));
        let when = |name| entry.etag.iter().map(move |tag| (name, tag.clone()));
        match inner.control()?.service {
            Service::Amazon => {
                let mut headers = vec![("x-amz-copy-source", format!("/{source}"))];
                headers.extend(when("x-amz-copy-source-if-match"));
                if entry.size <= COPY_PART {
                    inner.send("copy to", key, 0, "", &headers, b"")?;
                } else {
                    self.copy_in_parts(from, entry, key, &headers)?;
                }
            }
            Service::Google => {
                let mut headers = vec![("x-goog-copy-source", source)];
                headers.extend(when("x-goog-copy-source-if-match"));
                inner.send("copy to", key, 0, "", &headers, b"")?;
            }
            Service::Azure => {
                let mut headers = vec![("x-ms-copy-source", from.inner.url_of(&entry.key)?)];
                headers.extend(when("x-ms-source-if-match"));
                inner.send("copy to", key, 0, "", &headers, b"")?;
                self.wait_for_copy(key)?;
            }
        }
        self.same(from, entry, key, verify)
    }

    fn copy_in_parts(
        &self,
        from: &Self,
        entry: &Entry,
        key: &str,
        headers: &[(&'static str, String)],
    ) -> Result<()> {
        let inner = &self.inner;
        let part = COPY_PART.max(entry.size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20));
        let send = |query: &str, range: &Range<u64>| {
            let range_header = format!("bytes={}-{}", range.start, range.end - 1);
            let mut headers = headers.to_vec();
            headers.push(("x-amz-copy-source-range", range_header));
            let (_, body) = inner.send("copy to", key, range.start, query, &headers, b"")?;
            Ok(xml::text(&body, "ETag").unwrap_or_default())
        };
        let what = what(from, entry);
        inner.multipart(key, entry.size, part, what.as_deref(), &send, || Ok(()))
    }

    /// Azure answers before it has copied; usually it has.
    fn wait_for_copy(&self, key: &str) -> Result<()> {
        let until = Instant::now() + self.inner.settings.deadline;
        loop {
            let status = self.inner.header_of(key, "x-ms-copy-status")?;
            let failed = |kind, what: String| Error::Transfer {
                action: "copy to",
                object: self.inner.uri(key),
                offset: 0,
                attempts: 1,
                source: std::io::Error::new(kind, what),
            };
            match status.as_deref() {
                None | Some("success") => return Ok(()),
                Some("pending") if Instant::now() < until => std::thread::sleep(ASK),
                Some("pending") => {
                    let what = "the server has not copied it yet".to_owned();
                    return Err(failed(std::io::ErrorKind::TimedOut, what));
                }
                Some(other) => {
                    return Err(failed(std::io::ErrorKind::Other, format!("the copy {other}")));
                }
            }
        }
    }

    /// Sends an object of another server through this machine.
    ///
    /// # Errors
    /// As [`Remote::copy`].
    pub fn relay(&self, from: &Self, entry: &Entry, key: &str, verify: bool) -> Result<()> {
        self.inner.writable(key)?;
        let part = part_of(entry.size);
        let read = |range: &Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            from.read_at(entry, range.start, &mut bytes).map(|()| bytes)
        };
        if entry.size <= part {
            self.put(key, &read(&(0..entry.size))?)?;
        } else {
            let send = |query: &str, range: &Range<u64>| {
                let bytes = read(range)?;
                Ok(self.inner.send("write", key, range.start, query, &[], &bytes)?.0)
            };
            let what = what(from, entry);
            self.inner.multipart(key, entry.size, part, what.as_deref(), &send, || Ok(()))?;
        }
        self.same(from, entry, key, verify)
    }

    /// Whether the copy is as long as it must be, and with `verify` byte for byte the same.
    fn same(&self, from: &Self, entry: &Entry, key: &str, verify: bool) -> Result<()> {
        let there = self.whole(key, entry.size)?;
        if verify && self.hashes(&there, PART)? != from.hashes(entry, PART)? {
            return Err(Error::Differs { path: self.inner.uri(key).into(), offset: 0 });
        }
        Ok(())
    }
}

/// Names a version of an object; without a tag nobody can.
fn what(from: &Remote, entry: &Entry) -> Option<String> {
    let tag = entry.etag.as_ref()?;
    Some(format!("{:?} {tag:?}", from.inner.uri(&entry.key)))
}
