//! Remote things as files of this machine, for what needs files: maps, Parquet, datasets.
//!
//! ```text
//! $FOREBAY_CACHE or ~/.cache/forebay
//! ├── 0f3a….lock    shared while somebody uses the tree, exclusive while it is filled or removed
//! ├── 0f3a…/        a whole tree, named after its URI and the versions of its objects
//! └── 0f3a….part/   one on its way; who comes next goes on with it
//! ```
//!
//! Any number of processes may ask for the same: one fetches, the others wait. The sum of all trees
//! stays below `FOREBAY_CACHE_BYTES` (64 GiB): those that nobody uses go, the oldest first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use super::client::Settings;
use super::tree::{Run, open};
use crate::fs::Tally;
use crate::fs::copy::Options;
use crate::fs::walk::walk;
use crate::{Error, Result};

/// Of all trees, if `FOREBAY_CACHE_BYTES` says nothing.
const LIMIT: u64 = 64 << 30;

/// A copy on this machine. It stays as long as this value does.
#[derive(Debug)]
pub struct Local {
    path: PathBuf,
    _lock: File,
}

impl Local {
    /// Where it lies: a directory, or a file if the URI names one object.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Fetches what `uri` names, an object or all below it, unless this version is here already.
///
/// # Errors
/// [`Error::Transfer`] of the storage, [`Error::Io`] of the disk or if it is larger than the cache.
pub fn local(uri: &str) -> Result<Local> {
    local_in(uri, &directory(), limit()?, &Settings::default())
}

/// Where the trees lie.
pub fn directory() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("FOREBAY_CACHE")
        .or_else(|| Some(from("XDG_CACHE_HOME")?.join("forebay")))
        .or_else(|| Some(from("HOME")?.join(".cache/forebay")))
        .unwrap_or_else(|| std::env::temp_dir().join("forebay-cache"))
}

fn limit() -> Result<u64> {
    let Some(text) = std::env::var_os("FOREBAY_CACHE_BYTES") else { return Ok(LIMIT) };
    text.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        let what = "FOREBAY_CACHE_BYTES: expected a number of bytes";
        Error::io("use", &directory(), io::Error::new(ErrorKind::InvalidInput, what))
    })
}

/// As [`local`], in a given place.
pub(super) fn local_in(uri: &str, cache: &Path, limit: u64, settings: &Settings) -> Result<Local> {
    let place = open(uri, settings)?;
    let mut entries = place.entries()?;
    // What an unfinished run left is nobody's business.
    entries.retain(|(_, name)| !name.starts_with(".work/"));
    let is_one = matches!(&entries[..], [(_, name)] if name.is_empty());
    let mut hasher = blake3::Hasher::new();
    hasher.update(uri.as_bytes());
    for (entry, name) in &entries {
        hasher.update(
            format!("\0{name}\0{}\0{:?}\0{:?}", entry.size, entry.etag, entry.modified).as_bytes(),
        );
    }
    let name = hasher.finalize().to_hex()[..32].to_owned();
    let needed: u64 = entries.iter().map(|(entry, _)| entry.size).sum();
    crate::create_dir(cache)?;
    let tree = cache.join(&name);
    let file = match &entries[..] {
        [(entry, _)] if is_one => tree.join(super::tree::last_name(&entry.key)),
        _ => tree.clone(),
    };
    loop {
        let lock = lock_file(cache, &name)?;
        lock.lock_shared().map_err(|e| Error::io("lock", &tree, e))?;
        if tree.is_dir() {
            // The time of its last use.
            let _ = lock.set_modified(SystemTime::now());
            return Ok(Local { path: file, _lock: lock });
        }
        drop(lock);
        let lock = lock_file(cache, &name)?;
        lock.lock().map_err(|e| Error::io("lock", &tree, e))?;
        if tree.is_dir() {
            continue;
        }
        let part = cache.join(format!("{name}.part"));
        make_room(cache, &part, needed, limit)?;
        crate::create_dir(&part)?;
        let (tally, stop) = (Tally::default(), AtomicBool::new(false));
        let options = Options { threads: 16, verify: false, delete: true, checksum: false };
        Run::new(options, &tally, &stop).down(&place.remote, entries.clone(), &part)?;
        if let Some(failure) = tally.take_failures().into_iter().next() {
            return Err(failure.error);
        }
        fs::rename(&part, &tree).map_err(|e| Error::io("rename", &part, e))?;
    }
}

fn lock_file(cache: &Path, name: &str) -> Result<File> {
    let path = cache.join(format!("{name}.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    file.map_err(|e| Error::io("create", &path, e))
}

/// Removes trees that nobody uses until `needed` bytes fit below `limit`.
fn make_room(cache: &Path, part: &Path, needed: u64, limit: u64) -> Result<()> {
    let mut trees = Vec::new();
    let mut taken = needed;
    for entry in fs::read_dir(cache).map_err(|e| Error::io("list", cache, e))?.flatten() {
        let path = entry.path();
        if !path.is_dir() || path == part {
            continue;
        }
        let files = walk(&path, 4, &Tally::default())?;
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        taken += bytes;
        let name = entry.file_name().to_string_lossy().trim_end_matches(".part").to_owned();
        let lock = cache.join(format!("{name}.lock"));
        let used = fs::metadata(&lock).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        trees.push((used, path, bytes, name));
    }
    trees.sort();
    for (_, path, bytes, name) in trees {
        if taken <= limit {
            break;
        }
        // Held by whoever uses it; who comes later finds the tree gone and fetches it again.
        let lock = lock_file(cache, &name)?;
        if lock.try_lock().is_ok() {
            fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
            taken -= bytes;
        }
    }
    if taken <= limit {
        return Ok(());
    }
    let what =
        format!("{needed} bytes more would make {taken}, FOREBAY_CACHE_BYTES allows {limit}");
    Err(Error::io("make room in", cache, io::Error::new(ErrorKind::StorageFull, what)))
}
