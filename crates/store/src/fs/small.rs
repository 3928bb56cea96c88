//! Trees of small files: a directory at a time, names looked up from an open directory.
//!
//! ```text
//! Directory ─▶ make its twin ─▶ list ─▶ Directory …   below it
//!                                   └─▶ Files …       some of its names: stat, read, create, write, time
//! ```
//!
//! All of the time goes to the kernel, and most of that to creating names. Two threads that create
//! in one directory wait for each other, so every thread has a directory of its own as long as there
//! are enough. Nothing waits for the whole source to be listed: while one thread waits for the disk
//! that is read, others create. Eight system calls a file: stat, open, read, close; open, write,
//! set the time, close.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, renameat, statat};
use rustix::io::Errno;

use super::copy::{Run, SMALL};
use super::large::{self, PART};
use super::tasks::{Tasks, work_off};
use super::walk::{Entry, Kind};
use crate::{Error, Result};

/// Names of one directory that a thread takes at once: enough to be worth a lock, few enough that
/// the end of a large directory is shared.
const NAMES: usize = 64;

enum Task {
    /// Below the root; empty for the root itself.
    Directory(PathBuf),
    Files(Arc<Pair>, Vec<CString>),
}

/// A directory and its twin.
pub(super) struct Pair {
    /// Below the root.
    path: PathBuf,
    source: OwnedFd,
    target: OwnedFd,
    /// Nothing was in the twin before.
    is_new: bool,
}

/// Copies all below the roots but large files, which are left for later.
pub(super) fn tree(run: &Run<'_>, root_is_new: bool) {
    let work = |task, tasks: &Tasks<Task>, buffer: &mut Vec<u8>| match task {
        Task::Directory(path) => {
            if let Err(error) = directory(run, &path, root_is_new, tasks) {
                run.tally.fail(run.source_at(&path), error);
            }
        }
        Task::Files(pair, names) => {
            for name in names {
                if run.stopped() {
                    return;
                }
                let path = pair.path.join(OsStr::from_bytes(name.to_bytes()));
                match look(&pair.source, &name) {
                    Ok(None) => {}
                    // Its kind was not told by the list.
                    Ok(Some(found)) if found.kind == Kind::Directory => {
                        tasks.push([Task::Directory(path)]);
                    }
                    Ok(Some(found)) => one(run, &pair, &name, &name, found.named(path), buffer),
                    Err(errno) => {
                        let place = run.source_at(&path);
                        let error = Error::io("stat", &place, errno.into());
                        run.tally.fail(place, error);
                    }
                }
            }
        }
    };
    work_off(Task::Directory(PathBuf::new()), run.options.threads, Vec::new, work);
}

/// Copies `run.from`, which is no directory.
pub(super) fn single(run: &Run<'_>, entry: Entry) -> Result<()> {
    let (from, to) = (crate::publish::parent(run.from), crate::publish::parent(run.to));
    let pair = Pair {
        path: PathBuf::new(),
        source: open(&from, OFlags::PATH).map_err(|e| Error::io("open", &from, e.into()))?,
        target: open(&to, OFlags::PATH).map_err(|e| Error::io("open", &to, e.into()))?,
        is_new: false,
    };
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_bytes();
        CString::new(name).map_err(|e| Error::io("open", path, e.into()))
    };
    one(run, &pair, &name(run.from)?, &name(run.to)?, entry, &mut Vec::new());
    Ok(())
}

