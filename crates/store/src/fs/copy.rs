//! Copying trees: many requests in flight, on past single failures, resumed by looking.
//!
//! A file is whole when its size and its time of change are those of its source; the time is set
//! last. So a copy that was killed goes on where it was when the same command runs again: whole
//! files are left alone, the rest is made again, and a large one goes on at its last mark.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, Timespec, Timestamps, fadvise, futimens};

use super::large::{self, Hash, PART};
use super::walk::{Entry, Kind, walk};
use super::{Tally, in_parallel, small};
use crate::{Error, Result};

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Small files at once.
    pub threads: usize,
    /// Read everything back from the disk and compare blake3 hashes.
    pub verify: bool,
    /// Remove from the target what the source has not.
    pub delete: bool,
    /// Compare contents rather than size and time to find out what is there already.
    pub checksum: bool,
}

/// What came of it; failures are in the tally.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files and links copied.
    pub copied: u64,
    /// There already.
    pub skipped: u64,
    /// Removed from the target.
    pub deleted: u64,
    /// Files read back and found equal.
    pub verified: u64,
    /// Ended early, because it was asked to; the same command goes on.
    pub stopped: bool,
}

/// Files above this are copied in parts by a queue.
pub(super) const SMALL: u64 = 4 << 20;

/// Large files at once: each has a queue of its own that is deep enough for the device.
const LARGE_AT_ONCE: usize = 2;

/// Makes `to` like `from`: a file, or what is below a directory. Times of change and permissions
/// come along; links are copied as links.
///
/// An existing directory `to` takes a file by its name. What is done is counted in `tally`, and
/// what fails is listed there. When `stop` is set, files in hand are finished.
///
/// # Errors
/// [`Error::Io`] if nothing can be done at all; [`Error::Inside`] if `to` lies in `from`.
pub fn copy(
    from: &Path,
    to: &Path,
    options: Options,
    tally: &Tally,
    stop: &AtomicBool,
) -> Result<Summary> {
    let source = Entry::of(from)?;
    let is_tree = source.kind == Kind::Directory;
    let name = from.file_name().unwrap_or_default();
    let to = if !is_tree && to.is_dir() { to.join(name) } else { to.to_path_buf() };
    if is_tree {
        refuse_inside(from, &to)?;
    }
    let root_is_new = fs::symlink_metadata(&to).is_err();
    let run = Run {
        from,
        to: &to,
        options,
        tally,
        stop,
        umask: umask(),
        copied: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        large: Mutex::new(Vec::new()),
        foreign: Mutex::new(Vec::new()),
        hashes: Mutex::new(Vec::new()),
    };
    if is_tree {
        // Fails here rather than in the tally: nothing at all could be done.
        drop(fs::read_dir(from).map_err(|e| Error::io("list", from, e))?);
        crate::create_dir(&to)?;
        small::tree(&run, root_is_new);
    } else {
        crate::create_dir(&crate::publish::parent(&to))?;
        small::single(&run, source)?;
    }
    let mut large = taken(&run.large);
    large.sort_by(|a, b| a.path.cmp(&b.path));
    in_parallel(&large, LARGE_AT_ONCE, |entry| {
        if !run.stopped() {
            run.count(entry, run.large(entry));
        }
    });
    let deleted = if run.stopped() { 0 } else { run.delete_foreign() };
    sync_file_system(&to)?;
    if options.verify {
        run.verify();
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Summary {
        copied: count(&run.copied),
        skipped: count(&run.skipped),
        deleted,
        verified: count(&run.verified),
        stopped: run.stopped(),
    })
}

/// One sync for everything: a sync of each file would wait 20,000 times.
fn sync_file_system(to: &Path) -> Result<()> {
    let file = match File::open(to) {
        Ok(file) => file,
        // A link that leads nowhere.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("open", to, e)),
    };
    rustix::fs::syncfs(&file).map_err(|e| Error::io("sync", to, e.into()))
}

