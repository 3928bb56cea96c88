//! One thread of a benchmark: keeps its queue full and its watch running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_store::{
    Arena, Buffer, Completion, Engine as StoreEngine, Error as StoreError, Ladder, Map, ObjectId,
    Op, Options, Queue, Request,
};

use crate::histogram::Histogram;
use crate::target::Target;
use crate::workload::{Blocks, Engine, Workload, fill, first_difference};
use crate::{Error, Result};

/// A transfer that takes longer ends the benchmark with an error.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a job has done so far, for whoever watches. A cache line of its own.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) operations: AtomicU64,
}

/// Of all jobs.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) live: Vec<Live>,
    finished: AtomicUsize,
    first_done: AtomicU64,
    stopped: AtomicBool,
}

impl Watch {
    pub(crate) fn new(jobs: usize) -> Self {
        let live = std::iter::repeat_with(Live::default).take(jobs).collect();
        Self {
            live,
            finished: AtomicUsize::new(0),
            first_done: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    pub(crate) fn operations(&self) -> u64 {
        self.live.iter().map(|live| live.operations.load(Ordering::Relaxed)).sum()
    }

    /// Operations of all jobs when the first was done.
    pub(crate) fn first_done(&self) -> u64 {
        self.first_done.load(Ordering::Relaxed)
    }

    pub(crate) fn reset(&self) {
        self.finished.store(0, Ordering::Relaxed);
        for live in &self.live {
            live.operations.store(0, Ordering::Relaxed);
        }
    }

    /// Ends what still runs: another job has failed.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn finish(&self) {
        if self.finished.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_done.store(self.operations(), Ordering::Relaxed);
        }
    }
}

/// A part of a benchmark that all jobs go through together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    pub(crate) repeat: usize,
    /// `None`: once through the target.
    pub(crate) time: Option<Duration>,
}

/// What one job did in one phase.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Reads, then writes.
    pub(crate) latency: [Histogram; 2],
    /// Operations until the time was over.
    pub(crate) operations: u64,
    /// Bytes of all operations, those after the end of the time included: reads, then writes.
    pub(crate) bytes: [u64; 2],
    pub(crate) elapsed: Duration,
}

/// A job, on its own thread from here on.
pub(crate) struct Job {
    number: usize,
    workload: Workload,
    target: Arc<Target>,
    watch: Arc<Watch>,
    mover: Mover,
}

enum Mover {
    Queue { queue: Queue, ids: Vec<ObjectId>, spare: Vec<Buffer>, starts: Vec<Instant> },
    Map { maps: Vec<Map>, buffer: Vec<u8> },
}

impl Job {
    /// Opens the queue and registers everything, before any watch runs.
    pub(crate) fn new(
        number: usize,
        workload: &Workload,
        target: &Arc<Target>,
        watch: &Arc<Watch>,
    ) -> Result<Self> {
        let engine = match workload.engine {
            Engine::Auto => StoreEngine::Auto,
            Engine::Uring => StoreEngine::Uring,
            Engine::Threads => StoreEngine::Threads,
            Engine::Usrbio => StoreEngine::Usrbio,
            Engine::Mmap => return Self::mapped(number, workload, target, watch),
            Engine::Object => {
                let what = "the engine `object` wants s3://BUCKET/PREFIX or https://HOST/PATH";
                return Err(Error::Usage(what.into()));
            }
        };
        let depth = workload.queue_depth;
        let (path, bytes) = (target.objects()[0].path(), workload.block_bytes as usize);
        // Shared with the daemon where its rings may be used, so that nothing is copied.
        let arena = match engine {
            StoreEngine::Auto | StoreEngine::Usrbio => Arena::near(path, bytes, depth)?,
            _ => Arena::new(bytes, depth)?,
        };
        let options = Options { depth, engine, arena: Some(arena.clone()) };
        let mut queue = Queue::open_near(path, &options)?;
        let ids = target.objects().iter().map(|object| queue.add(Arc::clone(object))).collect();
        let mut spare: Vec<Buffer> = std::iter::from_fn(|| arena.lend()).collect();
        for (n, buffer) in spare.iter_mut().enumerate() {
            // What is written must not compress, nor be zeros that the storage may skip.
            fill(buffer, (number * depth + n) as u64, workload.seed);
        }
        let mover = Mover::Queue { queue, ids, spare, starts: vec![Instant::now(); depth] };
        Ok(Self::over(number, workload, target, watch, mover))
    }

