//! One bucket of an S3 endpoint.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::{Either, select};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use super::{Concurrency, Hedge, Retry, parse};
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
    /// Another endpoint than that of the environment.
    pub endpoint: Option<String>,
    /// Access key and secret, instead of those of the environment.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for Settings {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { deadline, attempt, hedge_share, most, endpoint, credentials: _ } = self;
        write!(f, "Settings({deadline:?}, {attempt:?}, {hedge_share}, {most}, {endpoint:?})")
    }
}

impl Default for Settings {
    fn default() -> Self {
        let (deadline, attempt) = (Duration::from_secs(120), Duration::from_secs(20));
        Self { deadline, attempt, hedge_share: 0.05, most: 64, endpoint: None, credentials: None }
    }
}

/// An object or, where a listing stops at `/`, a common prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Within the bucket.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// What a client did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Ranged reads.
    pub requests: u64,
    /// Second requests for what was late.
    pub hedges_issued: u64,
    /// Of those, the ones that answered first.
    pub hedges_won: u64,
    /// Attempts after the first.
    pub retries: u64,
}

/// A bucket. Blocking: it brings its own runtime, and any number of threads may use it.
///
/// Endpoint, region and credentials come from the environment (`AWS_ENDPOINT_URL`,
/// `AWS_ACCESS_KEY_ID`, …), as with every other client. They appear in no message.
#[derive(Debug)]
pub struct Remote {
    pub(super) inner: Arc<Inner>,
    pub(super) runtime: Runtime,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) store: Arc<dyn ObjectStore>,
    bucket: String,
    pub(super) settings: Settings,
    hedge: Mutex<Hedge>,
    gate: Mutex<Gate>,
    opened: Notify,
    retries: AtomicU64,
    seed: AtomicU64,
}

/// How many are in flight, and what the current round brought.
#[derive(Debug)]
struct Gate {
    concurrency: Concurrency,
    in_flight: usize,
    round: u64,
    bytes: u64,
    since: Instant,
}

impl Remote {
    /// Opens the bucket of `uri`; returns the key in it too.
    ///
    /// # Errors
    /// [`Error::Io`] if the URI or the environment is not understood. No request is made.
    pub fn open(uri: &str, settings: Settings) -> Result<(Self, String)> {
        let wrong = |source| Error::io("open", std::path::Path::new(uri), source);
        let (bucket, key) = parse(uri).ok_or_else(|| {
            let expected = "expected s3://BUCKET/KEY";
            wrong(io::Error::new(io::ErrorKind::InvalidInput, expected))
        })?;
        let options = ClientOptions::new()
            .with_timeout(settings.attempt)
            .with_connect_timeout(Duration::from_secs(5))
            .with_http1_only();
        // Attempts are counted, jittered and bounded here, not in there.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(options)
            .with_retry(retry);
        if let Some((key, secret)) = &settings.credentials {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        }
        let endpoint = settings.endpoint.clone().or_else(|| std::env::var("AWS_ENDPOINT_URL").ok());
        if let Some(endpoint) = endpoint {
            builder = builder.with_allow_http(endpoint.starts_with("http://"));
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.build().map_err(|e| wrong(io::Error::other(e.to_string())))?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .map_err(wrong)?;
        let concurrency = Concurrency::new(8, 2, settings.most);
        let since = Instant::now();
        let gate = Gate { concurrency, in_flight: 0, round: 0, bytes: 0, since };
        let inner = Inner {
            store: Arc::new(store),
            bucket: bucket.into(),
            hedge: Mutex::new(Hedge::new(0.95, settings.hedge_share)),
            settings,
            gate: Mutex::new(gate),
            opened: Notify::new(),
            retries: AtomicU64::new(0),
            seed: AtomicU64::new(std::process::id().into()),
        };
        Ok((Self { inner: Arc::new(inner), runtime }, key.into()))
    }

    /// Everything under `prefix`, sorted by key.
    ///
    /// # Errors
    /// [`Error::Transfer`] as all of this client's.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let inner = &self.inner;
        let prefix = prefix.trim_end_matches('/');
        let mut entries = self.runtime.block_on(inner.tried("list", prefix, 0, || async {
            let all = inner.store.list(Some(&Key::from(prefix)));
            all.map_ok(|meta| Entry {
                key: meta.location.to_string(),
                size: meta.size,
                modified: meta.last_modified.into(),
            })
            .try_collect::<Vec<_>>()
            .await
        }))?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(entries)
    }

