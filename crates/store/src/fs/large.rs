//! One large file by a queue: read and write in parts, direct where possible, with marks to resume.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Tally;
use super::walk::Entry;
use crate::{
    Access, Arena, Completion, Direct, Engine, Error, Object, ObjectId, Op, Options, Queue,
    Request, Result,
};

/// Bytes of a part: read, hashed and written as one.
pub(super) const PART: usize = 2 << 20;

/// Parts in flight.
const DEPTH: usize = 16;

/// A transfer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// So much is lost at most when a copy is killed.
const MARK_EVERY: u64 = 512 << 20;

/// Of a part.
pub(super) type Hash = [u8; 32];

/// Where a file is made before it has its name.
pub(super) fn temporary(target: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".forebay-part");
    target.with_file_name(name)
}

/// Beside it: how far it came.
pub(super) fn mark(temporary: &Path) -> PathBuf {
    let mut name = temporary.as_os_str().to_owned();
    name.push(".mark");
    PathBuf::from(name)
}

/// Copies all bytes of `source` to `target`, going on at its mark; returns the hashes of the parts.
pub(super) fn copy(
    source: &Path,
    target: &Path,
    entry: &Entry,
    hash: bool,
    tally: &Tally,
    stop: &AtomicBool,
) -> Result<Vec<Option<Hash>>> {
    let start = resume_at(target, entry);
    if start == 0 {
        let _ = fs::remove_file(target);
        drop(Object::open(target, Access::Create, Direct::Off)?);
    }
    let from = Arc::new(Object::open(source, Access::Read, Direct::Try)?);
    let to = Arc::new(Object::open(target, Access::Write, Direct::Try)?);
    if let Some(file) = to.file() {
        // One allocation of all blocks; without it direct writes at the end take turns.
        let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, entry.size);
    }
    let arena = Arena::new(PART, DEPTH)?;
    let options = Options { depth: DEPTH, engine: Engine::Auto, arena: Some(arena.clone()) };
    let mut queue = Queue::open(&options)?;
    let parts = entry.size.div_ceil(PART as u64) as usize;
    let mut copy = Copy {
        ids: (queue.add(from), queue.add(Arc::clone(&to))),
        queue,
        entry,
        written: vec![false; parts],
        hashes: vec![None; parts],
    };
    let first = (start / PART as u64) as usize;
    copy.written[..first].fill(true);
    let (mut next, mut prefix, mut marked) = (first, first, start);
    let mut completions = Vec::new();
    loop {
        while next < parts
            && !stop.load(Ordering::Relaxed)
            && let Some(buffer) = arena.lend()
        {
            copy.start(Op::Read, next, PART, buffer)?;
            next += 1;
        }
        if copy.queue.in_flight() == 0 {
            break;
        }
        copy.queue.wait(1, Some(Instant::now() + PATIENCE), &mut completions)?;
        for done in completions.drain(..) {
            let moved = copy.advance(done, hash)?;
            tally.add(0, moved);
        }
        while copy.written.get(prefix) == Some(&true) {
            prefix += 1;
        }
        let safe = (prefix * PART) as u64;
        if safe >= marked + MARK_EVERY && safe < entry.size {
            to.sync()?;
            crate::publish_bytes(&mark(target), line(entry, safe).as_bytes())?;
            marked = safe;
        }
    }
    if next < parts {
        to.sync()?;
        crate::publish_bytes(&mark(target), line(entry, (prefix * PART) as u64).as_bytes())?;
        return Err(Error::Stopped);
    }
    if let Some(file) = to.file() {
        // The last part of a direct write was filled up to what the device can do.
        file.set_len(entry.size).map_err(|e| Error::io("cut", target, e))?;
    }
    Ok(copy.hashes)
}

struct Copy<'a> {
    ids: (ObjectId, ObjectId),
    queue: Queue,
    entry: &'a Entry,
    written: Vec<bool>,
    hashes: Vec<Option<Hash>>,
}

impl Copy<'_> {
    fn start(&mut self, op: Op, part: usize, length: usize, buffer: crate::Buffer) -> Result<()> {
        let object = if op == Op::Read { self.ids.0 } else { self.ids.1 };
        let offset = (part * PART) as u64;
        let request = Request { tag: part as u64, op, object, offset, length, buffer };
        // A part is read or written, never both, so there is a place for every buffer.
        let full = |_| Error::Queue { action: "prepare", source: std::io::Error::other("full") };
        self.queue.prepare(request).map_err(full)
    }

    /// What was read is hashed and written; returns the bytes that are now in the target.
    fn advance(&mut self, mut done: Completion, hash: bool) -> Result<u64> {
        let part = done.tag as usize;
        let expected = (self.entry.size - done.offset).min(PART as u64) as usize;
        let moved = done.result?;
        if done.op == Op::Write {
            self.written[part] = true;
            return Ok(expected as u64);
        }
        if moved < expected {
            let object = self.queue.object(self.ids.0);
            // Several parts lie past the end of a file that shrank; each tells the same end.
            let end = object.size_now().min(done.offset + moved as u64);
            let (path, size) = (object.path().to_path_buf(), end);
            let (offset, wanted) = (done.offset, expected as u64);
            return Err(Error::PastEnd { path, size, offset, wanted });
        }
        if hash {
            self.hashes[part] = Some(*blake3::hash(&done.buffer[..expected]).as_bytes());
        }
        let grain = self.queue.object(self.ids.1).direct().map_or(1, |d| d.offset as usize);
        let length = expected.next_multiple_of(grain).min(PART);
        done.buffer[expected..length].fill(0);
        self.start(Op::Write, part, length, done.buffer)?;
        Ok(0)
    }
}

/// What a mark says: of which source, and up to where.
fn line(entry: &Entry, offset: u64) -> String {
    format!("{} {} {offset}\n", entry.size, entry.modified)
}

/// Where to go on; 0 if there is nothing, or of another source.
fn resume_at(target: &Path, entry: &Entry) -> u64 {
    let Ok(text) = fs::read_to_string(mark(target)) else { return 0 };
    let Some(offset) = text.split_whitespace().nth(2).and_then(|n| n.parse().ok()) else {
        return 0;
    };
    let whole = offset % PART as u64 == 0 && offset <= entry.size && target.is_file();
    if whole && text == line(entry, offset) { offset } else { 0 }
}

/// Hashes of the parts of a file, read from its start.
pub(super) fn hash_parts(path: &Path, size: u64) -> Result<Vec<Hash>> {
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut part = vec![0; PART.min(size as usize)];
    let mut hashes = Vec::with_capacity(size.div_ceil(PART as u64) as usize);
    let mut offset = 0;
    while offset < size {
        let length = (size - offset).min(PART as u64) as usize;
        file.read_exact(&mut part[..length]).map_err(|source| {
            let path = path.to_path_buf();
            Error::Io { action: "read", path, offset: Some(offset), source }
        })?;
        hashes.push(*blake3::hash(&part[..length]).as_bytes());
        offset += length as u64;
    }
    Ok(hashes)
}
