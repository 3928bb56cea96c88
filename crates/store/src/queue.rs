//! Prepare → submit → wait: many transfers in flight, completions in any order.
//!
//! What every back end has in common is here: depth, alignment, short transfers, interruptions,
//! deadlines, errors with object, offset and attempts. A back end moves bytes and nothing else.

mod ladder;
mod ram;
mod threads;
#[expect(unsafe_code, reason = "the kernel writes into buffers behind the compiler's back")]
mod uring;

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

pub use self::ladder::{Engine, Ladder, Step};
pub use self::ram::Faults;
use crate::memory::{Arena, Buffer};
use crate::object::Object;
use crate::{Error, Result};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// From the object into the buffer.
    Read,
    /// From the buffer into the object.
    Write,
}

impl Op {
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// An object that a [`Queue`] knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectId(pub(crate) u32);

/// One transfer to do.
#[derive(Debug)]
pub struct Request {
    /// Comes back with the completion; the queue does not look at it.
    pub tag: u64,
    /// Which way.
    pub op: Op,
    /// From [`Queue::add`].
    pub object: ObjectId,
    /// First byte in the object.
    pub offset: u64,
    /// How many bytes, from the start of the buffer.
    pub length: usize,
    /// Owned by the queue until the completion gives it back.
    pub buffer: Buffer,
}

/// A transfer that is over.
#[derive(Debug)]
pub struct Completion {
    /// Of the request.
    pub tag: u64,
    /// Of the request.
    pub op: Op,
    /// Of the request.
    pub offset: u64,
    /// Back at its owner.
    pub buffer: Buffer,
    /// Bytes moved: all of them, or fewer only where a read met the end of the object.
    pub result: Result<usize>,
}

/// A request in the hands of a back end.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) request: Request,
    /// Bytes moved by earlier attempts.
    pub(crate) done: usize,
    attempts: u32,
}

/// Moves bytes. May be slow, short or interrupted: [`Queue`] sees to it.
pub(crate) trait Backend {
    /// Makes `object` known under `id`; ids count from zero.
    fn add(&mut self, id: ObjectId, object: &Arc<Object>);

    /// Takes a transfer; never more than the depth at a time.
    fn start(&mut self, transfer: Transfer);

    /// Hands over what was started.
    fn submit(&mut self) -> io::Result<()>;

    /// Submits, then waits until `at_least` transfers ended or the time is over.
    /// A result is a count of bytes or a negative error number, as system calls have it.
    fn reap(
        &mut self,
        at_least: usize,
        timeout: Option<Duration>,
        ended: &mut Vec<(Transfer, i32)>,
    ) -> io::Result<()>;
}

/// How a queue is made.
#[derive(Debug)]
pub struct Options {
    /// Transfers in flight at most.
    pub depth: usize,
    /// The back end; [`Engine::Auto`] takes the best that this machine allows.
    pub engine: Engine,
    /// Buffers to register with the kernel; others may be used too, a little slower.
    pub arena: Option<Arena>,
}

/// Transfers in flight on one thread, over whichever back end this machine allows.
///
/// Belongs to the thread that made it: the kernel lets only that one submit. Dropped while
/// transfers are in flight, it cancels them and waits a moment; buffers that the kernel still holds
/// then are never used again.
pub struct Queue {
    backend: Box<dyn Backend>,
    objects: Vec<Arc<Object>>,
    depth: usize,
    in_flight: usize,
    ended: Vec<(Transfer, i32)>,
    ladder: Ladder,
    not_send: PhantomData<*const ()>,
}

/// Attempts at a transfer that is interrupted (`EINTR`, `EAGAIN`) or makes no progress.
const ATTEMPTS: u32 = 16;

impl Queue {
    /// Opens a queue, walking down the ladder until a back end works.
    ///
    /// # Errors
    /// [`Error::Engine`] if the one asked for by name does not work here.
    pub fn open(options: &Options) -> Result<Self> {
        let depth = options.depth.max(1);
        let (backend, ladder) = ladder::climb(depth, options.engine, options.arena.as_ref())?;
        Ok(Self::over(backend, ladder, depth))
    }

    /// As [`Queue::open`], for objects that lie beside `path`: on a 3FS, [`Engine::Auto`] means
    /// USRBIO. Such a queue serves objects of that 3FS only.
    ///
    /// # Errors
    /// [`Error::Engine`] if the one asked for by name does not work there.
    pub fn open_near(path: &std::path::Path, options: &Options) -> Result<Self> {
        let depth = options.depth.max(1);
        let (backend, ladder) = ladder::climb_near(path, depth, options)?;
        Ok(Self::over(backend, ladder, depth))
    }

    /// A queue over bytes in memory, with completions out of order and faults as asked.
    pub fn in_memory(depth: usize, faults: Faults) -> Self {
        let backend = Box::new(ram::Ram::new(faults));
        Self::over(backend, Ladder::only(Engine::Memory), depth.max(1))
    }

    fn over(backend: Box<dyn Backend>, ladder: Ladder, depth: usize) -> Self {
        let ended = Vec::with_capacity(depth);
        let (objects, not_send) = (Vec::new(), PhantomData);
        Self { backend, objects, depth, in_flight: 0, ended, ladder, not_send }
    }

    /// Which back end won, and why the others did not.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Makes an object known to this queue.
    pub fn add(&mut self, object: Arc<Object>) -> ObjectId {
        let id = ObjectId(self.objects.len() as u32);
        self.backend.add(id, &object);
        self.objects.push(object);
        id
    }