fn open(path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    openat(CWD, path, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Makes the twin and leaves what is in it as tasks.
fn directory(run: &Run<'_>, path: &Path, root_is_new: bool, tasks: &Tasks<Task>) -> Result<()> {
    if run.stopped() {
        return Ok(());
    }
    let (from, to) = (run.source_at(path), run.target_at(path));
    let source = open(&from, OFlags::RDONLY).map_err(|e| Error::io("list", &from, e.into()))?;
    let is_new = match path.as_os_str().is_empty() {
        true => root_is_new,
        false => {
            let mode = fstat(&source).map_or(0o777, |found| found.st_mode) & 0o7777;
            make(run, &to, mode)?
        }
    };
    let target = open(&to, OFlags::PATH).map_err(|e| Error::io("open", &to, e.into()))?;
    let listed = list(&source).map_err(|e| Error::io("list", &from, e.into()))?;
    if run.options.delete && !is_new {
        let wanted: HashSet<&CStr> = listed.iter().map(|(_, name, _)| name.as_c_str()).collect();
        let there = open(&to, OFlags::RDONLY).and_then(|there| list(&there));
        let there = there.map_err(|e| Error::io("list", &to, e.into()))?;
        let others = there.iter().filter(|(_, name, _)| !wanted.contains(name.as_c_str()));
        run.foreign(others.map(|(_, name, _)| to.join(OsStr::from_bytes(name.to_bytes()))));
    }
    let (below, mut names): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|(_, _, kind)| *kind == FileType::Directory);
    tasks.push(
        below
            .into_iter()
            .map(|(_, name, _)| Task::Directory(path.join(OsStr::from_bytes(name.to_bytes())))),
    );
    // As they lie in the table of inodes, which a cold disk is read by.
    names.sort_unstable_by_key(|(inode, _, _)| *inode);
    let pair = Arc::new(Pair { path: path.to_path_buf(), source, target, is_new });
    let mut names = names.into_iter().map(|(_, name, _)| name).peekable();
    let mut files = Vec::new();
    while names.peek().is_some() {
        files.push(Task::Files(Arc::clone(&pair), names.by_ref().take(NAMES).collect()));
    }
    // The last is taken first.
    tasks.push(files.into_iter().rev());
    Ok(())
}

/// Makes a directory that is writable while it is filled; false if there is one.
fn make(run: &Run<'_>, place: &Path, mode: u32) -> Result<bool> {
    let mode = mode | 0o700;
    let failed = |e: io::Error| Error::io("create directory", place, e);
    match rustix::fs::mkdir(place, Mode::from_raw_mode(mode)) {
        Ok(()) if mode & (run.umask | 0o7000) == 0 => Ok(true),
        Ok(()) => {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(place, mode).map(|()| true).map_err(failed)
        }
        Err(Errno::EXIST) if place.is_dir() => Ok(false),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Inode, name and kind of all in a directory.
fn list(directory: &OwnedFd) -> std::result::Result<Vec<(u64, CString, FileType)>, Errno> {
    let mut all = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            all.push((entry.ino(), entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(all)
}

/// What a name stands for; `None` if it is not there.
fn look(directory: &OwnedFd, name: &CStr) -> std::result::Result<Option<Entry>, Errno> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(Entry::from_stat(PathBuf::new(), &found))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Copies one name if it is not there yet, or notes it for later if it is large.
fn one(run: &Run<'_>, pair: &Pair, from: &CStr, to: &CStr, entry: Entry, buffer: &mut Vec<u8>) {
    // What cannot be looked at is written over; that fails and says why.
    let there = if pair.is_new { None } else { look(&pair.target, to).ok().flatten() };
    if there.as_ref().is_some_and(|there| run.is_there(&entry, there)) {
        run.skipped.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if entry.kind == Kind::File && entry.size > SMALL {
        run.later(entry);
        return;
    }
    run.count(&entry, small(run, pair, from, to, &entry, there.is_some(), buffer));
}

/// A link, or a file in one piece; returns its bytes.
fn small(
    run: &Run<'_>,
    pair: &Pair,
    from: &CStr,
    to: &CStr,
    entry: &Entry,
    replaces: bool,
    buffer: &mut Vec<u8>,
) -> Result<u64> {
    let (source, target) = (run.source(entry), run.target(entry));
    match entry.kind {
        Kind::File => {}
        Kind::Link => return super::copy::link(&source, &target).map(|()| 0),
        _ => {
            let e = io::Error::new(io::ErrorKind::Unsupported, "neither file nor link");
            return Err(Error::io("copy", &source, e));
        }
    }
    if let Err(errno) = read_whole(&pair.source, from, entry.size, buffer) {
        let offset = Some(buffer.len() as u64);
        return Err(Error::Io { action: "read", path: source, offset, source: errno.into() });
    }
    // A new file is seen under its name while it is written; one that replaces is not.
    let temporary = replaces.then(|| large::temporary(&target));
    let name = temporary.as_ref().and_then(|path| path.file_name()).map(OsStr::as_bytes);
    let name = name.map_or(Ok(to.to_owned()), CString::new);
    let place = temporary.as_ref().unwrap_or(&target);
    let name = name.map_err(|e| Error::io("create", place, e.into()))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(entry.mode & 0o777);
    let file = openat(&pair.target, &name, flags | OFlags::NOFOLLOW, mode);
    let mut file = File::from(file.map_err(|e| Error::io("create", place, e.into()))?);
    file.write_all(buffer).map_err(|e| Error::io("write", place, e))?;
    run.finish(&file, place, entry)?;
    if replaces && let Err(errno) = renameat(&pair.target, &name, &pair.target, to) {
        let _ = fs::remove_file(place);
        return Err(Error::io("rename", place, errno.into()));
    }
    if run.options.verify {
        let parts = buffer.chunks(PART).map(|part| Some(*blake3::hash(part).as_bytes()));
        run.remember(entry, parts.collect());
    }
    Ok(buffer.len() as u64)
}

/// A file of likely `size` bytes. Room for one more shows the end without asking again: a file of
/// this machine is opened, read once, and closed.
fn read_whole(
    directory: &OwnedFd,
    name: &CStr,
    size: u64,
    bytes: &mut Vec<u8>,
) -> std::result::Result<(), Errno> {
    let file = openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    bytes.clear();
    bytes.reserve(size as usize + 1);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(64 << 10);
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(bytes)) {
            Ok(0) => return Ok(()),
            Ok(_) if bytes.len() as u64 == size => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