fn refuse_inside(from: &Path, to: &Path) -> Result<()> {
    let real = fs::canonicalize(from).map_err(|e| Error::io("resolve", from, e))?;
    let mut place = to;
    loop {
        if let Ok(found) =
            fs::canonicalize(if place == Path::new("") { Path::new(".") } else { place })
        {
            return match found.starts_with(&real) {
                true => Err(Error::Inside { from: from.into(), to: to.into() }),
                false => Ok(()),
            };
        }
        match place.parent() {
            Some(parent) => place = parent,
            None => return Ok(()),
        }
    }
}

pub(super) struct Run<'a> {
    pub(super) from: &'a Path,
    pub(super) to: &'a Path,
    pub(super) options: Options,
    pub(super) tally: &'a Tally,
    stop: &'a AtomicBool,
    pub(super) umask: u32,
    copied: AtomicU64,
    pub(super) skipped: AtomicU64,
    verified: AtomicU64,
    /// Found on the way, copied when the small ones are done.
    large: Mutex<Vec<Entry>>,
    /// In the target and not in the source.
    foreign: Mutex<Vec<PathBuf>>,
    /// What was read of each file, for reading back; parts that an earlier run copied are `None`.
    hashes: Mutex<Vec<(Entry, Vec<Option<Hash>>)>>,
}

impl Run<'_> {
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn source(&self, entry: &Entry) -> PathBuf {
        self.source_at(&entry.path)
    }

    pub(super) fn target(&self, entry: &Entry) -> PathBuf {
        self.target_at(&entry.path)
    }

    pub(super) fn source_at(&self, path: &Path) -> PathBuf {
        below(self.from, path)
    }

    pub(super) fn target_at(&self, path: &Path) -> PathBuf {
        below(self.to, path)
    }

    /// Whether the target has a file already, and whole.
    pub(super) fn is_there(&self, entry: &Entry, there: &Entry) -> bool {
        there.kind == entry.kind
            && there.size == entry.size
            && match entry.kind {
                Kind::Link => {
                    fs::read_link(self.source(entry)).ok() == fs::read_link(self.target(entry)).ok()
                }
                _ if self.options.checksum => {
                    let hash = |path: &Path| large::hash_parts(path, entry.size).ok();
                    let source = hash(&self.source(entry));
                    source.is_some() && source == hash(&self.target(entry))
                }
                _ => there.modified == entry.modified,
            }
    }

    /// Keeps a large file for later.
    pub(super) fn later(&self, entry: Entry) {
        lock(&self.large).push(entry);
    }

    /// Keeps names that the source has not, to be removed at the end.
    pub(super) fn foreign(&self, paths: impl Iterator<Item = PathBuf>) {
        lock(&self.foreign).extend(paths);
    }

    /// Notes how the copy of `entry` ended; the tally has not seen `bytes` of it yet.
    pub(super) fn count(&self, entry: &Entry, bytes: Result<u64>) {
        match bytes {
            Ok(bytes) => {
                self.copied.fetch_add(1, Ordering::Relaxed);
                self.tally.add(1, bytes);
            }
            Err(Error::Stopped) => {}
            Err(error) => self.tally.fail(self.source(entry), error),
        }
    }

    fn large(&self, entry: &Entry) -> Result<u64> {
        let (source, target) = (self.source(entry), self.target(entry));
        let temporary = large::temporary(&target);
        let hashes =
            large::copy(&source, &temporary, entry, self.options.verify, self.tally, self.stop)?;
        let file = OpenOptions::new().write(true).open(&temporary);
        let file = file.map_err(|e| Error::io("open", &temporary, e))?;
        self.finish(&file, &temporary, entry)?;
        fs::rename(&temporary, &target).map_err(|e| Error::io("rename", &temporary, e))?;
        let _ = fs::remove_file(large::mark(&temporary));
        if self.options.verify {
            self.remember(entry, hashes);
        }
        Ok(0)
    }

    /// Permissions and, last of all, the time that says: whole.
    pub(super) fn finish(&self, file: &File, place: &Path, entry: &Entry) -> Result<()> {
        if entry.mode & (self.umask | 0o7000) != 0 || entry.size > SMALL {
            let mode = fs::Permissions::from_mode(entry.mode);
            file.set_permissions(mode).map_err(|e| Error::io("set the mode of", place, e))?;
        }
        let time = Timespec {
            tv_sec: entry.modified.div_euclid(1_000_000_000) as i64,
            tv_nsec: entry.modified.rem_euclid(1_000_000_000) as _,
        };
        let times = Timestamps { last_access: time, last_modification: time };
        futimens(file, &times).map_err(|e| Error::io("set the time of", place, e.into()))
    }

    pub(super) fn remember(&self, entry: &Entry, parts: Vec<Option<Hash>>) {
        lock(&self.hashes).push((entry.clone(), parts));
    }

    /// Removes what the source has not, with all below it; returns how many names that were.
    fn delete_foreign(&self) -> u64 {
        let mut deleted = 0;
        for root in taken(&self.foreign) {
            // Left by a copy that was killed, and gone on with by this one.
            if fs::symlink_metadata(&root).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
                continue;
            }
            let mut names = match walk(&root, self.options.threads, self.tally) {
                Ok(names) => names,
                Err(error) => {
                    self.tally.fail(root, error);
                    continue;
                }
            };
            if root.is_dir() && !root.is_symlink() {
                names.extend(Entry::of(&root));
            }
            // Sorted by path, so what is inside comes later; backwards, it goes first.
            names.sort_by(|a, b| b.path.cmp(&a.path));
            for entry in names {
                let place = below(&root, &entry.path);
                let removed = match entry.kind {
                    Kind::Directory => fs::remove_dir(&place),
                    _ => fs::remove_file(&place),
                };
                match removed {
                    Ok(()) => deleted += 1,
                    Err(e) => self.tally.fail(place.clone(), Error::io("remove", &place, e)),
                }
            }
        }
        deleted
    }

    /// Reads every copied file back from the disk.
    fn verify(&self) {
        let copied = taken(&self.hashes);
        in_parallel(&copied, self.options.threads, |(entry, parts)| {
            let (source, target) = (self.source(entry), self.target(entry));
            match check(&source, &target, entry.size, parts) {
                Ok(()) => {
                    self.verified.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.tally.fail(target, error),
            }
        });
    }
}