    fn mapped(
        number: usize,
        workload: &Workload,
        target: &Arc<Target>,
        watch: &Arc<Watch>,
    ) -> Result<Self> {
        if workload.read_percent < 100 || workload.direct {
            return Err(Error::Usage("a map is read, through the page cache: no --direct".into()));
        }
        let maps: forebay_store::Result<Vec<Map>> =
            target.objects().iter().map(|object| Map::open(object.path())).collect();
        let mover = Mover::Map { maps: maps?, buffer: vec![0; workload.block_bytes as usize] };
        Ok(Self::over(number, workload, target, watch, mover))
    }

    fn over(
        number: usize,
        workload: &Workload,
        target: &Arc<Target>,
        watch: &Arc<Watch>,
        mover: Mover,
    ) -> Self {
        let (target, watch) = (Arc::clone(target), Arc::clone(watch));
        Self { number, workload: workload.clone(), target, watch, mover }
    }

    /// Which back end won; `None` for a map.
    pub(crate) fn ladder(&self) -> Option<Ladder> {
        match &self.mover {
            Mover::Queue { queue, .. } => Some(queue.ladder().clone()),
            Mover::Map { .. } => None,
        }
    }

    pub(crate) fn run(&mut self, phase: Phase) -> Result<Done> {
        let blocks = Blocks::new(&self.workload, self.target.blocks(), self.number, phase.repeat);
        let limit = match phase.time {
            Some(_) => u64::MAX,
            None => Blocks::once(&self.workload, self.target.blocks(), self.number),
        };
        let context = Context {
            workload: &self.workload,
            target: &self.target,
            live: &self.watch.live[self.number],
            stopped: &self.watch.stopped,
            limit,
            time: phase.time,
        };
        let done = match &mut self.mover {
            Mover::Queue { queue, ids, spare, starts } => {
                context.through_queue(blocks, queue, ids, spare, starts)?
            }
            Mover::Map { maps, buffer } => context.through_map(blocks, maps, buffer)?,
        };
        self.watch.finish();
        Ok(done)
    }
}

struct Context<'a> {
    workload: &'a Workload,
    target: &'a Target,
    live: &'a Live,
    stopped: &'a AtomicBool,
    limit: u64,
    time: Option<Duration>,
}

