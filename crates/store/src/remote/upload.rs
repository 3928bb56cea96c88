//! Uploads in parts: begun, sent, ended as each service wants it; gone on with after a kill.
//!
//! | | begin | a part | what tells it | end |
//! |---|---|---|---|---|
//! | S3, Google | `POST ?uploads` → id | `PUT ?partNumber&uploadId` | its entity tag | `POST ?uploadId` |
//! | Azure | an id of ours | `PUT ?comp=block&blockid` | its name, of that id | `PUT ?comp=blocklist` |

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use object_store::multipart::PartId;
use object_store::path::Path as Key;

use super::client::{Control, Inner, Remote};
use super::data::encoded;
use super::journal::Journal;
use super::service::Service;
use super::transfer::in_parts;
use super::xml;
use crate::{Error, Result};

/// An object on its way.
pub(super) struct Upload<'a> {
    inner: &'a Inner,
    control: &'a Control,
    key: &'a str,
    place: Key,
    id: String,
    journal: Option<Journal>,
    /// Size and tag of the parts that the server has of an earlier process.
    there: HashMap<usize, (u64, String)>,
}

/// What a part is and how it is sent: the query that names it, its bytes; returns its entity tag.
pub(super) type SendPart<'s> = dyn Fn(&str, &Range<u64>) -> Result<String> + Sync + 's;

/// An upload that was begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// What it was to become.
    pub key: String,
    /// Of the upload.
    pub id: String,
    /// When it was begun.
    pub since: SystemTime,
}

impl Inner {
    /// Sends an object in parts, some at once. `what` tells the bytes: if an earlier process began
    /// to send the same, the parts that the server has are left alone. `last` is asked before the
    /// object appears.
    ///
    /// After an error the parts stay for the next try, unless there are none, or `last` refused.
    pub(super) fn multipart(
        &self,
        key: &str,
        size: u64,
        part: u64,
        what: Option<&str>,
        send: &SendPart<'_>,
        last: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let upload = Upload::begin(self, key, what.map(|what| format!("{what} {size} {part}")))?;
        let count = size.div_ceil(part) as usize;
        let tags = Mutex::new(vec![None; count]);
        let sent = in_parts(size, part, |n, range| {
            let tag = upload.part(n, &range, send)?;
            tags.lock().unwrap_or_else(PoisonError::into_inner)[n] = Some(tag);
            Ok(())
        });
        let tags: Vec<String> = tags
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_iter()
            .flatten()
            .collect();
        match sent {
            Ok(()) => {}
            // A later process goes on with them; without a journal nobody knows of them.
            Err(error) if upload.journal.is_some() && !tags.is_empty() => return Err(error),
            Err(error) => {
                upload.abort();
                return Err(error);
            }
        }
        if let Err(error) = last() {
            upload.abort();
            return Err(error);
        }
        upload.end(tags)
    }
}

