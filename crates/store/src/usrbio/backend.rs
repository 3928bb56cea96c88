//! The queue over USRBIO: transfers → pieces → rings, and back.
//!
//! A buffer in memory shared with the daemon is named, not copied; any other goes through a piece
//! of such memory that the queue owns. A short read is the end of the file or a hole, and told
//! apart here. A daemon that starts again is met again: its rings are made anew and what was in
//! flight is started once more.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::circles::{Entry, Reaped};
use super::control::exact_length;
use super::iov::Iov;
use super::layout::{Id, RingKind, pieces};
use super::mount::{Mount, Pulse, Session};
use super::ring::Ring;
use super::slab::Slab;
use super::{layout, sys};
use crate::memory::{Arena, Buffer};
use crate::object::Object;
use crate::queue::{Backend, ObjectId, Op, Transfer};
use crate::{Error, Result};

/// Without news for so long, the daemon is asked whether it lives. Completions wake at once.
const TICK: Duration = Duration::from_millis(250);

/// How long a daemon may be gone, or silent, before transfers fail.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a dropped queue waits for what is in flight.
const FAREWELL: Duration = Duration::from_secs(2);

/// Transfers of one attempt; the rest counts as short.
const MOST_BYTES: usize = 1 << 30;

/// Pieces of shared memory for buffers that are not: bytes and number.
const BOUNCE_BYTES: usize = 256 << 10;
const BOUNCES: usize = 32;

/// More rings pipeline better where the daemon ends jobs in order; each costs a look per wait.
const DEPTH_PER_RING: usize = 128;
const MOST_RINGS: usize = 4;

/// Jobs that a full queue should make: many enough to overlap, few enough to share the wake-up.
const JOBS: usize = 8;

pub(crate) struct Usrbio {
    mount: Arc<Mount>,
    session: Arc<Session>,
    depth: usize,
    /// Reads, then writes; made when first needed.
    rings: [Vec<Ring>; 2],
    turn: usize,
    files: Vec<Known>,
    transfers: Slab<InFlight>,
    pieces: Slab<Piece>,
    /// Pieces not yet in a ring.
    waiting: VecDeque<u32>,
    in_daemon: usize,
    not_told: bool,
    /// Of buffers seen before.
    iovs: Vec<Arc<Iov>>,
    bounces: Option<(Id, NonNull<u8>, Arena)>,
    over: Vec<(Transfer, i32)>,
    /// Of the last completion or the first entry since.
    news: Instant,
}

/// A file as this session of the daemon knows it.
struct Known {
    path: PathBuf,
    readable: bool,
    writable: bool,
    /// Held: the daemon serves only files that somebody has open.
    file: Option<Arc<File>>,
    inode: u64,
    chunk_bytes: u64,
}

struct InFlight {
    transfer: Transfer,
    pieces_left: usize,
    /// Bytes from where this attempt started, up to the first that did not move.
    end: usize,
    error: i32,
}

struct Piece {
    transfer: u32,
    /// In this attempt.
    start: usize,
    length: usize,
    moved: usize,
    offset: u64,
    place: Place,
    /// The daemon had no bytes when last asked.
    empty: bool,
}

enum Place {
    /// The buffer itself.
    Shared(Id, u64),
    /// To be copied.
    Elsewhere(Option<Buffer>),
}

impl Usrbio {
    pub(crate) fn new(mount: Arc<Mount>, depth: usize) -> Self {
        let session = mount.session();
        Self {
            mount,
            session,
            depth,
            rings: [Vec::new(), Vec::new()],
            turn: 0,
            files: Vec::new(),
            transfers: Slab::default(),
            pieces: Slab::default(),
            waiting: VecDeque::new(),
            in_daemon: 0,
            not_told: false,
            iovs: Vec::new(),
            bounces: None,
            over: Vec::new(),
            news: Instant::now(),
        }
    }

