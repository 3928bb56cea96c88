//! Storage → slots → device: a thread a lane, many reads and copies in flight, waiting for events.
//!
//! ```text
//! lane   ┌ FREE ─▶ READING (queue) ─▶ COPYING (side stream, event) ─▶ FREE
//! slots  ├ FREE ─▶ …                                   a slot is read into again when its own
//!        └ …                                           event is over; no stream is waited for
//! ```
//! Slots are page-locked for the device and registered with the ring. What lies in the page cache
//! is read through it, all else past it where the file system can.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_store::{
    Access, Arena, Direct, Engine, Map, Object, ObjectId, Op, Options as QueueOptions, Queue,
    Request,
};
use serde::Serialize;

use crate::cufile::{CuFile, CuFileHandle, Proof};
use crate::path::{IoPath, Way};
use crate::slots::Slots;
use crate::{Device, Error, Event, Region, Result, Stream};

/// Bytes of a file that go to a place on the device.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Position of the file in the list.
    pub file: usize,
    /// First byte in it.
    pub offset: u64,
    /// Where they go; as many are read.
    pub target: Region,
}

/// How a ring is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Threads, each with slots, a queue and a stream of its own.
    pub lanes: usize,
    /// Slots of a lane.
    pub slots: usize,
    /// Bytes of a slot: the longest read. A multiple of 4096.
    pub slot_bytes: usize,
    /// Past the page cache what does not lie in it.
    pub direct: bool,
}

impl Default for Shape {
    /// Eight slots of 1 MiB for each of up to eight lanes: together less than a last-level cache,
    /// so that the copy finds its bytes there. More lanes than memory has channels gain nothing.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { lanes: cores.min(8), slots: 8, slot_bytes: 1 << 20, direct: true }
    }
}

/// What a fetch moved, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Fetched {
    /// Bytes asked for.
    pub bytes: u64,
    /// Of them, past the page cache.
    pub direct_bytes: u64,
    /// Of them, out of the page cache.
    pub cached_bytes: u64,
    /// What libcufile counted, if it moved them.
    pub proof: Option<Proof>,
    /// Time it took.
    #[serde(skip)]
    pub elapsed: Duration,
}

/// Moves files to a device. Its slots are page-locked once, which costs a millisecond a few MiB.
pub struct Ring {
    device: Device,
    path: IoPath,
    shape: Shape,
    lanes: Vec<Lane>,
}

struct Lane {
    arena: Arena,
    stream: Stream,
    events: Vec<Event>,
}

/// A part of a transfer that fits into a slot.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    file: usize,
    offset: u64,
    target: Region,
}

/// A file, open both ways.
struct Source {
    cached: Arc<Object>,
    direct: Option<Arc<Object>>,
    map: Option<Map>,
}

/// What lanes share.
struct Work<'a> {
    chunks: &'a [Chunk],
    sources: &'a [Source],
    next: AtomicUsize,
    stop: AtomicBool,
    direct_bytes: AtomicU64,
}

impl Ring {
    /// Takes the slots.
    ///
    /// # Errors
    /// [`Error::Cuda`] if they cannot be page-locked, which `host` needs not; [`Error::Store`].
    pub fn new(device: &Device, path: IoPath, shape: Shape) -> Result<Self> {
        for (what, value) in [("lanes", shape.lanes), ("slots", shape.slots)] {
            if value == 0 {
                return Err(Error::wrong(what, "at least 1", 0));
            }
        }
        if shape.slot_bytes == 0 || !shape.slot_bytes.is_multiple_of(4096) {
            return Err(Error::wrong("bytes of a slot", "a multiple of 4096", shape.slot_bytes));
        }
        let lane = |_| -> Result<Lane> {
            let arena = match path.way {
                Way::Pinned => device.pinned(shape.slot_bytes, shape.slots)?,
                Way::Host => Arena::new(shape.slot_bytes, shape.slots)?,
                // cuFile needs none.
                Way::Gds => Arena::new(4096, 1)?,
            };
            let events = (0..shape.slots).map(|_| device.event()).collect::<Result<_>>()?;
            Ok(Lane { arena, stream: device.stream()?, events })
        };
        let lanes = (0..shape.lanes).map(lane).collect::<Result<_>>()?;
        Ok(Self { device: device.clone(), path, shape, lanes })
    }

    /// Which way bytes take, and why.
    pub fn path(&self) -> &IoPath {
        &self.path
    }

