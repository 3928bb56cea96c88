//! Remote things for who only wants to read them, in every build: without the feature `s3` each
//! function says that it is missing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Result;

/// An object that a URI led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Of the object.
    pub uri: String,
    /// Length in bytes.
    pub size: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// A path as it can be opened: of a remote thing, a copy that stays while this value does.
#[derive(Debug)]
pub struct Localized {
    path: PathBuf,
    #[cfg(feature = "s3")]
    _held: Option<super::cache::Local>,
}

impl Localized {
    /// A file or directory of this machine.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The path itself, or a local copy of what it names if it is a URI (see `cache`).
///
/// # Errors
/// As [`super::cache::local`].
pub fn local(path: &Path) -> Result<Localized> {
    match path.to_str().filter(|uri| super::scheme(uri).is_some()) {
        #[cfg(feature = "s3")]
        Some(uri) => {
            let held = super::cache::local(uri)?;
            Ok(Localized { path: held.path().to_path_buf(), _held: Some(held) })
        }
        #[cfg(not(feature = "s3"))]
        Some(uri) => Err(missing(uri)),
        None => Ok(Localized {
            path: path.to_path_buf(),
            #[cfg(feature = "s3")]
            _held: None,
        }),
    }
}

#[cfg(not(feature = "s3"))]
mod stubs {
    use super::*;

    pub(super) fn missing(uri: &str) -> crate::Error {
        let what = "this build has no object stores: build it with the feature `s3`";
        let source = std::io::Error::new(std::io::ErrorKind::Unsupported, what);
        crate::Error::io("open", Path::new(uri), source)
    }

    /// Not in this build.
    ///
    /// # Errors
    /// Always.
    pub fn find(uri: &str) -> Result<(Vec<Found>, bool)> {
        Err(missing(uri))
    }

    /// Not in this build.
    ///
    /// # Errors
    /// Always.
    pub fn read(uri: &str) -> Result<Box<dyn Read + Send>> {
        Err(missing(uri))
    }
}
#[cfg(not(feature = "s3"))]
use stubs::missing;
#[cfg(not(feature = "s3"))]
pub use stubs::{find, read};

#[cfg(feature = "s3")]
mod real {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::super::{Remote, Settings, Stream, is_bucket, parse, scheme};
    use super::*;

    /// The client of a bucket, one for the whole process: it knows what its endpoint bears.
    fn client(uri: &str) -> Result<(Arc<Remote>, String)> {
        static OPEN: Mutex<Option<HashMap<String, Arc<Remote>>>> = Mutex::new(None);
        let (Some(scheme), Some((bucket, key))) = (scheme(uri), parse(uri)) else {
            let (remote, key) = Remote::open(uri, Settings::default())?;
            return Ok((Arc::new(remote), key));
        };
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        let name = format!("{scheme}://{bucket}");
        if let Some(remote) = open.get(&name) {
            return Ok((Arc::clone(remote), key.into()));
        }
        let (remote, key) = Remote::open(uri, Settings::default())?;
        let remote = Arc::new(remote);
        open.insert(name, Arc::clone(&remote));
        Ok((remote, key))
    }

    /// All objects under a URI, by name; true if they are what is below it, false if it names one.
    /// Up to the last `/` before a `*`, `?` or `[` if it holds one: the rest is the caller's to match.
    ///
    /// # Errors
    /// [`crate::Error::Transfer`], with `NotFound` inside if there is none.
    pub fn find(uri: &str) -> Result<(Vec<Found>, bool)> {
        let (remote, key) = client(uri)?;
        let root = &uri[..uri.len() - key.len()];
        let found = |entry: super::super::Entry| Found {
            uri: format!("{root}{}", entry.key),
            size: entry.size,
            modified: entry.modified,
        };
        // A web server has no lists, and a `?` of its own.
        if !is_bucket(uri) {
            return Ok((vec![found(remote.head(&key)?)], false));
        }
        let plain = key.find(['*', '?', '[']);
        let prefix = plain
            .map_or(key.as_str(), |at| key[..at].rsplit_once('/').map_or("", |(prefix, _)| prefix));
        let below = remote.list(prefix)?;
        if below.is_empty() && plain.is_none() && !key.is_empty() && !key.ends_with('/') {
            return Ok((vec![found(remote.head(&key)?)], false));
        }
        Ok((below.into_iter().map(found).collect(), true))
    }

    /// The bytes of an object, read ahead.
    ///
    /// # Errors
    /// [`crate::Error::Transfer`].
    pub fn read(uri: &str) -> Result<Box<dyn Read + Send>> {
        let (remote, key) = client(uri)?;
        let entry = remote.head(&key)?;
        Ok(Box::new(Stream::new(&remote, &entry, 0)))
    }
}
#[cfg(feature = "s3")]
pub use real::{find, read};
