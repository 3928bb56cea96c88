//! Copying trees: many requests in flight, on past single failures, resumed by looking.
//!
//! A file is whole when its size and its time of change are those of its source; the time is set
//! last. So a copy that was killed goes on where it was when the same command runs again: whole
//! files are left alone, the rest is made again, and a large one goes on at its last mark.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, Timespec, Timestamps, fadvise, futimens};

use super::large::{self, Hash, PART};
use super::walk::{Entry, Kind, walk};
use super::{Tally, in_parallel};
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
const SMALL: u64 = 4 << 20;

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
    let there: HashMap<PathBuf, Entry> = match fs::symlink_metadata(&to) {
        Err(_) => HashMap::new(),
        Ok(_) => walk(&to, options.threads, tally)?
            .into_iter()
            .map(|entry| (entry.path.clone(), entry))
            .collect(),
    };
    let run = Run {
        from,
        to: &to,
        options,
        tally,
        stop,
        there: &there,
        umask: umask(),
        copied: AtomicU64::new(0),
        skipped: AtomicU64::new(0),
        deleted: AtomicU64::new(0),
        verified: AtomicU64::new(0),
        hashes: Mutex::new(Vec::new()),
    };
    let entries = walk(from, options.threads, tally)?;
    if is_tree {
        crate::create_dir(&to)?;
        run.directories(&entries);
    } else if let Some(parent) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
        crate::create_dir(parent)?;
    }
    let wanted: Vec<&Entry> =
        entries.iter().filter(|e| e.kind != Kind::Directory && run.is_wanted(e)).collect();
    let (small, large): (Vec<&Entry>, Vec<&Entry>) =
        wanted.into_iter().partition(|e| e.kind != Kind::File || e.size <= SMALL);
    // A run of neighbours for each thread: creating takes a lock of the directory.
    let each = (small.len() / (4 * options.threads.max(1))).clamp(1, 64);
    let runs: Vec<&[&Entry]> = small.chunks(each).collect();
    in_parallel(&runs, options.threads, |entries| {
        entries.iter().for_each(|entry| run.each(entry, Run::small));
    });
    in_parallel(&large, LARGE_AT_ONCE, |entry| run.each(entry, Run::large));
    if options.delete && is_tree && !run.stopped() {
        run.delete_others(&entries);
    }
    sync_file_system(&to)?;
    if options.verify {
        run.verify();
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(Summary {
        copied: count(&run.copied),
        skipped: count(&run.skipped),
        deleted: count(&run.deleted),
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

struct Run<'a> {
    from: &'a Path,
    to: &'a Path,
    options: Options,
    tally: &'a Tally,
    stop: &'a AtomicBool,
    there: &'a HashMap<PathBuf, Entry>,
    umask: u32,
    copied: AtomicU64,
    skipped: AtomicU64,
    deleted: AtomicU64,
    verified: AtomicU64,
    /// What was read of each file, for reading back; parts that an earlier run copied are `None`.
    hashes: Mutex<Vec<(Entry, Vec<Option<Hash>>)>>,
}

impl Run<'_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn source(&self, entry: &Entry) -> PathBuf {
        below(self.from, &entry.path)
    }

    fn target(&self, entry: &Entry) -> PathBuf {
        below(self.to, &entry.path)
    }

    fn directories(&self, entries: &[Entry]) {
        for entry in entries.iter().filter(|e| e.kind == Kind::Directory) {
            let place = self.target(entry);
            let made = match fs::create_dir(&place) {
                // Writable while it is filled.
                Ok(()) => {
                    fs::set_permissions(&place, fs::Permissions::from_mode(entry.mode | 0o700))
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists && place.is_dir() => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = made {
                self.tally.fail(place.clone(), Error::io("create directory", &place, e));
            }
        }
    }

    /// Whether a file is not there yet, or not whole.
    fn is_wanted(&self, entry: &Entry) -> bool {
        let Some(there) = self.there.get(&entry.path) else { return true };
        let same = there.kind == entry.kind
            && there.size == entry.size
            && match entry.kind {
                Kind::Link => {
                    fs::read_link(self.source(entry)).ok() == fs::read_link(self.target(entry)).ok()
                }
                _ if self.options.checksum => {
                    let hash = |path: &Path| large::hash_parts(path, entry.size).ok();
                    hash(&self.source(entry)) == hash(&self.target(entry))
                }
                _ => there.modified == entry.modified,
            };
        if same {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        !same
    }

    fn each(&self, entry: &Entry, copy: fn(&Self, &Entry) -> Result<u64>) {
        if self.stopped() {
            return;
        }
        match copy(self, entry) {
            Ok(bytes) => {
                self.copied.fetch_add(1, Ordering::Relaxed);
                self.tally.add(1, bytes);
            }
            Err(Error::Stopped) => {}
            Err(error) => self.tally.fail(self.source(entry), error),
        }
    }

    /// A link, or a file in one piece; returns the bytes that the tally has not seen yet.
    fn small(&self, entry: &Entry) -> Result<u64> {
        let (source, target) = (self.source(entry), self.target(entry));
        match entry.kind {
            Kind::File => {}
            Kind::Link => return copy_link(&source, &target).map(|()| 0),
            _ => {
                let e = std::io::Error::new(ErrorKind::Unsupported, "neither file nor link");
                return Err(Error::io("copy", &source, e));
            }
        }
        let bytes = read_whole(&source, entry.size).map_err(|e| Error::io("read", &source, e))?;
        // A new file is seen under its name while it is written; one that replaces is not.
        let replaces = self.there.contains_key(&entry.path);
        let place = if replaces { large::temporary(&target) } else { target.clone() };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(entry.mode);
        let mut file = options.open(&place).map_err(|e| Error::io("create", &place, e))?;
        file.write_all(&bytes).map_err(|e| Error::io("write", &place, e))?;
        self.finish(&file, &place, entry)?;
        if replaces {
            fs::rename(&place, &target).map_err(|e| Error::io("rename", &place, e))?;
        }
        if self.options.verify {
            let parts = bytes.chunks(PART).map(|part| Some(*blake3::hash(part).as_bytes()));
            self.remember(entry, parts.collect());
        }
        Ok(bytes.len() as u64)
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
    fn finish(&self, file: &File, place: &Path, entry: &Entry) -> Result<()> {
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

    fn remember(&self, entry: &Entry, parts: Vec<Option<Hash>>) {
        if let Ok(mut hashes) = self.hashes.lock() {
            hashes.push((entry.clone(), parts));
        }
    }

    fn delete_others(&self, entries: &[Entry]) {
        let wanted: std::collections::HashSet<&Path> =
            entries.iter().map(|e| e.path.as_path()).collect();
        let mut others: Vec<&Entry> =
            self.there.values().filter(|e| !wanted.contains(e.path.as_path())).collect();
        others.sort_by(|a, b| b.path.cmp(&a.path));
        for entry in others {
            let place = self.target(entry);
            let removed = match entry.kind {
                Kind::Directory => fs::remove_dir(&place),
                _ => fs::remove_file(&place),
            };
            match removed {
                Ok(()) => {
                    self.deleted.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) => self.tally.fail(place.clone(), Error::io("remove", &place, e)),
            }
        }
    }

    /// Reads every copied file back from the disk.
    fn verify(&self) {
        let copied = self.hashes.lock().map(|mut h| std::mem::take(&mut *h)).unwrap_or_default();
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

/// A file of likely `size` bytes. Room for one more shows the end without asking again: a file of
/// this machine is opened, read once, and closed.
fn read_whole(path: &Path, size: u64) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = Vec::with_capacity(size as usize + 1);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(64 << 10);
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() as u64 == size => return Ok(bytes),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
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

fn copy_link(source: &Path, target: &Path) -> Result<()> {
    let leads_to = fs::read_link(source).map_err(|e| Error::io("read", source, e))?;
    let temporary = large::temporary(target);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(leads_to, &temporary)
        .map_err(|e| Error::io("create", &temporary, e))?;
    fs::rename(&temporary, target).map_err(|e| Error::io("rename", &temporary, e))
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