    /// Makes the rings of one direction now, so that a refusal is told when the queue is opened.
    pub(crate) fn make_rings(&mut self, op: Op) -> Result<usize> {
        let way = usize::from(op == Op::Write);
        let count = (self.depth / DEPTH_PER_RING).clamp(1, MOST_RINGS);
        let kind = RingKind {
            for_read: op == Op::Read,
            // Jobs of at most so many: one submission becomes several that run side by side,
            // while "all at once" would make one of it that ends with its last transfer.
            io_depth: -((self.depth / JOBS).clamp(1, 64) as i32),
            priority: 0,
            timeout_ms: 0,
            flags: 0,
        };
        while self.rings[way].len() < count {
            // Twice what may be in flight: submissions leave in order, so finished ones may
            // keep their places for a while.
            let entries = (2 * self.depth.div_ceil(count)).max(2 * JOBS);
            self.rings[way].push(Ring::create(&self.mount, entries, kind, None)?);
        }
        Ok(count)
    }

    /// Where the daemon sees these bytes, if it does.
    fn place(&mut self, start: NonNull<u8>, length: usize) -> Option<(Id, u64, usize)> {
        let known = self.iovs.iter().find_map(|iov| Some((iov, iov.place(start, length)?)));
        if let Some((iov, offset)) = known {
            return Some((iov.id(), offset, iov.block_bytes()));
        }
        let iov = Iov::around(start, length, &self.session)?;
        let offset = iov.place(start, length)?;
        let found = (iov.id(), offset, iov.block_bytes());
        self.iovs.push(iov);
        Some(found)
    }

    fn cut(&mut self, mut transfer: Transfer) {
        let object = transfer.request.object.0 as usize;
        let (op, offset) = (transfer.request.op, transfer.offset());
        let rest = transfer.rest();
        let length = rest.len().min(MOST_BYTES);
        let start = NonNull::from(rest).cast();
        let known = &self.files[object];
        let allowed = if op == Op::Read { known.readable } else { known.writable };
        if known.file.is_none() || !allowed || length == 0 {
            let result = if length == 0 && allowed { 0 } else { -Errno::BADF.raw_os_error() };
            self.over.push((transfer, result));
            return;
        }
        let chunk_bytes = known.chunk_bytes;
        let place = self.place(start, length);
        let number =
            self.transfers.insert(InFlight { transfer, pieces_left: 0, end: length, error: 0 });
        let (iov_offset, block) = match place {
            Some((_, iov_offset, block)) => (iov_offset, block as u64),
            // A piece fits into one of the buffers that it is copied through.
            None => (0, BOUNCE_BYTES as u64),
        };
        let mut at = 0;
        for piece in pieces(iov_offset, offset, length as u64, block, chunk_bytes) {
            let place = match place {
                Some((id, iov_offset, _)) => Place::Shared(id, iov_offset + at),
                None => Place::Elsewhere(None),
            };
            let piece = Piece {
                transfer: number,
                start: at as usize,
                length: piece as usize,
                moved: 0,
                offset: offset + at,
                place,
                empty: false,
            };
            at += piece.length as u64;
            let piece = self.pieces.insert(piece);
            self.waiting.push_back(piece);
            if let Some(flight) = self.transfers.get_mut(number) {
                flight.pieces_left += 1;
            }
        }
    }

    /// Puts pieces into rings until one is full or all are in.
    fn pump(&mut self) -> io::Result<()> {
        while let Some(&number) = self.waiting.front() {
            match self.push(number) {
                Ok(true) => {
                    self.waiting.pop_front();
                    if self.in_daemon == 0 {
                        self.news = Instant::now();
                    }
                    self.in_daemon += 1;
                    self.not_told = true;
                }
                Ok(false) => break,
                Err(error) => match self.mount.pulse(&self.session) {
                    Pulse::Restarted(session) => {
                        self.meet(session);
                        return Ok(());
                    }
                    // The wait below sees to it.
                    Pulse::Gone(_) => return Ok(()),
                    Pulse::Alive => {
                        self.waiting.pop_front();
                        self.end(number, Some(errno(&error)));
                    }
                },
            }
        }
        Ok(())
    }