/// Compares what the disk holds with what was read; parts without a hash with the source itself.
fn check(source: &Path, target: &Path, size: u64, parts: &[Option<Hash>]) -> Result<()> {
    if let Ok(file) = File::open(target) {
        // Durable already, so the kernel can forget it and the disk must answer.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
    let found = large::hash_parts(target, size)?;
    let mut of_source = None;
    for (n, found) in found.iter().enumerate() {
        let expected = match parts.get(n).copied().flatten() {
            Some(hash) => Some(hash),
            None => {
                if of_source.is_none() {
                    of_source = Some(large::hash_parts(source, size)?);
                }
                of_source.as_ref().and_then(|all| all.get(n).copied())
            }
        };
        if expected != Some(*found) {
            let (path, offset) = (target.to_path_buf(), (n * PART) as u64);
            return Err(Error::Differs { path, offset });
        }
    }
    Ok(())
}

pub(super) fn link(source: &Path, target: &Path) -> Result<()> {
    let leads_to = fs::read_link(source).map_err(|e| Error::io("read", source, e))?;
    let temporary = large::temporary(target);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(leads_to, &temporary)
        .map_err(|e| Error::io("create", &temporary, e))?;
    fs::rename(&temporary, target).map_err(|e| Error::io("rename", &temporary, e))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken<T>(all: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *lock(all))
}

/// `root` itself for the empty path.
fn below(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(path) }
}

/// The mask that `open` takes off a mode; reading it by `umask(2)` would change it for a moment.
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    // Unknown: every file gets its mode by a call of its own.
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}
