//! One bucket of an S3 endpoint, or one web server.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Runtime;

use super::data::Data;
use super::gate::Gate;
use super::service::{Service, Store};
use super::{Concurrency, Hedge, parse, scheme};
use crate::{Error, Result};

/// What a client may do, and for how long.
#[derive(Clone)]
pub struct Settings {
    /// For an operation with all its attempts.
    pub deadline: Duration,
    /// For one attempt.
    pub attempt: Duration,
    /// Share of requests that may be asked a second time.
    pub hedge_share: f64,
    /// Requests in flight at most.
    pub most: usize,
    /// Just so many in flight, whatever they bring; for measurements.
    pub at_once: Option<usize>,
    /// Another endpoint than that of the environment.
    pub endpoint: Option<String>,
    /// Access key and secret, account and key of Azure, or nothing and a token of Google, instead
    /// of those of the environment.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Settings {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { deadline, attempt, hedge_share, most, at_once, endpoint, credentials: _ } = self;
        let numbers = (hedge_share, most, at_once);
        write!(f, "Settings({deadline:?}, {attempt:?}, {numbers:?}, {endpoint:?})")
    }
}

impl Default for Settings {
    fn default() -> Self {
        let (deadline, attempt) = (Duration::from_secs(120), Duration::from_secs(20));
        Self {
            deadline,
            attempt,
            hedge_share: 0.05,
            most: 64,
            at_once: None,
            endpoint: None,
            credentials: None,
        }
    }
}

/// An object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Within the bucket.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// Names this version; reads ask for it, so that no two versions are mixed.
    pub etag: Option<String>,
}

/// What a client did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ranged reads.
    pub requests: u64,
    /// Second requests for what was late.
    pub hedges_issued: u64,
    /// Of those, the ones that answered first.
    pub hedges_won: u64,
    /// Attempts after the first.
    pub retries: u64,
    /// Bytes of large objects that earlier, interrupted processes moved.
    pub kept: u64,
}

/// A bucket, or a web server to read from. Blocking; any number of threads may use it.
///
/// Endpoint, region and credentials come from the environment (`AWS_ACCESS_KEY_ID`,
/// `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_CONNECTION_STRING`, …) or from the machine (web
/// identity, container, instance), as with every other client. They appear in no message.
#[derive(Debug, Clone)]
pub struct Remote {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// Of every object, before its key: `s3://bucket`.
    root: String,
    pub(super) data: Data,
    control: Option<Control>,
    pub(super) settings: Settings,
    pub(super) hedge: Mutex<Hedge>,
    pub(super) gate: Gate,
    retries: AtomicU64,
    kept: AtomicU64,
    seed: AtomicU64,
    /// Whether the endpoint refuses to replace; asked once.
    enforces_new: OnceLock<bool>,
}

/// Everything but bytes: listing, deleting, beginning and ending an upload.
pub(super) struct Control {
    pub(super) service: Service,
    pub(super) store: Box<dyn Store>,
    pub(super) bucket: String,
    /// Of the server and its account: buckets of one are copied by the server itself.
    pub(super) endpoint: String,
    pub(super) runtime: Runtime,
}

impl std::fmt::Debug for Control {
    /// Without the library's part: of some services it shows credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control({:?} {} {})", self.service, self.endpoint, self.bucket)
    }
}