    /// False if there is no room now.
    #[expect(unsafe_code, reason = "the daemon moves bytes behind the compiler's back")]
    fn push(&mut self, number: u32) -> io::Result<bool> {
        let Some(piece) = self.pieces.get_mut(number) else { return Ok(true) };
        let Some(flight) = self.transfers.get_mut(piece.transfer) else { return Ok(true) };
        let op = flight.transfer.request.op;
        if let Place::Elsewhere(slot @ None) = &mut piece.place {
            if self.bounces.is_none() {
                let iov =
                    Iov::for_buffers(&self.mount, BOUNCE_BYTES, BOUNCES).map_err(source_of)?;
                let (id, base) = (iov.id(), iov.base());
                self.bounces = Some((id, base, iov.into_arena(BOUNCE_BYTES, BOUNCES)));
            }
            let Some(mut buffer) = self.bounces.as_ref().and_then(|(_, _, arena)| arena.lend())
            else {
                return Ok(false);
            };
            if op == Op::Write {
                let bytes = &flight.transfer.rest()[piece.start..][..piece.length];
                buffer[..piece.length].copy_from_slice(bytes);
            }
            *slot = Some(buffer);
        }
        let (iov, iov_offset) = match (&piece.place, &self.bounces) {
            (Place::Shared(id, offset), _) => (*id, *offset),
            (Place::Elsewhere(Some(buffer)), Some((id, base, _))) => {
                (*id, (buffer.as_ptr() as usize - base.as_ptr() as usize) as u64)
            }
            _ => return Ok(false),
        };
        let inode = self.files[flight.transfer.request.object.0 as usize].inode;
        let entry = Entry {
            iov,
            iov_offset: iov_offset + piece.moved as u64,
            inode,
            offset: piece.offset + piece.moved as u64,
            length: (piece.length - piece.moved) as u64,
            user_data: number.into(),
        };
        let way = usize::from(op == Op::Write);
        if self.rings[way].is_empty() {
            self.make_rings(op).map_err(source_of)?;
        }
        let rings = &self.rings[way];
        for step in 0..rings.len() {
            let ring = &rings[(self.turn + step) % rings.len()];
            // SAFETY: the bytes are the transfer's buffer or the piece's own, which stay in the
            // two slabs until the completion is reaped or the daemon is gone, see `drop`; the
            // arena of either keeps its iov.
            if unsafe { ring.prepare(&entry) }?.is_some() {
                self.turn = self.turn.wrapping_add(step);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tell(&mut self) {
        if self.not_told {
            self.not_told = false;
            // One lane, one semaphore: a single wake-up for all rings.
            self.session.wake(layout::lane(0));
            self.turn = self.turn.wrapping_add(1);
        }
    }

    /// Takes completions out of the rings; false if nobody can have written them.
    fn collect(&mut self) -> bool {
        let mut reaped: Vec<Reaped> = Vec::new();
        let mut sound = true;
        for ring in self.rings.iter().flatten() {
            ring.forget_posts();
            sound &= ring.reap(usize::MAX, |one| reaped.push(one)).is_ok();
        }
        if !reaped.is_empty() {
            self.news = Instant::now();
        }
        for one in reaped {
            self.in_daemon -= 1;
            self.settle(one.user_data as u32, one.result);
        }
        sound
    }

    /// A piece came back.
    fn settle(&mut self, number: u32, result: i64) {
        let Some(piece) = self.pieces.get_mut(number) else { return };
        let Some(flight) = self.transfers.get_mut(piece.transfer) else { return };
        let left = piece.length - piece.moved;
        let Some(count) = usize::try_from(result).ok().filter(|&count| count <= left) else {
            let error = if result < 0 { result as i32 } else { -Errno::IO.raw_os_error() };
            return self.end(number, Some(error));
        };
        let request = &flight.transfer.request;
        let (op, object) = (request.op, request.object.0 as usize);
        if op == Op::Read
            && let Place::Elsewhere(Some(buffer)) = &piece.place
        {
            let into = &mut flight.transfer.rest()[piece.start + piece.moved..][..count];
            into.copy_from_slice(&buffer[piece.moved..][..count]);
        }
        piece.moved += count;
        if piece.moved == piece.length || op == Op::Write {
            return self.end(number, None);
        }
        // Short: the file ends here, or nothing was ever written here. Only its exact length
        // tells, which the kernel may have cached and the daemon may know late.
        let Some(file) = self.files[object].file.clone() else { return self.end(number, None) };
        let size = match self.mount.ask(move || exact_length(&file)) {
            Ok(size) => size,
            Err(error) => return self.end(number, Some(errno(&error))),
        };
        let there = size.saturating_sub(piece.offset).min(piece.length as u64) as usize;
        if piece.moved >= there {
            return self.end(number, None);
        }
        // Asked once more: a short answer alone proves no hole.
        if count == 0 && piece.empty {
            flight.transfer.rest()[piece.start + piece.moved..piece.start + there].fill(0);
            piece.moved = there;
            return self.end(number, None);
        }
        piece.empty = count == 0;
        self.waiting.push_front(number);
    }

    /// A piece is over.
    fn end(&mut self, number: u32, error: Option<i32>) {
        let Some(piece) = self.pieces.remove(number) else { return };
        let Some(flight) = self.transfers.get_mut(piece.transfer) else { return };
        if let Some(error) = error {
            flight.error = error;
        }
        if piece.moved < piece.length {
            flight.end = flight.end.min(piece.start + piece.moved);
        }
        flight.pieces_left -= 1;
        if flight.pieces_left == 0
            && let Some(flight) = self.transfers.remove(piece.transfer)
        {
            let result = if flight.error == 0 { flight.end as i32 } else { flight.error };
            self.over.push((flight.transfer, result));
        }
    }

    /// Ends all that is in flight, whose daemon is gone: nobody writes into its buffers any more.
    fn end_all(&mut self, error: Errno) {
        self.waiting.clear();
        self.pieces = Slab::default();
        self.in_daemon = 0;
        let gone = std::mem::take(&mut self.transfers);
        let all = gone.into_iter().map(|flight| (flight.transfer, -error.raw_os_error()));
        self.over.extend(all);
    }

    /// A daemon took the place of another: everything is registered anew.
    fn meet(&mut self, session: Arc<Session>) {
        self.rings = [Vec::new(), Vec::new()];
        self.bounces = None;
        // Buffers in these are copied from now on: their memory has no name to register again.
        self.iovs.clear();
        self.session = session;
        for known in &mut self.files {
            known.reopen();
        }
        // To be started again, which a queue does with what was interrupted.
        self.end_all(Errno::INTR);
        self.news = Instant::now();
    }

    /// Nothing came for a while: is there still a daemon?
    fn feel(&mut self, sound: bool) -> io::Result<()> {
        let silent = self.news.elapsed();
        match self.mount.pulse(&self.session) {
            Pulse::Restarted(session) => self.meet(session),
            Pulse::Alive if !sound => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the 3FS daemon wrote indices that cannot be",
                ));
            }
            Pulse::Alive if silent > PATIENCE => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the 3FS daemon answers, but moved nothing for a minute",
                ));
            }
            // It may have missed the wake-up.
            Pulse::Alive => self.session.wake(layout::lane(0)),
            Pulse::Gone(_) if silent > PATIENCE => self.end_all(Errno::NOTCONN),
            Pulse::Gone(_) => {}
        }
        Ok(())
    }
}