    /// The device they go to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Moves all transfers; when it returns, the bytes are on the device for every stream.
    ///
    /// # Errors
    /// [`Error::Store`] if a file cannot be read or ends before; [`Error::Cuda`]. Part of the
    /// bytes may have arrived then; nothing is in flight.
    ///
    /// # Safety
    /// The targets must be live device memory that nobody else uses meanwhile.
    pub unsafe fn fetch(&mut self, files: &[PathBuf], transfers: &[Transfer]) -> Result<Fetched> {
        let start = Instant::now();
        let sources = files
            .iter()
            .map(|file| Source::open(file, self.shape.direct))
            .collect::<Result<Vec<Source>>>()?;
        let mut fetched = Fetched::default();
        let mut chunks = Vec::new();
        for transfer in transfers {
            let source = sources
                .get(transfer.file)
                .ok_or_else(|| Error::wrong("file of a transfer", files.len(), transfer.file))?;
            source.check(transfer)?;
            fetched.bytes += transfer.target.bytes() as u64;
            cut(transfer, self.shape.slot_bytes, &mut chunks);
        }
        if self.path.way == Way::Gds {
            // SAFETY: by the caller.
            fetched.proof = Some(unsafe { self.fetch_gds(&sources, transfers, &chunks)? });
            fetched.direct_bytes = fetched.bytes;
        } else {
            let work = Work {
                chunks: &chunks,
                sources: &sources,
                next: AtomicUsize::new(0),
                stop: AtomicBool::new(false),
                direct_bytes: AtomicU64::new(0),
            };
            let device = &self.device;
            let depth = self.shape.slots;
            let wanted = chunks.len().max(1);
            on_threads(self.lanes.iter_mut().take(wanted), |lane| {
                let options =
                    QueueOptions { depth, engine: Engine::Auto, arena: Some(lane.arena.clone()) };
                let done = Queue::open(&options)
                    .map_err(Error::from)
                    // SAFETY: by the caller.
                    .and_then(|queue| unsafe { run(device, lane, queue, &work) });
                if done.is_err() {
                    work.stop.store(true, Ordering::Relaxed);
                }
                done
            })?;
            fetched.direct_bytes = work.direct_bytes.into_inner();
            fetched.cached_bytes = fetched.bytes - fetched.direct_bytes;
        }
        fetched.elapsed = start.elapsed();
        Ok(fetched)
    }

    /// # Safety
    /// As of [`Ring::fetch`].
    unsafe fn fetch_gds(
        &mut self,
        sources: &[Source],
        transfers: &[Transfer],
        chunks: &[Chunk],
    ) -> Result<Proof> {
        let _bound = self.device.bind()?;
        let library = CuFile::open()?;
        let before = library.proof()?;
        let mut handles = Vec::new();
        for source in sources {
            let object = source.direct.as_ref().unwrap_or(&source.cached);
            let descriptor = object.file().and_then(|file| file.try_clone().ok());
            let file = descriptor.ok_or_else(|| Error::absent("a descriptor", "too many files"))?;
            handles.push(library.file(file)?);
        }
        // SAFETY: the targets live through this call, and the registrations end with it.
        let registered = transfers.iter().map(|t| unsafe { library.memory(t.target) });
        let registered = registered.collect::<Result<Vec<_>>>()?;
        let (next, handles): (_, &[CuFileHandle]) = (AtomicUsize::new(0), &handles);
        let device = &self.device;
        on_threads(self.lanes.iter_mut(), |_| {
            let _bound = device.bind()?;
            while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                // SAFETY: by the caller; chunks do not overlap.
                unsafe { handles[chunk.file].read(chunk.offset, chunk.target)? };
            }
            Ok(())
        })?;
        drop(registered);
        Ok(library.proof()?.since(&before))
    }
}

/// Runs `each` on all items, a thread an item; the first error.
fn on_threads<T: Send>(
    items: impl Iterator<Item = T>,
    each: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let each = &each;
        let threads: Vec<_> = items.map(|item| scope.spawn(move || each(item))).collect();
        let done = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        let done: Vec<Result<()>> = done.map(|done| done.unwrap_or(Err(Error::Panicked))).collect();
        done.into_iter().collect()
    })
}

/// Cuts a transfer at multiples of a slot in the file, so that a chunk with the slack that direct
/// reads want still fits into a slot.
fn cut(transfer: &Transfer, slot_bytes: usize, chunks: &mut Vec<Chunk>) {
    let slot = slot_bytes as u64;
    let end = transfer.offset + transfer.target.bytes() as u64;
    let mut at = transfer.offset;
    while at < end {
        let until = (at / slot + 1).saturating_mul(slot).min(end);
        let part = (at - transfer.offset) as usize..(until - transfer.offset) as usize;
        chunks.push(Chunk { file: transfer.file, offset: at, target: transfer.target.part(part) });
        at = until;
    }
}

impl Source {
    fn open(path: &Path, direct: bool) -> Result<Self> {
        let cached = Arc::new(Object::open(path, Access::Read, Direct::Off)?);
        let way = if direct { Direct::Try } else { Direct::Off };
        let other = Object::open(path, Access::Read, way)?;
        let direct = other.direct().is_some().then(|| Arc::new(other));
        // Only to ask what lies in the page cache.
        let map = if direct.is_some() { Map::open(path).ok() } else { None };
        Ok(Self { cached, direct, map })
    }