    /// Length and time of one object.
    ///
    /// # Errors
    /// [`Error::Transfer`], with `NotFound` inside if there is none.
    pub fn head(&self, key: &str) -> Result<Entry> {
        self.runtime.block_on(self.inner.head(key))
    }

    /// The bytes of a range, all of them.
    ///
    /// # Errors
    /// [`Error::Transfer`] naming object, offset and attempts, after the deadline at the latest.
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.runtime.block_on(self.inner.get_range(key, range))
    }

    /// Writes a small object whole, over any that is there.
    ///
    /// # Errors
    /// As [`Remote::get_range`].
    pub fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        self.runtime.block_on(self.inner.put(key, bytes, PutMode::Overwrite))
    }

    /// Writes an object that must not exist; false if it does. Ask [`Remote::enforces_new`] first.
    ///
    /// # Errors
    /// As [`Remote::get_range`].
    pub fn put_new(&self, key: &str, bytes: Bytes) -> Result<bool> {
        match self.runtime.block_on(self.inner.put(key, bytes, PutMode::Create)) {
            Ok(()) => Ok(true),
            Err(Error::Transfer { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether this endpoint refuses to replace an object when told to: some accept the condition
    /// and ignore it. Writes and removes an object under `prefix`.
    ///
    /// # Errors
    /// As [`Remote::get_range`].
    pub fn enforces_new(&self, prefix: &str) -> Result<bool> {
        let key = format!("{}.forebay-probe-{}", prefix, std::process::id());
        self.put(&key, Bytes::from_static(b"probe"))?;
        let refused = self.put_new(&key, Bytes::from_static(b"again")).map(|written| !written);
        self.delete(&key)?;
        refused
    }

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// As [`Remote::get_range`].
    pub fn delete(&self, key: &str) -> Result<()> {
        let inner = &self.inner;
        let place = Key::from(key);
        let deleted =
            self.runtime.block_on(inner.tried("remove", key, 0, || inner.store.delete(&place)));
        match deleted {
            Err(Error::Transfer { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            deleted => deleted,
        }
    }

    /// Requests, hedges and retries so far.
    pub fn stats(&self) -> Stats {
        let (requests, hedges_issued, hedges_won) = lock(&self.inner.hedge).counts();
        let retries = self.inner.retries.load(Ordering::Relaxed);
        Stats { requests, hedges_issued, hedges_won, retries }
    }
}

impl Inner {
    pub(super) async fn head(&self, key: &str) -> Result<Entry> {
        let place = Key::from(key);
        let meta = self.tried("stat", key, 0, || self.store.head(&place)).await?;
        let modified = meta.last_modified.into();
        Ok(Entry { key: key.into(), size: meta.size, modified })
    }

    pub(super) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let place = Key::from(key);
        let wanted = range.end - range.start;
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        // Held through all attempts: who waits to try again takes part in the load, too.
        let passed = Pass::wait(self).await;
        self.tried("read", key, range.start, || async {
            let bytes = self.hedged(&place, &range).await?;
            if bytes.len() as u64 != wanted {
                let found = bytes.len();
                let source = format!("the answer ends after {found} of {wanted} bytes").into();
                return Err(StoreError::Generic { store: "S3", source });
            }
            passed.answered(wanted);
            Ok(bytes)
        })
        .await
    }

    pub(super) async fn put(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<()> {
        let place = Key::from(key);
        let put = || {
            let options = PutOptions::from(mode.clone());
            self.store.put_opts(&place, PutPayload::from_bytes(bytes.clone()), options)
        };
        self.tried("write", key, 0, put).await.map(drop)
    }

    /// The whole name of an object, for messages.
    pub(super) fn uri(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// A ranged read, asked a second time if it is late; the first answer wins.
    async fn hedged(&self, place: &Key, range: &Range<u64>) -> object_store::Result<Bytes> {
        let delay = {
            let mut hedge = lock(&self.hedge);
            hedge.started();
            hedge.delay()
        };
        let start = Instant::now();
        let first = self.store.get_range(place, range.clone());
        let mut first = std::pin::pin!(first);
        let mut by_second = false;
        let in_time = match delay {
            None => Some(first.as_mut().await),
            Some(delay) => tokio::time::timeout(delay, first.as_mut()).await.ok(),
        };
        let answer = match in_time {
            Some(answer) => answer,
            None if !lock(&self.hedge).try_issue() => first.await,
            None => {
                let second = std::pin::pin!(self.store.get_range(place, range.clone()));
                // The loser is dropped, which closes its connection.
                match select(first, second).await {
                    Either::Left((Ok(bytes), _)) => Ok(bytes),
                    Either::Left((Err(_), second)) => {
                        by_second = true;
                        second.await
                    }
                    Either::Right((Ok(bytes), _)) => {
                        by_second = true;
                        Ok(bytes)
                    }
                    Either::Right((Err(_), first)) => first.await,
                }
            }
        };
        if answer.is_ok() {
            lock(&self.hedge).answered(start.elapsed(), by_second);
        }
        answer
    }

    /// Tries until it works, cannot work, or the time is over.
    pub(super) async fn tried<T, F>(
        &self,
        action: &'static str,
        key: &str,
        offset: u64,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let seed = self.seed.fetch_add(0x9e37_79b9, Ordering::Relaxed);
        let mut retry = Retry::until(Instant::now() + self.settings.deadline, seed);
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        while let Some(left) = retry.attempt(Instant::now()) {
            if retry.attempts() > 1 {
                self.retries.fetch_add(1, Ordering::Relaxed);
            }
            let limit = left.min(self.settings.attempt);
            let error = match tokio::time::timeout(limit, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    let verdict = Verdict::of(&error);
                    last = verdict.wrap(&error);
                    verdict
                }
                Err(_) => {
                    last =
                        io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}"));
                    Verdict::Busy
                }
            };
            if matches!(error, Verdict::Final(_)) {
                break;
            }
            if matches!(error, Verdict::Busy) {
                lock(&self.gate).concurrency.refused();
            }
            match retry.wait(Instant::now()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break,
            }
        }
        let object = self.uri(key);
        Err(Error::Transfer { action, object, offset, attempts: retry.attempts(), source: last })
    }
}

/// What an error means for the next attempt.
enum Verdict {
    Final(io::ErrorKind),
    Again,
    /// Again, and fewer at once.
    Busy,
}

impl Verdict {
    fn of(error: &StoreError) -> Self {
        use io::ErrorKind::{AlreadyExists, InvalidInput, NotFound, PermissionDenied};
        match error {
            StoreError::NotFound { .. } => Self::Final(NotFound),
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
                Self::Final(AlreadyExists)
            }
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                Self::Final(PermissionDenied)
            }
            StoreError::Generic { source, .. } => {
                // The library tells a status only in words.
                let text = format!("{error} {source:?}");
                let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
                if has(&["503", "429", "SlowDown", "Slow Down"]) {
                    Self::Busy
                } else if has(&["status 4", "status: 4"]) && !has(&["408"]) {
                    Self::Final(InvalidInput)
                } else {
                    Self::Again
                }
            }
            _ => Self::Final(InvalidInput),
        }
    }

    fn wrap(&self, error: &StoreError) -> io::Error {
        let kind = match self {
            Self::Final(kind) => *kind,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error.to_string())
    }
}

/// A place in flight, given back when dropped.
struct Pass<'a>(&'a Inner);

impl<'a> Pass<'a> {
    async fn wait(inner: &'a Inner) -> Self {
        loop {
            let opened = inner.opened.notified();
            {
                let mut gate = lock(&inner.gate);
                if gate.in_flight < gate.concurrency.limit() {
                    gate.in_flight += 1;
                    return Self(inner);
                }
            }
            opened.await;
        }
    }

    /// A round is as many answers as may be in flight.
    fn answered(&self, bytes: u64) {
        let mut gate = lock(&self.0.gate);
        gate.round += 1;
        gate.bytes += bytes;
        if gate.round >= gate.concurrency.limit() as u64 {
            let rate = gate.bytes as f64 / gate.since.elapsed().as_secs_f64().max(1e-6);
            // Rounds in which the callers asked for less say nothing about more.
            if gate.in_flight >= gate.concurrency.limit() {
                gate.concurrency.answered(rate);
            }
            (gate.round, gate.bytes, gate.since) = (0, 0, Instant::now());
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        lock(&self.0.gate).in_flight -= 1;
        self.0.opened.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