impl Backend for Usrbio {
    fn add(&mut self, _: ObjectId, object: &Arc<Object>) {
        let mut known = Known {
            path: object.path().into(),
            readable: false,
            writable: false,
            file: None,
            inode: 0,
            chunk_bytes: 0,
        };
        if let Some(file) = object.file() {
            let flags = rustix::fs::fcntl_getfl(file).unwrap_or(rustix::fs::OFlags::empty());
            let mode = flags & rustix::fs::OFlags::RWMODE;
            known.readable = mode != rustix::fs::OFlags::WRONLY;
            known.writable = mode != rustix::fs::OFlags::RDONLY;
            // Of another file system: its transfers fail with EBADF.
            let device = |path| std::fs::metadata(path).map(|m| m.dev()).ok();
            if sys::is_3fs(file) && device(self.mount.root()) == Some(object.device()) {
                known.take(file.try_clone());
            }
        }
        self.files.push(known);
    }

    fn start(&mut self, transfer: Transfer) {
        self.cut(transfer);
    }

    fn submit(&mut self) -> io::Result<()> {
        self.pump()?;
        self.tell();
        Ok(())
    }

    fn reap(
        &mut self,
        at_least: usize,
        timeout: Option<Duration>,
        ended: &mut Vec<(Transfer, i32)>,
    ) -> io::Result<()> {
        let until = timeout.map(|t| Instant::now() + t);
        let wanted = ended.len() + at_least;
        loop {
            self.submit()?;
            let sound = self.collect();
            // What was cut short goes on at once.
            self.submit()?;
            ended.append(&mut self.over);
            if ended.len() >= wanted || self.transfers.is_empty() {
                return Ok(());
            }
            let left = until.map_or(Duration::MAX, |u| u.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            let before = Instant::now();
            if sound && self.in_daemon > 0 {
                let rings: Vec<&Ring> = self.rings.iter().flatten().collect();
                Ring::sleep(&rings, left.min(TICK));
            } else {
                std::thread::sleep(left.min(TICK));
            }
            if before.elapsed() >= TICK {
                self.collect();
                if self.news.elapsed() >= TICK {
                    self.feel(sound)?;
                }
            }
        }
    }
}

impl Drop for Usrbio {
    fn drop(&mut self) {
        self.waiting.clear();
        let until = Instant::now() + FAREWELL;
        while self.in_daemon > 0 {
            self.tell();
            let left = until.saturating_duration_since(Instant::now());
            if !self.collect() || left.is_zero() {
                break;
            }
            self.waiting.clear();
            if self.in_daemon > 0 {
                let rings: Vec<&Ring> = self.rings.iter().flatten().collect();
                Ring::sleep(&rings, left.min(TICK));
            }
        }
        if self.in_daemon > 0 && matches!(self.mount.pulse(&self.session), Pulse::Alive) {
            // The daemon may still write into these: they stay for as long as the process lives.
            std::mem::forget(std::mem::take(&mut self.transfers));
            std::mem::forget(std::mem::take(&mut self.pieces));
            std::mem::forget(self.bounces.take());
            std::mem::forget(std::mem::take(&mut self.iovs));
        }
    }
}

impl Known {
    fn take(&mut self, file: io::Result<File>) {
        self.file = file.and_then(|file| Ok((file.metadata()?, file))).ok().map(|(found, file)| {
            self.inode = found.ino();
            // Of a file of 3FS the block size is that of its chunks.
            self.chunk_bytes = if found.blksize() >= 64 << 10 { found.blksize() } else { 0 };
            Arc::new(file)
        });
    }

    fn reopen(&mut self) {
        if self.file.is_some() {
            let mut options = OpenOptions::new();
            let opened = options.read(self.readable).write(self.writable).open(&self.path);
            self.take(opened);
        }
    }
}

fn errno(error: &io::Error) -> i32 {
    -error.raw_os_error().unwrap_or(Errno::IO.raw_os_error())
}

fn source_of(error: Error) -> io::Error {
    match error {
        Error::ThreeFs { source, .. } | Error::Memory { source, .. } => source,
        other => io::Error::other(other),
    }
}