impl Remote {
    /// Opens the bucket or server of `uri`; returns the key in it too.
    ///
    /// # Errors
    /// [`Error::Io`] if the URI or the environment is not understood. No request is made.
    pub fn open(uri: &str, settings: Settings) -> Result<(Self, String)> {
        let wrong = |source| Error::io("open", std::path::Path::new(uri), source);
        let (root, key, data, control) = match (scheme(uri), parse(uri)) {
            (Some(scheme), Some((bucket, key))) if let Some(service) = Service::of(scheme) => {
                let (data, control) = service.open(bucket, &settings).map_err(wrong)?;
                (format!("{scheme}://{bucket}"), key, data, Some(control))
            }
            (Some("http" | "https"), Some((_, key))) => {
                let root = uri[..uri.len() - key.len()].trim_end_matches('/');
                let data = Data::open(root, settings.attempt, None).map_err(wrong)?;
                (root.to_owned(), key, data, None)
            }
            _ => {
                let expected = "expected s3://, gs:// or az://BUCKET/KEY, or https://HOST/PATH";
                return Err(wrong(io::Error::new(ErrorKind::InvalidInput, expected)));
            }
        };
        let inner = Inner {
            root,
            data,
            control,
            hedge: Mutex::new(Hedge::new(0.95, settings.hedge_share)),
            gate: Gate::new(match settings.at_once {
                Some(n) => Concurrency::new(n, n, n),
                None => Concurrency::new(8, 2, settings.most),
            }),
            settings,
            retries: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            enforces_new: OnceLock::new(),
            seed: AtomicU64::new(std::process::id().into()),
        };
        Ok((Self { inner: Arc::new(inner) }, key.into()))
    }

    /// Everything under `prefix`, sorted by key.
    ///
    /// # Errors
    /// [`Error::Transfer`] as all of this client's.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let inner = &self.inner;
        let prefix = prefix.trim_end_matches('/');
        let (store, place) = (&inner.control()?.store, inner.key(prefix)?);
        let mut entries = inner.asked("list", prefix, || async {
            let all = store.list(Some(&place));
            all.map_ok(Entry::from).try_collect::<Vec<_>>().await
        })?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// The names directly under `prefix`: objects, and prefixes of further ones.
    ///
    /// # Errors
    /// As [`Remote::list`].
    pub fn list_level(&self, prefix: &str) -> Result<(Vec<Entry>, Vec<String>)> {
        let inner = &self.inner;
        let prefix = prefix.trim_end_matches('/');
        let (store, place) = (&inner.control()?.store, inner.key(prefix)?);
        let found = inner.asked("list", prefix, || store.list_with_delimiter(Some(&place)))?;
        let prefixes = found.common_prefixes.iter().map(|p| format!("{p}/")).collect();
        Ok((found.objects.into_iter().map(Entry::from).collect(), prefixes))
    }

    /// Length and time of one object.
    ///
    /// # Errors
    /// [`Error::Transfer`], with `NotFound` inside if there is none.
    pub fn head(&self, key: &str) -> Result<Entry> {
        let inner = &self.inner;
        if inner.control.is_none() {
            return inner.web_head(key);
        }
        let (store, place) = (&inner.control()?.store, inner.key(key)?);
        inner.asked("stat", key, || store.head(&place)).map(Entry::from)
    }

    /// Fills `buf` with the bytes from `offset` on, of this version of the object.
    ///
    /// # Errors
    /// [`Error::Transfer`] naming object, offset and attempts, after the deadline at the latest;
    /// [`Error::PastEnd`] if the object is shorter.
    pub fn read_at(&self, entry: &Entry, offset: u64, buf: &mut [u8]) -> Result<()> {
        let range = offset..offset + buf.len() as u64;
        self.inner.fetch(entry, range, buf, |_, _| Ok(()))
    }