impl<'a> Upload<'a> {
    fn begin(inner: &'a Inner, key: &'a str, what: Option<String>) -> Result<Self> {
        let (control, place) = (inner.control()?, inner.key(key)?);
        let journal = what.and_then(|what| {
            let uri = inner.uri(key);
            let directory = super::cache::directory().join("uploads");
            crate::create_dir(&directory).ok()?;
            Journal::open(&directory.join(journal_name(&uri)), &format!("{uri:?} {what}"))
        });
        let id = journal.as_ref().and_then(|journal| journal.get("id").map(str::to_owned));
        let there = HashMap::new();
        let mut upload = Self { inner, control, key, place, id: String::new(), journal, there };
        if let Some(stale) = upload.journal.as_ref().and_then(|j| j.stale("id")) {
            // Of another file: its parts are of no use to anybody.
            upload.abort_id(stale);
        }
        if let Some(id) = id {
            upload.id = id;
            match upload.parts_there() {
                Ok(there) => {
                    upload.there = there;
                    return Ok(upload);
                }
                // It was removed, or ended by a process that was killed before it could say so.
                Err(Error::Transfer { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        upload.id = match control.service {
            Service::Azure => format!("{:016x}", inner.random()),
            _ => inner.asked("write", key, || control.store.create_multipart(&upload.place))?,
        };
        if let Some(journal) = &upload.journal {
            // Later lines count more.
            journal.note("id", &upload.id);
        }
        Ok(upload)
    }

    /// Sends part `n`, or finds it there; returns what the end names it by.
    fn part(&self, n: usize, range: &Range<u64>, send: &SendPart<'_>) -> Result<String> {
        let length = range.end - range.start;
        let number = (n + 1).to_string();
        if let Some((size, tag)) = self.there.get(&n)
            && *size == length
            // Azure tells no tag; the name of a block holds the id of the upload.
            && (self.control.service == Service::Azure
                || self.journal.as_ref().and_then(|j| j.get(&number)) == Some(tag.as_str()))
        {
            self.inner.count_kept(length);
            return Ok(tag.clone());
        }
        let query = match self.control.service {
            Service::Azure => {
                let name = encoded(&block_name(&self.block(n))).replace('/', "%2F");
                format!("comp=block&blockid={name}")
            }
            _ => format!("partNumber={number}&uploadId={}", self.query_id()),
        };
        let mut tag = send(&query, range)?;
        if self.control.service == Service::Azure {
            tag = self.block(n);
        }
        if let Some(journal) = &self.journal {
            journal.note(&number, &tag);
        }
        Ok(tag)
    }

    /// The object appears.
    fn end(self, tags: Vec<String>) -> Result<()> {
        let parts: Vec<PartId> = tags.into_iter().map(|content_id| PartId { content_id }).collect();
        let store = &self.control.store;
        let complete = || store.complete_multipart(&self.place, &self.id, parts.clone());
        let ended = match self.inner.asked("write", self.key, complete) {
            // Done by an attempt whose answer was lost.
            Err(Error::Transfer { source, attempts: 2.., .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            ended => ended.map(drop),
        };
        match ended {
            Ok(()) => {
                if let Some(journal) = self.journal {
                    journal.remove();
                }
                Ok(())
            }
            // It may have been done, or can be done by the next; what the server refuses is over.
            Err(error) => {
                let refused = matches!(&error, Error::Transfer { attempts: 1, .. });
                if refused || self.journal.is_none() {
                    self.abort();
                }
                Err(error)
            }
        }
    }

    fn abort(self) {
        self.abort_id(&self.id);
        if let Some(journal) = self.journal {
            journal.remove();
        }
    }

    /// Parts without an object cost money until someone removes them. Once: the server may be
    /// gone, and the error to tell is the first.
    fn abort_id(&self, id: &str) {
        let id = id.to_owned();
        let abort = self.control.store.abort_multipart(&self.place, &id);
        let limited = async { tokio::time::timeout(Duration::from_secs(5), abort).await };
        let _ = self.control.runtime.block_on(limited);
    }

    /// An id may hold what a query may not.
    fn query_id(&self) -> String {
        encoded(&self.id).replace('/', "%2F")
    }

    /// What a block is called; all names of an object are equally long.
    fn block(&self, n: usize) -> String {
        format!("{}-{n:05}", self.id)
    }

    /// Size and tag of every part that the server has.
    fn parts_there(&self) -> Result<HashMap<usize, (u64, String)>> {
        if self.control.service == Service::Azure {
            return self.blocks_there();
        }
        let mut found = HashMap::new();
        let mut after = 0;
        loop {
            let query = signable(&[
                ("max-parts", "1000"),
                ("part-number-marker", &after.to_string()),
                ("uploadId", &self.id),
            ]);
            let text = self.inner.ask("list parts of", "GET", self.key, &query, &[])?;
            let before = after;
            for part in xml::elements(&text, "Part") {
                let number = xml::text(part, "PartNumber").and_then(|n| n.parse::<usize>().ok());
                let size = xml::text(part, "Size").and_then(|n| n.parse().ok());
                let tag = xml::text(part, "ETag");
                if let (Some(number @ 1..), Some(size), Some(tag)) = (number, size, tag) {
                    after = after.max(number);
                    found.insert(number - 1, (size, quoted(&tag)));
                }
            }
            if xml::text(&text, "IsTruncated").as_deref() != Some("true") || after == before {
                return Ok(found);
            }
        }
    }

    fn blocks_there(&self) -> Result<HashMap<usize, (u64, String)>> {
        let query = "blocklisttype=uncommitted&comp=blocklist";
        let text = self.inner.ask("list parts of", "GET", self.key, query, &[])?;
        let there: HashMap<String, u64> = xml::elements(&text, "Block")
            .filter_map(|block| {
                let size = xml::text(block, "Size").and_then(|n| n.parse().ok())?;
                Some((xml::text(block, "Name")?, size))
            })
            .collect();
        let name = |n: usize| self.block(n);
        let is_there =
            |n: usize| there.get(&block_name(&name(n))).map(|&size| (n, (size, name(n))));
        Ok((0..super::transfer::MOST_PARTS as usize).filter_map(is_there).collect())
    }
}

impl Remote {
    /// Uploads to keys that begin with `prefix` which nobody ended: running ones, and what killed
    /// processes left. Azure keeps none: it forgets parts after a week.
    ///
    /// # Errors
    /// [`Error::Transfer`] as all of this client's.
    pub fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let control = self.inner.control()?;
        if control.service == Service::Azure {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let (mut key, mut id) = (String::new(), String::new());
        loop {
            let query = signable(&[
                ("key-marker", &key),
                ("max-uploads", "1000"),
                ("prefix", prefix),
                ("upload-id-marker", &id),
                ("uploads", ""),
            ]);
            let text = self.inner.ask("list uploads of", "GET", "", &query, &[])?;
            for upload in xml::elements(&text, "Upload") {
                let since = xml::text(upload, "Initiated").and_then(|text| xml::time(&text));
                let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
                if let (Some(key), Some(id)) =
                    (xml::text(upload, "Key"), xml::text(upload, "UploadId"))
                    // Not every server looks at the prefix.
                    && key.starts_with(prefix)
                {
                    found.push(Unfinished { key, id, since });
                }
            }
            let next = (xml::text(&text, "NextKeyMarker"), xml::text(&text, "NextUploadIdMarker"));
            let next = (next.0.unwrap_or_default(), next.1.unwrap_or_default());
            let is_more = xml::text(&text, "IsTruncated").as_deref() == Some("true");
            if !is_more || next == (key.clone(), id.clone()) {
                return Ok(found);
            }
            (key, id) = next;
        }
    }

    /// Gives an upload up; its parts are gone.
    ///
    /// # Errors
    /// As [`Remote::unfinished`].
    pub fn abort(&self, upload: &Unfinished) -> Result<()> {
        let inner = &self.inner;
        let (control, place) = (inner.control()?, inner.key(&upload.key)?);
        let abort = || control.store.abort_multipart(&place, &upload.id);
        match inner.asked("give up the upload of", &upload.key, abort) {
            Err(Error::Transfer { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            aborted => aborted,
        }
    }
}

/// A query whose names are sorted, as signatures want them.
fn signable(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .filter(|(name, value)| !value.is_empty() || *name == "uploads")
        .map(|(name, value)| format!("{name}={}", encoded(value).replace('/', "%2F")))
        .collect();
    fields.join("&")
}

/// As the answer to a `PUT` has it.
fn quoted(tag: &str) -> String {
    if tag.starts_with('"') { tag.to_owned() } else { format!("\"{tag}\"") }
}

#[cfg(feature = "azure")]
fn block_name(block: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(block)
}

/// Never asked: no container can be opened.
#[cfg(not(feature = "azure"))]
fn block_name(block: &str) -> String {
    block.to_owned()
}

fn journal_name(uri: &str) -> PathBuf {
    format!("{}.parts", &blake3::hash(uri.as_bytes()).to_hex()[..32]).into()
}