    fn check(&self, transfer: &Transfer) -> Result<()> {
        let (size, wanted) = (self.cached.size(), transfer.target.bytes() as u64);
        if transfer.offset.checked_add(wanted).is_none_or(|end| end > size) {
            let (path, offset) = (self.cached.path().to_path_buf(), transfer.offset);
            return Err(forebay_store::Error::PastEnd { path, size, offset, wanted }.into());
        }
        Ok(())
    }

    /// Past the page cache?
    fn is_cold(&self, chunk: &Chunk) -> bool {
        let Some(map) = &self.map else { return self.direct.is_some() };
        let (first, bytes) = (chunk.offset as usize, chunk.target.bytes());
        first + bytes > map.len() || !map.is_resident(first, bytes)
    }
}

/// A lane's loop: read, copy, take back; waits only where nothing else can be done.
///
/// # Safety
/// The targets of all chunks must be live device memory that nobody else uses meanwhile.
unsafe fn run(device: &Device, lane: &mut Lane, mut queue: Queue, work: &Work<'_>) -> Result<()> {
    let mut slots = Slots::new(lane.events.len());
    let objects: Vec<(ObjectId, Option<ObjectId>)> = work
        .sources
        .iter()
        .map(|source| {
            let cached = queue.add(Arc::clone(&source.cached));
            (cached, source.direct.as_ref().map(|direct| queue.add(Arc::clone(direct))))
        })
        .collect();
    let mut lent = Lent { buffers: lane.events.iter().map(|_| None).collect(), lane };
    let mut reading: Vec<Option<(Chunk, u64)>> = vec![None; lent.buffers.len()];
    let (mut in_flight, mut completions) = (0_usize, Vec::new());
    let mut is_last = false;
    loop {
        // What is over gives its slot back.
        while let Some(slot) = slots.oldest() {
            if !lent.lane.events[slot].is_over()? {
                break;
            }
            slots.retire();
            lent.buffers[slot] = None;
        }
        while !is_last && slots.has_free() && in_flight < queue.depth() {
            let number = work.next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = work.chunks.get(number) else {
                is_last = true;
                break;
            };
            let Some(slot) = slots.read() else { break };
            // As many buffers as slots, and a slot without its buffer is not free.
            let Some(buffer) = lent.lane.arena.lend() else {
                slots.give_up(slot);
                return Err(Error::wrong("buffers of a lane", lent.buffers.len(), 0));
            };
            let source = &work.sources[chunk.file];
            let (cached, direct) = objects[chunk.file];
            let cold = direct.filter(|_| source.is_cold(chunk));
            let grain = match (cold, &source.direct) {
                (Some(_), Some(object)) => object.direct().map_or(1, |a| a.offset.max(1)),
                _ => 1,
            };
            let offset = chunk.offset - chunk.offset % grain;
            let end = chunk.offset + chunk.target.bytes() as u64;
            let length = (end.next_multiple_of(grain) - offset) as usize;
            if cold.is_some() {
                work.direct_bytes.fetch_add(chunk.target.bytes() as u64, Ordering::Relaxed);
            }
            reading[slot] = Some((*chunk, chunk.offset - offset));
            let object = cold.unwrap_or(cached);
            let request =
                Request { tag: slot as u64, op: Op::Read, object, offset, length, buffer };
            if queue.prepare(request).is_err() {
                return Err(Error::wrong("transfers in flight", queue.depth(), in_flight));
            }
            in_flight += 1;
        }
        if in_flight == 0 {
            // Nothing to read: done, or no slot until the next copy is over.
            let Some(slot) = slots.oldest() else { return Ok(()) };
            lent.lane.events[slot].wait()?;
            continue;
        }
        queue.wait(1, None, &mut completions)?;
        for completion in completions.drain(..) {
            in_flight -= 1;
            let slot = completion.tag as usize;
            let moved = completion.result?;
            let Some((chunk, skip)) = reading[slot].take() else { continue };
            let wanted = skip as usize + chunk.target.bytes();
            if moved < wanted {
                let object = &work.sources[chunk.file].cached;
                let (path, size) = (object.path().to_path_buf(), object.size_now());
                let (offset, wanted) = (chunk.offset, chunk.target.bytes() as u64);
                return Err(forebay_store::Error::PastEnd { path, size, offset, wanted }.into());
            }
            let source = std::ptr::NonNull::from(&completion.buffer[skip as usize..]).cast();
            // First at its place, so that it outlives the copy whatever comes.
            lent.buffers[slot] = Some(completion.buffer);
            // SAFETY: the buffer stays in `lent` until its event is over; the target by the caller.
            unsafe { device.copy_in(chunk.target, source, &lent.lane.stream)? };
            lent.lane.events[slot].record(&lent.lane.stream)?;
            slots.copy(slot);
        }
        if work.stop.load(Ordering::Relaxed) {
            // Another lane failed: what is on its way ends, nothing new starts.
            is_last = true;
        }
    }
}