    /// The bytes of a range of whatever is there.
    ///
    /// # Errors
    /// As [`Remote::read_at`].
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let mut buf = vec![0; (range.end - range.start) as usize];
        let entry = Entry {
            key: key.into(),
            size: range.end,
            modified: SystemTime::UNIX_EPOCH,
            etag: None,
        };
        self.read_at(&entry, range.start, &mut buf)?;
        Ok(buf.into())
    }

    /// Writes a small object whole, over any that is there.
    ///
    /// # Errors
    /// As [`Remote::read_at`].
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        self.inner.writable(key)?;
        self.inner.send("write", key, 0, "", &[], bytes).map(drop)
    }

    /// Writes an object that must not exist; false if it does. Ask [`Remote::enforces_new`] first.
    ///
    /// # Errors
    /// As [`Remote::read_at`].
    pub fn put_new(&self, key: &str, bytes: &Bytes) -> Result<bool> {
        let inner = &self.inner;
        let (store, place) = (&inner.control()?.store, inner.key(key)?);
        let put = || {
            let options = PutOptions::from(PutMode::Create);
            store.put_opts(&place, PutPayload::from_bytes(bytes.clone()), options)
        };
        match inner.asked("write", key, put) {
            Ok(_) => Ok(true),
            Err(Error::Transfer { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether this endpoint refuses to replace an object when told to: some accept the condition
    /// and ignore it. Writes and removes an object under `prefix`, once for a client.
    ///
    /// # Errors
    /// As [`Remote::read_at`].
    pub fn enforces_new(&self, prefix: &str) -> Result<bool> {
        if let Some(known) = self.inner.enforces_new.get() {
            return Ok(*known);
        }
        let key = format!("{prefix}.forebay-probe-{:016x}", self.inner.random());
        self.put(&key, b"probe")?;
        let refused = self.put_new(&key, &Bytes::from_static(b"again")).map(|written| !written);
        self.delete(&key)?;
        refused.map(|refused| *self.inner.enforces_new.get_or_init(|| refused))
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// As [`Remote::read_at`].
    pub fn delete(&self, key: &str) -> Result<()> {
        let inner = &self.inner;
        inner.writable(key)?;
        // Not by the library: its way to remove many at once wants more rights of Azure.
        match inner.ask("remove", "DELETE", key, "", &[]).map(drop) {
            Err(Error::Transfer { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    /// Requests, hedges and retries so far.
    pub fn stats(&self) -> Stats {
        let (requests, hedges_issued, hedges_won) = lock(&self.inner.hedge).counts();
        let retries = self.inner.retries.load(Ordering::Relaxed);
        let kept = self.inner.kept.load(Ordering::Relaxed);
        Stats { requests, hedges_issued, hedges_won, retries, kept }
    }
}

impl From<object_store::ObjectMeta> for Entry {
    fn from(meta: object_store::ObjectMeta) -> Self {
        let (key, modified) = (meta.location.to_string(), meta.last_modified.into());
        // Listings of Azure tell it without the quotes that belong to it.
        let quoted = |tag: String| if tag.ends_with('"') { tag } else { format!("\"{tag}\"") };
        Self { key, size: meta.size, modified, etag: meta.e_tag.map(quoted) }
    }
}

impl Inner {
    /// The whole name of an object, for messages.
    pub(super) fn uri(&self, key: &str) -> String {
        format!("{}/{}", self.root, key.split('?').next().unwrap_or_default())
    }

    /// A key as it stands: the library's usual way in would encode some characters.
    pub(super) fn key(&self, key: &str) -> Result<Key> {
        Key::parse(key).map_err(|error| {
            let source = io::Error::new(ErrorKind::InvalidInput, error.to_string());
            Error::io("use the key of", self.uri(key).as_ref(), source)
        })
    }

    pub(super) fn control(&self) -> Result<&Control> {
        self.control.as_ref().ok_or_else(|| {
            let what = "a web server can only be read from, by the names of its files";
            Error::io(
                "list or change",
                self.root.as_ref(),
                io::Error::new(ErrorKind::Unsupported, what),
            )
        })
    }

    /// An error for what cannot be written.
    pub(super) fn writable(&self, key: &str) -> Result<()> {
        self.control()?;
        self.key(key).map(drop)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed)
    }

    /// A number that nobody else will draw.
    pub(super) fn random(&self) -> u64 {
        RandomState::new().hash_one((std::process::id(), self.seed(), SystemTime::now()))
    }

    pub(super) fn count_kept(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