impl Context<'_> {
    fn through_queue(
        &self,
        mut blocks: Blocks,
        queue: &mut Queue,
        ids: &[ObjectId],
        spare: &mut Vec<Buffer>,
        starts: &mut [Instant],
    ) -> Result<Done> {
        let mut done = Done::default();
        let block_bytes = self.workload.block_bytes;
        let start = Instant::now();
        let end = self.time.map(|time| start + time);
        let (mut issued, mut over) = (0, false);
        let mut tags: Vec<u64> = (0..spare.len() as u64).collect();
        let mut completions: Vec<Completion> = Vec::with_capacity(starts.len());
        // One look at the watch a turn: a transfer's time runs from before it is prepared until
        // after it is reaped, and the clock costs more than the preparation.
        let mut now = start;
        loop {
            while !over
                && issued < self.limit
                && let Some(mut buffer) = spare.pop()
            {
                let Some((block, is_read)) = blocks.draw() else { break };
                let (file, place) = self.target.place(block);
                let offset = place * block_bytes;
                let op = if is_read { Op::Read } else { Op::Write };
                if self.workload.verify && !is_read {
                    fill(
                        &mut buffer[..block_bytes as usize],
                        block * block_bytes,
                        self.workload.seed,
                    );
                }
                // As many tags as buffers, as many buffers as places in the queue.
                let tag = tags.pop().unwrap_or_default();
                starts[tag as usize] = now;
                let tag = tag | block << 16;
                let length = block_bytes as usize;
                let request = Request { tag, op, object: ids[file], offset, length, buffer };
                if queue.prepare(request).is_err() {
                    return Err(Error::Usage("the queue is full".into()));
                }
                issued += 1;
            }
            if queue.in_flight() == 0 {
                break;
            }
            let batch = self.workload.batch.clamp(1, queue.in_flight());
            queue.wait(batch, Some(now + PATIENCE), &mut completions)?;
            now = Instant::now();
            let counted = !over;
            over |= end.is_some_and(|end| now >= end) || self.stopped.load(Ordering::Relaxed);
            for completion in completions.drain(..) {
                let moved = completion.result? as u64;
                let tag = (completion.tag & 0xffff) as usize;
                let way = usize::from(completion.op == Op::Write);
                if moved < block_bytes {
                    return Err(self.cut_short(completion.tag >> 16, moved));
                }
                if self.workload.verify && completion.op == Op::Read {
                    self.verify(completion.tag >> 16, &completion.buffer)?;
                }
                done.bytes[way] += moved;
                if counted {
                    done.operations += 1;
                    done.latency[way].record((now - starts[tag]).as_nanos() as u64);
                }
                tags.push(tag as u64);
                spare.push(completion.buffer);
            }
            if counted {
                self.live.operations.store(done.operations, Ordering::Relaxed);
                done.elapsed = now - start;
            }
        }
        if self.workload.read_percent < 100 {
            done.elapsed += self.sync()?;
        }
        Ok(done)
    }

    fn through_map(&self, mut blocks: Blocks, maps: &[Map], buffer: &mut [u8]) -> Result<Done> {
        let mut done = Done::default();
        let block_bytes = self.workload.block_bytes;
        let start = Instant::now();
        let mut now = start;
        while done.operations < self.limit
            && !self.stopped.load(Ordering::Relaxed)
            && self.time.is_none_or(|time| now - start < time)
            && let Some((block, _)) = blocks.draw()
        {
            let (file, place) = self.target.place(block);
            let offset = place * block_bytes;
            let bytes = maps[file].get(offset as usize..(offset + block_bytes) as usize);
            let Some(bytes) = bytes else {
                return Err(self.cut_short(block, 0));
            };
            buffer.copy_from_slice(bytes);
            // Without this the copy could be left out.
            std::hint::black_box(&mut *buffer);
            if self.workload.verify {
                self.verify(block, buffer)?;
            }
            let before = std::mem::replace(&mut now, Instant::now());
            done.latency[0].record((now - before).as_nanos() as u64);
            done.operations += 1;
            done.bytes[0] += block_bytes;
            self.live.operations.store(done.operations, Ordering::Relaxed);
        }
        done.elapsed = now - start;
        Ok(done)
    }

    /// Writes count when they are durable: the time of the sync belongs to them.
    fn sync(&self) -> Result<Duration> {
        let start = Instant::now();
        for object in self.target.objects() {
            object.sync()?;
        }
        Ok(start.elapsed())
    }

    fn verify(&self, block: u64, bytes: &[u8]) -> Result<()> {
        let bytes = &bytes[..self.workload.block_bytes as usize];
        let offset = block * self.workload.block_bytes;
        match first_difference(bytes, offset, self.workload.seed) {
            None => Ok(()),
            Some(at) => {
                let (file, place) = self.target.place(block);
                let path = self.target.objects()[file].path().to_path_buf();
                let offset = place * self.workload.block_bytes + at as u64;
                Err(Error::Wrong { path, offset })
            }
        }
    }

    fn cut_short(&self, block: u64, moved: u64) -> Error {
        let (file, place) = self.target.place(block);
        let object = &self.target.objects()[file];
        let offset = place * self.workload.block_bytes;
        let (path, size) = (object.path().to_path_buf(), offset + moved);
        StoreError::PastEnd { path, size, offset, wanted: self.workload.block_bytes }.into()
    }
}