/// Buffers that a device may be copying from: they go home when it is not.
struct Lent<'a> {
    buffers: Vec<Option<forebay_store::Buffer>>,
    lane: &'a mut Lane,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if self.buffers.iter().all(Option::is_none) {
            return;
        }
        // After an error. One event behind everything, since some copies may have none of their own.
        let over = self.lane.events[0].record(&self.lane.stream);
        if over.and_then(|()| self.lane.events[0].wait()).is_err() {
            // A context that answers no more may still write: its slots are never used again.
            self.buffers.drain(..).for_each(std::mem::forget);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub;
    use forebay_store::Faults;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn chunks_lie_inside_a_slot_of_the_file_and_cover_the_transfer() {
        // SAFETY: only arithmetic is done with it.
        let target = unsafe { Region::foreign(1 << 20, 20_000) };
        let mut chunks = Vec::new();
        cut(&Transfer { file: 3, offset: 5_000, target }, 8192, &mut chunks);
        let found: Vec<(u64, usize)> =
            chunks.iter().map(|chunk| (chunk.offset, chunk.target.bytes())).collect();
        assert_eq!(found, [(5_000, 3_192), (8_192, 8_192), (16_384, 8_192), (24_576, 424)]);
        assert_eq!(chunks[1].target.pointer(), (1 << 20) + 3_192);
    }

    /// Reads that end in any order, short or interrupted, over copies that come late.
    #[test]
    fn bytes_arrive_whatever_the_order_of_reads_and_copies() {
        let Some(stub) = stub::load() else { return };
        let device = Device::open(0).unwrap();
        let content = bytes(1 << 20);
        stub.delay(200);
        for seed in 0..12 {
            let faults = Faults { seed, error_at: None, hang_at: None };
            let object = Arc::new(Object::in_memory("bytes", content.clone()));
            let sources = [Source { cached: object, direct: None, map: None }];
            let memory = device.alloc(content.len()).unwrap();
            let (mut chunks, slot_bytes) = (Vec::new(), 16 << 10);
            let target = memory.region(0..content.len() - 77);
            cut(&Transfer { file: 0, offset: 77, target }, slot_bytes, &mut chunks);
            let work = Work {
                chunks: &chunks,
                sources: &sources,
                next: AtomicUsize::new(0),
                stop: AtomicBool::new(false),
                direct_bytes: AtomicU64::new(0),
            };
            let path = IoPath { way: Way::Pinned, reason: String::new(), proof: None };
            let shape = Shape { lanes: 1, slots: 3, slot_bytes, direct: false };
            let mut ring = Ring::new(&device, path, shape).unwrap();
            let queue = Queue::in_memory(3, faults);
            // SAFETY: `memory` is ours and outlives the run.
            unsafe { run(&device, &mut ring.lanes[0], queue, &work).unwrap() };
            let stream = device.stream().unwrap();
            assert!(device.fetch(target, &stream).unwrap() == content[77..], "seed {seed}");
            assert_eq!(ring.lanes[0].arena.idle(), 3, "seed {seed}");
        }
        stub.delay(0);
    }

    #[test]
    fn a_read_that_fails_says_where_and_gives_every_slot_back() {
        let Some(_stub) = stub::load() else { return };
        let device = Device::open(0).unwrap();
        let faults = Faults { seed: 1, error_at: Some(70_000), hang_at: None };
        let object = Arc::new(Object::in_memory("bytes", bytes(100_000)));
        let sources = [Source { cached: object, direct: None, map: None }];
        let memory = device.alloc(100_000).unwrap();
        let mut chunks = Vec::new();
        cut(&Transfer { file: 0, offset: 0, target: memory.whole() }, 8192, &mut chunks);
        let work = Work {
            chunks: &chunks,
            sources: &sources,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            direct_bytes: AtomicU64::new(0),
        };
        let path = IoPath { way: Way::Pinned, reason: String::new(), proof: None };
        let shape = Shape { lanes: 1, slots: 4, slot_bytes: 8192, direct: false };
        let mut ring = Ring::new(&device, path, shape).unwrap();
        let queue = Queue::in_memory(4, faults);
        // SAFETY: `memory` is ours and outlives the run.
        let error = unsafe { run(&device, &mut ring.lanes[0], queue, &work).unwrap_err() };
        assert!(error.to_string().contains("bytes at byte 65536"), "{error}");
        assert_eq!(ring.lanes[0].arena.idle(), 4);
    }
}
