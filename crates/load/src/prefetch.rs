//! Batches made ahead by threads, in slots that are used again and again.
//!
//! ```text
//! loader ── job: place, empty slot ──▶ thread n % threads ── filled slot ──▶ loader ─▶ consumer
//!    ▲                                                                                    │
//!    └──────────────────────────── the slot before, by exchange ◀─────────────────────────┘
//! ```
//! The loader says what comes, thread by thread in turn, so batches arrive in order and threads
//! change nothing but the time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::assemble::{Assembler, Cost, Place, Scratch, Setup, panicked};
use crate::reader::has_room;
use crate::{Batch, Error, Result};

#[derive(Debug, Default)]
pub(crate) struct Prefetch {
    threads: Vec<Thread>,
    in_flight: VecDeque<Place>,
    /// Number of the thread whose turn it is, counted on.
    first: usize,
    free: Vec<Batch>,
    /// Who is told of a batch that is done.
    waker: Option<Arc<Mutex<Option<Waker>>>>,
}

#[derive(Debug)]
struct Thread {
    jobs: Sender<Job>,
    /// Never locked, only so that a loader may be looked at by many threads.
    done: Mutex<Receiver<Done>>,
    handle: JoinHandle<()>,
}

#[derive(Debug)]
struct Job {
    place: Place,
    setup: Arc<Setup>,
    slot: Batch,
}

#[derive(Debug)]
struct Done {
    slot: Batch,
    cost: Result<Cost>,
    /// How long the thread had nothing to do before: no slot was free.
    idle: Duration,
}

/// What a thread does.
struct Worker {
    assembler: Arc<Assembler>,
    finished: Sender<Done>,
    waker: Arc<Mutex<Option<Waker>>>,
    free: Vec<Scratch>,
}

/// A job whose reads are in flight.
struct Begun {
    slot: Batch,
    scratch: Scratch,
    begun: Result<()>,
    idle: Duration,
}

impl Worker {
    /// Begins what is asked for, as long as the storage has to be waited for and there is memory to
    /// read into; then finishes the oldest.
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut all: VecDeque<Begun> = VecDeque::new();
        let mut free = Instant::now();
        loop {
            while all.back().is_none_or(|last| last.scratch.is_cold() && has_room()) {
                let job = match all.is_empty() {
                    true => jobs.recv().ok(),
                    false => jobs.try_recv().ok(),
                };
                let Some(job) = job else { break };
                let idle = if all.is_empty() { free.elapsed() } else { Duration::ZERO };
                all.push_back(self.begin(job, idle));
            }
            let Some(Begun { mut slot, mut scratch, begun, idle }) = all.pop_front() else {
                return;
            };
            let fill = || self.assembler.finish(begun, &mut slot, &mut scratch);
            let cost = catch_unwind(AssertUnwindSafe(fill));
            let cost = cost.unwrap_or_else(|payload| Err(panicked(&*payload)));
            self.free.push(scratch);
            free = Instant::now();
            if self.finished.send(Done { slot, cost, idle }).is_err() {
                return;
            }
            if let Some(waker) = lock(&self.waker).take() {
                waker.wake();
            }
        }
    }

    fn begin(&mut self, job: Job, idle: Duration) -> Begun {
        let Job { place, setup, mut slot } = job;
        let mut scratch = self.free.pop().unwrap_or_default();
        let begin = || self.assembler.begin(&setup, place, &mut slot, &mut scratch);
        let begun = catch_unwind(AssertUnwindSafe(begin));
        let begun = begun.unwrap_or_else(|payload| Err(panicked(&*payload)));
        Begun { slot, scratch, begun, idle }
    }
}

impl Prefetch {
    fn start(&mut self, assembler: &Arc<Assembler>) -> Result<()> {
        let waker = self.waker.insert(Arc::default());
        for number in 0..assembler.config.threads {
            let (jobs, todo) = channel::<Job>();
            let (finished, done) = channel();
            let (assembler, waker) = (Arc::clone(assembler), Arc::clone(waker));
            let work = move || Worker { assembler, finished, waker, free: Vec::new() }.run(&todo);
            let named = std::thread::Builder::new().name(format!("forebay-load-{number}"));
            let handle = named
                .spawn(work)
                .map_err(|source| Error::config("threads", "one more thread", source))?;
            self.threads.push(Thread { jobs, done: Mutex::new(done), handle });
        }
        Ok(())
    }