    /// The object behind an id.
    pub fn object(&self, id: ObjectId) -> &Arc<Object> {
        &self.objects[id.0 as usize]
    }

    /// Transfers that may be in flight at once.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Transfers prepared or in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Takes a request. It starts with the next [`Queue::submit`] or [`Queue::wait`].
    ///
    /// # Errors
    /// The request itself if the queue is full: wait, then try again.
    ///
    /// # Panics
    /// If the request is longer than its buffer or names an object of another queue.
    pub fn prepare(&mut self, request: Request) -> std::result::Result<(), Request> {
        assert!(request.length <= request.buffer.len(), "a request longer than its buffer");
        assert!((request.object.0 as usize) < self.objects.len(), "an object of another queue");
        if self.in_flight == self.depth {
            return Err(request);
        }
        self.in_flight += 1;
        self.backend.start(Transfer { request, done: 0, attempts: 1 });
        Ok(())
    }

    /// Starts what was prepared. [`Queue::wait`] does so too, in the same system call.
    ///
    /// # Errors
    /// [`Error::Queue`] if the kernel refuses.
    pub fn submit(&mut self) -> Result<()> {
        self.backend.submit().map_err(|source| Error::Queue { action: "submit", source })
    }

    /// Waits until `at_least` transfers are over, or all are; appends them to `completions`.
    ///
    /// # Errors
    /// [`Error::Deadline`] if that takes longer than until `deadline`; what was over by then is in
    /// `completions`, the rest stays in flight. [`Error::Queue`] if the kernel refuses.
    pub fn wait(
        &mut self,
        at_least: usize,
        deadline: Option<Instant>,
        completions: &mut Vec<Completion>,
    ) -> Result<()> {
        let mut wanted = at_least.min(self.in_flight);
        loop {
            let timeout = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let reaped = self.backend.reap(wanted, timeout, &mut self.ended);
            reaped.map_err(|source| Error::Queue { action: "wait for", source })?;
            let mut ended = std::mem::take(&mut self.ended);
            for (transfer, result) in ended.drain(..) {
                if let Some(completion) = self.judge(transfer, result) {
                    self.in_flight -= 1;
                    wanted = wanted.saturating_sub(1);
                    completions.push(completion);
                }
            }
            self.ended = ended;
            if wanted == 0 {
                return Ok(());
            }
            if timeout == Some(Duration::ZERO) {
                return Err(Error::Deadline { in_flight: self.in_flight });
            }
        }
    }

    /// Over, or to be started again.
    fn judge(&mut self, mut transfer: Transfer, result: i32) -> Option<Completion> {
        let object = &self.objects[transfer.request.object.0 as usize];
        let request = &transfer.request;
        if let Ok(moved) = usize::try_from(result) {
            let total = transfer.done + moved;
            if total >= request.length {
                return Some(transfer.over(Ok(total)));
            }
            // Only the end of an object cuts a read short; everything else is tried again.
            let at_end = request.offset + total as u64 >= object.size_now();
            if request.op == Op::Read && at_end {
                return Some(transfer.over(Ok(total)));
            }
            // A direct transfer goes on at a place that direct I/O can start from.
            let grain = object.direct().map_or(1, |d| d.offset as usize);
            let done = total - total % grain;
            transfer.attempts = if done > transfer.done { 1 } else { transfer.attempts + 1 };
            transfer.done = done;
            if transfer.attempts <= ATTEMPTS {
                self.backend.start(transfer);
                return None;
            }
            let source = match request.op {
                Op::Read => io::ErrorKind::UnexpectedEof,
                Op::Write => io::ErrorKind::WriteZero,
            };
            let error = transfer.error(object, source.into());
            return Some(transfer.over(Err(error)));
        }
        let errno = Errno::from_raw_os_error(-result);
        if matches!(errno, Errno::INTR | Errno::AGAIN) && transfer.attempts < ATTEMPTS {
            transfer.attempts += 1;
            self.backend.start(transfer);
            return None;
        }
        let error = match object.direct() {
            Some(needs) if errno == Errno::INVAL && !transfer.aligned(needs) => Error::Misaligned {
                path: object.path().to_path_buf(),
                offset: request.offset,
                length: request.length,
                expected: needs.offset,
            },
            _ => transfer.error(object, errno.into()),
        };
        Some(transfer.over(Err(error)))
    }
}

impl Transfer {
    fn over(self, result: Result<usize>) -> Completion {
        let Request { tag, op, offset, buffer, .. } = self.request;
        Completion { tag, op, offset, buffer, result }
    }

    fn error(&self, object: &Object, source: io::Error) -> Error {
        Error::Transfer {
            action: self.request.op.verb(),
            object: object.path().display().to_string(),
            offset: self.request.offset + self.done as u64,
            attempts: self.attempts,
            source,
        }
    }

    fn aligned(&self, needs: crate::object::Alignment) -> bool {
        self.request.offset.is_multiple_of(needs.offset)
            && (self.request.length as u64).is_multiple_of(needs.offset)
    }

    /// Where the next attempt starts in the object.
    pub(crate) fn offset(&self) -> u64 {
        self.request.offset + self.done as u64
    }

    /// What the next attempt moves.
    pub(crate) fn rest(&mut self) -> &mut [u8] {
        &mut self.request.buffer[self.done..self.request.length]
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (depth, in_flight) = (self.depth, self.in_flight);
        write!(f, "Queue({:?}, {in_flight} of {depth} in flight)", self.ladder.won)
    }
}