    /// Exchanges `batch` for the one at `place`, which is made unless it is on its way.
    ///
    /// * `next` — the place after another.
    /// * `context` — who is woken when there may be more; without it this waits.
    ///
    /// # Errors
    /// Those of making it; nothing is in flight then.
    pub(crate) fn take(
        &mut self,
        assembler: &Arc<Assembler>,
        setup: &Arc<Setup>,
        place: Place,
        next: impl Fn(Place) -> Place,
        batch: &mut Batch,
        context: Option<&mut Context<'_>>,
    ) -> Poll<Result<(Cost, Duration)>> {
        if let Err(error) = self.order(assembler, setup, place, next) {
            return Poll::Ready(Err(error));
        }
        let done = match context {
            None => self.wait(),
            Some(context) => {
                // Before looking: what is done from now on wakes.
                if let Some(waker) = &self.waker {
                    *lock(waker) = Some(context.waker().clone());
                }
                match self.try_wait() {
                    Poll::Ready(done) => done,
                    Poll::Pending => return Poll::Pending,
                }
            }
        };
        Poll::Ready(done.and_then(|Done { slot, cost, idle }| match cost {
            Ok(cost) => {
                self.free.push(std::mem::replace(batch, slot));
                Ok((cost, idle))
            }
            Err(error) => {
                self.free.push(slot);
                self.clear();
                Err(error)
            }
        }))
    }

    /// Has `place` and what comes after it made.
    fn order(
        &mut self,
        assembler: &Arc<Assembler>,
        setup: &Arc<Setup>,
        place: Place,
        next: impl Fn(Place) -> Place,
    ) -> Result<()> {
        if self.threads.is_empty() {
            self.start(assembler)?;
        }
        if self.in_flight.front().is_some_and(|found| *found != place) {
            self.clear();
        }
        let depth = assembler.config.prefetch.max(1);
        let mut last = self.in_flight.back().copied();
        // One more than stays ahead: the one that is taken now.
        while self.in_flight.len() < depth + 1 {
            let place = last.map_or(place, &next);
            let turn = (self.first + self.in_flight.len()) % self.threads.len();
            let slot = self.free.pop().unwrap_or_default();
            let job = Job { place, setup: Arc::clone(setup), slot };
            self.threads[turn].jobs.send(job).map_err(|_| gone())?;
            self.in_flight.push_back(place);
            last = Some(place);
        }
        Ok(())
    }

    /// The batch that comes first.
    fn wait(&mut self) -> Result<Done> {
        let turn = self.first % self.threads.len();
        self.in_flight.pop_front();
        self.first += 1;
        let done = self.threads[turn].done.get_mut().unwrap_or_else(PoisonError::into_inner);
        done.recv().map_err(|_| gone())
    }

    /// The batch that comes first, if it is done.
    fn try_wait(&mut self) -> Poll<Result<Done>> {
        let turn = self.first % self.threads.len();
        let done = self.threads[turn].done.get_mut().unwrap_or_else(PoisonError::into_inner);
        let found = match done.try_recv() {
            Err(TryRecvError::Empty) => return Poll::Pending,
            found => found.map_err(|_| gone()),
        };
        self.in_flight.pop_front();
        self.first += 1;
        Poll::Ready(found)
    }

    /// Forgets what is on its way.
    pub(crate) fn clear(&mut self) {
        while !self.in_flight.is_empty() {
            if let Ok(done) = self.wait() {
                self.free.push(done.slot);
            }
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        for Thread { jobs, done, handle } in self.threads.drain(..) {
            drop((jobs, done));
            // A panic in a batch was caught and told; there is nobody left to tell others to.
            let _ = handle.join();
        }
    }
}

fn lock(waker: &Mutex<Option<Waker>>) -> MutexGuard<'_, Option<Waker>> {
    waker.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gone() -> Error {
    Error::Panicked { what: "it is gone".into() }
}
